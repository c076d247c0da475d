"""Command-line arguments as Hydra reads them: values quoted where its grammar would change them, keys checked.

`prepared` is the one place where arguments enter. Hydra reads `2024_05` as a number, `é`, `~` and `;` not at all, and a
comma as a sweep; here the value of a text key stays as typed, and `~` is the home folder.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from gloss.config import CONFIG_DIR, Option, TuneConfig
from gloss.errors import ConfigError

WITH_COMMAS = ("dataset.label", "dataset.separator", "search.storage")  # may hold a comma without being a sweep
SECRET = "search.storage"  # a database's URL may hold a password: its value is in no message
GROUPS = [f.name for f in fields(TuneConfig) if (CONFIG_DIR / f.name).is_dir()]
FLAGS = ("--help", "-h", "--cfg", "-c", "--multirun", "-m")

ALIASES = {  # our key -> its names in other programs, which are spelt too differently to be found
    "trainer.lr": "learning_rate",
    "trainer.max_epochs": "epochs num_epochs num_train_epochs",
    "trainer.batch_size": "bs per_device_train_batch_size",
    "trainer.grad_cache_chunk": "gradient_accumulation_steps accumulate_grad_batches",
    "model.max_length": "max_len max_seq_length",
}


def prepared(
    arguments: Sequence[str], options: Mapping[str, Option], is_sweep: bool | None = None, may_sweep: bool = True
) -> list[str]:
    """Arguments in a form that Hydra reads as the user meant them, flags first.

    Args:
        arguments: words of a command line, in any order.
        options: every known key, with its type (gloss.config.known_options).
        is_sweep: whether commas separate values; None: where -m or --multirun is among the arguments.
        may_sweep: False for a command without sweeps, where a comma is part of a text or separates a list's items.

    Raises ConfigError with a line for every invalid word.
    """
    flags, words = parted(arguments)
    if is_sweep is None:
        is_sweep = may_sweep and bool({"-m", "--multirun"} & set(flags))
    known = FLAGS if may_sweep else FLAGS[:4]
    unknown = [flag for flag in flags if flag not in (*known, "job")]
    problems = [f"there is no flag {flag}: expected one of {', '.join(known)}" for flag in unknown]
    files = {group: sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml")) for group in GROUPS}
    if any("searchpath" in word for word in words):  # the user's own files too
        files = dict.fromkeys(GROUPS, [])
    found = []
    for word in words:
        try:
            found.append(_prepared(word, options, files, is_sweep, may_sweep))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\nerror: ".join(dict.fromkeys(problems)))
    return [*flags, *found]


def override(key: str, value: object) -> str:
    """`key=value` that Hydra reads as exactly this text."""
    return f"{key}={_quoted(key, str(value))}"


def word_of(key: str, value: Any) -> str:
    """`key=value` of a value of any type, before quoting for a shell."""
    if value is None or isinstance(value, bool):
        return f"{key}={'null' if value is None else str(value).lower()}"
    if isinstance(value, Mapping):
        return f"{key}={{{','.join(word_of(name, x).replace('=', ':', 1) for name, x in value.items())}}}"
    if isinstance(value, list):
        return f"{key}=[{','.join(override('', part)[1:] for part in value)}]"
    return override(key, value) if isinstance(value, str) else f"{key}={value}"


def value_of(words: Sequence[str], key: str, default: Any = None) -> Any:
    """The last value that words give `key`, as text without quotes; `default` where none does."""
    values = [value for name, _, value in (word.partition("=") for word in words) if name.lstrip("+") == key]
    return _unquoted(values[-1]) if values else default


def is_of_search(override: str) -> bool:
    """Whether an override belongs to a search, not to its runs."""
    return override.lstrip("+").startswith(("search=", "search."))


def parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags, with the value of --cfg, and the key=value words."""
    flags: list[str] = []
    words: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        is_flag = word.startswith("-") and len(word) > 1 or before in ("--cfg", "-c") and word == "job"
        (flags if is_flag else words).append(word)
    return flags, words


