"""A command: its key=value words are composed by Hydra, checked by its schema, and handed to its task.

A command is a module here: its docstring is the head of --help, the annotation of its `task(cfg)` is the schema.

Exit status: 0 done; 1 something failed; 2 the command or the data cannot be used; 128 + n stopped by signal n.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from types import ModuleType
from typing import Any, ClassVar, get_type_hints

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gloss.cli.help import usage
from gloss.config import Config, TuneConfig, known_options
from gloss.errors import ConfigError
from gloss.records.reading import SELECTION
from gloss.resolve import check_ranges
from gloss.runtime.compose import readable
from gloss.runtime.overrides import parted, prepared
from gloss.runtime.terminal import run_with_exit_code


def names(*default: str) -> Any:
    """A field that takes a list of names."""
    return field(default_factory=lambda: list(default))


def refuse(cfg: Any, keys: Iterable[str], why: str) -> None:
    """Raise ConfigError if one of these keys is not at its default: it has no effect `why`."""
    for key in keys:
        if getattr(cfg, key) != getattr(type(cfg)(), key):
            raise ConfigError(f"{key}= has no effect {why}")


@dataclass
class Outputs:
    outputs: str = "outputs"  # the folder that has runs/


@dataclass
class Texts:
    data: str | None = "${oc.env:GLOSS_DATA_DIR,null}"  # folder of sets, or of moved files; null: data, or the run's


@dataclass
class Paths(Outputs, Texts):
    pass


@dataclass
class Device:
    device: str = "auto"  # auto, cpu, cuda, cuda:N or mps


@dataclass
class Selection:
    """The keys that select a run."""

    run: str = ""  # a folder; or best, by the validation score; or some of the next keys, as "dataset=mr loss=ce"
    dataset: str | None = None  # of the run
    model: str | None = None  # of the run
    loss: str | None = None  # of the run
    mode: str | None = None  # of the run
    variant: str | None = None  # of the run
    config_hash: str | None = None  # of the run
    seed: str | None = None  # of the run

    def selected(self) -> dict[str, str]:
        """The keys that were given."""
        return {key: value for key in SELECTION if (value := getattr(self, key)) is not None}


@dataclass
class WithOverrides:
    """A command that also takes every key of a search, with several values each."""

    overrides: ClassVar[list[str]] = []  # the words that set those keys


class Messages(logging.Handler):
    """Messages of the package as plain lines, on stdout below a warning where `has_progress`, else on stderr."""

    def __init__(self, has_progress: bool) -> None:
        super().__init__()
        self.has_progress = has_progress

    def emit(self, record: logging.LogRecord) -> None:
        is_progress = self.has_progress and record.levelno < logging.WARNING
        print(self.format(record), file=sys.stdout if is_progress else sys.stderr, flush=True)


def show_messages(has_progress: bool = False) -> None:
    """Show the package's log messages from INFO on, in this process."""
    logger = logging.getLogger("gloss")
    logger.handlers = [Messages(has_progress)]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def read(schema: type, words: Sequence[str]) -> Any:
    """The schema's object with the values in `words`. Raises ConfigError with a line for every mistake."""
    options, cfg = known_options(schema), OmegaConf.structured(schema)
    try:
        for o in OverridesParser.create().parse_overrides(parted(prepared(words, options, may_sweep=False))[1]):
            OmegaConf.update(cfg, o.key_or_group, _as_typed(o.value()))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(readable(error)) from None
    if missing := [key for key in options if OmegaConf.is_missing(cfg, key)]:
        raise ConfigError("\nerror: ".join(f"expected {key}=…: {options[key].help}" for key in missing))
    found = OmegaConf.to_object(cfg)
    check_ranges(found)
    return found


def _as_typed(value: Any) -> Any:
    """A value in which OmegaConf finds no interpolation: a text to classify may hold ${…}."""
    if isinstance(value, list):
        return [_as_typed(part) for part in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def show(cfg: Any) -> None:
    """Print a configuration: --cfg job."""
    tree = asdict(cfg)
    if isinstance(cfg, TuneConfig) and cfg.search.storage:
        tree["search"]["storage"] = "…"  # it may hold a password
    print(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), end="")


def run_command(command: ModuleType, arguments: Sequence[str]) -> int:
    """Run a command and return its exit status."""
    schema = get_type_hints(command.task)["cfg"]
    name = command.__name__.rpartition(".")[2]
    if issubclass(schema, Config):
        from gloss.cli import hydra_main  # here: it reads this module

        return hydra_main.main(command.task, arguments, name)
    show_messages()
    if {"-h", "--help"} & set(arguments):
        return run_with_exit_code(lambda: print(usage(command.__doc__, schema, name)))
    if issubclass(schema, WithOverrides):
        return run_with_exit_code(lambda: command.task(_read_with_overrides(schema, arguments)))
    task = show if {"-c", "--cfg"} & set(arguments) else command.task
    return run_with_exit_code(lambda: task(read(schema, arguments)))


def _read_with_overrides(schema: type, arguments: Sequence[str]) -> Any:
    own = known_options(schema)
    flags, words = parted(prepared(arguments, known_options(TuneConfig) | own, is_sweep=True))
    if flags:
        why = ": values separated by commas are run each" if flags[0] in ("-m", "--multirun") else ""
        raise ConfigError(f"there is no flag {flags[0]} here{why}")
    cfg = read(schema, [word for word in words if word.partition("=")[0] in own])
    cfg.overrides = [word for word in words if word.partition("=")[0] not in own]
    return cfg
