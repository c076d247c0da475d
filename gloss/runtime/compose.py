"""Composing a configuration inside the program, the sweeps of experiments, and Hydra's error messages in a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from gloss.config import CONFIG_DIR, config_file


def readable(error: Exception) -> str:
    """Hydra's message in a line; gloss.runtime.overrides has checked the command line before."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__


@contextmanager
def hydra_of_our_own() -> Iterator[None]:
    """Use a Hydra of our own, also inside a run that Hydra started."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base=None):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


def composed(overrides: Sequence[str], name: str = "train") -> DictConfig:
    """The configuration that Hydra composes of configs/<name>.yaml and `overrides`; cached, so it must not be
    changed."""
    return _composed(tuple(overrides), name)


@cache
def _composed(overrides: tuple[str, ...], name: str) -> DictConfig:
    with hydra_of_our_own():
        return compose(name, overrides=list(overrides))


def sweep_of(name: str) -> dict[str, str]:
    """The sweep of an experiment: override -> its values, separated by commas. Raises ConfigError."""
    return {key: str(value) for key, value in config_file("experiment", name)["hydra"]["sweeper"]["params"].items()}
