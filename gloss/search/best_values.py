"""The result of a search, as a small YAML overlay that later runs apply automatically.

A file `<dataset>-<model>-<mode>-<loss>.yaml` (with `-<variant>` after it, but for the default) holds the best values as
nested keys, and under `tuned` their origin. Values given by hand take precedence. A file from a search with fewer texts
or another number of epochs than the protocol's has them in its name (`-n500-e3`), and never serves a full run.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf

from gloss.config import HYPERPARAMETERS, Config, DatasetConfig, TrainerConfig
from gloss.errors import ConfigError, DataError
from gloss.losses.registry import GLOSS_O, name_in
from gloss.records.reading import read_yaml, shortened
from gloss.records.run_folder import is_hashed
from gloss.resolve import weights_sha256
from gloss.runtime.atomic import write_atomic
from gloss.runtime.compose import sweep_of
from gloss.runtime.terminal import program

_COMPARED_ELSEWHERE = (
    *(*HYPERPARAMETERS.values(), "trainer.max_epochs", "model.name", "model.revision", "model.sha256"),
    "ablation.test_on",  # of a run alone: a trial tests no texts
)
_ALSO_COMPARED = ("dataset.unlabeled", "dataset.unlabeled_path", "loss.margin")


def tuned_file(cfg: DictConfig | Config) -> Path:
    """The overlay of this data set, model, mode, loss and variant, searched on the same amounts of data."""
    return tuned_files(cfg)[0]


def tuned_files(cfg: DictConfig | Config) -> list[Path]:
    """The overlays that a run may take, the closest first: searched on its own amounts of data, on more texts, with
    the protocol's epochs, and on all texts with the protocol's epochs."""
    loss = name_in(cfg.mode, cfg.loss.name)
    variant = "" if cfg.variant.name == "paper" else f"-{cfg.variant.name}"
    cell = f"{cfg.dataset.name}-{cfg.model.alias}-{cfg.mode}-{loss}{variant}"
    limit, epochs = cfg.dataset.train_limit, cfg.trainer.max_epochs
    folder = Path(cfg.paths.tuned or Path(cfg.paths.outputs) / "tuned")
    texts = "" if limit == DatasetConfig.train_limit else f"-n{limit}"
    epochs = "" if epochs == TrainerConfig.max_epochs else f"-e{epochs}"
    return [folder / f"{cell}{end}.yaml" for end in dict.fromkeys((texts + epochs, epochs, texts, ""))]


def overridden_keys(overrides: Sequence[str]) -> set[str]:
    """The keys that the command line sets."""
    return {override.partition("=")[0].lstrip("+~") for override in overrides}


def write_tuned(path: Path, values: Mapping[str, float], source: Mapping[str, Any]) -> None:
    """Write an overlay, whole or not at all. values: by hyperparameter; source: their origin."""
    content: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        group, key = HYPERPARAMETERS[name].split(".")
        content.setdefault(group, {})[key] = value
    write_atomic(path, yaml.safe_dump({**content, "tuned": dict(source)}, sort_keys=False, allow_unicode=True))


def read_tuned(path: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """The values of an overlay, by dotted key, and their origin. Raises ConfigError for any other file."""
    try:
        found = read_yaml(path)
        source = dict(found.pop("tuned"))
        values = {f"{group}.{key}": value for group, keys in found.items() for key, value in keys.items()}
        for key, value in values.items():
            is_number = type(value) in (int, float) and abs(value) < 1e300  # NaN is not
            if key not in HYPERPARAMETERS.values() or not is_number:
                raise ValueError(f"{key}: {value} is no searched number")
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no overlay of a search ({shortened(error)}): repair or remove it") from None
    return values, source


def apply_tuned(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """`cfg` with the best values of its search. Raises ConfigError where loss=gloss_o has no σ then."""
    cfg = apply_best_values(cfg, overrides)
    if cfg.loss.name == GLOSS_O and cfg.loss.sigma is None:
        missing = "tuned=false" if cfg.tuned is False else f"no file {tuned_files(cfg)[-1]}"
        if isinstance(cfg.tuned, DictConfig):
            missing = cfg.tuned.get("note") or f"{cfg.tuned.file} has none"
        raise ConfigError(
            f"loss=gloss_o needs a σ: {missing}. Search for it with\n  {_search_command(cfg, overrides)}\n"
            "or give it by hand: loss.sigma=0.5"
        )
    return cfg


def apply_best_values(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """`cfg` with the values of the closest overlay of its texts and encoder, but for the keys that `overrides` set.

    `cfg.tuned` then holds the origin of the values and the keys that were `applied`, with a `note` where the search had
    other amounts of data than `cfg`, or where an overlay was skipped: its texts or encoder are others, or its search
    found nothing. With tuned=false nothing is applied.
    """
    if isinstance(cfg.tuned, DictConfig):
        raise ConfigError("tuned={…} is not allowed: expected true or false; only a search's file gives such values")
    if cfg.tuned is not True:  # false, or a value that `resolve` refuses
        return cfg
    overridden = overridden_keys(overrides)
    for path in tuned_files(cfg):
        if not path.is_file():
            continue
        values, source = read_tuned(path)
        others = mismatch(cfg, source)
        if reason := f"they were searched {others}" if others else source.get("found_nothing"):
            note = f"the values of {path.name} were not applied: {reason}"
            OmegaConf.update(cfg, "tuned", {"file": path.name, "applied": [], "note": note}, force_add=True)
            continue
        applied = {key: value for key, value in values.items() if key not in overridden}
        for key, value in applied.items():
            OmegaConf.update(cfg, key, value)
        source |= {"file": path.name, "applied": sorted(applied)}
        if applied and (note := _searched_otherwise(cfg, path, source)):
            source["note"] = note
        OmegaConf.update(cfg, "tuned", source, merge=False, force_add=True)
        break
    return cfg


def lines_on_tuned(cfg: DictConfig) -> list[str]:
    """Lines on the values that a run takes from a search and their file, or on the reason why it takes none."""
    if not isinstance(cfg.tuned, DictConfig):
        return []
    lines = []
    if keys := list(cfg.tuned.applied):
        values = " ".join(f"{key}={OmegaConf.select(cfg, key):.6g}" for key in keys)
        lines = [
            f"searched values: {values}, from {tuned_file(cfg).with_name(cfg.tuned.file)} (tuned=false: without them)"
        ]
    return lines + ([f"note: {note}"] if (note := cfg.tuned.get("note")) else [])


def mismatch(cfg: DictConfig | Config, source: Mapping[str, Any]) -> str:
    """The texts or encoder of a search that differ from `cfg`, under the same name; empty where both are the same.

    Only the user's own texts are compared, since other sets never change under their name.
    """
    is_named = not (isinstance(cfg, DictConfig) and OmegaConf.is_missing(cfg.model, "name"))
    if "model_name" in source and is_named:
        searched, mine = (source["model_name"], source.get("model_revision")), (cfg.model.name, cfg.model.revision)
        if searched != mine:
            shown = [" at ".join(str(x) for x in pair if x is not None) for pair in (searched, mine)]
            return f"with the encoder {shown[0]}, this run is with {shown[1]}"
        searched_weights, own_weights = source.get("model_sha256"), weights_sha256(cfg.model)
        if searched_weights and own_weights and searched_weights != own_weights:
            return f"with other weights of {cfg.model.name}"
    if "fingerprint" in source and cfg.dataset.source in ("csv", "hub") and cfg.dataset.path:
        from gloss.data.datasets import load_dataset  # here, so that other sets need no data library

        own: Any = OmegaConf.to_object(cfg.dataset) if isinstance(cfg.dataset, DictConfig) else cfg.dataset
        try:
            fingerprint = load_dataset(own, cfg.paths.data or "data", cfg.seed).fingerprint
        except DataError:  # a report of records whose texts are gone; a run will be refused when it reads them
            return ""
        if fingerprint != source["fingerprint"]:
            return f"on other texts that are called {cfg.dataset.name} too (dataset.name=… distinguishes them)"
    return ""


def settings_of(cfg: Config) -> dict[str, Any]:
    """The settings of a search, by dotted key, that differ from the schema's defaults: but for hyperparameters, and for
    texts, encoder and amounts of data, which are compared by themselves."""
    groups = {group: vars(getattr(cfg, group)) for group in ("trainer", "model", "ablation", "variant")}
    keys = [f"{group}.{key}" for group, settings in groups.items() for key in settings]
    keys = [key for key in keys if is_hashed(key) and key not in _COMPARED_ELSEWHERE]
    found, usual = ({key: attrgetter(key)(x) for key in (*keys, *_ALSO_COMPARED)} for x in (cfg, Config()))
    return {key: value for key, value in found.items() if value != usual[key]}


def search_settings_not_shared(config: Mapping[str, Any], source: Mapping[str, Any]) -> list[str]:
    """The settings of a search, as `trainer.batch_size=8`, that its runs with `config` do not share."""
    settings = source.get("settings") or {}  # an older search has none
    found = {key: (config.get(group := key.partition(".")[0]) or {}).get(key[len(group) + 1 :]) for key in settings}
    return [f"{key}={value}" for key, value in settings.items() if found[key] != value]


def _searched_otherwise(cfg: DictConfig, path: Path, source: Mapping[str, Any]) -> str:
    """A note on the amounts of data and settings in which this run differs from the search; empty where they agree."""
    texts = source.get("train_examples", "?")
    differences = []
    if source.get("train_limit") != cfg.dataset.train_limit:
        mine = "all" if cfg.dataset.train_limit is None else cfg.dataset.train_limit
        differences.append(f"on {texts} training texts, this run is on {mine}")
    if source.get("max_epochs") != cfg.trainer.max_epochs:
        differences.append(f"for {source.get('max_epochs')} epochs at most, this run for {cfg.trainer.max_epochs}")
    if others := search_settings_not_shared(cast(dict, OmegaConf.to_container(cfg)), source):
        differences.append(f"with {', '.join(others)}, this run is not")
    return f"the values of {path.name} were searched {' and '.join(differences)}" if differences else ""


def _search_command(cfg: DictConfig, overrides: Sequence[str]) -> str:
    """The command that searches for a run: with all keys set by hand, but without those that its experiment varies."""
    names = {"dataset": cfg.dataset.name, "model": cfg.model.alias, "mode": cfg.mode, "loss": cfg.loss.name}
    words = {key: f"{key}={value}" for key, value in names.items()}
    words |= {o.partition("=")[0].lstrip("+"): o for o in overrides}
    varied = sweep_of(cfg.experiment.name).keys() - {*names, "variant"} if cfg.experiment.name else set()
    elsewhere = {"seed", "rerun", "tuned", "experiment"} | varied
    return shlex.join([*program("tune").split(), *(word for key, word in words.items() if key not in elsewhere)])
