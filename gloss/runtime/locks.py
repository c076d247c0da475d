"""File locks, which the system frees when their process dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import filelock


class FileLock(filelock.FileLock):
    """filelock's FileLock, without its fallback to files that lock by existing: such files outlive their process."""

    def __init__(self, path: str | Path, timeout: float = -1) -> None:
        super().__init__(path, timeout, fallback_to_soft=False)

    def acquire(self, *args: Any, **kwargs: Any) -> Any:
        """Acquire the lock as filelock does. Raises OSError that names the file."""
        try:
            return super().acquire(*args, **kwargs)
        except OSError as error:
            if error.errno is not None and error.filename is None:
                error.filename = str(self.lock_file)
            raise
