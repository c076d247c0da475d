"""Processes of one user on one machine: a lock folder, a GPU for each, detection of shared devices."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path

import torch
from filelock import Timeout

from gloss.runtime.locks import FileLock

BUSY = 1.25  # threads that want to run, for each core: more of them wait for each other

_mine: FileLock | None = None  # held until this process ends, however it ends


def is_shared(device: torch.device) -> bool:
    """Whether other processes use the device now, which spoils timings; True where that is unknown.

    A GPU has more processes than this one, as NVIDIA's driver reports; on a CPU, or with Apple's mps, more threads want
    to run than it has cores (the load of the last minute).
    """
    if device.type != "cuda":
        return os.getloadavg()[0] > BUSY * (os.cpu_count() or 1)
    gpu = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", gpu, "--query-compute-apps=pid", "--format=csv,noheader"]
    try:
        return len(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout.split()) > 1
    except (OSError, subprocess.SubprocessError):
        return True


def lock_folder() -> Path | None:
    """A folder in the temp directory that only this user can write to; None where there is no such folder.

    Its path is predictable, so a link or a folder that others may write to is not used. Named by uid: in a container
    the user may have no name.
    """
    folder = Path(tempfile.gettempdir()) / f"gloss-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    is_mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if is_mine else None


def assign_gpu() -> int | None:
    """Make a GPU that no other process of a sweep has taken the current one; return its index, None for fewer than two.

    With more processes than GPUs the rest share them. Runs that are not part of a sweep use the first GPU, or the one
    that trainer.device names.
    """
    global _mine
    num_gpus = torch.cuda.device_count()
    if num_gpus < 2:
        return None
    if _mine is not None:
        return torch.cuda.current_device()
    folder = lock_folder()
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
