"""From a record's configuration back to the command line that makes it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from gloss.config import CONFIG_DIR, known_options
from gloss.runtime.compose import composed
from gloss.runtime.overrides import override
from gloss.runtime.terminal import program

_ELSEWHERE = (
    *("loss.name", "mode", "tuned", "rerun", "paths.tuned", "trainer.save_model"),
    *("experiment.name", "experiment.only", "experiment.search"),
)
_ABSENT = object()


def command_of(config: Mapping[str, Any], *more: str) -> str:
    """The command that trains with a record's `config`, with `more` at its end, quoted for a shell."""
    group = {name: config[name] for name in ("dataset", "model", "loss", "variant")}
    source, name = (group["dataset"].get(key) for key in ("source", "name"))
    alias, variant = group["model"]["alias"], group["variant"]["name"]
    words = [f"dataset={name if source not in ('csv', 'hub') and _has_file('dataset', name) else source}"]
    words += [f"model={alias if _has_file('model', alias) else 'hf'}"]
    words += [f"loss={group['loss']['name']}", f"mode={config['mode']}"]
    words += [f"variant={variant}"] if variant != "paper" and _has_file("variant", variant) else []
    default = OmegaConf.to_container(composed(words), resolve=True)
    for key in (key for key in known_options() if key not in _ELSEWHERE):
        value = _at(config, key)
        if value is not _ABSENT and value != _at(default, key):
            words.append(word_of(key, value))
    return shlex.join([*program("train").split(), *words, "tuned=false", *more])  # a search's values are in `words`


def _has_file(group: str, name: str) -> bool:
    return (CONFIG_DIR / group / f"{name}.yaml").is_file()


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part, _ABSENT) if isinstance(tree, Mapping) else _ABSENT
    return tree


def word_of(key: str, value: Any) -> str:
    """key=value as a command line takes it, before quoting."""
    if value is None or isinstance(value, bool):
        return f"{key}={'null' if value is None else str(value).lower()}"
    if isinstance(value, Mapping):
        return f"{key}={{{','.join(word_of(name, x).replace('=', ':', 1) for name, x in value.items())}}}"
    if isinstance(value, list):
        return f"{key}=[{','.join(override('', part)[1:] for part in value)}]"
    return override(key, value) if isinstance(value, str) else f"{key}={value}"
