"""Processes of one user on one machine: a folder to meet in, a GPU for each of a sweep, and a queue's warning."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from gloss.interrupts import Interrupted, interruptible
from gloss.locks import FileLock

_mine: FileLock | None = None  # held until this process ends, however it ends


def meeting_folder(name: str) -> Path | None:
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
    folder = meeting_folder("workers")
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


@contextmanager
def queued_again() -> Iterator[None]:
    """In a job of submitit's (SLURM) that is warned of its end: write a checkpoint before the job is queued again.

    SIGUSR2 warns of the time limit; submitit's own handler queues it again too, but leaves in the middle of a step.
    SIGTERM comes when SLURM preempts the job, and when somebody cancels it. Elsewhere this does nothing.
    """
    queue_again = signal.getsignal(signal.SIGUSR2)
    if "SUBMITIT_EXECUTOR" not in os.environ or not callable(queue_again):
        yield
        return
    warnings: list[int] = []

    def stop(number: int, _frame: object) -> None:
        warnings.append(number)
        os.kill(os.getpid(), signal.SIGTERM)  # for which every part of a run knows a safe moment

    signal.signal(signal.SIGUSR2, stop)
    try:
        with interruptible():
            yield
    except Interrupted as interrupted:
        if not warnings and not (interrupted.number == signal.SIGTERM and _is_preempted()):
            raise
        queue_again(warnings[0] if warnings else signal.SIGTERM, None)  # leaves the process
    finally:
        signal.signal(signal.SIGUSR2, queue_again)


def _is_preempted() -> bool:
    """Whether SLURM takes this job's place for another: it queues again a job that it kills, not one that leaves."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_TASK_ID" in os.environ:  # by its id alone, the last job of an array stands for all of them
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    command = ["scontrol", "show", "job", job]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):  # no SLURM, or nobody answers
        return False
    times = dict(re.findall(r"\b(StartTime|PreemptTime)=(\d\S*)", told))  # no digit: None
    return times.get("PreemptTime", "") >= times.get("StartTime", "0")  # else of an earlier start
