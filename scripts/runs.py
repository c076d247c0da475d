"""List finished runs, or compare two.

  python scripts/runs.py                                     all runs under outputs/
  python scripts/runs.py dataset=mr loss=gloss_sqrt sort=test_macro_f1
  python scripts/runs.py compare=6b1cf0de/1 with=0a93be27/1   what differs in configuration and numbers

dataset= model= loss= mode= variant= config_hash= seed=  only runs with this value; several with commas
sort=     a column, its largest value first (-column: the smallest): val_macro_f1, test_accuracy, seconds_total,
          best_epoch, trainer.lr, … (all that gloss.load_runs gives)
by=cell   a line a configuration: mean ± standard deviation over its seeds
compare= with=  two runs: a folder, or config_hash/seed as the list names them
paths.outputs=  the folder that has runs/ (default: outputs)
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed

from gloss.cli.arguments import choice, main
from gloss.errors import ConfigError
from gloss.records.reading import SELECTION

KEYS = (*SELECTION, "sort", "by", "compare", "with", "paths.outputs")


def task(given: dict[str, str]) -> None:
    if ("compare" in given) != ("with" in given):
        raise ConfigError("expected compare=A with=B, the two runs")

    import pandas as pd  # here, so that a mistake on the command line is told at once

    from gloss.records.frame import load_runs
    from gloss.report import run_list

    outputs = given.get("paths.outputs", "outputs")
    runs = load_runs(outputs)
    if "compare" in given:
        print(run_list.compared(*(one_of(runs, given[key]) for key in ("compare", "with"))))
        return
    for key in (key for key in SELECTION if key in given):
        runs = runs[runs[key].astype(str).isin(given[key].split(","))]
    if not len(runs):
        raise ConfigError(f"no finished run under {outputs}/runs fits: python scripts/runs.py lists all")
    column = given.get("sort", "").removeprefix("-")
    if column:
        choice("sort", column, [c for c in runs.columns if pd.api.types.is_numeric_dtype(runs[c])])
        runs = runs.sort_values(column, ascending=given["sort"].startswith("-"), kind="stable")
    form = {"run": run_list.listed, "cell": run_list.by_cell}
    print(form[choice("by", given.get("by", "run"), [*form])](runs))


def one_of(runs, name: str):
    """The run with this folder or config_hash/seed. Raises ConfigError."""
    names = runs["config_hash"] + "/" + runs["seed"].astype(str)
    found = runs[(names == name.replace("seed=", "")) | (runs["folder"].map(Path) == Path(name).resolve())]
    if len(found) != 1:
        told = "no finished run" if not len(found) else "several runs"
        raise ConfigError(f"{told} named {name}: give a folder, or config_hash/seed as the list has them")
    return found.iloc[0]


if __name__ == "__main__":
    sys.exit(main(task, KEYS, __doc__, needs_arguments=False))
