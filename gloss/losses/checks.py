"""Checks of a batch and helpers that all losses share."""

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def check_batch(embeddings: Tensor, labels: Tensor, may_be_unknown: bool = False) -> None:
    """Raise ValueError unless embeddings are float [B, D] and labels int [B], B >= 2, on one device.

    may_be_unknown: whether a label may be -1; that is looked up on the CPU alone, since a GPU would have to wait.
    """
    for name, value in (("embeddings", embeddings), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if embeddings.ndim != 2 or len(embeddings) < 2 or not embeddings.is_floating_point():
        raise ValueError(
            "embeddings must be float [B, D] with B >= 2 (let the sampler merge a last batch of one), "
            f"got {embeddings.dtype} {list(embeddings.shape)}"
        )
    if labels.shape != embeddings.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels must be int [{len(embeddings)}], got {labels.dtype} {list(labels.shape)}")
    if labels.device != embeddings.device:
        raise ValueError(f"labels must be where the embeddings are, on {embeddings.device}, got {labels.device}")
    if not may_be_unknown and labels.device.type == "cpu" and (labels == -1).any():
        raise ValueError("labels of -1 (class not known) are only for G-Loss: leave these texts out")


def outside_autocast(loss: Callable[..., Result]) -> Callable[..., Result]:
    """Run a loss without autocast, so that its kernels and exponentials keep their own precision."""

    @functools.wraps(loss)
    def run(embeddings: Tensor, *args, **kwargs) -> Result:
        device = embeddings.device.type if isinstance(embeddings, Tensor) else "cpu"  # what else is refused within
        with torch.autocast(device, enabled=False):
            return loss(embeddings, *args, **kwargs)

    return run


def same_class(labels: Tensor) -> Tensor:
    """labels: int [B] -> bool [B, B], True where two different texts have one class."""
    return (labels[:, None] == labels).fill_diagonal_(False)
