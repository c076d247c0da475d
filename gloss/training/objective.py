"""The one place where cross-entropy and an embedding loss are mixed: L = λ · L_embedding + (1 − λ) · L_CE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gloss.config import CE, COSINE, GRAPH_LOSSES, INTEGRATED, SCL, SCL_CE, STANDALONE, TRIPLET, Config
from gloss.losses import (
    batch_all_triplet_loss,
    choose_labeled,
    cosine_similarity_loss,
    gloss_loss,
    is_scored,
    supcon_loss,
)

UNKNOWN = -1  # the label of a text whose class is not known


@dataclass(frozen=True)
class Parts:
    """A step's loss and what it is made of; scalars, or None where the objective has no such part."""

    loss: Tensor
    ce: Tensor | None
    embedding_loss: Tensor | None
    num_unscorable: Tensor | None  # unlabeled texts that no labeled text of their class can reach
    is_empty: Tensor | None  # bool: the embedding loss had nothing to learn from


@dataclass(frozen=True)
class Objective:
    """Objective(embeddings, logits, labels, is_labeled) -> Parts; every setting is a plain number.

    sigma, gamma: of the graph losses, else None. class_weights: [C] on the device (variant.class_weights=balanced).
    """

    cfg: Config
    num_classes: int
    sigma: float | None
    class_weights: Tensor | None = None

    @property
    def lam(self) -> float:
        """λ, the weight of the embedding loss."""
        if self.cfg.loss.name == CE:
            return 0.0
        return 1.0 if self.cfg.mode == STANDALONE else self.cfg.loss.lam + self.cfg.ablation.lam_offset

    @property
    def gamma(self) -> float | None:
        """γ, the fraction of a batch whose labels stay labeled."""
        gamma, offset = self.cfg.loss.gamma, self.cfg.ablation.gamma_offset
        return min(max(gamma + offset, 0.01), 0.99) if offset else gamma

    def draw_labeled(
        self, batch_size: int, generator: torch.Generator, is_known: Tensor | None = None
    ) -> Tensor | None:
        """The random split of a batch into labeled and unlabeled texts, bool [B]; None where the loss has none.

        is_known: bool [B] on the CPU, False where a text has no label, so that γ is a fraction of the others.
        """
        if self.gamma is None:
            return None
        if is_known is None:
            return choose_labeled(batch_size, self.gamma, generator)
        drawn = choose_labeled(int(is_known.sum()), self.gamma, generator)
        return torch.zeros(batch_size, dtype=torch.bool).masked_scatter(is_known, drawn)

    def __call__(
        self,
        embeddings: Tensor,
        logits: Tensor | None,
        labels: Tensor,
        is_labeled: Tensor | None,
        lap: Callable[[str], None] = lambda part: None,
    ) -> Parts:
        """embeddings: float [B, D]; logits: float [B, C], None in standalone mode.

        labels: int64 [B], -1 where not known. is_labeled: bool [B] on the host, from `draw_labeled`. lap: told when
        "graph", "propagation", "loss" are done.
        """
        dtype = getattr(torch, self.cfg.variant.loss_dtype)
        ce = embedding_loss = num_unscorable = is_empty = None
        if self.cfg.mode == INTEGRATED:
            weights = _as(self.class_weights, dtype)
            ce = F.cross_entropy(logits.to(dtype), labels, weight=weights, ignore_index=UNKNOWN)
        if self.cfg.loss.name != CE:
            embedding_loss = self._embedding_loss(embeddings.to(dtype), labels, is_labeled, lap)
            if self.cfg.loss.name in GRAPH_LOSSES:
                num_unlabeled = num_scored = (labels >= 0).sum() - int(is_labeled.sum())  # "softmax" scores all
                if self.cfg.variant.gloss_objective == "nll":  # scores the unlabeled texts that can be reached
                    num_scored = is_scored(labels, is_labeled, self.num_classes).sum()
                num_unscorable = num_unlabeled - num_scored
                is_empty = num_scored == 0
            else:
                is_empty = ~self._has_pairs(labels[:, None] == labels)
        if ce is None:
            loss = embedding_loss
        elif embedding_loss is None:
            loss = ce
        else:
            loss = self.lam * embedding_loss + (1 - self.lam) * ce
        lap("loss")
        return Parts(loss, ce, embedding_loss, num_unscorable, is_empty)

    def _has_pairs(self, same: Tensor) -> Tensor:
        """Whether a batch holds what the loss compares; same: bool [B, B], True on the diagonal."""
        has_positive = (same.sum(1) > 1).any()
        if self.cfg.loss.name == TRIPLET:
            return ((same.sum(1) > 1) & ~same.all(1)).any()
        return has_positive if self.cfg.loss.name in (SCL, SCL_CE) else torch.ones_like(has_positive)

    def _embedding_loss(
        self, embeddings: Tensor, labels: Tensor, is_labeled: Tensor | None, lap: Callable[[str], None]
    ) -> Tensor:
        loss, variant, ablation = self.cfg.loss, self.cfg.variant, self.cfg.ablation
        if loss.name in (SCL, SCL_CE):
            return supcon_loss(embeddings, labels, loss.temperature, released=variant.supcon == "released")
        if loss.name == TRIPLET:
            return batch_all_triplet_loss(embeddings, labels, loss.margin)
        if loss.name == COSINE:
            return cosine_similarity_loss(embeddings, labels)
        if loss.name in GRAPH_LOSSES:
            if ablation.graph_noise:
                embeddings = F.normalize(embeddings, dim=1)
                embeddings = embeddings + ablation.graph_noise * torch.randn_like(embeddings)
            if ablation.graph_shuffle:  # the same weights, between nodes that have lost their labels to each other
                embeddings = embeddings[torch.randperm(len(embeddings), device=embeddings.device)]
            value = gloss_loss(
                embeddings,
                labels,
                sigma=self.sigma,
                is_labeled=is_labeled,
                num_classes=self.num_classes,
                objective=variant.gloss_objective,
                class_weights=_as(self.class_weights, embeddings.dtype),
                lap=lap,
            )
            if variant.divide_by_unlabeled and self.cfg.mode == INTEGRATED:
                value = value / int((~is_labeled).sum())
            return value
        raise ValueError(f"unknown loss {loss.name!r}")


def _as(weights: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if weights is None else weights.to(dtype)


def balanced_class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """N / (C · N_c) for each class c [C], as scikit-learn's "balanced"; a class without texts counts as one text.

    labels: int64 [N].
    """
    counts = torch.bincount(labels, minlength=num_classes).clamp(min=1)
    return len(labels) / (num_classes * counts.double())
