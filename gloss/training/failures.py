"""Failures of a training that the user can fix: numbers that are not finite, lack of memory."""

from __future__ import annotations

import re

import torch

from gloss.config import Config, forward_passes
from gloss.errors import RunError


class Diverged(RunError):
    """A loss, gradient or embedding that is no finite number; `details` say where."""

    def __init__(self, details: dict, subject: str = "the loss or its gradient is", hint: str = "") -> None:
        self.details = details
        names = {"loss": "loss", "grad_norm": "gradient norm", "sigma": "sigma", "lr": "lr"}
        values = ", ".join(f"{name} {details[key]}" for key, name in names.items() if details.get(key) is not None)
        super().__init__(
            f"{subject} not finite at epoch {details['epoch']}, step {details['step']} ({values}): try a smaller "
            f"trainer.lr{hint}"
        )


def explain_lack_of_memory(error: RuntimeError, cfg: Config, device: torch.device) -> None:
    """Raise RunError with the settings that this configuration allows, where `error` is a lack of memory."""
    # PyTorch has a class for it, but neither for its CPU allocator nor for the libraries below.
    signs = "out of memory|can't allocate memory|not enough memory|ALLOC_FAILED|CUBLAS_STATUS_NOT_INITIALIZED"
    if not re.search(signs, str(error)):
        return
    size, way = cfg.trainer.batch_size, ""
    half = min(cfg.trainer.grad_cache_chunk or size, size) // 2
    if half and forward_passes(cfg.mode, cfg.loss.name, cfg.variant.forward_passes) == 1:
        way = f"set trainer.grad_cache_chunk={half} (the same gradient in less memory), or "
    raise RunError(
        f"{device} is out of memory with batches of {size} texts of up to {cfg.model.max_length} tokens: {way}make "
        "trainer.batch_size or model.max_length smaller"
    ) from error
