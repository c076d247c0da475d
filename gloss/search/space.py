"""The search space: the rows of `configs/search`, as ranges of Optuna."""

from __future__ import annotations

from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution

from gloss.config import HYPERPARAMETERS, Config, SearchConfig, rows_of_search
from gloss.errors import ConfigError

Space = dict[str, FloatDistribution | CategoricalDistribution]


def space_rows(cfg: Config, search: SearchConfig) -> dict[str, Any]:
    """The search's rows for this mode and loss: hyperparameter -> its row. Raises ConfigError.

    A row is a number, which every trial has, or a range: low, high, and log or step; or choices. `final` in it is
    the value that the runs after the search take instead of the one found. λ is left out where the variant fixes it.
    """
    try:
        rows = rows_of_search(search.space, cfg.mode, cfg.loss.name, cfg.variant.scl_lam)
    except (TypeError, ValueError, AttributeError):
        rows = {}
    if not rows:
        raise ConfigError(f"search={search.name} has no space for mode={cfg.mode} loss={cfg.loss.name}")
    if unknown := [f"search.space.{cfg.mode}.{cfg.loss.name}.{name}" for name in rows if name not in HYPERPARAMETERS]:
        raise ConfigError(f"{unknown[0]} is not allowed: expected one of {', '.join(HYPERPARAMETERS)}")
    return rows


def search_space(cfg: Config, search: SearchConfig) -> Space:
    """The ranges to search for this mode and loss: hyperparameter -> its range. Raises ConfigError.

    Keys set by hand are left out, and hyperparameters with one value only.
    """
    space: Space = {}
    for name, row in space_rows(cfg, search).items():
        if HYPERPARAMETERS[name] not in search.overridden and not isinstance(row, (int, float)):
            try:
                space[name] = _distribution(row)
            except (TypeError, ValueError, AttributeError) as error:
                expected = "expected low, high, and log or step; or choices"
                where = f"search.space.{cfg.mode}.{cfg.loss.name}.{name}"
                raise ConfigError(f"{where}={row} is not allowed: {expected} ({error})") from None
    if not space:
        raise ConfigError(f"nothing is left to search for loss={cfg.loss.name}: all is set by hand")
    return space


def _distribution(row: dict[str, Any]) -> FloatDistribution | CategoricalDistribution:
    keys = {key: x for key, x in row.items() if key != "final"}
    if "choices" in keys:
        return CategoricalDistribution([float(x) for x in keys.pop("choices")], **keys)
    settings: dict[str, Any] = {key: x if key == "log" else float(x) for key, x in keys.items()}
    return FloatDistribution(**settings)


def range_of(row: FloatDistribution | CategoricalDistribution) -> dict[str, Any]:
    """A range as study.json has it."""
    if isinstance(row, CategoricalDistribution):
        return {"choices": list(row.choices)}
    return {"low": row.low, "high": row.high, "log": row.log, "step": row.step}


def set_value(cfg: Config, name: str, value: float) -> None:
    """Set a hyperparameter, such as "lr", in its place in the configuration."""
    group, key = HYPERPARAMETERS[name].split(".")
    setattr(getattr(cfg, group), key, value)
