"""key=value arguments of the small scripts."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence

from gloss.errors import ConfigError
from gloss.runtime.overrides import check_letters
from gloss.runtime.terminal import PLACES, run_with_exit_code, show_what_can_be_shown


def read_arguments(arguments: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """key=value words as a dictionary. Raises ConfigError for a word without =, an unknown key, and one given twice."""
    found: dict[str, str] = {}
    for word in arguments:
        check_letters(word)
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r} is not allowed: expected key=value, with quotes around a value with blanks")
        if key not in keys:
            close = difflib.get_close_matches(key, keys, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ConfigError(f"{word}: there is no key {key}{hint}; expected some of {', '.join(keys)}")
        if key in found:
            raise ConfigError(f"{key} is given twice: {found[key]} and {value}")
        found[key] = os.path.expanduser(value) if key in PLACES else value
    return found


def whole_number(key: str, value: str) -> int:
    """The value of `key` as a number from 0 on; raises ConfigError."""
    if not value.isdecimal():
        raise ConfigError(f"{key}={value} is not allowed: expected a whole number of at least 0")
    return int(value)


def choice(key: str, value: str, names: Sequence[str]) -> str:
    """The value of `key`, which must be one of `names`; raises ConfigError."""
    if value not in names:
        raise ConfigError(f"{key}={value} is not allowed: expected one of {', '.join(names)}")
    return value


def main(
    task: Callable[[dict[str, str]], int | None], keys: Sequence[str], usage: str | None, needs_arguments: bool = True
) -> int:
    """Run `task` on the command line's arguments; its exit status, as `run_with_exit_code`."""
    show_what_can_be_shown()
    arguments = sys.argv[1:]
    if (needs_arguments and not arguments) or {"-h", "--help", "help"} & set(arguments):
        print((usage or "").strip())
        return 0 if arguments else 2
    return run_with_exit_code(lambda: task(read_arguments(arguments, keys)))
