"""Finished runs as one tidy pandas DataFrame: a row a run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from gloss.errors import RunError
from gloss.records.reading import Record, read_records
from gloss.records.schema import Identity


def load_runs(folder: str | Path) -> pd.DataFrame:
    """Return the finished runs under an outputs folder, one row per run, sorted by folder.

    Columns: `dataset`, `model`, `mode`, `loss`, `variant`, `config_hash`, `seed`; metrics in percent by split
    (`test_accuracy`, `val_macro_f1`; `test_macro_silhouette` from -1 to 1); `epochs`, `best_epoch`;
    `seconds_training`, `seconds_per_epoch` and the other times in seconds; `graph_at_best_homophily` and the other
    measures of the graph; the hyperparameters that were used (`lr`, `lam`, `sigma`, `gamma`); all other single values
    of result.json; the configuration under its own keys (`trainer.max_epochs`); `folder`. A value that a run does not
    have is missing (NaN or None).

    Args:
        folder: an outputs folder: the one that contains `runs/`.

    Raises:
        RunError: there is no `runs/` in it.

    Unfinished, failed or damaged runs are left out, with a warning that counts them.
    """
    if not (Path(folder) / "runs").is_dir():
        raise RunError(f"{folder} has no runs/: expected the folder that runs write to, such as outputs")
    records, problems = read_records(folder)
    if problems:
        first = f"{problems[0].folder}: {problems[0].reason}"
        warnings.warn(f"left out under {folder}: {len(problems)} of its folders; the first, {first}", stacklevel=2)
    return frame_of(records)


def frame_of(records: Sequence[Record]) -> pd.DataFrame:
    """The columns of `load_runs` for these records, in their order."""
    if not records:
        return pd.DataFrame(columns=[*Identity.model_fields, "folder"])
    results = [record.result for record in records]
    settings = [{g: part for g, part in result["config"].items() if isinstance(part, dict)} for result in results]
    parts = [
        pd.DataFrame([result["identity"] for result in results]),
        pd.json_normalize([result["metrics"] for result in results], sep="_"),
        pd.DataFrame([result["seconds"] for result in results]).add_prefix("seconds_"),
        pd.json_normalize([result.get("graph_quality") or {} for result in results], sep="_").add_prefix("graph_"),
        pd.DataFrame([{k: x for k, x in r.items() if not isinstance(x, (dict, list))} for r in results]),
        pd.DataFrame([result["hyperparameters"] for result in results]),
        pd.json_normalize(settings, max_level=1),
        pd.DataFrame({"folder": [str(record.folder) for record in records]}),
    ]
    frame = pd.concat(parts, axis=1)
    return frame.loc[:, ~frame.columns.duplicated()]  # a hyperparameter never hides a column of the record itself
