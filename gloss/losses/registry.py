"""All losses, a row each: configuration, training, benchmark, model card, tables and figures read them here.

Loads no torch, so that a command line or a report starts at once; only a row's `build` loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gloss.losses  # as a module: its names load torch on first use

INTEGRATED, STANDALONE = "integrated", "standalone"  # modes: with cross-entropy, or the loss alone
PAIRS, POSITIVES, TRIPLETS, SPLIT = "pairs", "positives", "positives and negatives", "labeled split"


@dataclass(frozen=True)
class Loss:
    """A loss, as `loss=<name>` chooses it; configs/loss/<name>.yaml has its defaults."""

    name: str
    title: str  # as the paper writes it, without "+ CE"
    description: str  # for the model card
    style: tuple[str, str, Any]  # color (of Okabe and Ito's palette), marker and dashes in figures
    keys: tuple[str, ...] = ()  # hyperparameters it reads, of gloss.config.LossConfig ("lam" in integrated mode only)
    needs: str | None = None  # relation of texts in a batch from which it learns; None for cross-entropy alone
    # From the values of LossConfig (σ as a number) and VariantConfig, num_classes and class_weights ([C] or None) to a
    # function of embeddings [B, D] and labels [B]; for a SPLIT, one like `gloss.losses.gloss.propagation_loss`.
    build: Callable[[Mapping[str, Any]], Callable[..., Any]] | None = None
    modes: tuple[str, ...] = (INTEGRATED, STANDALONE)  # the modes that it exists in
    other: str | None = None  # the name of the same loss in the other mode


def _gloss(s: Mapping[str, Any]) -> Callable[..., Any]:
    from gloss.losses.gloss import propagation_loss

    settings = {key: s[key] for key in ("sigma", "num_classes", "class_weights")}
    return partial(propagation_loss, objective=s["gloss_objective"], **settings)


_SCL: dict[str, Any] = {
    "style": ("#009E73", "s", "--"),
    "keys": ("lam", "temperature"),
    "needs": POSITIVES,
    "build": lambda s: gloss.losses.SupConLoss(s["temperature"], released=s["supcon"] == "released"),
}
_GRAPH: dict[str, Any] = {"keys": ("lam", "sigma", "gamma"), "needs": SPLIT, "build": _gloss}
_ROWS = (
    Loss("ce", "CE", "cross-entropy", style=("#000000", "o", "-"), modes=(INTEGRATED,)),
    Loss(
        "scl_ce", "SCL + CE", "supervised contrastive loss and cross-entropy", modes=(INTEGRATED,), other="scl", **_SCL
    ),
    Loss("scl", "SCL", "supervised contrastive loss", modes=(STANDALONE,), other="scl_ce", **_SCL),
    Loss(
        "triplet",
        "Triplet",
        "batch-all triplet loss",
        style=("#E69F00", "^", "-."),
        keys=("lam", "margin"),
        needs=TRIPLETS,
        build=lambda s: gloss.losses.BatchAllTripletLoss(s["margin"]),
    ),
    Loss(
        "cosine",
        "Cosine",
        "cosine similarity loss",
        style=("#CC79A7", "D", ":"),
        keys=("lam",),
        needs=PAIRS,
        build=lambda s: gloss.losses.CosineSimilarityLoss(),
    ),
    Loss(
        "gloss_sqrt",
        "G-Loss-SQRT",
        "G-Loss, σ computed from the pretrained embeddings (G-Loss-SQRT)",
        style=("#0072B2", "v", (0, (6, 1))),
        **_GRAPH,
    ),
    Loss(
        "gloss_o", "G-Loss-O", "G-Loss, σ given or found by a search (G-Loss-O)", style=("#D55E00", "P", "-"), **_GRAPH
    ),
)
LOSSES = {row.name: row for row in _ROWS}
CE, SCL_CE, GLOSS_SQRT, GLOSS_O = "ce", "scl_ce", "gloss_sqrt", "gloss_o"


def name_in(mode: str, loss: str) -> str:
    """The name of a loss in a mode: with cross-entropy, scl is the paper's scl_ce."""
    row = LOSSES.get(loss)
    return row.other if row and row.other and mode == INTEGRATED and mode not in row.modes else loss


def is_graph(loss: str) -> bool:
    """Whether a loss propagates labels through the graph of a batch."""
    return loss in LOSSES and LOSSES[loss].needs == SPLIT
