"""Reading and checking of records: a file of any origin is used only after its checks."""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml

from gloss.config import Config
from gloss.errors import RunError
from gloss.records.run_folder import is_done

SELECTION = ("dataset", "model", "loss", "mode", "variant", "config_hash", "seed")  # what tells runs apart
SCHEMA_VERSION = 1
MAX_BYTES = 4 * 2**20  # 8,000 epochs, or a study of 10,000 trials; in memory JSON takes up to 30 times its size
MAX_YAML_BYTES = 2**18  # 2,000 selections of an experiment; YAML is read a hundred times slower
MAX_ARRAY_BYTES = 2 * 2**30  # of all arrays of a run, unpacked: embeddings of a million texts
MAX_WIDTH = 4096  # of embeddings
MAX_DEPTH = 50  # of what is nested; ours are 5 deep
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
            lines = [_finite_json(line) for line in _read_text(path, MAX_BYTES).splitlines()]
            _check_epochs(lines)
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
        result = read_json(path)
        _check_result(result)
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
    return text if len(text) <= length else text[:length] + "…"


def files_under(root: str | Path, pattern: str) -> list[Path]:
    """Paths under `root` that match, sorted, but for those behind a link; what is one itself `read_json` refuses."""
    root = Path(root).resolve()
    return [path for path in sorted(root.glob(pattern)) if os.path.realpath(path.parent) == str(path.parent)]


def read_json(path: Path) -> Any:
    """What a JSON file of any origin holds. Raises OSError, or ValueError with the reason, unless it is a plain file of
    at most MAX_BYTES with finite numbers and whole characters, not deeply nested."""
    return _finite_json(_read_text(path, MAX_BYTES))


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


def _finite_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"it holds {constant}")

    def number(digits: str) -> float:
        if not math.isfinite(value := float(digits)):
            raise ValueError(f"it holds {digits:.50}, which is no finite number")
        return value

    def whole(digits: str) -> int:
        if abs(value := int(digits)) >= 2**63:
            raise ValueError(f"it holds {digits:.50}, a larger number than any record has")
        return value

    try:
        content = json.loads(text, parse_constant=refuse, parse_float=number, parse_int=whole)
        json.dumps(content, ensure_ascii=False).encode("utf-8")  # half a character, as "\\ud800", cannot be shown
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(content)
    return content


def _check_depth(content: Any) -> None:
    """Raise ValueError for what is nested so deeply that functions that call themselves would not come through."""
    level = [content]
    for _ in range(MAX_DEPTH):
        inside = (x.values() if isinstance(x, dict) else x for x in level if isinstance(x, (dict, list)))
        level = [item for items in inside for item in items]
    if level:
        raise ValueError("it is nested too deeply")


_IDENTITY = {"dataset": str, "model": str, "mode": str, "loss": str, "variant": str, "config_hash": str, "seed": int}
_REQUIRED = {
    "schema_version": int,
    "identity": dict,
    "config": dict,
    "labels": list,
    "num_rows": dict,
    "hyperparameters": dict,
    "metrics": dict,
    "best_epoch": int,
    "epochs": int,
    "seconds": dict,
    "device": str,
    "precision": str,
}
_OPTIONAL = {  # may be missing or null
    "fingerprint": str,
    "notes": list,  # on the data, and on signs of a collapse
    "stopped": str,
    "num_parameters": int,
    "tokens_per_epoch": int,
    "peak_memory_bytes": int,
    "device_name": str,
    "shared_device": bool,
    "is_trial": bool,
    "code": str,
    "resumed_on": list,
    "counts": dict,
    "graph_quality": dict,
    "tuned": dict,
    "commit": str,
    "commit_clean": bool,
    "finished_at": str,
}
_CONFIG_GROUPS = [f.name for f in fields(Config) if is_dataclass(getattr(Config(), f.name))]
_RANGES = dict.fromkeys(("accuracy", "macro_f1", "knn_accuracy", "grouped_accuracy"), (0, 100))
_RANGES["macro_silhouette"] = (-1, 1)
_GRAPH_RANGES = {  # gloss.training.graph_quality
    "homophily": (0, 1),
    "homophily_chance": (0, 1),
    "propagated_accuracy": (0, 100),
    "majority_accuracy": (0, 100),
}
# What steers a terminal or turns the direction of a text.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_MANY = 10**15  # more than any count or number of seconds, and no sum of such numbers overflows


