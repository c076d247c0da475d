"""A study as `study.json` in its folder tells it, for reports: read without Optuna and without a database."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gloss.config import HYPERPARAMETERS, INTEGRATED
from gloss.errors import RunError
from gloss.records.reading import files_under, read_json, shortened
from gloss.runtime.terminal import escape_control_characters

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
    train_examples: int
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


def read_studies(outputs: str | Path, problems: list[str] | None = None) -> list[Study]:
    """The studies under `<outputs>/studies`, sorted by name, but for folders that are links.

    problems: takes the message about a study.json that cannot be used; without it, that raises RunError.
    """
    found = []
    for path in files_under(outputs, "studies/*/study.json"):
        try:
            found.append(read_study(path.parent))
        except RunError as error:
            if problems is None:
                raise
            problems.append(escape_control_characters(f"{path.parent.name}: {error}"))
    return found


def read_study(folder: Path) -> Study:
    """The study whose study.json lies in `folder`. Raises RunError unless a search of ours could have written it."""
    path = folder / "study.json"
    try:
        content = read_json(path)
        if content.pop("schema_version") > SCHEMA_VERSION:
            raise ValueError("it was written by newer code: update the code")
        for trial in content["trials"]:
            numbers = [*trial["params"].values(), 0.0 if trial["value"] is None else trial["value"]]
            if not all(isinstance(x, (int, float)) for x in numbers):
                raise ValueError(f"trial {trial['number']} has no finite numbers")
            if trial["state"] == "complete" and trial["value"] is None:
                raise ValueError(f"trial {trial['number']} is complete and has no value")
        space = {name: _space_of(row) for name, row in content.pop("space").items()}
        study = Study(folder=folder, space=space, **content)
        if not _is_sound(study):
            raise ValueError("it was moved, or no search of ours wrote it")
        return study
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise RunError(f"{path} cannot be used: {type(error).__name__}: {shortened(error)}") from None


def _is_sound(study: Study) -> bool:
    """Whether the folder's name and all values are of the right kinds; may also raise where they are not."""
    trials, numbers = study.trials, ("number", "epochs", "duplicate_of")
    tried = [trial for trial in trials if trial["state"] in ("complete", "pruned")]
    texts = [getattr(study, key) for key in ("dataset", "model", "mode", "loss", "variant", "search")]
    texts += [trial["state"] for trial in trials] + [trial["reason"] or "" for trial in trials]
    counts = [getattr(study, key) for key in ("seed", "train_examples", "max_epochs", "num_trials")]
    counts += [study.train_limit or 0, *(trial[key] or 0 for trial in trials for key in numbers)]
    ranges = [(*row, False) if isinstance(row, list) else row for row in study.space.values()]
    return (
        study.name == study.folder.name
        and all(isinstance(x, str) for x in texts)
        and all(type(x) is int and 0 <= x < 2**31 for x in counts)
        and all(0 <= (trial["seconds"] or 0) < 1e12 for trial in trials)
        and 0 < len(study.space.keys() & HYPERPARAMETERS.keys()) == len(study.space)
        and all(math.isfinite(x) for row in ranges for x in row)
        and all(row[0] > 0 for row in ranges if row[-1])
        and all(math.isfinite(trial["params"][name]) for trial in tried for name in study.space)
    )


def _space_of(row: dict[str, Any]) -> tuple[float, float, bool] | list[float]:
    if "choices" in row:
        return [rounded(float(x)) for x in row["choices"]]
    low, high, step = float(row["low"]), float(row["high"]), row["step"]
    if step is None:
        return (low, high, bool(row["log"]))
    if (num_steps := round((high - low) / step)) > MAX_STEPS:
        raise ValueError(f"a range of {num_steps} steps")
    return [rounded(low + i * step) for i in range(num_steps + 1)]


def rounded(value: float) -> float:
    """Six significant digits: what a trial is run with is what the overlay says, and 3 steps of 0.1 are 0.3."""
    return float(f"{value:.6g}")
