"""File locks: the system frees a lock when its process dies, and its file names the holder."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Any

import filelock


class FileLock(filelock.FileLock):
    """filelock's FileLock, without its fallback to files that lock by existing: such files outlive their process."""

    def __init__(self, path: str | Path, timeout: float = -1, **_: Any) -> None:
        super().__init__(path, timeout, on_acquired=_note_holder)

    def acquire(self, *args: Any, **kwargs: Any) -> Any:
        """Acquire the lock as filelock does. Raises OSError that names the file."""
        try:
            return super().acquire(*args, **kwargs)
        except OSError as error:
            if error.errno is not None and error.filename is None:
                error.filename = str(self.lock_file)
            raise


def _note_holder(file: int) -> None:
    who = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
    with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
        os.ftruncate(file, 0)
        os.pwrite(file, who.encode(), 0)


def holder(path: Path) -> str:
    """The holder of a lock, from its file, and the remedy if that machine is gone."""
    try:
        who = path.read_text(encoding="utf-8", errors="replace").strip().replace("\n", " ")[:200]
    except OSError:
        who = ""
    return f"{who or 'holder unknown'}; if that machine no longer exists, remove {path}"
