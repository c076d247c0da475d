"""Runs on one's own texts: scores by class, the confusion matrix, and the worst errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gloss.data.datasets import Split, dataset_of
from gloss.errors import DataError, RunError
from gloss.paper.names import dataset_name, model_name
from gloss.records.reading import Record, number, shortened
from gloss.report.run_list import differences
from gloss.report.seed_groups import Group, identity
from gloss.report.table import MISSING, Table

MAX_CLASSES = 20  # of a confusion matrix on the page
NUM_ERRORS = 10
TEXT_LENGTH = 200  # characters of a text that are shown


def own_data_tables(groups: Sequence[Group], problems: list[str]) -> dict[str, list[list[Table]]]:
    """By data set the tables of each run whose texts are the user's own, the best on validation first.

    problems: gets a message for each run whose predictions are broken.
    """
    mine = [g for g in groups if (g.config.get("dataset") or {}).get("source") in ("csv", "hub")]
    settings_of = differences(mine)
    found: dict[str, list[tuple[float, list[Table]]]] = {}
    texts: dict[str, Any] = {}
    for g in mine:
        for seed, run in g.runs.items():
            words = [g.loss_name, model_name(g.model), g.mode, settings_of[identity(g)], f"seed {seed}"]
            title = f"{dataset_name(g.dataset)}: {', '.join(filter(None, words))}"
            name = "-".join(["own", g.dataset, g.model, g.mode, g.loss, g.config_hash[:8], str(seed)])
            try:
                if tables := _tables(name, title, run, texts):
                    score = number(run.result, "metrics", "val", "macro_f1") or 0.0
                    found.setdefault(g.dataset, []).append((score, tables))
            except RunError as error:
                problems.append(str(error))
    return {dataset: [tables for _, tables in sorted(runs, key=lambda x: -x[0])] for dataset, runs in found.items()}


def _tables(name: str, title: str, run: Record, texts: dict[str, Any]) -> list[Table]:
    from scipy.special import softmax  # here: slow to import
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    arrays = run.predictions()
    if "test_logits" not in arrays:
        return []
    truth, probabilities = arrays["test_labels"], softmax(arrays["test_logits"].astype(np.float64), axis=1)
    guess, classes = probabilities.argmax(axis=1), [str(x) for x in run.result["labels"]]
    numbers = range(len(classes))
    counts = confusion_matrix(truth, guess, labels=numbers)
    scores = 100 * np.stack(precision_recall_fscore_support(truth, guess, labels=numbers, zero_division=0)[:3], axis=1)
    has_matrix = len(classes) <= MAX_CLASSES
    rows, data = [], []
    for i, label in enumerate(classes):
        total = int(counts[i].sum())
        others = [j for j in np.argsort(-counts[i], kind="stable") if j != i and counts[i][j]][:3]
        taken_for = ", ".join(f"{classes[j]} ({counts[i][j]})" for j in others) or MISSING
        cells = counts[i].tolist() if has_matrix else [taken_for]
        rows.append([label, total, *(f"{x:.2f}" for x in scores[i]), *cells])
        data.append({"class": label, "texts": total})
        data[-1] |= dict(zip(("precision", "recall", "f1"), scores[i].tolist(), strict=True))
        data[-1] |= {f"predicted_{other}": n for other, n in zip(classes, counts[i].tolist(), strict=True)}
    heads = [f"→ {label}" for label in classes] if has_matrix else ["Most often taken for"]
    notes = [
        "Scores by class (%), on test texts. → class: how many texts of the row's class were predicted as that one."
    ]
    by_class = Table(name, title, ["Class", "Texts", "Precision", "Recall", "F1", *heads], rows, data, notes)
    split, reason = _test_texts(run, texts)
    if split is not None and not np.array_equal(split.labels, truth):
        split, reason = None, "the test texts stand in another order than the predictions"
    return [by_class, _errors(f"{name}-errors", split, reason, truth, probabilities, classes)]


def _errors(
    name: str, split: Split | None, reason: str, truth: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> Table:
    """The wrong test texts of which the run was most sure; split: their texts, or None and the reason."""
    guess, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(guess != truth)
    rows: list[list[Any]] = []
    for i in wrong[np.argsort(-sure[wrong], kind="stable")][:NUM_ERRORS]:
        shown = [int(split.rows[i]), shortened(" | ".join(split.texts[i]), TEXT_LENGTH)] if split else [int(i) + 1]
        rows.append([*shown, classes[truth[i]], classes[guess[i]], f"{100 * sure[i]:.1f}"])
    where = ["Row", "Text"] if split else ["Prediction"]
    data = [dict(zip((*where, "class", "predicted", "probability"), row, strict=True)) for row in rows]
    notes = ["Row: of the file, as a spreadsheet counts. Records hold no texts: these were read again from it."]
    if not split:
        notes = [f"Texts cannot be shown: {reason}. Prediction: the line in predictions.npz, from 1."]
    title = f"The worst of {len(wrong)} errors among {len(truth)} test texts: wrong, and most sure of it"
    columns = [*where, "Its class", "Predicted", "Probability %"]
    return Table(name, title, columns, rows, data, notes, num_keys=len(columns) - 1)


def _test_texts(run: Record, known: dict[str, Any]) -> tuple[Split | None, str]:
    """The test split of a run, or None and the reason. known: splits that were read before."""
    cfg = run.result["config"]["dataset"]
    for name in filter(None, map(cfg.get, ("path", "val_path", "test_path", "unlabeled_path"))):
        path = Path(str(name)).expanduser()
        if not (path.is_file() or path.is_dir()):  # a pipe would not end; sets of the hub are not fetched
            return None, f"{name} is no file or folder here"
    key = json.dumps([cfg, run.result.get("fingerprint")], sort_keys=True, default=str)
    if key not in known:
        try:
            known[key] = dataset_of(run).splits["test"], ""
        except (DataError, RunError, OSError) as error:
            known[key] = None, shortened(error, TEXT_LENGTH).rstrip(".")
    return known[key]
