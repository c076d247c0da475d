"""σ of a run's graph, and of the graph whose quality is measured, before training."""

from __future__ import annotations

import numpy as np
import torch

from gloss.config import Config
from gloss.errors import RunError
from gloss.losses.geometry import sqrt_bandwidth
from gloss.models.encoder import Classifier, TokenTable, embed

SIGMA_SAMPLE = 4096  # training texts from which σ of G-Loss-SQRT is computed
QUALITY_SAMPLE = 1024  # the same where only the quality of the graph needs σ: a fourth of the time, within 1 % of it


def choose_sigma(
    cfg: Config, model: Classifier, table: TokenTable, device: torch.device, precision: str
) -> tuple[float | None, float | None]:
    """σ of the loss, None where it has no graph; and σ at which the quality of the graph is measured.

    σ of the loss is the number given, or computed once from the pretrained encoder in evaluation mode. Without a graph,
    the quality is measured at the σ of G-Loss-SQRT, so that losses compare; None where the encoder gives all texts one
    embedding. Raises RunError where loss=gloss_sqrt has no σ for that reason.

    table: the training texts.
    """

    def bandwidth(size: int, released: bool = False) -> float:
        """`sqrt_bandwidth` of at most `size` texts, drawn by the seed; raises its ValueError."""
        sample = np.sort(np.random.default_rng(cfg.seed).permutation(len(table))[:size])
        embeddings = embed(model, table.take(sample), device, precision, cfg.trainer.grad_cache_chunk)
        return sqrt_bandwidth(embeddings, released=released)

    sigma = cfg.loss.sigma
    if sigma is None:
        try:
            return None, bandwidth(QUALITY_SAMPLE)
        except ValueError:
            return None, None
    if sigma == "sqrt":
        released = cfg.variant.sqrt_rule == "sqrt(d/3)"  # the released code takes all training texts
        try:
            sigma = bandwidth(len(table) if released else SIGMA_SAMPLE, released)
        except ValueError as error:
            message = (
                f"loss=gloss_sqrt cannot compute σ with model={cfg.model.alias}: {error} (loss=gloss_o loss.sigma=1)"
            )
            raise RunError(message) from None
    sigma = float(sigma) * cfg.ablation.sigma_scale
    return sigma, sigma
