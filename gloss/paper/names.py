"""Names, order and look of data sets, models and losses: the same in all tables and figures."""

from __future__ import annotations

from typing import Any

from gloss.losses.registry import INTEGRATED, LOSSES

SYMBOLS = {"sigma": "σ", "lam": "λ", "gamma": "γ", "lr": "learning rate"}  # of hyperparameters, in figures
DATASETS = {
    "mr": "MR",
    "r8": "R8",
    "r52": "R52",
    "20ng": "20NG",
    "ohsumed": "Ohsumed",
    "sst2": "SST-2",
    "qnli": "QNLI",
    "docstrings": "Docstrings",
    "snippets_movie": "Movie snippets",
    "snippets_product": "Product snippets",
    "snippets_news": "News snippets",
    "snippets_tweets": "Tweets",
    "pubmed_rct": "PubMed RCT",
    "medqa": "MedQA",
}
MODELS = {
    "bert": "BERT-base",
    "roberta_large": "RoBERTa-large",
    "distilbert": "DistilBERT",
    "minilm": "MiniLM",
    "mpnet": "MPNet",
}
# Okabe and Ito's palette; markers and dashes carry the same information for readers without colour.
LOSS_LOOK: dict[str, dict[str, Any]] = {
    name: dict(zip(("color", "marker", "linestyle"), row.style, strict=True)) for name, row in LOSSES.items()
}
DATASET_LOOK: dict[str, dict[str, Any]] = {
    "mr": {"color": "#000000", "marker": "o", "linestyle": "-"},
    "r8": {"color": "#E69F00", "marker": "s", "linestyle": "--"},
    "r52": {"color": "#0072B2", "marker": "^", "linestyle": "-."},
    "20ng": {"color": "#009E73", "marker": "D", "linestyle": ":"},
    "ohsumed": {"color": "#CC79A7", "marker": "v", "linestyle": (0, (6, 1))},
    "sst2": {"color": "#D55E00", "marker": "P", "linestyle": "-"},
    "qnli": {"color": "#56B4E9", "marker": "X", "linestyle": "--"},
}


def dataset_look(dataset: str) -> dict[str, Any]:
    """The look of a data set's line; a cross, and the next colour, for a set beyond the paper's."""
    return DATASET_LOOK.get(dataset, {"marker": "x"})


def dataset_name(dataset: str) -> str:
    return DATASETS.get(dataset, dataset)


def model_name(model: str) -> str:
    return MODELS.get(model, model)


def loss_name(loss: str, mode: str = "standalone") -> str:
    """The paper's name of a loss; in integrated mode an embedding loss is mixed with cross-entropy."""
    row = LOSSES.get(loss)
    name = row.title if row else loss
    return f"{name} + CE" if mode == INTEGRATED and not (row and row.modes == (INTEGRATED,)) else name


def paper_order(dataset: str = "", model: str = "", loss: str = "") -> tuple:
    """A sort key: the paper's order first, then other names in alphabetical order."""
    pairs = ((dataset, DATASETS), (model, MODELS), (loss, LOSSES))
    return tuple((list(known).index(x) if x in known else len(known), x) for x, known in pairs)
