"""List finished runs, or compare two.

  python scripts/runs.py
  python scripts/runs.py dataset=mr loss=gloss_sqrt sort=test_macro_f1
  python scripts/runs.py compare=6b1cf0de/1,0a93be27/1

Runs may be filtered by several values of a key, separated by commas, and sorted by all that gloss.load_runs gives:
val_macro_f1, test_accuracy, seconds_total, best_epoch, trainer.lr …
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gloss.cli.command import Outputs, names, refuse
from gloss.config import INTEGRATED, choice
from gloss.errors import ConfigError
from gloss.losses.registry import name_in
from gloss.records.reading import SELECTION


@dataclass
class Runs:
    dataset: list[str] = names()  # only runs on one of the named sets; []: all
    model: list[str] = names()  # the same
    loss: list[str] = names()  # the same
    mode: list[str] = names()  # the same
    variant: list[str] = names()  # the same
    config_hash: list[str] = names()  # the same
    seed: list[str] = names()  # the same
    sort: str | None = None  # a column, its largest value first; -column: its smallest
    by: str = choice("run", "run", "configuration")  # configuration: mean ± deviation of its seeds
    compare: list[str] = names()  # two runs, by configuration and numbers: folders, or config_hash/seed as listed
    paths: Outputs = field(default_factory=Outputs)


def task(cfg: Runs) -> None:
    if len(cfg.compare) not in (0, 2):
        raise ConfigError("expected two runs, compare=A,B")
    if cfg.compare:
        refuse(cfg, (*SELECTION, "sort", "by"), "with compare=")

    import pandas as pd  # here, so that a mistake on the command line is reported at once

    from gloss.records.frame import load_runs
    from gloss.report import run_list

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runs = load_runs(cfg.paths.outputs)
    for warning in caught:
        print(warning.message, file=sys.stderr)
    if cfg.compare:
        print(run_list.compared(*(one_of(runs, name) for name in cfg.compare)))
        return
    for key in (key for key in SELECTION if getattr(cfg, key)):
        wanted = getattr(cfg, key)
        if key == "loss":  # scl is scl_ce beside cross-entropy
            wanted = [*wanted, *(name_in(INTEGRATED, loss) for loss in wanted)]
        runs = runs[runs[key].astype(str).isin(wanted)]
    if not len(runs):
        fits = " fits: without filters all are listed" if any(getattr(cfg, key) for key in SELECTION) else " yet"
        raise ConfigError(f"no finished run under {cfg.paths.outputs}/runs{fits}")
    if cfg.sort:
        columns = [c for c in runs.columns if pd.api.types.is_numeric_dtype(runs[c])]
        if (column := cfg.sort.removeprefix("-")) not in columns:
            raise ConfigError(f"sort={column} is not allowed: expected one of {', '.join(columns)}")
        runs = runs.sort_values(column, ascending=cfg.sort.startswith("-"), kind="stable")
    print((run_list.by_configuration if cfg.by == "configuration" else run_list.listed)(runs))


def one_of(runs: Any, name: str) -> Any:
    """The run with this folder or config_hash/seed. Raises ConfigError."""
    keys = runs["config_hash"] + "/" + runs["seed"].astype(str)
    found = runs[(keys == name.replace("seed=", "")) | (runs["folder"].map(Path) == Path(name).resolve())]
    if len(found) != 1:
        count = "no finished run" if not len(found) else "several runs"
        raise ConfigError(f"{count} named {name}: give a folder, or config_hash/seed as the list has them")
    return found.iloc[0]
