"""The paper's published numbers, read from published/*.csv, and what is odd about them."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from statistics import fmean

from gloss.paper.names import dataset_name

FOLDER = Path(__file__).parent / "published"
MODES = {"table2": "integrated", "table3": "standalone", "table6": "integrated"}  # of its tables of runs
SYSTEMS = ("TextGCN", "TensorGCN", "BERT-base", "RoBERTa-large", "Bert-GCN", "RoBERTa-GCN")  # not the authors' own


@cache
def rows(table: str) -> list[dict[str, str]]:
    """The rows of a published table ("table2") as strings."""
    with (FOLDER / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def published(
    experiment: str, dataset: str, model: str, loss: str, metric: str, mode: str | None = None
) -> float | None:
    """The paper's number for a cell of table2, table3 (BERT) or table6; None where the paper has none.

    mode: the cell's; None: the table's own, the only one that the paper has numbers for.
    """
    if mode not in (None, MODES.get(experiment)):
        found = []
    elif experiment == "table6":
        found = [r.get(f"{dataset}_{metric}") for r in rows("table6") if (r["model"], r["loss"]) == (model, loss)]
    elif experiment == "table3":
        is_bert = model == "bert"
        found = [r.get(metric) for r in rows("table3") if is_bert and (r["dataset"], r["loss"]) == (dataset, loss)]
    elif experiment == "table2":
        key = (model, loss, dataset)
        found = [r.get(metric) for r in rows("table2") if (r["model"], r["loss"], r["dataset"]) == key]
    else:
        found = []
    return float(found[0]) if found and found[0] else None


TABLE6_NOTE = (
    "Paper, SST-2, BERT, G-Loss-O + CE: its table prints 93.32; the authors' public review answers say 92.32 for the "
    "same cell."
)
SECTION53_NOTE = (
    "The paper's section 5.3 says that G-Loss-O beats both rivals on both sets with every model; its own table has "
    "SCL + CE ahead on QNLI with BERT (90.06 against 89.62)."
)


def table5_note() -> str:
    """What the paper's own rows of Table 5 are, computed from them and the means of its Table 2."""
    above: list[str] = []
    below: list[str] = []
    for row in rows("table5"):
        model = {"G-Loss + BERT-base": "bert", "G-Loss + RoBERTa-large": "roberta_large"}.get(row["model"])
        if model is None:
            continue
        for dataset in (x for x in row if x != "model"):
            cells = [published("table2", dataset, model, loss, "accuracy") for loss in ("gloss_o", "gloss_sqrt")]
            means = [value for value in cells if value is not None]
            text = f"{row['model'].removeprefix('G-Loss + ')} on {dataset_name(dataset)} {row[dataset]}"
            (above if float(row[dataset]) > max(means) else below).append(f"{text} against {max(means):.2f}")
    return (
        f"Paper's G-Loss rows: one number a cell, above the mean of its own Table 2 in {len(above)} of "
        f"{len(above) + len(below)} ({above[0]}), so they compare with our best seed, not with our mean. Below it, "
        f"and so no best seed: {'; '.join(below)}."
    )


def table9_notes() -> list[str]:
    """What does not agree between the paper's Table 9 and the means of its Table 3, computed from both."""
    losses = {"scl", "cosine", "triplet", "gloss_o"}
    means = {x: fmean([float(r["accuracy"]) for r in rows("table3") if r["loss"] == x]) for x in sorted(losses)}
    printed = {r["comparison"].split(" vs ")[1]: float(r["baseline_mean"]) for r in rows("table9")}
    gloss = float(rows("table9")[0]["gloss_mean"])
    return [
        f"Paper's Table 9: its means for cosine ({printed['cosine']:.2f}) and triplet ({printed['triplet']:.2f}) are "
        f"its Table 3's swapped (cosine {means['cosine']:.2f}, triplet {means['triplet']:.2f}); its mean for "
        f"G-Loss-O is {gloss:.2f}, that of Table 3 is {means['gloss_o']:.2f}."
    ]
