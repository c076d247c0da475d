"""Finished runs as text: listed, summarized by cell, and two compared. Frames come from gloss.records.frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real

import pandas as pd

from gloss.paper.names import dataset_name, loss_name, model_name
from gloss.records.reading import shortened
from gloss.report.seed_groups import mean_std

IDENTITY = ["dataset", "model", "mode", "loss", "variant", "config_hash"]
BLOCK = ["dataset", "model", "mode"]  # among whose cells the best is marked
METRICS = {  # column of the frame -> heading, digits
    "val_macro_f1": ("Val F1 %", 2),
    "test_accuracy": ("Accuracy %", 2),
    "test_macro_f1": ("Macro-F1 %", 2),
    "test_macro_silhouette": ("Silhouette", 4),
}
NOT_SETTINGS = (
    "paths.",
    "experiment.",
    "tuned.",
    "variant.",
    "trainer.device",
    "trainer.save_model",
    "trainer.grad_cache_chunk",
)
NOT_COMPARED = {"folder", "config_hash", "finished_at", "schema_version", "fingerprint"}


def by_cell(runs: pd.DataFrame) -> str:
    """A line a configuration: mean ± standard deviation of its seeds, the best of each data set, model and mode
    marked."""
    cells = [(group.iloc[0], group) for _, group in runs.groupby(IDENTITY, sort=False, dropna=False)]
    columns = {**_names(runs, [first for first, _ in cells]), "n": [str(len(group)) for _, group in cells]}
    block_of = [tuple(first[BLOCK]) for first, _ in cells]
    for column, (heading, digits) in METRICS.items():
        values = [group[column].dropna() if column in group else pd.Series(dtype=float) for _, group in cells]
        means = [round(float(x.mean()), digits) if len(x) else None for x in values]
        shown = []
        for x, mean, block in zip(values, means, block_of, strict=True):
            rivals = [m for m, b in zip(means, block_of, strict=True) if b == block and m is not None]
            mark = "*" if len(set(rivals)) > 1 and mean == max(rivals) else " "
            shown.append((mean_std(list(x), digits) if len(x) else "—") + mark)
        columns[heading] = shown
    return (
        table(columns, len(columns) - len(METRICS) - 1)
        + "\nTest split but for Val; mean ± standard deviation over n seeds; * best of its data set, model and mode."
    )


def listed(runs: pd.DataFrame) -> str:
    """A line a run: its name for `compare=`, what it is, its scores and its seconds."""
    columns = {"Run": [f"{run.config_hash}/{run.seed}" for run in runs.itertuples()]}
    columns |= _names(runs, [run for _, run in runs.iterrows()])
    keys = len(columns)
    for column, (heading, digits) in METRICS.items():
        columns[heading] = [_number(x, digits) for x in runs.get(column, [None] * len(runs))]
    columns["Best epoch"] = [f"{run.best_epoch} of {run.epochs}" for run in runs.itertuples()]
    columns["Seconds"] = [_number(x, 1) for x in runs.get("seconds_total", [None] * len(runs))]
    return table(columns, keys)


def compared(a: pd.Series, b: pd.Series) -> str:
    """What differs between two runs: settings first, then what they measured, with the difference."""
    keys = [
        key
        for key in a.index
        if key not in NOT_COMPARED and not key.startswith(("paths.", "experiment.")) and _differ(a, b, key)
    ]
    keys.sort(key=lambda key: key not in IDENTITY and "." not in key)  # stable: settings first
    columns: dict[str, list[str]] = {"": keys}
    columns["A"], columns["B"] = ([shortened(_value(run[key]), 40) for key in keys] for run in (a, b))
    columns["B - A"] = [
        f"{b[key] - a[key]:+.4g}" if all(isinstance(x[key], Real) and not pd.isna(x[key]) for x in (a, b)) else ""
        for key in keys
    ]
    return f"A: {a['folder']}\nB: {b['folder']}\n\n" + (table(columns, 1) if keys else "nothing differs")


def settings(runs: pd.DataFrame) -> dict[tuple[str, ...], str]:
    """Return by the values of IDENTITY the settings in which a configuration differs from others of its kind.

    Runs of a kind share data set, model, mode, loss and variant. A value that more than half of them share is
    left out.
    """
    keys = [c for c in runs.columns if "." in c and not c.startswith(NOT_SETTINGS)]
    found = {}
    for _, block in runs.groupby(IDENTITY[:-1], sort=False, dropna=False):
        cells = block.drop_duplicates("config_hash")
        shown = {key: cells[key].map(_value) for key in keys if cells[key].map(_value).nunique() > 1}
        for i, cell in enumerate(cells[IDENTITY].itertuples(index=False, name=None)):
            mine = {key: texts.iloc[i] for key, texts in shown.items() if 2 * sum(texts == texts.iloc[i]) <= len(cells)}
            found[cell] = " ".join(f"{key.partition('.')[2]}={text}" for key, text in mine.items())
    return found


def table(columns: Mapping[str, Sequence[str]], num_keys: int) -> str:
    """Columns of text side by side, the first `num_keys` aligned left, the others right."""
    aligned = []
    for i, (heading, cells) in enumerate(columns.items()):
        width = max(map(len, (heading, *cells)))
        aligned.append([x.ljust(width) if i < num_keys else x.rjust(width) for x in (heading, *cells)])
    return "\n".join("  ".join(row).rstrip() for row in zip(*aligned, strict=True))


def _names(runs: pd.DataFrame, rows: Sequence[pd.Series]) -> dict[str, list[str]]:
    settings_of = settings(runs)
    names = {
        "Data set": [dataset_name(row["dataset"]) for row in rows],
        "Model": [model_name(row["model"]) for row in rows],
        "Mode": [row["mode"] for row in rows],
        "Loss": [loss_name(row["loss"], row["mode"]) for row in rows],
        "Variant": [row["variant"] for row in rows],
        "Settings": [settings_of[tuple(row[IDENTITY])] for row in rows],
    }
    idle = {"Variant": {"paper"}, "Settings": {""}}  # columns that say nothing
    return {key: texts for key, texts in names.items() if set(texts) != idle.get(key)}


def _differ(a: pd.Series, b: pd.Series, key: str) -> bool:
    return str(a[key]) != str(b[key])


def _value(value: object) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "null"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: float | None, digits: int) -> str:
    return "—" if value is None or pd.isna(value) else f"{value:.{digits}f}"
