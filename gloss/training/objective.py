"""The objective: cross-entropy and an embedding loss, mixed as L = λ · L_embedding + (1 − λ) · L_CE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gloss.config import INTEGRATED, Config
from gloss.losses.gloss import choose_among_known
from gloss.losses.registry import LOSSES, POSITIVES, SPLIT, TRIPLETS

UNKNOWN = -1  # the label of a text whose class is not known


@dataclass(frozen=True)
class LossOutput:
    """A step's loss and its parts; scalars, or None where the objective has no such part."""

    loss: Tensor
    ce: Tensor | None
    embedding_loss: Tensor | None
    num_unscorable: Tensor | None  # unlabeled texts that no labeled text of their class can reach
    is_empty: Tensor | None  # bool: the embedding loss had nothing to learn from


@dataclass(frozen=True)
class Objective:
    """An objective with its settings, called as objective(embeddings, logits, labels, is_labeled) -> LossOutput."""

    mode: str
    num_classes: int
    embedding_loss: Callable[..., Any] | None  # as `gloss.losses.registry.Loss.build` gives it
    needs: str | None  # of the same row
    lam: float  # λ, the weight of the embedding loss: 0 without one, 1 in standalone mode
    gamma: float | None  # γ, the fraction of a batch that stays labeled; None where the loss does not split it
    class_weights: Tensor | None  # [C] on the device (variant.class_weights=balanced)
    dtype: torch.dtype
    divide_by_unlabeled: bool
    graph_noise: float
    graph_shuffle: bool

    @classmethod
    def of(cls, cfg: Config, num_classes: int, sigma: float | None, class_weights: Tensor | None = None) -> Objective:
        """The objective of a configuration. sigma: of a graph loss, as a number."""
        loss, variant, ablation = LOSSES[cfg.loss.name], cfg.variant, cfg.ablation
        own = {"sigma": sigma, "num_classes": num_classes, "class_weights": class_weights}
        lam, gamma = float(loss.build is not None), cfg.loss.gamma
        if loss.build and cfg.mode == INTEGRATED:
            lam = min(cfg.loss.lam + ablation.lam_offset, 0.99)
        if ablation.gamma_offset:
            gamma = min(max(gamma + ablation.gamma_offset, 0.01), 0.99)
        return cls(
            cfg.mode,
            num_classes,
            loss.build(vars(variant) | vars(cfg.loss) | own) if loss.build else None,
            loss.needs,
            lam,
            gamma,
            class_weights,
            getattr(torch, variant.loss_dtype),
            variant.divide_by_unlabeled and loss.needs == SPLIT and cfg.mode == INTEGRATED,
            ablation.graph_noise,
            ablation.graph_shuffle,
        )

    def draw_labeled(
        self, batch_size: int, generator: torch.Generator, is_known: Tensor | None = None
    ) -> Tensor | None:
        """The random split of a batch into labeled and unlabeled texts, bool [B]; None where the loss has none.

        is_known: bool [B] on the CPU, False where a text has no label, so that γ is a fraction of the others.
        """
        if self.gamma is None:
            return None
        is_known = torch.ones(batch_size, dtype=torch.bool) if is_known is None else is_known
        return choose_among_known(is_known, self.gamma, generator)

    def __call__(
        self,
        embeddings: Tensor,
        logits: Tensor | None,
        labels: Tensor,
        is_labeled: Tensor | None,
        lap: Callable[[str], None] = lambda part: None,
    ) -> LossOutput:
        """The loss of a batch. embeddings: float [B, D]; logits: float [B, C], None in standalone mode.

        labels: int64 [B], -1 where not known. is_labeled: bool [B] on the host, from `draw_labeled`. lap: called with
        "graph", "propagation" and "loss" after each of these parts.
        """
        ce = embedding_loss = num_unscorable = is_empty = None
        if self.mode == INTEGRATED:
            weights = None if self.class_weights is None else self.class_weights.to(self.dtype)
            ce = F.cross_entropy(logits.to(self.dtype), labels, weight=weights, ignore_index=UNKNOWN)
        if self.embedding_loss is not None:
            embeddings = embeddings.to(self.dtype)
            if self.needs == SPLIT:
                embeddings = self._disturbed(embeddings)
                embedding_loss, is_scored = self.embedding_loss(embeddings, labels, is_labeled, lap)
                num_scored = is_scored.sum()
                num_unscorable = (labels >= 0).sum() - int(is_labeled.sum()) - num_scored
                is_empty = num_scored == 0
                if self.divide_by_unlabeled:
                    embedding_loss = embedding_loss / int((~is_labeled).sum())
            else:
                embedding_loss = self.embedding_loss(embeddings, labels)
                is_empty = self._is_empty(labels[:, None] == labels)
        if ce is None or embedding_loss is None:
            loss = embedding_loss if ce is None else ce
        else:
            loss = self.lam * embedding_loss + (1 - self.lam) * ce
        lap("loss")
        return LossOutput(loss, ce, embedding_loss, num_unscorable, is_empty)

    def _is_empty(self, same: Tensor) -> Tensor:
        """Whether a batch lacks the pairs or triplets that the loss needs; same: bool [B, B], True on the diagonal."""
        has_positive = same.sum(1) > 1
        found = {POSITIVES: has_positive, TRIPLETS: has_positive & ~same.all(1)}
        return ~found.get(self.needs, torch.ones_like(has_positive)).any()

    def _disturbed(self, embeddings: Tensor) -> Tensor:
        """The embeddings that a graph is built from: with the noise or the random order of an ablation."""
        if self.graph_noise:
            embeddings = F.normalize(embeddings)
            embeddings = embeddings + self.graph_noise * torch.randn_like(embeddings)
        if self.graph_shuffle:  # the same weights, between nodes with shuffled labels
            embeddings = embeddings[torch.randperm(len(embeddings), device=embeddings.device)]
        return embeddings


def balanced_class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """N / (C · N_c) for each class c [C], as scikit-learn's "balanced"; a class without texts counts as one text.

    labels: int64 [N].
    """
    counts = torch.bincount(labels, minlength=num_classes).clamp(min=1)
    return len(labels) / (num_classes * counts.double())
