"""All finished runs, of any kind: as text and in one table, with the settings in which they differ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from numbers import Real
from typing import Any

import pandas as pd

from gloss.paper.names import dataset_name, loss_name, model_name
from gloss.records.frame import frame_of
from gloss.records.reading import shortened
from gloss.records.run_folder import is_hashed
from gloss.report.protocol import protocol_deviations
from gloss.report.seed_groups import CELL, Group, blocks, identity, setting, timed
from gloss.report.table import Entry, Table, mean_std, number_text
from gloss.report.tables.results import ACCURACY, EPOCH_SECONDS, MACRO_F1, SILHOUETTE, Metric, measure, ours

SHOWN = {  # column of the frame -> heading, digits
    "val_macro_f1": ("Val F1 %", 2),
    "test_accuracy": ("Accuracy %", 2),
    "test_macro_f1": ("Macro-F1 %", 2),
    "test_macro_silhouette": ("Silhouette", 4),
}
METRICS = (  # of the page's table
    *(ACCURACY, MACRO_F1, SILHOUETTE, EPOCH_SECONDS),
    Metric("epochs", "Epochs", ("epochs",), 1, False),
    Metric("seconds_to_best", "To best (s)", ("seconds", "to_best"), 1, False),
)
NOT_COMPARED = {"folder", "config_hash", "finished_at", "schema_version", "fingerprint"}


def by_configuration(runs: pd.DataFrame) -> str:
    """A line a configuration: mean ± standard deviation of its seeds."""
    runs = _with_scores(runs)
    cells = runs.groupby(CELL, sort=False, dropna=False)
    columns: dict[str, list[Any]] = {**_names(runs, cells.head(1)), "n": list(cells.size())}
    for column, (heading, digits) in SHOWN.items():
        columns[heading] = [mean_std(list(cell[column].dropna()), digits) for _, cell in cells]
    return f"{_text(columns)}\nTest split but for Val; mean ± standard deviation over n seeds."


def listed(runs: pd.DataFrame) -> str:
    """A line a run: its name for `compare=`, its configuration, its scores and its seconds."""
    runs = _with_scores(runs)
    columns = {"Run": [f"{run.config_hash}/{run.seed}" for run in runs.itertuples()], **_names(runs, runs)}
    for column, (heading, digits) in (SHOWN | {"seconds_total": ("Seconds", 1)}).items():
        columns[heading] = [number_text(x, digits=digits) for x in runs[column]]
    columns["Best epoch"] = [f"{run.best_epoch} of {run.epochs}" for run in runs.itertuples()]
    return _text(columns)


def compared(a: pd.Series, b: pd.Series) -> str:
    """The differences of two runs: settings first, then measured numbers with their difference."""
    keys = [key for key in a.index if key not in NOT_COMPARED and ("." not in key or _is_setting(key))]
    keys = [key for key in keys if str(a[key]) != str(b[key])]
    keys.sort(key=lambda key: key not in CELL and "." not in key)  # stable: settings first
    columns: dict[str, list[str]] = {"": keys}
    columns["A"], columns["B"] = ([shortened(_value(run[key]), 40) for key in keys] for run in (a, b))
    columns["B - A"] = [
        f"{b[key] - a[key]:+.4g}" if all(isinstance(x[key], Real) and not pd.isna(x[key]) for x in (a, b)) else ""
        for key in keys
    ]
    return f"A: {a['folder']}\nB: {b['folder']}\n\n" + (_text(columns) if keys else "nothing differs")


def settings(runs: pd.DataFrame) -> dict[tuple[str, ...], str]:
    """Return by the values of CELL the settings in which a configuration differs from others of its kind.

    Runs of a kind share data set, model, mode, loss and variant. A value that more than half of them share is
    left out; one that the fewest share comes first.
    """
    keys = [c for c in runs.columns if "." in c and _is_setting(c) and not c.startswith("variant.")]
    found = {}
    for _, block in runs.groupby(CELL[:-1], sort=False, dropna=False):
        cells = block.drop_duplicates("config_hash")
        shown = {key: cells[key].map(_value) for key in keys if cells[key].map(_value).nunique() > 1}
        for i, cell in enumerate(cells[CELL].itertuples(index=False, name=None)):
            mine = {key: (texts == texts.iloc[i]).sum() for key, texts in shown.items()}
            rare = sorted((key for key, count in mine.items() if 2 * count <= len(cells)), key=mine.__getitem__)
            found[cell] = " ".join(f"{key.partition('.')[2]}={shown[key].iloc[i]}" for key in rare)
    return found


def _is_setting(key: str) -> bool:
    """Whether a key can distinguish runs: config_hash covers it, or the texts at the path that it is."""
    return is_hashed(key) or key.startswith("dataset.") and key.endswith("path")


def _with_scores(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, with all columns that are shown: older records may lack some."""
    return runs.reindex(columns=list(dict.fromkeys([*runs, *SHOWN, "seconds_total"])))


