"""Reference lines of Tables 2 and 3: the paper's BERT-base where another model ran, classifiers that train no encoder,
and nearest neighbours in a trained one.

They are no cells of the experiment: they bear no verdict and are not ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from gloss.paper.names import dataset_name, loss_name, model_name
from gloss.paper.published import MODES, published
from gloss.records.reading import number
from gloss.report.seed_groups import Group
from gloss.report.statistics import mean, std
from gloss.report.table import MISSING, Entry, Table, entry, number_text
from gloss.report.tables.results import TABLE3, seeds_text

FROZEN, TFIDF = "Frozen encoder + logistic probe", "TF-IDF + linear SVM"
PAPER = "paper"
NOTES = {
    PAPER: "Rows marked as the paper's, where it has no numbers for the model that ran here: its own for BERT-base.",
    "frozen": f"{FROZEN}: the pretrained encoder before any training, one fit of the probe.",
    "knn": "Nearest neighbours: training texts (at most 16,384) in the space of the trained encoder, k chosen on "
    "validation; accuracy.",
    "tfidf": f"{TFIDF}: words and word pairs, no encoder.",
}


def with_references(
    table: Table, groups: Sequence[Group], frozen: Sequence[dict[str, Any]], tfidf: Sequence[dict[str, Any]]
) -> Table:
    """Table 2 or 3 with reference lines under it, where they were measured.

    groups: its cells; frozen and tfidf: records of gloss.training.baselines.
    """
    lines = _papers(groups, table.name) + _lines(groups, frozen, tfidf)
    if not lines:
        return table
    rows = _by_model(groups, lines) if table.name == "table2" else _by_dataset(lines)
    notes = [note for kind, note in NOTES.items() if any(line["reference"] == kind for line in lines)]
    said = "Reference lines, below, are not ranked and bear no verdict. " + " ".join(notes)
    data = pd.concat([table.data, pd.DataFrame(lines, dtype=object).drop(columns="suffix")])
    return replace(table, rows=[*table.rows, *rows], data=data, notes=[*table.notes, said])


def _papers(groups: Sequence[Group], experiment: str) -> list[dict[str, Any]]:
    """The paper's BERT-base for the data sets whose cells have no number of the paper's beside them."""
    lines = []
    for dataset in dict.fromkeys(g.dataset for g in groups):
        mine = [g for g in groups if g.dataset == dataset]
        if any(published(experiment, dataset, g.model, g.loss, "accuracy", g.mode) is not None for g in mine):
            continue
        for loss in dict.fromkeys(g.loss for g in mine if g.mode == MODES[experiment]):
            found = {m.name: published(experiment, dataset, "bert", loss, m.name) for m in TABLE3}
            if found["accuracy"] is not None:
                label = loss_name(loss, MODES[experiment])
                keys = {"reference": PAPER, "label": label, "dataset": dataset, "model": "bert", "loss": loss}
                lines.append({**keys, "metric": "accuracy", "mean": found.pop("accuracy"), **found, "suffix": ""})
    return lines


def _lines(groups: Sequence[Group], frozen: Sequence[dict], tfidf: Sequence[dict]) -> list[dict[str, Any]]:
    """A line a number: reference, label, dataset, model, n, mean, std; macro_f1 where there is one."""
    lines = []
    for dataset, model in dict.fromkeys((g.dataset, g.model) for g in groups):
        for record in frozen:
            if (record["dataset"], record.get("model")) == (dataset, model):
                lines += _single("frozen", FROZEN, record, dataset, model)
    for g in groups:
        if found := list(g.test("knn_accuracy").values()):
            label = f"{loss_name(g.loss, g.mode)}: nearest neighbours"
            keys = {"reference": "knn", "label": label, "dataset": g.dataset, "model": g.model, "mode": g.mode}
            spread = std(found) if len(found) > 1 else None
            more = {"metric": "knn_accuracy", "n": len(found), "mean": mean(found), "std": spread}
            lines.append({**keys, "loss": g.loss, **g.point, **more, "suffix": seeds_text(g, len(found))})
    for dataset in dict.fromkeys(g.dataset for g in groups):
        for record in tfidf:
            if record["dataset"] == dataset:
                lines += _single("tfidf", TFIDF, record, dataset, "")
    return lines


def _single(reference: str, label: str, record: dict[str, Any], dataset: str, model: str) -> list[dict[str, Any]]:
    accuracy, macro_f1 = (number(record, "test", key) for key in ("accuracy", "macro_f1"))
    if accuracy is None or macro_f1 is None:
        return []
    keys = {"reference": reference, "label": label, "dataset": dataset, "model": model, "metric": "accuracy"}
    return [keys | {"n": 1, "mean": accuracy, "macro_f1": macro_f1, "suffix": ""}]


def _entry(line: dict[str, Any], has_both: bool) -> Entry:
    if "macro_f1" in line:
        return entry(*(f"{line[key]:.2f}" for key in (("mean", "macro_f1") if has_both else ("mean",))))
    return entry(number_text(line["mean"], line["std"]), suffix=line["suffix"])


def _by_model(groups: Sequence[Group], lines: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """Rows of Table 2: a column a data set."""
    datasets, rows = list(dict.fromkeys(g.dataset for g in groups)), []
    for key in dict.fromkeys((x["model"], x["label"], _kind(x)) for x in lines):
        mine = {x["dataset"]: _entry(x, True) for x in lines if (x["model"], x["label"], _kind(x)) == key}
        rows.append([model_name(key[0]) or MISSING, *key[1:], *(mine.get(d, MISSING) for d in datasets)])
    return rows


def _kind(line: dict[str, Any]) -> str:
    return PAPER if line["reference"] == PAPER else "reference"


def _by_dataset(lines: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """Rows of Table 3: accuracy and macro-F1 stand in columns of their own; only the paper's have more."""
    return [
        [dataset_name(x["dataset"]), model_name(x["model"]) or MISSING, x["label"], _kind(x)]
        + [_entry(x, False), *(number_text(x.get(m.name), digits=m.digits) for m in TABLE3[1:])]
        for x in lines
    ]
