"""What a search found, as a small YAML overlay that later runs pick up by themselves.

A file `<dataset>-<model>-<mode>-<loss>.yaml` (with `-<variant>` at the end, but for the default) holds the best values
as nested keys, and under `tuned` where they come from. Values given by hand win over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from gloss.config import CONFIG_DIR, GLOSS_O, INTEGRATED, SCL, SCL_CE, Config, ConfigError
from gloss.runs import write_atomic

SEARCHED = {  # hyperparameter -> its key in the configuration
    "lr": "trainer.lr",
    "lam": "loss.lam",
    "gamma": "loss.gamma",
    "sigma": "loss.sigma",
    "temperature": "loss.temperature",
}


def tuned_folder(cfg: DictConfig | Config) -> Path:
    """`paths.tuned`; else configs/tuned for the default outputs, `<outputs>/tuned` for any other."""
    if cfg.paths.tuned:
        return Path(cfg.paths.tuned)
    return CONFIG_DIR / "tuned" if cfg.paths.outputs == "outputs" else Path(cfg.paths.outputs) / "tuned"


def tuned_file(cfg: DictConfig | Config) -> Path:
    """The overlay that belongs to this data set, model, mode, loss and variant."""
    loss = SCL_CE if cfg.loss.name == SCL and cfg.mode == INTEGRATED else cfg.loss.name
    variant = "" if cfg.variant.name == "paper" else f"-{cfg.variant.name}"
    return tuned_folder(cfg) / f"{cfg.dataset.name}-{cfg.model.alias}-{cfg.mode}-{loss}{variant}.yaml"


def keys_by_hand(overrides: Sequence[str]) -> set[str]:
    """The keys that the command line sets."""
    return {override.partition("=")[0].lstrip("+~") for override in overrides}


def write_tuned(path: Path, values: Mapping[str, float], source: Mapping[str, Any]) -> None:
    """Write an overlay, whole or not at all. values: by hyperparameter; source: where they come from."""
    content: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        group, key = SEARCHED[name].split(".")
        content.setdefault(group, {})[key] = value
    write_atomic(path, yaml.safe_dump({**content, "tuned": dict(source)}, sort_keys=False, allow_unicode=True))


def read_tuned(path: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """The values of an overlay, by dotted key, and where they come from. Raises ConfigError for any other file."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        source = dict(found.pop("tuned"))
        values = {f"{group}.{key}": value for group, keys in found.items() for key, value in keys.items()}
        for key, value in values.items():
            if key not in SEARCHED.values() or not isinstance(value, (int, float)) or isinstance(value, bool):
                raise ValueError(f"{key}: {value} is no searched number")
    except (OSError, yaml.YAMLError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no overlay of a search ({error}): repair or remove it") from None
    return values, source


def apply_tuned(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """`cfg` with what a search found for it, but for the keys that `overrides` set by hand.

    `cfg.tuned` then tells where the values come from and which were applied, with a `note` where the search had other
    amounts of data than `cfg`. Raises ConfigError where loss=gloss_o has no σ from either.
    """
    path = tuned_file(cfg)
    if path.is_file():
        values, source = read_tuned(path)
        by_hand = keys_by_hand(overrides)
        applied = {key: value for key, value in values.items() if key not in by_hand}
        for key, value in applied.items():
            OmegaConf.update(cfg, key, value)
        source |= {"file": path.name, "applied": sorted(applied)}
        if applied and (note := _other_amounts(cfg, path, source)):
            source["note"] = note
        OmegaConf.update(cfg, "tuned", source, force_add=True)
    if cfg.loss.name == GLOSS_O and cfg.loss.sigma is None:
        missing = f"{path} has none" if path.is_file() else f"{path} does not exist"
        raise ConfigError(
            f"loss=gloss_o needs a σ, and {missing}. Search for it with\n  {_search_command(cfg)}\n"
            "or give it by hand: loss.sigma=0.5"
        )
    return cfg


def _other_amounts(cfg: DictConfig, path: Path, source: Mapping[str, Any]) -> str:
    """Says where this run's amounts of data are not those of the search; empty where they are."""
    texts = source.get("train_texts", "?")
    differences = []
    if source.get("train_limit") != cfg.dataset.train_limit:
        mine = "all" if cfg.dataset.train_limit is None else cfg.dataset.train_limit
        differences.append(f"on {texts} training texts, this run is on {mine}")
    if source.get("max_epochs") != cfg.trainer.max_epochs:
        differences.append(f"for {source.get('max_epochs')} epochs at most, this run for {cfg.trainer.max_epochs}")
    return f"the values of {path.name} were searched {' and '.join(differences)}" if differences else ""


def _search_command(cfg: DictConfig) -> str:
    words = {"dataset": cfg.dataset.name, "model": cfg.model.alias, "mode": cfg.mode, "loss": cfg.loss.name}
    if cfg.variant.name != "paper":
        words["variant"] = cfg.variant.name
    for key in ("outputs", "tuned"):
        if cfg.paths[key] not in ("outputs", None):
            words[f"paths.{key}"] = cfg.paths[key]
    return "python scripts/tune.py " + " ".join(f"{key}={value}" for key, value in words.items())