def _prepared(
    word: str, options: Mapping[str, Option], files: Mapping[str, list[str]], is_sweep: bool, may_sweep: bool
) -> str:
    key, equals, value = word.partition("=")
    if any("\ud800" <= sign <= "\udfff" for sign in word):  # a record could not hold them
        shown = word.encode("utf-8", "replace").decode()
        raise ConfigError(f"{shown} has letters that this locale cannot read: set PYTHONUTF8=1, or rename the file")
    if not equals or key.startswith("~"):
        raise ConfigError(f"{word} is not allowed: expected key=value, with quotes around a value with blanks")
    if may_sweep and key.startswith(("hydra.", "hydra/", "+hydra.", "++hydra.")):
        return word
    key = key.lstrip("+")  # known keys can only be set, never added
    shown = f"{key}=…" if key == SECRET else f"{key}={value}"
    owner = next((k for k, o in options.items() if o.kind.startswith("dict") and key.startswith(k + ".")), key)
    if owner != key and not options[owner].is_derived:
        return f"++{key}={value}"
    is_group = key in GROUPS and any(k.startswith(key + ".") for k in options)
    if not is_group and owner not in options:
        raise ConfigError(f"{shown}: {_unknown(key, options)}")
    if not is_group and options[owner].is_derived:
        raise ConfigError(f"{shown} is not allowed: it is {options[owner].help}")
    kind = "str | None" if is_group else options[key].kind
    if kind == "list[str]":
        value = _list(key, value, may_sweep)
    elif kind in ("str", "str | None"):
        value = _text(key, value, kind, is_sweep, may_sweep)
    try:
        parsed = OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException:
        example = "…" if key == SECRET or "'" in value else value
        raise ConfigError(f"{shown} cannot be read: write it in quotes, \"{key}='{example}'\"") from None
    values: list[object] = [parsed.value()]
    if parsed.is_sweep_override():
        if not is_sweep:
            several = "a sweep: add -m (--multirun) for a run of each" if may_sweep else "where one is expected"
            raise ConfigError(f"{shown} is several values, {several}")
        try:
            values = [_parse(f"k={text}") for text in parsed.sweep_string_iterator()]
        except HydraException:
            raise ConfigError(f"{shown} is no list of values: write them out, as {key}=a,b") from None
    for one in values:
        problem = None if is_group else options[key].problem(key, one)
        if is_group and one is None:
            problem = f"leave {key} out, or choose one of {', '.join(files[key])}"
        elif is_group and files[key] and str(one) not in files[key]:
            problem = f"expected one of {', '.join(files[key])}"
        if problem:
            raise ConfigError(f"{shown} is not allowed: {problem}")
    return f"{key}={value}"


def _text(key: str, value: str, kind: str, is_sweep: bool, may_sweep: bool) -> str:
    """The value of a text key, quoted where Hydra would read it as anything else."""
    if kind == "str | None" and value == "null":
        return value
    if is_sweep and re.fullmatch(r"(choice|shuffle|sort|tag|range)\(.*\)", value):
        return value
    is_whole = not may_sweep or _is_quoted(value) or _is_path(key) and os.path.exists(os.path.expanduser(value))
    if "," in value and not is_whole and (is_sweep or not _is_path(key) and key not in WITH_COMMAS):
        return ",".join(part if part == "null" else _quoted(key, _unquoted(part)) for part in _split(value))
    return _quoted(key, _unquoted(value))


def _is_path(key: str) -> bool:
    """Whether ~ is expanded."""
    return key.startswith("paths.") or key.endswith("path") or key in ("model.name", "run", "file", "to")


def _list(key: str, value: str, may_sweep: bool) -> str:
    """The value of a key that is a list of texts, which may also be given as one text."""
    is_list, names = value.startswith("[") and value.endswith("]"), [value]
    if not is_list and may_sweep and "," in value and not _is_quoted(value):
        raise ConfigError(
            f"{key}={value} is not allowed: expected one name, or two as in {key}=[{value}] "
            f"(a name with a comma: \"{key}=['{value}']\")"
        )
    if is_list or "," in value:
        inner = value[1:-1] if is_list else value
        names = [part.strip() for part in _split(inner)] if inner.strip() else []
    return f"[{','.join(_quoted(key, _unquoted(name)) for name in names)}]"


def _quoted(key: str, text: str) -> str:
    """A text in quotes, unless Hydra reads it as it is."""
    text = os.path.expanduser(text) if _is_path(key) else text
    try:
        if _parse(f"k={text}") == text and not _is_quoted(text):
            return text
    except HydraException:
        pass
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def _unquoted(value: str) -> str:
    return str(_parse(f"k={value}")) if _is_quoted(value) else value


def _is_quoted(value: str) -> bool:
    return re.fullmatch(r"'(\\.|[^'\\])*'|\"(\\.|[^\"\\])*\"", value, re.DOTALL) is not None


def _split(value: str) -> list[str]:
    """The parts between commas that are not in quotes."""
    return re.findall(r"((?:'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|[^,])*),", value + ",")


def _parse(word: str) -> object:
    """The value of a word as Hydra reads it; None for a sweep. Raises HydraException."""
    parsed = OverridesParser.create().parse_override(word)
    return None if parsed.is_sweep_override() else parsed.value()


def _unknown(key: str, options: Mapping[str, Option]) -> str:
    """The message about an unknown key, with the known key that was probably meant."""
    leaf = key.lower().replace("-", "_").rpartition(".")[2]
    by_leaf = {k.rpartition(".")[2]: k for k in options}
    meant = [our for our, names in ALIASES.items() if leaf in names.split() and our in options]
    meant += difflib.get_close_matches(key, options, 1, cutoff=0.8)
    meant += [by_leaf[name] for name in difflib.get_close_matches(leaf, by_leaf, 1, cutoff=0.7)]
    return f"there is no key {key}" + (f" (did you mean {meant[0]}?)" if meant else "")
