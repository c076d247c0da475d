"""Label propagation in closed form: the readable reference (`gloss.losses.gloss` computes the same in log space)."""

import torch
from torch import Tensor


def propagate_labels(transition: Tensor, labels: Tensor, is_visible: Tensor, num_classes: int) -> Tensor:
    """F_U = (I − T_UU)⁻¹ T_UL Y_L: the probability that a walk from a hidden node first meets a visible one of class c.

    transition: T [B, B], rows sum to 1; labels: int [B] in [0, C) (those of hidden nodes are not read); is_visible:
    bool [B], at least one True and one False. Returns [U, C] in the order of the hidden nodes; rows sum to 1.
    Needs a path from every hidden node to a visible one that floating point can see; else the system is singular.
    """
    num_nodes = len(transition)
    if transition.shape != (num_nodes, num_nodes) or labels.shape != (num_nodes,) or is_visible.shape != (num_nodes,):
        raise ValueError("transition, labels and is_visible must be [B, B], [B] and [B], got shapes "
                         f"{list(transition.shape)}, {list(labels.shape)} and {list(is_visible.shape)}")
    if is_visible.dtype != torch.bool:
        raise ValueError(f"is_visible must be bool, got {is_visible.dtype}")
    from_hidden = transition[~is_visible]
    one_hot = torch.nn.functional.one_hot(labels[is_visible], num_classes).to(transition.dtype)  # [L, C]
    stay = from_hidden[:, ~is_visible]  # T_UU [U, U]
    identity = torch.eye(len(stay), dtype=stay.dtype, device=stay.device)
    return torch.linalg.solve(identity - stay, from_hidden[:, is_visible] @ one_hot)
