"""The graph and the propagation exactly by their formulas: kernel, S, T, closed-form propagation."""

from __future__ import annotations

import torch
from torch import Tensor

from gloss.losses.geometry import pairwise_distances, unit_length


def gaussian_kernel(embeddings: Tensor, sigma: float) -> Tensor:
    """W [B, B]: W_ij = exp(−‖z_i − z_j‖² / 2σ²) of the embeddings [B, D] at unit length, W_ii = 0; sigma: σ > 0."""
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    weights = torch.exp(-pairwise_distances(unit_length(embeddings)).square() / (2 * sigma**2))
    return weights - weights.diagonal().diag_embed()


def symmetric_normalize(weights: Tensor) -> Tensor:
    """S = D^(−1/2) W D^(−1/2), D_ii = Σ_j W_ij; weights: W [B, B], symmetric, every row with a positive sum."""
    scale = weights.sum(dim=1).rsqrt()
    return scale[:, None] * weights * scale


def transition_matrix(normalized: Tensor) -> Tensor:
    """T [B, B]: each column of S [B, B] divided by its sum, then each row of the result by its own; rows sum to 1."""
    by_column = normalized / normalized.sum(dim=0)
    return by_column / by_column.sum(dim=1, keepdim=True)


def propagate_labels(transition: Tensor, labels: Tensor, is_labeled: Tensor, num_classes: int) -> Tensor:
    """F_U = (I − T_UU)⁻¹ T_UL Y_L: the class probabilities of the first labeled node on a walk from an unlabeled one.

    Args:
        transition: T [B, B], rows sum to 1.
        labels: int [B] in [0, C), not read for unlabeled nodes.
        is_labeled: bool [B], at least one True and one False.
        num_classes: C.

    Returns [U, C] in the order of the unlabeled nodes; rows sum to 1. Needs a path from every unlabeled node to a
    labeled one that does not vanish by rounding; else the system is singular.
    """
    if is_labeled.dtype != torch.bool:
        raise ValueError(f"is_labeled must be bool, got {is_labeled.dtype}")
    from_unlabeled = transition[~is_labeled]
    one_hot = torch.nn.functional.one_hot(labels[is_labeled].long(), num_classes).to(transition.dtype)  # [L, C]
    system = -from_unlabeled[:, ~is_labeled]  # -T_UU [U, U]
    system.diagonal().add_(1)  # I - T_UU
    return torch.linalg.solve(system, from_unlabeled[:, is_labeled] @ one_hot)
