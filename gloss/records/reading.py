"""Reading and checking of records: a file of any origin is used only after its checks."""

from __future__ import annotations

import math
import os
import zipfile
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

SELECTION = ("dataset", "model", "loss", "mode", "variant", "config_hash", "seed")  # what tells runs apart
MAX_BYTES = 4 * 2**20  # 8,000 epochs, or a study of 10,000 trials; in memory JSON takes up to 30 times its size
MAX_YAML_BYTES = 2**18  # 2,000 selections of an experiment; YAML is read a hundred times slower
MAX_ARRAY_BYTES = 2 * 2**30  # of all arrays of a run, unpacked: embeddings of a million texts
MAX_WIDTH = 4096  # of embeddings
MAX_DEPTH = 50  # of what is nested in YAML; ours is 5 deep
MAX_REASON = 500  # characters of an error that are shown


# ---------------------------------------------------------------------------------------------------------- reading
@dataclass(frozen=True)
class Problem:
    """A folder under `runs` that is no finished, readable record of ours, and why."""

    folder: Path
    reason: str


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
            lines = [_parsed(line) for line in _read_text(path, MAX_BYTES).splitlines()]
            EPOCHS.validate_python(lines)
            return lines
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {shortened(error)}") from None

    def _check_sizes(self, sizes: dict[str, int]) -> None:
        """Raise ValueError where arrays (name -> bytes) are larger than the record's own texts and classes explain."""
        num_examples = max((n for part, n in self.result["num_rows"].items() if part != "train"), default=0)
        widths = {"labels": 1, "logits": len(self.result["labels"]), "embeddings": MAX_WIDTH}
        for name, size in sizes.items():
            limit = 2**20 + 8 * num_examples * widths.get(name.rpartition("_")[2], 1)
            if size > limit:
                raise ValueError(f"{name} unpacks to {size} bytes, more than {num_examples} texts take: {limit:.0f}")
        if (size := sum(sizes.values())) > MAX_ARRAY_BYTES:
            raise ValueError(f"it unpacks to {size} bytes, more than predictions ever have")

    def predictions(self) -> dict[str, np.ndarray]:
        """The arrays of predictions.npz. Raises RunError where the file is broken."""
        path = self.folder / "predictions.npz"
        try:
            _refuse_special(path)
            with zipfile.ZipFile(path) as archive:
                self._check_sizes({one.filename.removesuffix(".npy"): one.file_size for one in archive.infolist()})
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
        raise RunError(f"{folder} is not finished: it has no DONE")
    path = folder / "result.json"
    try:
        result = checked_result(read_json(path))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be used: {shortened(error)}") from None
    return Record(folder, result)


def read_records(root: str | Path) -> tuple[list[Record], list[Problem]]:
    """All finished runs under `<root>/runs`, sorted by folder, and what else lies there.

    A record counts only in the folder that its own identity names, so that a copied or renamed folder is not counted
    twice; links out of `root` are not followed.
    """
    runs = Path(root).resolve() / "runs"
    records, problems = [], []
    for folder in sorted(runs.glob("*/*/*/*/seed=*")):
        if os.path.realpath(folder) != str(folder):  # Path.resolve raises for a link to itself
            problems.append(Problem(folder, "is a link, or lies behind one"))
        elif not is_done(folder):
            failed = (folder / "error.json").is_file()
            problems.append(Problem(folder, "failed: " + failure(folder) if failed else "is not finished"))
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
    """What a failed run left in error.json."""
    try:
        return shortened(read_json(folder / "error.json")["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return "its error.json cannot be read"


def shortened(reason: object, length: int = MAX_REASON) -> str:
    """The text of an error as far as it is shown: one of somebody else's files may fill pages."""
    text = str(reason)
    if isinstance(reason, ValidationError):  # the first of its mistakes
        mistake = reason.errors(include_url=False)[0]
        place = "".join(f"{key}." for key in mistake["loc"])[:-1]
        own = mistake.get("ctx", {}).get("error")  # a ValueError of ours says all
        text = f"{place or 'the content'}: " + str(own or f"{mistake['msg']}, got {mistake['input']!r:.50}")
    return text if len(text) <= length else text[:length] + "…"


def files_under(root: str | Path, pattern: str) -> list[Path]:
    """Paths under `root` that match, sorted, but for those behind a link; what is one itself `read_json` refuses."""
    root = Path(root).resolve()
    return [path for path in sorted(root.glob(pattern)) if os.path.realpath(path.parent) == str(path.parent)]


def read_json(path: Path) -> Any:
    """What a JSON file of any origin holds. Raises OSError, or ValueError with the reason, unless it is a plain file of
    at most MAX_BYTES with finite numbers and whole characters, not deeply nested."""
    return _parsed(_read_text(path, MAX_BYTES))


def read_yaml(path: Path) -> Any:
    """As `read_json`, for at most MAX_YAML_BYTES of YAML without aliases: a few lines of them stand for any amount."""
    text, depth = _read_text(path, MAX_YAML_BYTES), 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):  # piece by piece: what is deep takes hours as a whole
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it has an alias (*name): write out what it stands for")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError("it is nested too deeply")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _read_text(path: Path, limit: int) -> str:
    _refuse_special(path)
    if (size := path.stat().st_size) > limit:
        raise ValueError(f"it has {size} bytes, more than the {limit} that such a file ever has")
    return path.read_text(encoding="utf-8")


def _refuse_special(path: Path) -> None:
    """A link may point anywhere, and a pipe never ends."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ValueError("it is a link, or no plain file")


def _parsed(text: str) -> Any:
    """The content of a JSON text; see `read_json`."""
    content = from_json(text, allow_inf_nan=False)  # refuses more than 200 levels, and half a character, as "\\ud800"
    level = [content]
    while level:
        inside = (x.values() if isinstance(x, dict) else x for x in level if isinstance(x, (dict, list)))
        level = [item for items in inside for item in items]
        for x in level:
            if isinstance(x, (int, float)) and not abs(x) < (2**63 if isinstance(x, int) else math.inf):
                raise ValueError(f"it holds {x!r:.50}, a larger number than any record has")
    return content


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
    """The finite number at a path of nested dicts, or None. A tuple at its end: the sum of those keys' numbers."""
    for key in path:
        if isinstance(key, tuple):
            parts = [number(tree, one) for one in key]
            return None if None in parts else math.fsum(parts)
        tree = tree.get(key) if isinstance(tree, dict) else None
    is_number = isinstance(tree, (int, float)) and not isinstance(tree, bool) and math.isfinite(tree)
    return float(tree) if is_number else None
