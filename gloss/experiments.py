"""Experiments: which runs stand behind a table or figure, as the sweep in configs/experiment/<name>.yaml."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from gloss.config import CONFIG_DIR, ConfigError


def sweep_of(name: str) -> dict[str, str]:
    """The sweep of an experiment: override -> its values, separated by commas."""
    path = CONFIG_DIR / "experiment" / f"{name}.yaml"
    names = sorted(p.stem for p in path.parent.glob("*.yaml"))
    if name not in names:
        raise ConfigError(f"experiment={name} is not allowed: expected one of {', '.join(names)}")
    return {key: str(value) for key, value in yaml.safe_load(path.read_text())["experiment"].get("sweep", {}).items()}


def sweep_arguments(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments with the sweep of `experiment=NAME`, but for the keys that they set themselves."""
    given = {a.partition("=")[0].lstrip("+~") for a in arguments if "=" in a}
    name = next((a.partition("=")[2] for a in arguments if a.startswith("experiment=")), None)
    if name is None:
        return list(arguments)
    return [*arguments, *(f"{key}={values}" for key, values in sweep_of(name).items() if key not in given)]
