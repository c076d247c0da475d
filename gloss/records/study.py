"""The record of a study, `study.json` in its folder, for reports: read without Optuna and without a database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from gloss.config import HYPERPARAMETERS, INTEGRATED
from gloss.errors import RunError
from gloss.records.reading import read_each, read_json, shortened

SCHEMA_VERSION = 2
Count = Annotated[int, Field(ge=0, lt=2**31)]


class Trial(TypedDict):
    """A trial of study.json; value: the best validation score, for a pruned trial the last; None without one."""

    number: Count
    state: Literal["complete", "pruned", "fail", "running", "waiting"]
    params: dict[str, float]
    value: float | None
    epochs: Count | None
    seconds: Annotated[float, Field(ge=0, lt=1e12)] | None
    reason: str | None  # of a failure
    duplicate_of: Count | None


class Study(BaseModel):
    """A study as study.json has it, its trials by number."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)

    folder: Path
    name: str
    dataset: str
    model: str
    mode: str
    loss: str
    variant: str
    search: str
    seed: Count
    train_examples: Count
    train_limit: Count | None
    max_epochs: Count
    num_trials: Count
    given: dict[str, Any] = Field(default_factory=dict)  # keys of the command line; empty in older records
    space: Annotated[dict[str, tuple[float, float, bool] | list[float]], Field(min_length=1)]  # by hyperparameter
    trials: list[Trial]

    @model_validator(mode="after")
    def _is_sound(self) -> Study:
        if self.name != self.folder.name or not self.space.keys() <= HYPERPARAMETERS.keys():
            raise ValueError("it was moved, or no search of ours wrote it")
        if any(row[0] <= 0 for row in self.space.values() if isinstance(row, tuple) and row[-1]):
            raise ValueError("a logarithmic range begins at 0 or below")
        for trial in self.trials:
            if trial["state"] in ("complete", "pruned") and not self.space.keys() <= trial["params"].keys():
                raise ValueError(f"trial {trial['number']} lacks a hyperparameter")
            if trial["state"] == "complete" and trial["value"] is None:
                raise ValueError(f"trial {trial['number']} is complete and has no value")
        return self

    @property
    def score(self) -> str:
        """The name of the score that `value` holds."""
        return "validation macro-F1 (%)" if self.mode == INTEGRATED else "validation macro-silhouette"

    @property
    def best(self) -> Trial | None:
        """The finished trial with the best value, the first of equals; None while there is none."""
        complete = [trial for trial in self.trials if trial["state"] == "complete"]
        return max(complete, key=lambda trial: (trial["value"], -trial["number"]), default=None)

    @property
    def is_finished(self) -> bool:
        done = [trial for trial in self.trials if trial["state"] not in ("running", "waiting")]
        return len(done) == len(self.trials) >= self.num_trials


def read_studies(outputs: str | Path) -> tuple[list[Study], list[str]]:
    """The studies under `<outputs>/studies`, sorted by name, without folders that are links; and messages about each
    study.json that cannot be used."""
    return read_each(outputs, "studies/*/study.json", lambda path: read_study(path.parent))


def read_study(folder: Path) -> Study:
    """The study whose study.json lies in `folder`. Raises RunError unless a search of ours could have written it."""
    path = folder / "study.json"
    try:
        content = read_json(path)
        if content.pop("schema_version") > SCHEMA_VERSION:
            raise ValueError("it was written by newer code: update the code")
        space = {name: _space_of(row) for name, row in content.pop("space").items()}
        return Study(folder=folder, space=space, **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise RunError(f"{path} cannot be used: {type(error).__name__}: {shortened(error)}") from None


def _space_of(row: dict[str, Any]) -> tuple[float, float, bool] | list[float]:
    if "choices" in row:
        return [rounded(float(x)) for x in row["choices"]]
    low, high, step = float(row["low"]), float(row["high"]), row["step"]
    if step is None:
        return (low, high, bool(row["log"]))
    return [rounded(low + i * step) for i in range(round((high - low) / step) + 1)]


def rounded(value: float) -> float:
    """Round to six significant digits: a trial runs with the value in the overlay, and 3 steps of 0.1 are 0.3."""
    return float(f"{value:.6g}")
