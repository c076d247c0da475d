"""Losses on embeddings: each takes (embeddings [B, D], labels [B]) and gives a scalar. Needs nothing but torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gloss.losses.cosine import CosineSimilarityLoss, cosine_similarity_loss
    from gloss.losses.geometry import sqrt_bandwidth
    from gloss.losses.gloss import GLoss, choose_labeled, gloss_loss, is_scored
    from gloss.losses.reference import gaussian_kernel, propagate_labels, symmetric_normalize, transition_matrix
    from gloss.losses.supcon import SupConLoss, supcon_loss
    from gloss.losses.triplet import BatchAllTripletLoss, batch_all_triplet_loss

__all__ = [
    "BatchAllTripletLoss",
    "CosineSimilarityLoss",
    "GLoss",
    "SupConLoss",
    "batch_all_triplet_loss",
    "choose_labeled",
    "cosine_similarity_loss",
    "gaussian_kernel",
    "gloss_loss",
    "is_scored",
    "propagate_labels",
    "sqrt_bandwidth",
    "supcon_loss",
    "symmetric_normalize",
    "transition_matrix",
]


def __getattr__(name: str) -> Any:
    """Import a name on first use, so that `gloss.losses.registry` loads no torch."""
    for module in ("cosine", "geometry", "gloss", "reference", "supcon", "triplet") if name in __all__ else ():
        if hasattr(found := import_module(f"gloss.losses.{module}"), name):
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
