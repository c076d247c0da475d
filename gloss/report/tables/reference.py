"""Reference lines of Tables 2 and 3: the paper's BERT-base where another model ran, and classifiers without training.

They are no cells of the experiment: they bear no verdict and are not ranked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from gloss.paper.names import dataset_name, loss_name, model_name
from gloss.paper.published import MODES, published
from gloss.records.reading import number
from gloss.report.protocol import other_settings
from gloss.report.seed_groups import Group, blocks
from gloss.report.table import MISSING, Table, number_text
from gloss.report.tables.results import TABLE3

FROZEN, TFIDF = "Frozen encoder + logistic probe", "TF-IDF + linear SVM"
NOTE = (
    "Reference lines, below, are not ranked and bear no verdict. Rows marked as the paper's, where it has no numbers "
    f"for the model that ran here: its own for BERT-base. {FROZEN}: the pretrained encoder before any training, one "
    f"fit of the probe. {TFIDF}: words and word pairs, no encoder."
)
Line = dict[str, Any]  # label, kind ("paper", "reference"), dataset, model, accuracy, macro_f1; the paper's others


def with_references(table: Table, groups: Sequence[Group], frozen: Sequence[Line], tfidf: Sequence[Line]) -> Table:
    """Table 2 or 3 with reference lines under it, where they were measured.

    groups: its cells; frozen and tfidf: records of gloss.training.baselines.
    """
    lines = [
        *_papers(groups, table.name),
        *_measured(FROZEN, frozen, blocks(groups, "dataset", "model")),
        *_measured(TFIDF, tfidf, [(dataset, "") for (dataset,) in blocks(groups, "dataset")]),
    ]
    if not lines:
        return table
    rows: list[list[str]] = []
    if table.name == "table2":  # a column a data set
        found: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
        for x in lines:
            text = f"{x['accuracy']:.2f} / {x['macro_f1']:.2f}"
            found[x["model"], x["label"], x["kind"]][dataset_name(x["dataset"])] = text
        for (model, *keys), texts in found.items():
            rows.append(
                [model_name(model) or MISSING, *keys, *(texts.get(d, MISSING) for d in table.columns[table.num_keys :])]
            )
    else:
        for x in lines:
            keys = [dataset_name(x["dataset"]), model_name(x["model"]) or MISSING, x["label"], x["kind"]]
            rows.append([*keys, *(number_text(x.get(m.name), digits=m.digits) for m in TABLE3)])
    notes = [*table.notes, NOTE]
    if any(x.startswith(("dataset.train_limit", "model.max_length")) for g in groups for x in other_settings(g.config)):
        less = "cells with another dataset.train_limit or model.max_length read less"
        notes.append(f"The reference lines read all training texts, the frozen encoder 128 tokens of each: {less}.")
    data = pd.concat([table.data, pd.DataFrame(lines, dtype=object).rename(columns={"kind": "reference"})])
    return replace(table, rows=[*table.rows, *rows], data=data, notes=notes)


def _papers(groups: Sequence[Group], experiment: str) -> list[Line]:
    """The paper's BERT-base for the data sets whose cells have no number of the paper's beside them."""
    lines = []
    for (dataset,), mine in blocks(groups, "dataset").items():
        if any(published(experiment, dataset, g.model, g.loss, "accuracy", g.mode) is not None for g in mine):
            continue
        for loss in dict.fromkeys(g.loss for g in mine if g.mode == MODES[experiment]):
            found = {m.name: published(experiment, dataset, "bert", loss, m.name) for m in TABLE3}
            if found["accuracy"] is not None:
                label = loss_name(loss, MODES[experiment])
                lines.append({"label": label, "kind": "paper", "dataset": dataset, "model": "bert", **found})
    return lines


def _measured(label: str, records: Sequence[Line], places: Iterable[tuple]) -> list[Line]:
    """Measured baselines of the pairs of data set and model in `places`."""
    lines = []
    for dataset, model in places:
        for record in (r for r in records if (r["dataset"], r.get("model") or "") == (dataset, model)):
            scores = {key: number(record, "test", key) for key in ("accuracy", "macro_f1")}
            if None not in scores.values():
                lines.append({"label": label, "kind": "reference", "dataset": dataset, "model": model, **scores})
    return lines
