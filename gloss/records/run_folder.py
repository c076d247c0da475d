"""The run folder: its path, its lock, and atomic writing.

A run's folder follows from its resolved configuration. `DONE` is written last; a reader uses nothing without it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout

from gloss.config import ROOT, Config, is_csv_file
from gloss.runtime.atomic import atomic_file, write_atomic
from gloss.runtime.locks import FileLock

# Keys that cannot change a result, or that have a folder level of their own.
_NOT_IN_HASH = ("paths", "experiment", "tuned", "rerun", "seed", "mode")
_NOT_IN_HASH_OF = {
    "dataset": ("name", "path", "val_path", "test_path", "unlabeled_path", "separator", "encoding", "shift_to"),
    "model": ("alias",),
    "loss": ("name",),
    "trainer": ("device", "grad_cache_chunk", "num_length_buckets", "checkpoint_minutes", "save_model", "tensorboard"),
}
# Keys that cannot change a result, but were hashed at first: they count as off, so that older runs keep their folders.
_ALWAYS_OFF: dict[str, dict[str, object]] = {"trainer": {"save_embeddings": False}}
# Keys that came later: left out while they change nothing, so that older runs keep their folders.
_LATER: dict[str, dict[str, object]] = {
    "dataset": {"unlabeled": None, "group": None},
    "trainer": {"unlabeled_per_batch": None, "compile": False},
    "ablation": {"graph_shuffle": False},
}


def config_hash(cfg: Config, fingerprint: str | None = None) -> str:
    """Eight hex digits of everything in the configuration that can change the result, but for the folder's own levels.

    fingerprint: of the texts; needed for data sets that are the user's own (csv, hub), which no path identifies.
    """
    rest = hashed_config(cfg)
    if cfg.dataset.has_own_texts:
        if fingerprint is None:
            raise ValueError(f"dataset={cfg.dataset.name} holds the user's own texts: their fingerprint is needed")
        rest["dataset"]["fingerprint"] = fingerprint
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:8]


def is_hashed(key: str) -> bool:
    """Whether config_hash covers a key of the configuration, such as trainer.lr."""
    group, _, name = key.partition(".")
    harmless = (*_NOT_IN_HASH_OF.get(group, ()), *_ALWAYS_OFF.get(group, ()))
    return group not in _NOT_IN_HASH and name not in harmless


def hashed_config(cfg: Config) -> dict[str, Any]:
    """The part of the configuration that config_hash covers, without the texts' fingerprint."""
    rest = {key: value for key, value in asdict(cfg).items() if key not in _NOT_IN_HASH}
    for group, keys in _NOT_IN_HASH_OF.items():
        rest[group] = {key: value for key, value in rest[group].items() if key not in keys}
    form = cfg.dataset.separator, cfg.dataset.encoding  # of a file tested besides; the fingerprint has the own texts
    suffix = "" if form == (None, "utf-8") else f" {form}"
    contents = [_content(x) + suffix * is_csv_file(x) for x in cfg.ablation.tested_on.values()]
    if contents:
        rest["ablation"]["test_on"] = contents if isinstance(cfg.ablation.test_on, list) else contents[0]
    for group, off in _ALWAYS_OFF.items():
        rest[group] = rest[group] | off
    for group, off in _LATER.items():
        rest[group] = {key: value for key, value in rest[group].items() if off.get(key, ...) != value}
    return rest


# Sources that cannot change a number of a run: the command line, displays, searches, reports, predictions. One file of
# `runtime` can: device.py chooses the precision and the kind of attention.
_NOT_IN_CODE = (
    *("benchmark", "cli", "experiments", "inference", "paper", "records", "report", "runtime", "search"),
    *("__init__.py", "data/download.py", "models/model_card.py", "training/progress_bar.py", "training/callbacks.py"),
)


@cache
def code_hash(package: Path = ROOT / "gloss") -> str:
    """Twelve hex digits of the package's sources that can change a number: all but `_NOT_IN_CODE`."""
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        is_named = bool({name.parts[0], name.as_posix()} & {*_NOT_IN_CODE})
        if not is_named or name.as_posix() == "runtime/device.py":
            found.update(f"{name.as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]


def _content(name: str) -> str:
    """The identity of a set to test: the hash of a file's content, the path of a missing file, or the set's name."""
    path = Path(name).expanduser()
    if not is_csv_file(name):
        return name
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32] if path.is_file() else str(path)


def run_folder(cfg: Config, fingerprint: str | None = None) -> Path:
    """`<outputs>/runs/<dataset>/<model>/<mode>-<loss>/<config_hash>/seed=<s>`."""
    name = Path(cfg.dataset.name) / cfg.model.alias / f"{cfg.mode}-{cfg.loss.name}" / config_hash(cfg, fingerprint)
    return Path(cfg.paths.outputs) / "runs" / name / f"seed={cfg.seed}"


# ---------------------------------------------------------------------------------------------------------- writing
def write_json(path: Path, content: Any) -> None:
    """Write JSON, one key a line; NaN and infinity are refused, because no reader outside Python accepts them."""
    write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_lines(path: Path, rows: Iterable[dict]) -> None:
    write_atomic(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write a compressed .npz file."""
    with atomic_file(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


@contextmanager
def locked(folder: Path, wait: bool = True, on_busy: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Hold `folder` for this process; yields False where another process holds it and `wait` is False.

    on_busy: called where another process holds it. The operating system frees the lock of a process that died, so a
    stale lock file means nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=1)  # `is_running` locks it for a moment
    except Timeout:
        on_busy()
        if not wait:
            yield False
            return
        lock.acquire()
    try:
        yield True
    finally:
        lock.release()


def is_done(folder: Path) -> bool:
    return (folder / "DONE").is_file()


def is_running(folder: Path) -> bool:
    """Whether a live process on this machine holds the folder."""
    if not (folder / "lock").is_file():
        return False
    try:
        with (folder / "lock").open("rb") as file:  # this check needs no permission to write, unlike `locked`
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # not ours to look at
        pass
    return False


def clear(folder: Path) -> None:
    """Remove the files of an earlier attempt, so that a run never mixes two."""
    (folder / "DONE").unlink(missing_ok=True)  # first: a folder cleared by half must not look finished
    for path in folder.iterdir():
        if path.name == "lock":
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
