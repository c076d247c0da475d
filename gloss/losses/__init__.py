"""Losses on embeddings: each takes (embeddings [B, D], labels [B]) and gives a scalar. Needs nothing but torch."""

from gloss.losses.cosine import CosineSimilarityLoss, cosine_similarity_loss
from gloss.losses.gloss import GLoss, choose_labeled, gloss_loss, is_scored
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
    "gloss_loss",
    "is_scored",
    "supcon_loss",
]
