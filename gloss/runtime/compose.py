"""Composing a configuration inside the program, and Hydra's error messages in one or two lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from gloss.config import CONFIG_DIR, Config, known_options
from gloss.runtime.overrides import closest_key, value_of


def readable(error: Exception, arguments: Sequence[str], schema: type = Config) -> str:
    """Hydra's message in one or two lines: the key, the value, what is allowed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if text.startswith("Could not override '"):
        key = text.split("'")[1]
        return f"{key}={value_of(arguments, key, '')}: there is no key {key}{closest_key(key, known_options(schema))}"
    if text.startswith("Error merging override "):
        override = text.removeprefix("Error merging override ")
        cause = str(error.__cause__).splitlines()[0] if error.__cause__ else ""
        return f"{override} is not allowed: {cause}"
    if "Could not find '" in text:
        group, _, name = text.split("Could not find '")[1].split("'")[0].rpartition("/")
        options = [line for line in lines[2:] if " " not in line and "=" not in line]
        return f"{group}={name} is not allowed: expected one of {', '.join(options)}"
    if "did you mean" in text.lower() or "append" in " ".join(lines).lower():
        return " ".join(lines[:2])
    return text


@contextmanager
def _hydra() -> Iterator[None]:
    """A Hydra of our own, also inside a script that @hydra.main started."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base=None):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


def composed(overrides: Sequence[str]) -> DictConfig:
    """What Hydra composes of these words, which must not be changed; also inside a script that Hydra started."""
    with _hydra():
        return _composed(tuple(overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    return compose("train", overrides=list(overrides))
