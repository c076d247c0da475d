"""Finished runs as one tidy pandas DataFrame: a row a run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gloss.errors import RunError
from gloss.records.reading import Record, read_records


def load_runs(folder: str | Path) -> pd.DataFrame:
    """Return the finished runs under an outputs folder, one row per run, sorted by folder.

    Columns: `dataset`, `model`, `mode`, `loss`, `variant`, `config_hash`, `seed`; metrics in percent by split
    (`test_accuracy`, `val_macro_f1`; `test_macro_silhouette` from -1 to 1); `epochs`, `best_epoch`;
    `seconds_training`, `seconds_per_epoch` and the other times in seconds; `graph_at_best_homophily` and the other
    measures of the graph; the hyperparameters that were used (`lr`, `lam`, `sigma`, `gamma`); what else result.json
    holds in a single value; the configuration under its own keys (`trainer.max_epochs`); `folder`. A value that a run
    does not have is missing (NaN or None).

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
        warnings.warn(f"{len(problems)} folders under {folder} are left out; the first, {first}", stacklevel=2)
    return frame_of(records)


def frame_of(records: Sequence[Record]) -> pd.DataFrame:
    """The columns of `load_runs` for these records, in their order."""
    rows = [_row(record) for record in records]
    first = [*rows[0]] if rows else ["dataset", "model", "mode", "loss", "variant", "config_hash", "seed", "folder"]
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*first, *(key for row in rows for key in row)])))


def _row(record: Record) -> dict[str, Any]:
    result = dict(record.result)
    identity, config, used = (result.pop(key) for key in ("identity", "config", "hyperparameters"))
    measured = _flat(result.pop("metrics")) | _flat({"seconds": result.pop("seconds")})
    measured |= _flat({"graph": result.pop("graph_quality", None) or {}})
    single = {key: value for key, value in result.items() if not isinstance(value, (dict, list))}
    groups = {name: part for name, part in config.items() if isinstance(part, dict)}
    settings = {f"{name}.{key}": value for name, part in groups.items() for key, value in part.items()}
    fixed = {**identity, **measured, **single}
    return {**fixed, **{k: v for k, v in used.items() if k not in fixed}, **settings, "folder": str(record.folder)}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The single values inside nested dicts, each under its path joined by "_"."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}_")
        elif not isinstance(value, list):
            found[prefix + key] = value
    return found
