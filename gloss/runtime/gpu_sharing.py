"""Processes of one user on one machine: a lock folder, a GPU for each, detection of shared devices."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import Timeout

from gloss.runtime.locks import FileLock

log = logging.getLogger(__name__)


class Presence:
    """Tells runs on the same device of each other, so that their timings can be flagged."""

    def __init__(self, device: torch.device) -> None:
        name = f"{device.type}{device.index or 0}"
        if device.type == "cuda":
            name = str(torch.cuda.get_device_properties(device).uuid)
        self.folder = shared_lock_folder(name)
        # Without a folder to meet in nobody can say that the device was ours alone: rather a timing too few in a table.
        self.was_shared = self.folder is None

    @contextlib.contextmanager
    def here(self) -> Iterator[Presence]:
        """Mark the device as used while the context lasts; the mark of a process that died does not count."""
        if self.folder is None:
            told = "no folder of our own in the temp directory: this run's timings count as those of a shared device"
            log.warning(told)
            yield self
            return
        path = self.folder / f"{os.getpid()}-{time.monotonic_ns()}"
        with FileLock(path):
            try:
                self.look(path)
                yield self
                self.look(path)
            finally:
                path.unlink(missing_ok=True)

    def look(self, mine: Path | None = None) -> bool:
        """Whether another run is, or ever was, on the device during this one."""
        for path in self.folder.iterdir() if self.folder else ():
            if path == mine or path.name.startswith(f"{os.getpid()}-") or not re.fullmatch(r"\d+-\d+", path.name):
                continue
            try:
                with FileLock(path, timeout=0):
                    path.unlink(missing_ok=True)  # its owner died
            except Timeout:
                self.was_shared = True
            except OSError:
                continue
        return self.was_shared


_mine: FileLock | None = None  # held until this process ends, however it ends


def shared_lock_folder(name: str) -> Path | None:
    """The folder `name` in the temp directory, which only this user can write to; None where there is no such folder.

    Anybody can foresee its path, so a link or a folder that others may write to is not used. Named by uid: in
    a container the user may have no name.
    """
    folder = Path(tempfile.gettempdir())
    for part in (f"gloss-{os.getuid()}", name):
        folder /= part
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        except OSError:
            return None
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            return None
    return folder


def assign_gpu() -> int | None:
    """Make a GPU that no other process of a sweep has taken the current one; its index, None with fewer than two GPUs.

    With more processes than GPUs the rest share them. Runs that are not part of a sweep use the first GPU, or the one
    that trainer.device names.
    """
    global _mine
    import torch  # here: slow to import

    num_gpus = torch.cuda.device_count()
    if num_gpus < 2:
        return None
    if _mine is not None:
        return torch.cuda.current_device()
    folder = shared_lock_folder("workers")
    chosen = os.getpid() % num_gpus
    for i in range(num_gpus if folder else 0):
        lock = FileLock(folder / str(torch.cuda.get_device_properties(i).uuid))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        _mine, chosen = lock, i
        break
    torch.cuda.set_device(chosen)
    return chosen
