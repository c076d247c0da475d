"""The state of each run of an experiment: done, running, failed, to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from gloss.config import HYPERPARAMETERS, Config, config_file, rows_of_search
from gloss.errors import ConfigError
from gloss.experiments.grid import SEARCH_KEYS, RunSpec, search_overrides, search_spec
from gloss.records.run_folder import is_done, is_running
from gloss.runtime.compose import composed
from gloss.search.best_values import mismatch, read_tuned, search_settings_not_shared, tuned_file

DONE, RUNNING, FAILED, INTERRUPTED, MISSING_RUN = "done", "running", "failed", "interrupted", "to do"


def state(folder: Path | None) -> str:
    """The state of a run: done, running, failed (the last attempt), interrupted (it has a checkpoint), or to do."""
    if folder is None or not folder.is_dir():
        return MISSING_RUN
    if is_done(folder):
        return DONE
    if is_running(folder):
        return RUNNING
    if (folder / "error.json").is_file():
        return FAILED
    return INTERRUPTED if (folder / "checkpoint").is_dir() else MISSING_RUN


def searches_left(
    specs: Sequence[RunSpec], overrides: Sequence[str], search: Sequence[str]
) -> dict[Path, tuple[RunSpec, int]]:
    """Searches that specs lack: overlay that each writes -> (the spec it trains, its trials).

    A spec has its search where the overlay of the same texts, encoder and amounts of data (as in `search_spec`) is
    from the wanted search with at least the wanted trials. With a space, sampler or pruning of the user's own it always
    lacks one: the overlay does not name them, and a search that is finished ends at once.

    overrides: of the specs, as on the command line; keys that they set are not searched. search: `search=authors`,
    `search.trials=12` (0: no search). Raises ConfigError for an unknown search.
    """
    given = {key.lstrip("+"): value for key, _, value in (o.partition("=") for o in (*overrides, *search))}
    settings = config_file("search", name := given.get("search", "fair"))
    is_changed = any(key.startswith(("search.space", "search.sampler", "search.prune")) for key in given)
    chosen = [o for o in search if o.lstrip("+").startswith(("search=", "search.budget"))]
    usual = composed(chosen, "tune").search.budget
    one_of_each: dict[tuple, RunSpec] = {}  # composing takes time
    for spec in (spec for spec in specs if spec.config.experiment.search):
        axes = tuple(spec.choices.get(key) for key in SEARCH_KEYS)
        one_of_each.setdefault((axes, search_overrides(spec.choices, overrides)), spec)
    found: dict[Path, tuple[RunSpec, int]] = {}
    for spec in one_of_each.values():
        budget = _budget(spec.loss, given, usual)
        rows = rows_of_search(settings["space"], spec.mode, spec.loss, spec.config.variant.scl_lam)
        is_open = any(HYPERPARAMETERS[key] not in given for key, row in rows.items() if isinstance(row, dict))
        if is_open and budget:
            wanted = search_spec(spec, overrides)
            if is_changed or not _is_searched(wanted.config, name, budget):
                found.setdefault(tuned_file(wanted.config), (wanted, budget))
    return found


def _budget(loss: str, given: Mapping[str, str], usual: Mapping[str, int]) -> int:
    """The trials of a search. given: overrides; usual: search.budget, by loss, and for "any" other."""
    if (trials := given.get("search.trials", "null")) == "null":
        trials = str(usual.get(loss, usual.get("any", 0)))
    if not trials.isdigit():
        raise ConfigError(f"search.trials={trials} is not allowed here: expected one whole number")
    return int(trials)


def _is_searched(cfg: Config, search: str, budget: int) -> bool:
    overlay = tuned_file(cfg)
    source = read_tuned(overlay)[1] if overlay.is_file() else {}
    is_same = not mismatch(cfg, source) and not search_settings_not_shared(asdict(cfg), source)
    return source.get("search") == search and source.get("trials", 0) >= budget and is_same
