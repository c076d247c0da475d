"""Several GPUs in one machine: every process of a sweep takes one for itself."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

_mine: FileLock | None = None  # held until this process ends, however it ends


def claim_gpu() -> int | None:
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
    folder = Path(tempfile.gettempdir()) / f"gloss-{getpass.getuser()}" / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    chosen = os.getpid() % num_gpus
    for i in range(num_gpus):
        lock = FileLock(folder / str(torch.cuda.get_device_properties(i).uuid))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        _mine, chosen = lock, i
        break
    torch.cuda.set_device(chosen)
    return chosen
