"""--help of every command: its purpose, and a line for each key, from the schema and the files of configs/."""

from __future__ import annotations

import re
from typing import Any

from hydra import compose
from omegaconf import OmegaConf

from gloss.config import CONFIG_DIR, Config, comments_of, known_options
from gloss.runtime.compose import composed, hydra_of_our_own
from gloss.runtime.terminal import program

FLAGS = """\
  -m           a sweep (--multirun); failures are listed at the end
  --cfg job    show the configuration that would run, with the values of a search
  -h           this text (--help)"""
BY_US = ("experiment.name", "search.overridden")  # not set on a command line


def usage(about: str, schema: type, name: str) -> str:
    """The text of --help.

    about: the command's purpose and examples. name: of its file in configs/, or of its schema in the ConfigStore.
    """
    defaults, comments, choices, lines = composed([], name), comments_of(schema), {}, []
    if issubclass(schema, Config):
        with hydra_of_our_own():
            choices = compose(name, return_hydra_config=True).hydra.runtime.choices  # the file that each group has
        lines += [FLAGS, "", "Files, one of each:  key = default", ""]
        for group, text in comments.items():
            if group in choices:
                names = ", ".join(sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml")))
                lines.append(_line(group, choices[group] or "null", f"{text}: {names}"))
        lines.append("")
    lines += [f"Keys (defaults{' are of the files above' if choices else ''}; null: not set):", ""]
    for key, option in known_options(schema).items():
        if key not in (*BY_US, *choices):
            value = "" if OmegaConf.is_missing(defaults, key) else OmegaConf.select(defaults, key)
            text = "; ".join(filter(None, (option.help, option.allowed and f"expected: {option.allowed}")))
            lines.append(_line(key, "…" if option.kind.startswith("dict") else _written(value), text))
    about = re.sub(r"python scripts/(\w+)\.py", lambda found: program(found[1]), about.strip())
    return "\n".join([about, "", *lines])


def _line(key: str, value: str, text: str) -> str:
    return f"  {f'{key}={value}':<32}  {text}"


def _written(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if not isinstance(value, (str, int, float)):
        return "[" + ",".join(map(str, value)) + "]"
    return str(value)
