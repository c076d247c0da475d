"""Experiments: the runs behind a table or figure, as Hydra's sweep in configs/experiment/<name>.yaml."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gloss.config import Config, config_file
from gloss.errors import ConfigError
from gloss.losses.registry import GLOSS_O
from gloss.records.run_folder import run_folder
from gloss.resolve import resolve
from gloss.runtime.compose import composed, readable, sweep_of
from gloss.runtime.overrides import is_of_search, value_of
from gloss.search.best_values import apply_best_values

NAMES = (
    *("table2", "table3", "table6", "fig2", "fig3a", "fig3b", "fig4", "fig5", "fig6", "fig7"),
    *("few_shot", "label_noise", "graph_noise", "shift", "graph_size", "variant"),
)
IDENTITY = ("dataset", "model", "loss", "mode")  # the keys that name a RunSpec; the other swept keys are its point
SEARCH_KEYS = (*IDENTITY, "variant")  # the keys that name a search


@dataclass(frozen=True)
class RunSpec:
    """A configuration and its seeds: the runs behind a cell of a table or a point of a figure."""

    experiment: str
    config: Config  # complete, searched values applied; its seed is the first of `seeds`
    seeds: tuple[int, ...]
    point: dict[str, Any]  # swept keys other than dataset, model, loss, mode, seed: {"loss.lam": 0.3}
    choices: dict[str, str] = field(default_factory=dict)  # swept keys but the seed, as on the command line
    fingerprint: str | None = None  # of the user's own texts, where it is known (`with_texts`); None: read from them

    dataset = property(attrgetter("config.dataset.name"))
    model = property(attrgetter("config.model.alias"))
    mode = property(attrgetter("config.mode"))
    loss = property(attrgetter("config.loss.name"))
    variant = property(attrgetter("config.variant.name"))

    @property
    def can_run(self) -> bool:
        """False for G-Loss-O whose σ has not been searched for yet."""
        return not (self.loss == GLOSS_O and self.config.loss.sigma is None)

    @cached_property
    def _folder(self) -> Path | None:
        if not self.can_run:
            return None
        return run_folder(self.config, self.fingerprint or own_fingerprint(self.config))

    @property
    def config_hash(self) -> str | None:
        """The name of the configuration's folder in the run's path; None while values are not known (`can_run`)."""
        return self._folder.parent.name if self._folder else None

    def folder(self, seed: int) -> Path | None:
        """The folder of a run; None while the values are not known."""
        return self._folder.with_name(f"seed={seed}") if self._folder else None


def expand_grid(name: str, overrides: Sequence[str] = ()) -> list[RunSpec]:
    """The RunSpecs of an experiment, in the paper's order.

    overrides: as on the command line ("dataset=mr,r8", "seed=1,2", "trainer.max_epochs=3", "paths.outputs=…"): they
    replace the sweep's values of the same key. Keys of the launcher or the search change no spec and are ignored.
    Raises ConfigError.
    """
    given = [o for o in overrides if not (is_of_search(o) or o.startswith(("hydra/", "hydra.launcher")))]
    found: dict[tuple[str, ...], list[int]] = {}
    try:
        words = in_sweep_order(name, given)
        parsed = OverridesParser.create().parse_overrides(words)
        swept = [*sweep_of(name), *(o.key_or_group for o in parsed if o.is_sweep_override())]
        for job in kept_jobs(name, jobs_of(words)):
            seed = next((o.partition("=")[2] for o in job if o.startswith("seed=")), str(Config.seed))
            if not seed.isdecimal():
                raise ConfigError(f"seed={seed} is not allowed: expected a whole number")
            found.setdefault(tuple(o for o in job if not o.startswith("seed=")), []).append(int(seed))
        specs = [_spec(name, job, tuple(dict.fromkeys(seeds)), swept) for job, seeds in found.items()]
        return list({(repr(replace(spec.config, seed=0)), repr(spec.point)): spec for spec in specs}.values())
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(readable(error)) from None


def in_sweep_order(name: str, arguments: Sequence[str]) -> list[str]:
    """The arguments, swept keys first as Hydra has them, with the sweep's values where a key is not given."""
    sweep = sweep_of(name)
    given = {key: a for a in arguments if (key := a.partition("=")[0]) in sweep}
    rest = [a for a in arguments if a.partition("=")[0] not in sweep]  # of a key given twice the last value counts
    return [*(given.get(key, f"{key}={values}") for key, values in sweep.items()), *rest]


def jobs_of(words: Sequence[str]) -> list[list[str]]:
    """The jobs of a sweep as Hydra makes them for `-m`: all combinations of the values, the first key's slowest."""
    values = {
        o.get_key_element(): list(
            o.sweep_string_iterator() if o.is_sweep_override() else [o.get_value_element_as_str()]
        )
        for o in OverridesParser.create().parse_overrides(list(words))
    }
    pairs = [[f"{key}={value}" for value in found] for key, found in values.items()]
    return [list(job) for job in itertools.product(*pairs)]


