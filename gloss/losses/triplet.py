"""Batch-all triplet loss in memory that grows with B², not B³."""

import torch
from torch import Tensor, nn

from gloss.losses.checks import check_batch, outside_autocast, same_class
from gloss.losses.geometry import pairwise_distances, to_working_precision


@outside_autocast
def batch_all_triplet_loss(embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
    """max(0, d(a, p) − d(a, n) + margin), mean over the triplets of the batch in which it is positive.

    Args:
        embeddings: float [B, D], B >= 2, not normalised; distances are Euclidean.
        labels: int [B], no -1.
        margin: at least 0.

    Returns a scalar; 0, still connected to the encoder, where no triplet is positive. Raises ValueError for anything
    else. Source: Hermans et al. 2017 (batch all, mean of the positive ones).

    The sum over triplets is a sum over pairs: d(a, p) enters once for each negative nearer than d(a, p) + margin,
    d(a, n) once, negatively, for each positive p with d(a, p) + margin beyond it. Sorted rows give both counts.
    """
    check_batch(embeddings, labels)
    if not margin >= 0:
        raise ValueError(f"margin must be at least 0, got {margin}")
    distances = pairwise_distances(to_working_precision(embeddings))
    is_positive = same_class(labels)
    is_negative = labels[:, None] != labels
    with torch.no_grad():
        reach = distances + margin
        negatives = distances.masked_fill(~is_negative, torch.inf).sort(dim=1).values
        reaches = reach.masked_fill(~is_positive, torch.inf).sort(dim=1).values
        per_positive = torch.searchsorted(negatives, reach).masked_fill(~is_positive, 0)
        beyond = torch.searchsorted(reaches, distances, right=True)  # positives that leave this negative out
        per_negative = (is_positive.sum(dim=1, keepdim=True) - beyond).masked_fill(~is_negative, 0)
        num_active = per_positive.sum()
        weight = (per_positive - per_negative) / num_active.clamp(min=1).to(distances.dtype)
    return (weight * distances).sum() + margin * (num_active > 0)


class BatchAllTripletLoss(nn.Module):
    """`batch_all_triplet_loss` with its margin: forward(embeddings [B, D], labels [B]) -> scalar."""

    def __init__(self, margin: float = 5.0) -> None:
        super().__init__()
        self.margin = margin

    def extra_repr(self) -> str:
        return f"margin={self.margin}"

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return batch_all_triplet_loss(embeddings, labels, self.margin)
