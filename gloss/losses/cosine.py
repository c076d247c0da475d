"""Cosine similarity loss over all pairs of a batch."""

from torch import Tensor, nn

from gloss.losses.checks import check_batch, outside_autocast
from gloss.losses.geometry import unit_length


@outside_autocast
def cosine_similarity_loss(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Mean over the B(B−1)/2 pairs of (cos(z_i, z_j) − t)², t = 1 for two texts of one class, else 0.

    Args:
        embeddings: float [B, D], B >= 2, any scale.
        labels: int [B], no -1.

    Returns a scalar in [0, 4]. Raises ValueError for anything else.
    """
    check_batch(embeddings, labels)
    z = unit_length(embeddings)
    target = (labels[:, None] == labels).to(z.dtype)
    squared_error = (z @ z.T - target).square().fill_diagonal_(0.0)
    return squared_error.sum() / (len(z) * (len(z) - 1))  # every pair is there twice


class CosineSimilarityLoss(nn.Module):
    """`cosine_similarity_loss` as a module: forward(embeddings [B, D], labels [B]) -> scalar."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return cosine_similarity_loss(embeddings, labels)
