"""What a search found, as a small YAML overlay that later runs pick up by themselves.

A file `<dataset>-<model>-<mode>-<loss>.yaml` (with `-<variant>` at the end, but for the default) holds the best values
as nested keys, and under `tuned` where they come from. Values given by hand win over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from gloss.config import CONFIG_DIR, GLOSS_O, INTEGRATED, SCL, SCL_CE, ConfigError


def tuned_folder(cfg: DictConfig) -> Path:
    """`paths.tuned`; else configs/tuned for the default outputs, `<outputs>/tuned` for any other."""
    if cfg.paths.tuned:
        return Path(cfg.paths.tuned)
    return CONFIG_DIR / "tuned" if cfg.paths.outputs == "outputs" else Path(cfg.paths.outputs) / "tuned"


def tuned_file(cfg: DictConfig) -> Path:
    """The overlay that belongs to this data set, model, mode, loss and variant."""
    loss = SCL_CE if cfg.loss.name == SCL and cfg.mode == INTEGRATED else cfg.loss.name
    variant = "" if cfg.variant.name == "paper" else f"-{cfg.variant.name}"
    return tuned_folder(cfg) / f"{cfg.dataset.name}-{cfg.model.alias}-{cfg.mode}-{loss}{variant}.yaml"


def apply_tuned(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """`cfg` with what a search found for it, but for the keys that `overrides` set by hand.

    Raises ConfigError where loss=gloss_o has no σ from either.
    """
    path = tuned_file(cfg)
    by_hand = {override.partition("=")[0].lstrip("+~") for override in overrides}
    if path.is_file():
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
            source = {**found.pop("tuned"), "file": path.name}
            values = {f"{group}.{key}": value for group, keys in found.items() for key, value in keys.items()}
        except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is no overlay of a search ({error}): repair or remove it") from None
        applied = {key: value for key, value in values.items() if key not in by_hand}
        for key, value in applied.items():
            OmegaConf.update(cfg, key, value)
        OmegaConf.update(cfg, "tuned", {**source, "applied": sorted(applied)}, force_add=True)
    if cfg.loss.name == GLOSS_O and cfg.loss.sigma is None:
        raise ConfigError(
            f"loss=gloss_o needs a σ, and {path} does not exist. Search for it with\n"
            f"  python scripts/tune.py dataset={cfg.dataset.name} model={cfg.model.alias} mode={cfg.mode} loss=gloss_o\n"
            "or give it by hand: loss.sigma=0.5"
        )
    return cfg
