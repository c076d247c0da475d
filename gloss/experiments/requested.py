"""The experiments that were requested, with their overrides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from pydantic import TypeAdapter

from gloss.errors import ConfigError, DataError
from gloss.experiments.grid import IDENTITY, RunSpec, expand_grid, own_fingerprint
from gloss.records.reading import Record, read_yaml, shortened
from gloss.records.run_folder import config_hash, is_hashed
from gloss.runtime.compose import sweep_of
from gloss.runtime.overrides import is_of_search, override

_SELECTIONS = TypeAdapter(dict[str, list[list[str]]])


def selections(outputs: Path) -> dict[str, list[list[str]]]:
    """<outputs>/selections.yaml: experiment -> the overrides of each request, the latest at the end.

    Raises ConfigError for any other file.
    """
    path = outputs / "selections.yaml"
    try:
        return _SELECTIONS.validate_python((read_yaml(path) if path.is_file() else None) or {})
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be used ({shortened(error)}): repair or remove it") from None


def same_settings(name: str, asked: Sequence[Sequence[str]]) -> list[list[list[str]]]:
    """The selections of an experiment in groups whose specs go together, the group of the last selection at the end.

    In a group only the choice of specs and the search differ; a table of several settings would compare unlike runs.
    """
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for overrides in asked:
        key = _settings(name, overrides)
        groups[key] = [*groups.pop(key, []), list(overrides)]
    return list(groups.values())


def _settings(name: str, overrides: Iterable[str]) -> tuple[str, ...]:
    """The overrides that can change a result, and choose neither specs nor a search, sorted."""
    picks = {*sweep_of(name), *IDENTITY, "seed"}

    def is_setting(key: str) -> bool:
        return key not in picks and not is_of_search(key) and (is_hashed(key) or not key.startswith("trainer."))

    return tuple(sorted(o for o in overrides if is_setting(o.partition("=")[0])))


def requested_runs(name: str, asked: Sequence[Sequence[str]], outputs: Path) -> list[RunSpec]:
    """The specs of all these selections, each once, with the seeds of all, in the paper's order. Raises ConfigError."""
    composed = [expand_grid(name, [*overrides, override("paths.outputs", outputs)]) for overrides in asked]
    if len(composed) == 1:
        return composed[0]
    found: dict[tuple, RunSpec] = {}
    for spec in chain(*composed):
        key = (spec.dataset, spec.model, spec.mode, spec.loss, spec.variant, repr(spec.point))
        before = found.setdefault(key, spec)
        found[key] = replace(before, seeds=tuple(dict.fromkeys((*before.seeds, *spec.seeds))))
    return _in_order(name, found.values())


def shown_runs(name: str, asked: Sequence[Sequence[str]], outputs: Path) -> tuple[list[RunSpec], list[list[str]]]:
    """The specs that a report shows, and their selections: for each data set and model the settings selected last.

    So rows and panels may have different settings, but never the cells within one. A loss may have hyperparameters
    (loss.*) of its own: earlier selections that differ in nothing else add the losses that are missing. Raises
    ConfigError.
    """
    specs: list[RunSpec] = []
    used: list[list[str]] = []
    settings: dict[tuple[str, str], tuple[str, ...]] = {}
    for group in reversed(same_settings(name, asked)):
        mine = tuple(o for o in _settings(name, group[0]) if not o.startswith("loss."))
        known = {(s.dataset, s.model, s.mode, s.loss) for s in specs}
        new = [
            s for s in requested_runs(name, group, outputs)
            if settings.get((s.dataset, s.model), mine) == mine and (s.dataset, s.model, s.mode, s.loss) not in known
        ]  # fmt: skip
        if new:
            specs, used = specs + new, [*group, *used]
            settings |= {(s.dataset, s.model): mine for s in new}
    return (_in_order(name, specs) if len(used) > 1 else specs), used


def _in_order(name: str, specs: Iterable[RunSpec]) -> list[RunSpec]:
    """The specs in the order of the experiment's sweep."""
    order = {key: values.split(",") for key, values in sweep_of(name).items() if key != "seed"}

    def place(spec: RunSpec) -> list[int]:
        chosen = ((values, spec.choices.get(key)) for key, values in order.items())
        return [values.index(x) if x in values else len(values) for values, x in chosen]

    return sorted(specs, key=place)


def with_texts(specs: Sequence[RunSpec], records: Sequence[Record]) -> list[RunSpec]:
    """The specs; those on a user's own texts (csv, hub) get the texts' fingerprint.

    Where the texts are gone, it is the fingerprint under which runs of the same specs are recorded. Raises DataError
    where there is none, or several.
    """
    sets: dict[str, list[RunSpec]] = {}
    for spec in (spec for spec in specs if spec.config.dataset.has_own_texts):
        sets.setdefault(repr(spec.config.dataset), []).append(spec)
    known = {key: _fingerprint(same, records) for key, same in sets.items()}
    return [replace(c, fingerprint=known[key]) if (key := repr(c.config.dataset)) in known else c for c in specs]


def _fingerprint(specs: Sequence[RunSpec], records: Sequence[Record]) -> str:
    """The fingerprint of the texts that these specs share."""
    try:
        return own_fingerprint(specs[0].config)
    except DataError as error:
        fingerprints = {record.result.get("fingerprint") for record in records} - {None}
        recorded = {(record.identity.config_hash, record.result.get("fingerprint")) for record in records}
        found = {x for x in fingerprints if any((config_hash(c.config, x), x) in recorded for c in specs if c.can_run)}
        if len(found) != 1:
            many = f"runs on {len(found)} different contents" if found else "no run of it"
            raise DataError(f"{error}; and the records, which could identify the texts, have {many}") from None
        return found.pop()
