"""Reading and checking of records: a file of any origin is used only after its checks."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError
from pydantic_core import from_json

from gloss.errors import RunError
from gloss.records.run_folder import is_done
from gloss.records.schema import EPOCHS, checked_result
from gloss.runtime.terminal import escape_control_characters

SELECTION = ("dataset", "model", "loss", "mode", "variant", "config_hash", "seed")  # they distinguish runs
MAX_BYTES = 4 * 2**20  # 8,000 epochs, or a study of 10,000 trials; in memory JSON takes up to 30 times its size
MAX_REASON = 500  # characters of an error that are shown


@dataclass(frozen=True)
class Problem:
    """A folder under `runs` that is no finished, readable record of ours, and the reason; has_failed: it is a run that
    ended with an error."""

    folder: Path
    reason: str
    has_failed: bool = False


@dataclass(frozen=True)
class Record:
    """A finished run, as read from its folder."""

    folder: Path
    result: dict[str, Any]

    @cached_property
    def identity(self) -> SimpleNamespace:
        """dataset, model, mode, loss, variant, config_hash, seed."""
        return SimpleNamespace(**self.result["identity"])

    def epochs(self) -> list[dict[str, Any]]:
        """The lines of epochs.jsonl. Raises RunError where the file is broken."""
        path = self.folder / "epochs.jsonl"
        try:
            lines = [from_json(line, allow_inf_nan=False) for line in _read_text(path).splitlines()]
            EPOCHS.validate_python(lines)
            return lines
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {shortened(error)}") from None

    def predictions(self) -> dict[str, np.ndarray]:
        """The arrays of predictions.npz. Raises RunError where the file is missing or broken."""
        path = self.folder / "predictions.npz"
        if not path.exists():
            raise RunError(
                f"{self.folder} keeps no predictions.npz, to stay small: its command with rerun=true writes it"
            )
        try:
            _refuse_special(path)
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            _check_arrays(arrays, len(self.result["labels"]))
            return arrays
        except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds on a damaged archive
            raise RunError(f"{path} cannot be read: {shortened(error)}") from None


def read_record(folder: Path) -> Record:
    """The record of a finished run. Raises RunError, with the reason, for anything else."""
    folder = Path(folder)
    if not is_done(folder):
        is_run = folder.name.startswith("seed=")
        raise RunError(f"{folder} is {'not finished' if is_run else 'no run, as …/seed=1 is'}: it has no DONE")
    path = folder / "result.json"
    try:
        result = checked_result(read_json(path))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be used: {shortened(error)}") from None
    return Record(folder, result)


def read_records(root: str | Path) -> tuple[list[Record], list[Problem]]:
    """All finished runs under `<root>/runs`, sorted by folder, and the other folders there.

    A record counts only in the folder that its own identity names, so that a copied or renamed folder is not counted
    twice; links out of `root` are not followed.
    """
    runs = Path(root).resolve() / "runs"
    records, problems = [], []
    for folder in sorted(runs.glob("*/*/*/*/seed=*")):
        if os.path.realpath(folder) != str(folder):  # Path.resolve raises for a link to itself
            problems.append(Problem(folder, "is a link, or lies behind one"))
        elif not is_done(folder):
            has_failed = (folder / "error.json").is_file()
            reason = f"failed: {failure(folder)}" if has_failed else "is not finished"
            problems.append(Problem(folder, reason, has_failed))
        else:
            try:
                record = read_record(folder)
                if record.result.get("is_trial"):
                    raise RunError(f"{folder} is a trial of a search, which saw no test texts")
                i = record.identity
                expected = runs / i.dataset / i.model / f"{i.mode}-{i.loss}" / i.config_hash / f"seed={i.seed}"
                if folder != expected:
                    raise RunError(f"{folder} holds the record of another folder, {expected.relative_to(runs)}")
                records.append(record)
            except RunError as error:
                problems.append(Problem(folder, str(error)))
    return records, problems


def failure(folder: Path) -> str:
    """The message that a failed run left in error.json."""
    try:
        return shortened(read_json(folder / "error.json")["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return "its error.json cannot be read"


def shortened(reason: object, length: int = MAX_REASON) -> str:
    """The text of an error, cut to `length` characters: an error about somebody else's file may fill pages."""
    text = str(reason)
    if isinstance(reason, ValidationError):  # the first of its mistakes
        mistake = reason.errors(include_url=False)[0]
        place = "".join(f"{key}." for key in mistake["loc"])[:-1]
        own = mistake.get("ctx", {}).get("error")  # a ValueError of ours is complete
        text = f"{place or 'the content'}: " + str(own or f"{mistake['msg']}, got {mistake['input']!r:.50}")
    return text if len(text) <= length else text[:length] + "…"


def read_each(root: str | Path, pattern: str, read: Callable[[Path], Any]) -> tuple[list[Any], list[str]]:
    """The files under `root` that match, sorted, as `read` gives them; and messages about those that cannot be used.

    read: raises OSError, ValueError, KeyError or TypeError for such a file, or RunError with the complete message.
    Files behind a link are left out; `read_json` refuses a path that is a link.
    """
    found, problems = [], []
    for path in sorted(Path(root).resolve().glob(pattern)):
        if os.path.realpath(path.parent) != str(path.parent):
            continue
        try:
            found.append(read(path))
        except RunError as error:
            problems.append(escape_control_characters(error))
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(escape_control_characters(f"{path} cannot be used: {shortened(error)}"))
    return found, problems


def read_json(path: Path) -> Any:
    """The content of a JSON file of any origin. Raises OSError, or ValueError unless it is a plain file of at most
    MAX_BYTES without NaN or half characters, not deeply nested."""
    return from_json(_read_text(path), allow_inf_nan=False)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file of any origin. Raises OSError or ValueError, as `read_json`."""
    try:
        return yaml.safe_load(_read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _read_text(path: Path) -> str:
    _refuse_special(path)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"it has {size} bytes, more than the {MAX_BYTES} that such a file ever has")
    return path.read_text(encoding="utf-8")


def _refuse_special(path: Path) -> None:
    """Raise ValueError for a link, which may point anywhere, and for a pipe, which never ends."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ValueError("it is a link, or no plain file")


def _check_arrays(arrays: dict[str, np.ndarray], num_classes: int) -> None:
    """Raise ValueError unless `arrays` are predictions.npz: labels [N], logits [N, C], embeddings [N, D]."""
    for name, array in arrays.items():
        is_label = name.endswith("_labels")
        if array.ndim != (1 if is_label else 2) or array.dtype.kind not in ("iu" if is_label else "f"):
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
        if is_label and len(array) and not 0 <= array.min() <= array.max() < num_classes:
            raise ValueError(f"{name} has labels from {array.min()} to {array.max()}, expected 0 to {num_classes - 1}")
        if not is_label and not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are not finite")
        labels = "sample_labels" if name.startswith("epoch_") else f"{name.rpartition('_')[0]}_labels"
        if not is_label and len(array) != len(arrays.get(labels, array)):
            raise ValueError(f"{name} has {len(array)} rows, {labels} {len(arrays[labels])}")


def number(tree: Any, *path: str | tuple[str, ...]) -> float | None:
    """The finite number at a path of nested dicts, or None. A tuple at its end: the sum over its keys."""
    for key in path:
        if isinstance(key, tuple):
            parts = [number(tree, one) for one in key]
            return None if None in parts else math.fsum(parts)
        tree = tree.get(key) if isinstance(tree, dict) else None
    is_number = isinstance(tree, (int, float)) and not isinstance(tree, bool) and math.isfinite(tree)
    return float(tree) if is_number else None