def _check_result(result: Any) -> None:
    """Raise ValueError unless `result` has the shape and ranges of a record of ours."""
    if not isinstance(result, dict):
        raise ValueError(f"expected an object, got {type(result).__name__}")
    for kinds, node, where in ((_REQUIRED, result, ""), (_IDENTITY, result.get("identity"), "identity.")):
        for key, kind in kinds.items():
            if type(node.get(key)) is not kind:
                raise ValueError(f"{where}{key} is missing or no {kind.__name__}")
    for key, kind in _OPTIONAL.items():
        if type(result.get(key)) not in (kind, type(None)):
            raise ValueError(f"{key} is no {kind.__name__}")
    if result["schema_version"] > SCHEMA_VERSION:
        raise ValueError(
            f"schema_version is {result['schema_version']}, newer than this code's {SCHEMA_VERSION}: update the code"
        )
    if found := next((s for s in _strings({**result, "labels": None}) if _STEERING.search(s)), None):
        raise ValueError(f"{found!r:.50} has control characters")
    for group in _CONFIG_GROUPS:
        if type(result["config"].get(group, {})) is not dict:
            raise ValueError(f"config.{group} is no dict")
    labels = result["labels"]
    if not labels or not all(isinstance(label, str) for label in labels):
        raise ValueError("labels must be names")
    for split in sorted({"val", *(() if result.get("is_trial") else ("test",)), *result["metrics"]}):
        metrics = result["metrics"].get(split)
        if not isinstance(metrics, dict):
            raise ValueError(f"metrics.{split} is missing")
        for key, (low, high) in _RANGES.items():
            if metrics.get(key) is not None or key in ("accuracy", "macro_f1"):
                _check_number(f"metrics.{split}.{key}", metrics.get(key), low, high)
    if graph := result.get("graph_quality"):
        for key in ("at_start", "at_best"):
            _check_graph(f"graph_quality.{key}", graph.get(key))
        for key in ("sigma", "gamma"):
            _check_number(f"graph_quality.{key}", graph.get(key), 0, _MANY)
    for key in ("best_epoch", "epochs"):
        _check_number(key, result[key], 0, _MANY)
    for group in ("seconds", "num_rows", "counts"):
        for key, value in (result.get(group) or {}).items():
            if value is not None or group != "counts":
                _check_number(f"{group}.{key}", value, 0, _MANY)
    for key, value in result["hyperparameters"].items():
        if value is not None and not isinstance(value, bool):
            _check_number(f"hyperparameters.{key}", value, -_MANY, _MANY)


def _check_graph(where: str, quality: Any) -> None:
    """Raise ValueError unless `quality` is what gloss.training.graph_quality measures."""
    if not isinstance(quality, dict):
        raise ValueError(f"{where} is missing or no dict")
    for key, (low, high) in _GRAPH_RANGES.items():
        _check_number(f"{where}.{key}", quality.get(key), low, high)


def _strings(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, (dict, list)):
        for item in [*tree, *tree.values()] if isinstance(tree, dict) else tree:
            yield from _strings(item)


def _check_epochs(lines: list[Any]) -> None:
    """Raise ValueError unless `lines` are those of epochs.jsonl; null where a part was not measured."""
    for number, line in enumerate(lines, start=1):
        if not isinstance(line, dict) or not isinstance(line.get("seconds", {}), dict):
            raise ValueError(f"line {number} is no epoch of ours")
        val = line.get("val")
        if isinstance(val, dict) and val.get("graph_quality") is not None:
            _check_graph(f"line {number}: graph_quality", val["graph_quality"])
        values = {**line, **{f"seconds.{key}": value for key, value in line.get("seconds", {}).items()}}
        for key in ("epoch", "score", "loss", *(key for key in values if key.startswith("seconds."))):
            if values.get(key) is not None:
                _check_number(f"line {number}: {key}", values[key], 0 if key.startswith("seconds.") else -_MANY, _MANY)


def _check_arrays(arrays: dict[str, np.ndarray], num_classes: int) -> None:
    """Raise ValueError unless `arrays` are those of predictions.npz: labels [N], logits [N, C], embeddings [N, D]."""
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


def _check_number(where: str, value: Any, low: float, high: float) -> None:
    if type(value) not in (int, float) or not low <= value <= high:
        raise ValueError(f"{where} is {value!r:.50}, expected a number from {low} to {high}")


def number(tree: Any, *path: str | tuple[str, ...]) -> float | None:
    """The finite number at a path of nested dicts, or None. A tuple at its end: the sum of those keys' numbers."""
    for key in path:
        if isinstance(key, tuple):
            parts = [number(tree, one) for one in key]
            return None if None in parts else math.fsum(parts)
        tree = tree.get(key) if isinstance(tree, dict) else None
    is_number = isinstance(tree, (int, float)) and not isinstance(tree, bool) and math.isfinite(tree)
    return float(tree) if is_number else None
