"""Supervised contrastive loss."""

from torch import Tensor, nn

from gloss.losses.checks import check_batch, outside_autocast, same_class
from gloss.losses.geometry import unit_length

RELEASED_BASE_TEMPERATURE = 0.07


@outside_autocast
def supcon_loss(embeddings: Tensor, labels: Tensor, temperature: float, *, released: bool = False) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, equation 2), mean over the anchors that have a positive.

    Args:
        embeddings: float [B, D], B >= 2, any scale (normalised here).
        labels: int [B], no -1.
        temperature: τ > 0.
        released: the authors' code: times τ/0.07, and anchors without a positive count as 0 in the mean.

    Returns a scalar; 0 where no two labels agree. Raises ValueError for anything else.
    """
    check_batch(embeddings, labels)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    z = unit_length(embeddings)
    logits = (z @ z.T / temperature).fill_diagonal_(-1e30)  # a text is not in its own denominator [B, B]
    is_positive = same_class(labels)
    num_positives = is_positive.sum(dim=1)
    log_prob = logits.log_softmax(dim=1).masked_fill(~is_positive, 0.0)
    per_anchor = -log_prob.sum(dim=1) / num_positives.clamp(min=1)
    if released:
        return per_anchor.mean() * (temperature / RELEASED_BASE_TEMPERATURE)
    return per_anchor.sum() / (num_positives > 0).sum().clamp(min=1)


class SupConLoss(nn.Module):
    """`supcon_loss` with its settings: forward(embeddings [B, D], labels [B]) -> scalar."""

    def __init__(self, temperature: float = 0.3, *, released: bool = False) -> None:
        super().__init__()
        self.temperature, self.released = temperature, released

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, released={self.released}"

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return supcon_loss(embeddings, labels, self.temperature, released=self.released)
