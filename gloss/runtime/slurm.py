"""A SLURM job that is warned of its end writes a checkpoint before it is queued again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from gloss.runtime.signals import Interrupted, raise_on_signal


@contextmanager
def requeued() -> Iterator[None]:
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
        with raise_on_signal():
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
