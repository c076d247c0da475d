"""Signs that a training has collapsed, or leaves classes out, each reported once in a line that the record keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gloss.config import INTEGRATED, Config
from gloss.losses import choose_labeled
from gloss.losses.geometry import pairwise_distances, unit_length
from gloss.losses.registry import GLOSS_O, is_graph

EXPLODED = 3.0  # times the loss of the first epoch
FAR_FROM_CHANCE = 10.0  # times log C, the loss of guessing among C classes
BARELY = 1.05  # times the score of the majority class
PATIENT = 3  # epochs after which a model should beat the majority class
LEFT_OUT = 0.25  # share of random batches without a labeled text of the class, from which it counts as rare
TEXTS_PER_CLASS = 8  # of a balanced batch
NARROW = 0.05  # of the largest edge weight: nearer weights distinguish no neighbours


def majority_f1(labels: np.ndarray) -> float:
    """Macro-F1 (%) of the largest class as the only answer, over the classes that occur. labels: int [N]."""
    counts = np.bincount(labels)
    share = counts.max() / len(labels)
    return 100 * 2 * share / (1 + share) / np.count_nonzero(counts)


def after_epoch(cfg: Config, epochs: list[dict[str, Any]], num_classes: int, majority: float) -> list[str]:
    """Lines on signs that the last of `epochs` (lines of epochs.jsonl) shows for the first time.

    majority: `majority_f1` of the validation split; a standalone run has no such score before its end.
    """
    found, row = [], epochs[-1]
    if 2 * row["batches_without_signal"] > row["steps"] and len(epochs) == 1:
        found.append(
            f"in {row['batches_without_signal']} of {row['steps']} batches loss={cfg.loss.name} had nothing to compare "
            "(no unlabeled text with a labeled one of its class, or no pair of a class). Use larger batches "
            "(trainer.batch_size), or batches by class: trainer.sampler=balanced trainer.classes_per_batch=P, P a "
            "divisor of the batch size"
        )
    if (why := _explosion(cfg, epochs, num_classes)) and not any(
        _explosion(cfg, epochs[:n], num_classes) for n in range(1, len(epochs))
    ):
        wider = f", or {another_sigma(cfg, 'larger')}" if is_graph(cfg.loss.name) else ""
        found.append(f"the loss explodes: {why}. Try a smaller trainer.lr{wider}")
    if cfg.mode == INTEGRATED and len(epochs) == PATIENT:
        best = max(row["score"] for row in epochs)
        found += no_better(f"after {PATIENT} epochs the best validation macro-F1", best, majority)
    return found


def no_better(name: str, score: float, majority: float) -> list[str]:
    """A line where a macro-F1, called `name`, is hardly above the macro-F1 of one class as the only answer."""
    if score > BARELY * majority:
        return []
    return [
        f"{name}, {score:.4g}, is no better than the majority class's {majority:.4g}: nothing has been learnt yet. Try "
        "another trainer.lr, more texts, or another loss"
    ]


def _explosion(cfg: Config, epochs: list[dict[str, Any]], num_classes: int) -> str:
    row, first, chance = epochs[-1], epochs[0]["loss"], math.log(max(2, num_classes))
    likelihoods = {"cross-entropy": row["ce"]}
    if cfg.loss.sigma is not None:  # a loss on the graph
        likelihoods["G-Loss"] = row["embedding_loss"]
    for name, value in likelihoods.items():
        if value is not None and value > FAR_FROM_CHANCE * chance:
            return f"at epoch {row['epoch']} {name} is {value:.4g}, where guessing has {chance:.3g}"
    if row["loss"] > EXPLODED * first > 0:
        return f"it is {row['loss']:.4g} at epoch {row['epoch']}, and was {first:.4g} at the first"
    return ""


def ties(epochs: list[dict[str, Any]], best_epoch: int, tested_weights: str) -> list[str]:
    """A line where several epochs have the best validation score, so that the training loss chose among them."""
    best = epochs[best_epoch - 1]["score"]
    tied = [str(row["epoch"]) for row in epochs if row["score"] == best]
    if len(tied) < 2 or tested_weights != "best":
        return []
    return [
        f"the best validation score, {best:.4g}, is that of epochs {', '.join(tied)}: the weights of {best_epoch} are "
        "kept, whose training loss is the lowest among them"
    ]


def another_sigma(cfg: Config, size: str) -> str:
    """The setting of a "larger" or "smaller" σ, which G-Loss-SQRT computes."""
    return f"a {size} loss.sigma" if cfg.loss.name == GLOSS_O else f"loss=gloss_o with a {size} loss.sigma"


@torch.inference_mode()
def wide_kernel(cfg: Config, embeddings: Tensor, sigma: float) -> list[str]:
    """A line where σ makes all edge weights of the embeddings' [B, D] graph nearly the same."""
    distances = pairwise_distances(unit_length(embeddings.float()))
    distances = distances[~torch.eye(len(distances), dtype=torch.bool, device=distances.device)]
    if not len(distances):
        return []
    low, high = torch.exp(-distances.cpu().double().square() / (2 * sigma**2)).aminmax()  # Apple's GPUs have no float64
    if high == 0 or low < (1 - NARROW) * high:
        return []
    return [
        f"σ={sigma:.4g} is so wide that before training all edge weights among {len(embeddings)} validation texts "
        f"lie {1 - high:.4g} to {1 - low:.4g} below 1: the graph hardly separates near from far. Try "
        f"{another_sigma(cfg, 'smaller')}"
    ]


def rare_classes(cfg: Config, lam: float, gamma: float, counts: Sequence[int]) -> list[str]:
    """A line on classes whose unlabeled texts often have no labeled text of their class in a random batch.

    No line where cross-entropy, which learns these classes, has at least half of the weight, nor for the released
    code's objective, which scores such texts, too.

    lam: λ, the weight of G-Loss. gamma: γ, the fraction of a batch that stays labeled. counts: training texts of each
    class [C].
    """
    total = sum(counts)
    batch_size = min(cfg.trainer.batch_size, total)
    if cfg.trainer.sampler != "random" or lam <= 0.5 or cfg.variant.gloss_objective != "nll" or batch_size < 2:
        return []
    num_labeled = int(choose_labeled(batch_size, gamma, torch.Generator()).sum())
    draws = math.comb(total - 1, num_labeled)  # the labeled texts, among all others than the unlabeled text
    missed = {n: math.comb(total - n, num_labeled) / draws for n in counts if n}
    rare = [n for n in counts if n and missed[n] >= LEFT_OUT]
    if not rare:
        return []
    remedies = []
    if max(rare) > 2:  # fewer are rare in any batch
        remedies += [f"a trainer.batch_size above {batch_size}"] * (batch_size < total)
        even = [p for p in range(2, len(counts) + 1) if batch_size % p == 0 and batch_size >= TEXTS_PER_CLASS * p]
        remedies += [f"trainer.sampler=balanced trainer.classes_per_batch={p}" for p in even[-1:]]
    remedies += ["a larger loss.gamma"] * (gamma < 0.5) + ["a smaller loss.lam"] * (cfg.mode == INTEGRATED)
    return [
        f"rare for G-Loss: {len(rare)} of {len(counts)} classes, with at most {max(rare)} training texts each. In at "
        f"least {missed[max(rare)]:.0%} of random batches a text of such a class with a hidden label meets no labeled "
        f"one, and is left out of the loss. Try {', or '.join(remedies) or 'more texts of these classes'}"
    ]
