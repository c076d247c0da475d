"""Reference lines of Tables 2 and 3: the paper's BERT-base where another model ran, classifiers that train no encoder,
and nearest neighbours in a trained one.

They are no cells of the experiment: they bear no verdict and are not ranked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from gloss.paper.names import dataset_name, loss_name, model_name
from gloss.paper.published import MODES, published
from gloss.records.reading import number
from gloss.report.seed_groups import Group, blocks
from gloss.report.statistics import mean, std
from gloss.report.table import MISSING, Table, number_text
from gloss.report.tables.results import TABLE3, seeds_text

FROZEN, TFIDF = "Frozen encoder + logistic probe", "TF-IDF + linear SVM"
NOTES = {
    "paper": "Rows marked as the paper's, where it has no numbers for the model that ran here: its own for BERT-base.",
    "frozen": f"{FROZEN}: the pretrained encoder before any training, one fit of the probe.",
    "knn": "Nearest neighbours: training texts (at most 16,384) in the space of the trained encoder, k chosen on "
    "validation; accuracy.",
    "tfidf": f"{TFIDF}: words and word pairs, no encoder.",
}
Line = dict[str, Any]  # reference, label, dataset, model, metric, mean …; macro_f1 where there is one


def with_references(table: Table, groups: Sequence[Group], frozen: Sequence[Line], tfidf: Sequence[Line]) -> Table:
    """Table 2 or 3 with reference lines under it, where they were measured.

    groups: its cells; frozen and tfidf: records of gloss.training.baselines.
    """
    datasets = list(dict.fromkeys(g.dataset for g in groups))
    lines = [
        *_papers(groups, table.name),
        *_measured("frozen", FROZEN, frozen, blocks(groups, "dataset", "model")),
        *_neighbours(groups),
        *_measured("tfidf", TFIDF, tfidf, [(dataset, "") for dataset in datasets]),
    ]
    if not lines:
        return table
    rows: list[list[str]] = []
    if table.name == "table2":  # a column a data set
        found: dict[tuple[str, ...], dict[str, str]] = {}
        for x in lines:
            text = number_text(x["mean"], x.get("std")) + (
                f" / {x['macro_f1']:.2f}" if "macro_f1" in x else x["suffix"]
            )
            found.setdefault((x["model"], x["label"], _kind(x)), {})[x["dataset"]] = text
        rows = [
            [model_name(model) or MISSING, *key, *(texts.get(d, MISSING) for d in datasets)]
            for (model, *key), texts in found.items()
        ]
    else:  # accuracy and macro-F1 stand in columns of their own; only the paper's have more
        for x in lines:
            others = [number_text(x.get(m.name), digits=m.digits) for m in TABLE3[1:]]
            keys = [dataset_name(x["dataset"]), model_name(x["model"]) or MISSING, x["label"], _kind(x)]
            rows.append([*keys, number_text(x["mean"], x.get("std")) + x["suffix"], *others])
    notes = [note for kind, note in NOTES.items() if any(x["reference"] == kind for x in lines)]
    said = "Reference lines, below, are not ranked and bear no verdict. " + " ".join(notes)
    data = pd.concat([table.data, pd.DataFrame(lines, dtype=object).drop(columns="suffix")])
    return replace(table, rows=[*table.rows, *rows], data=data, notes=[*table.notes, said])


def _kind(x: Line) -> str:
    return "paper" if x["reference"] == "paper" else "reference"


def _papers(groups: Sequence[Group], experiment: str) -> list[Line]:
    """The paper's BERT-base for the data sets whose cells have no number of the paper's beside them."""
    lines = []
    for (dataset,), mine in blocks(groups, "dataset").items():
        if any(published(experiment, dataset, g.model, g.loss, "accuracy", g.mode) is not None for g in mine):
            continue
        for loss in dict.fromkeys(g.loss for g in mine if g.mode == MODES[experiment]):
            found = {m.name: published(experiment, dataset, "bert", loss, m.name) for m in TABLE3}
            if found["accuracy"] is not None:
                keys = {"reference": "paper", "label": loss_name(loss, MODES[experiment]), "dataset": dataset}
                numbers = {"metric": "accuracy", "mean": found.pop("accuracy"), **found, "suffix": ""}
                lines.append({**keys, "model": "bert", "loss": loss, **numbers})
    return lines


def _measured(reference: str, label: str, records: Sequence[Line], places: Iterable[tuple]) -> list[Line]:
    """Measured baselines of the pairs of data set and model in `places`."""
    lines = []
    for dataset, model in places:
        for record in (r for r in records if (r["dataset"], r.get("model") or "") == (dataset, model)):
            accuracy, macro_f1 = (number(record, "test", key) for key in ("accuracy", "macro_f1"))
            if accuracy is not None and macro_f1 is not None:
                keys = {"reference": reference, "label": label, "dataset": dataset, "model": model}
                numbers = {"metric": "accuracy", "n": 1, "mean": accuracy, "macro_f1": macro_f1, "suffix": ""}
                lines.append(keys | numbers)
    return lines


def _neighbours(groups: Sequence[Group]) -> list[Line]:
    lines = []
    for g in groups:
        if found := g.test("knn_accuracy").values():
            keys = {"reference": "knn", "label": f"{g.loss_name}: nearest neighbours", **g.keys, **g.point}
            numbers = {"metric": "knn_accuracy", "n": len(found), "mean": mean(found), "std": std(found)}
            lines.append(keys | numbers | {"suffix": f" {seeds_text(g, len(found))}"})
    return lines
