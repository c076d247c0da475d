"""--help of every command: its purpose, and a line for each key, from the schema and the files of configs/."""

from __future__ import annotations

import re
from functools import reduce
from operator import getitem

from hydra import compose
from omegaconf import MISSING, OmegaConf

from gloss.config import CONFIG_DIR, Config, comments_of, known_options
from gloss.runtime.compose import composed, hydra_of_our_own
from gloss.runtime.overrides import SECRET, word_of
from gloss.runtime.terminal import program

FLAGS = """\
  -m           a sweep (--multirun); failures are listed at the end
  --cfg job    show the configuration that would run, with the values of a search
  -h           this text (--help)"""


def usage(about: str, schema: type, name: str) -> str:
    """The text of --help.

    about: the command's purpose and examples. name: of the command; of a run or search also its file in configs/.
    """
    comments, choices, lines = comments_of(schema), {}, []
    defaults = OmegaConf.structured(schema)
    if issubclass(schema, Config):
        defaults = composed([], name)
        with hydra_of_our_own():
            choices = compose(name, return_hydra_config=True).hydra.runtime.choices  # the file that each group has
        lines += [FLAGS, "", "Files, one of each:  key = default", ""]
        for group, text in comments.items():
            if group in choices:
                names = ", ".join(sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml")))
                lines.append(_line(f"{group}={choices[group] or 'null'}", f"{text}: {names}"))
        lines.append("")
    lines += [f"Keys (defaults{' are of the files above' if choices else ''}; null: not set):", ""]
    values = OmegaConf.to_container(defaults, resolve=True)
    for key, option in known_options(schema).items():
        if key not in choices and not option.is_derived:
            value = None if key == SECRET else reduce(getitem, key.split("."), values)
            shown = "" if value == MISSING else "…" if isinstance(value, dict) else None
            word = word_of(key, value) if shown is None else f"{key}={shown}"
            text = "; ".join(filter(None, (option.help, option.allowed and f"expected: {option.allowed}")))
            lines.append(_line(word, text))
    about = re.sub(r"python scripts/(\w+)\.py", lambda found: program(found[1]), about.strip())
    return "\n".join([about, "", *lines])


def _line(word: str, text: str) -> str:
    return f"  {word:<32}  {text}"