def _spec(name: str, job: Sequence[str], seeds: tuple[int, ...], swept: Sequence[str]) -> RunSpec:
    parsed = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(list(job))}
    cfg = _compose(name, parsed, swept)
    cfg.seed = seeds[0]
    cfg = apply_best_values(cfg, list(job))
    point = {key: parsed[key].value() for key in dict.fromkeys(swept) if key not in (*IDENTITY, "seed")}
    choices = {key: o.input_line.partition("=")[2] for key, o in parsed.items() if key in swept}
    return RunSpec(name, resolve(cfg), seeds, point, choices)


def _compose(name: str | None, job: Mapping[str, Override], swept: Sequence[str]) -> DictConfig:
    """The configuration that Hydra composes for a job of an experiment (None: without one), in a tenth of Hydra's
    0.1 s: an experiment has up to 60 jobs.

    A data set and a model fill one node each, so they are composed once each and not once for every combination, and
    the dotted keys of a sweep are set afterwards. A file that sets more than its own node is composed in full.
    """
    late = {key: o for key, o in job.items() if key in swept and "." in key}
    early = {key: o.input_line for key, o in job.items() if key not in late}
    plain = tuple(line for key, line in early.items() if key not in swept)
    shared = plain if name is None else (f"experiment={name}", *plain)
    # Without the experiment, so that all experiments share the parts; one that sets such a node is composed in full.
    own = [key for key in ("dataset", "model") if key in swept and composed(shared)[key] == composed(plain)[key]]
    parts = {key: _part(plain, key, early[key]) for key in own}
    if None in parts.values():
        parts = {}
    rest = (line for key, line in early.items() if key in swept and key not in parts)
    cfg = copy.deepcopy(composed((*shared, *rest)))
    for key, node in parts.items():
        cfg[key] = copy.deepcopy(node)
    for key, given in late.items():
        try:
            OmegaConf.update(cfg, key, given.value())
        except OmegaConfBaseException as error:
            raise ConfigError(f"{given.input_line} is not allowed: {str(error).splitlines()[0]}") from None
    return cfg


@cache
def _part(plain: tuple[str, ...], key: str, line: str) -> DictConfig | None:
    """The node `key` with one choice for it; None where the choice changes other nodes too."""
    without, chosen = composed(plain), composed((*plain, line))
    return chosen[key] if all(chosen[k] == without[k] for k in chosen if k != key) else None


def search_spec(spec: RunSpec, overrides: Sequence[str]) -> RunSpec:
    """The spec that a search trains for `spec`: without the experiment's own settings, with the user's `overrides`."""
    chosen = {key: value for key, value in spec.choices.items() if key in SEARCH_KEYS}
    words = [*search_overrides(spec.choices, overrides), *(f"{key}={value}" for key, value in chosen.items())]
    job = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(words)}
    cfg = _compose(None, job, list(chosen))
    return RunSpec(spec.experiment, resolve(cfg), (cfg.seed,), {}, chosen)


def search_overrides(swept: Iterable[str], overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides of a command line that a search takes over: all but the swept keys, the seed and rerun."""
    return tuple(o for o in overrides if o.partition("=")[0] not in (*swept, "seed", "rerun"))


def kept_jobs(name: str, jobs: Sequence[list[str]]) -> list[list[str]]:
    """The jobs that an experiment runs of those of its sweep; "null", no experiment, runs all.

    Raises ConfigError if it runs none of them.
    """
    only = {} if name == "null" else config_file("experiment", name)["experiment"].get("only", {})
    if not (kept := [job for job in jobs if is_run(job, only)]):
        pairs = "; ".join(f"{one} with {', '.join(f'{k}={v}' for k, v in x.items())}" for one, x in only.items())
        raise ConfigError(f"experiment={name} leaves this out: {' '.join(jobs[0])}; it runs {pairs}")
    return kept


def is_run(job: Sequence[str], only: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether an experiment runs a combination of its sweep.

    job: overrides of one run; only: "key=value" -> {key: the one value with which that pair is run}.
    """
    given = dict(o.split("=", 1) for o in job if "=" in o)

    def is_alike(key: str, value: Any) -> bool:
        found, expected = given.get(key), str(value).lower()  # Hydra makes True of true
        try:
            return found is None or float(found) == float(expected)  # 0 and 0.0 are one value
        except ValueError:
            return found.lower() == expected

    return all(
        all(is_alike(key, value) for key, value in needed.items())
        for one, needed in only.items()
        if one.partition("=")[0] in given and is_alike(*one.split("=", 1))
    )


def check_single(name: str, arguments: Sequence[str]) -> None:
    """Raise ConfigError unless `arguments` leave one run of an experiment."""
    missing = [f"{k}={x}" for k, x in sweep_of(name).items() if "," in x and value_of(arguments, k) is None]
    if missing:
        raise ConfigError(
            f"experiment={name} without -m is one run, and needs one value each of {' '.join(missing)}; with -m it is "
            f"a sweep (make plan-{name} shows its cost)"
        )


def own_fingerprint(cfg: Config) -> str | None:
    """The fingerprint of a user's own texts; None for other data sets. Raises DataError."""
    if not cfg.dataset.has_own_texts:
        return None
    from gloss.data.datasets import load_dataset  # here, so that other sets need no data library

    return load_dataset(cfg.dataset, cfg.paths.data, cfg.seed).fingerprint