def _text(columns: dict[str, list[Any]]) -> str:
    return pd.DataFrame(columns).to_string(index=False)


def _names(runs: pd.DataFrame, rows: pd.DataFrame) -> dict[str, list[str]]:
    settings_of = settings(runs)
    names = {
        "Data set": rows["dataset"].map(dataset_name),
        "Model": rows["model"].map(model_name),
        "Mode": rows["mode"],
        "Loss": [loss_name(*pair) for pair in zip(rows["loss"], rows["mode"], strict=True)],
        "Variant": rows["variant"],
        "Settings": [shortened(settings_of[cell], 60) for cell in rows[CELL].itertuples(index=False, name=None)],
    }
    idle = {"Variant": {"paper"}, "Settings": {""}}  # values of columns that are left out
    return {key: list(texts) for key, texts in names.items() if set(texts) != idle.get(key)}


def _value(value: object) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "null"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"  # pandas makes floats of a column with a null


def runs_table(groups: Sequence[Group], name: str = "runs", title: str = "All finished runs") -> Table:
    """A line a configuration: test metrics as mean ± standard deviation over its seeds. Best and second of each data
    set, model and mode are marked, among runs of one protocol and variant."""
    contests = blocks(groups, "dataset", "model", "mode").values()
    groups = [g for block in contests for g in sorted(block, key=_by_value)]
    settings_of = differences(groups)
    cells = measure(groups, METRICS)
    shown = [i for i in range(len(METRICS)) if any(cell[i]["n"] for cell in cells)]
    has_settings = any(settings_of.values())
    rows, data = [], []
    for g, cell in zip(groups, cells, strict=True):
        # Times and epochs are facts, not a contest: no rank.
        parts = [ours(cell[i] if METRICS[i].is_quality else cell[i] | {"rank": 0}, METRICS[i]) for i in shown]
        keys = [dataset_name(g.dataset), model_name(g.model), g.mode, g.loss_name]
        keys += [settings_of[identity(g)]] if has_settings else []
        counts = [f"({cell[i]['n']} of {len(g.runs)})" if 0 < cell[i]["n"] < len(g.runs) else "" for i in shown]
        rows.append([*keys, len(g.runs), *(Entry((p,), count) for p, count in zip(parts, counts, strict=True))])
        data.append({**{key: cell[0][key] for key in CELL}, "seeds": " ".join(map(str, g.runs))})
        data[-1] |= {"protocol_deviations": cell[0]["protocol_deviations"]}
        for i in shown:
            column = str(METRICS[i].path[-1])
            data[-1] |= {column: cell[i]["mean"], f"{column}_std": cell[i]["std"], f"{column}_n": cell[i]["n"]}
    notes = timed(groups)[1]
    if off := [set(found) for g in groups if (found := protocol_deviations(g.config))]:
        which = "all rows" if len(off) == len(groups) else f"{len(off)} of {len(groups)} rows; the CSV says of which"
        shared = sorted(set.intersection(*off))
        notes.append(f"Not the paper's protocol ({which}){': ' if shared else ''}{', '.join(shared)}.")
    columns = ["Data set", "Model", "Mode", "Loss"]
    if has_settings:
        columns.append("Settings")
        notes.append(
            "Settings: those that differ among the runs of a data set, model, mode and loss; a value that more than "
            "half of these configurations share is left out."
        )
    heads = ["n", *(METRICS[i].heading for i in shown)]
    return Table(name, title, columns + heads, rows, data, notes, num_keys=len(columns))


def _by_value(g: Group) -> list[list[int | str]]:
    """The settings of a group, in an order that puts 20 before 100."""
    return [[int(part) if part.isdigit() else part for part in re.split(r"(\d+)", word)] for word in setting(g)]


def differences(groups: Sequence[Group]) -> dict[tuple, str]:
    """By `identity`, the words that distinguish a configuration from others of its data set, model, mode and loss:
    variant and settings; also the config_hash where these are the same. Empty for the only one of its kind."""
    settings_of = settings(frame_of([run for g in groups for run in g.runs.values()]))
    texts = {}
    for g in groups:
        words = ("" if g.variant == "paper" else g.variant, settings_of[tuple(getattr(g, key) for key in CELL)])
        texts[identity(g)] = " ".join(filter(None, words))
    counts = Counter((*key[:4], text) for key, text in texts.items())
    return {
        key: text if counts[*key[:4], text] == 1 else f"{text} config_hash={key[4][:8]}".strip()
        for key, text in texts.items()
    }
