"""A study as `study.json` in its folder tells it, for reports: read without Optuna and without a database."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gloss.config import INTEGRATED
from gloss.runs import RunError

SCHEMA_VERSION = 1
MAX_STEPS = 1_000_000  # of a range; a damaged one may have more than there is memory for


@dataclass(frozen=True)
class Study:
    """A study as study.json has it.

    space: hyperparameter -> (low, high, is_log), or the list of its choices. trials, by number: {"number", "state"
    ("complete", "pruned", "fail", "running" or "waiting"), "params", "value" (the best validation score, for a pruned
    trial the last; None without one), "epochs", "seconds", "reason" (of a failure), "duplicate_of"}.
    """

    folder: Path
    name: str
    dataset: str
    model: str
    mode: str
    loss: str
    variant: str
    search: str
    seed: int
    train_texts: int
    train_limit: int | None
    max_epochs: int
    num_trials: int
    space: dict[str, tuple[float, float, bool] | list[float]]
    trials: list[dict[str, Any]]

    @property
    def score(self) -> str:
        """What a value is."""
        return "validation macro-F1 (%)" if self.mode == INTEGRATED else "validation macro-silhouette"

    @property
    def best(self) -> dict[str, Any] | None:
        """The finished trial with the best value, the first of equals; None while there is none."""
        complete = [trial for trial in self.trials if trial["state"] == "complete"]
        return max(complete, key=lambda trial: (trial["value"], -trial["number"]), default=None)

    @property
    def is_finished(self) -> bool:
        done = [trial for trial in self.trials if trial["state"] not in ("running", "waiting")]
        return len(done) == len(self.trials) >= self.num_trials


def read_studies(outputs: str | Path) -> list[Study]:
    """The studies under `<outputs>/studies`, sorted by name. Raises RunError for a study.json that is damaged."""
    root = Path(outputs).resolve() / "studies"
    return [read_study(path.parent) for path in sorted(root.glob("*/study.json")) if path.resolve() == path]


def read_study(folder: Path) -> Study:
    """The study whose study.json lies in `folder`. Raises RunError where that cannot be used."""
    path = folder / "study.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("schema_version") > SCHEMA_VERSION:
            raise ValueError("it was written by newer code: update the code")
        for trial in content["trials"]:
            numbers = [*trial["params"].values(), 0.0 if trial["value"] is None else trial["value"]]
            if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers):
                raise ValueError(f"trial {trial['number']} has no finite numbers")
            if trial["state"] == "complete" and trial["value"] is None:
                raise ValueError(f"trial {trial['number']} is complete and has no value")
        space = {name: _space_of(row) for name, row in content.pop("space").items()}
        return Study(folder=folder, space=space, **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise RunError(f"{path} cannot be used: {type(error).__name__}: {error}") from None


def _space_of(row: dict[str, Any]) -> tuple[float, float, bool] | list[float]:
    low, high, step = float(row["low"]), float(row["high"]), row["step"]
    if step is None:
        return (low, high, bool(row["log"]))
    if (num_steps := round((high - low) / step)) > MAX_STEPS:
        raise ValueError(f"a range of {num_steps} steps")
    return [rounded(low + i * step) for i in range(num_steps + 1)]


def rounded(value: float) -> float:
    """Six significant digits: what a trial is run with is what the overlay says, and 3 steps of 0.1 are 0.3."""
    return float(f"{value:.6g}")
