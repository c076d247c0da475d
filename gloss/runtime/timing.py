"""Seconds by part of a step, and peak memory."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch


class Stopwatch:
    """Seconds by part of a step. On CUDA it records events in the stream, so that measuring never waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.is_cuda = device.type == "cuda"
        self._laps: list[tuple[str, torch.cuda.Event]] = []
        self._seconds: dict[str, float] = defaultdict(float)
        self._last = 0.0

    def start(self) -> None:
        """Start timing; the time before belongs to no part."""
        self.lap("")

    def lap(self, name: str) -> None:
        """Add the time since the last call to `name`."""
        if self.is_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._laps.append((name, event))
        else:
            now = time.perf_counter()
            if name:
                self._seconds[name] += now - self._last
            self._last = now

    def read(self) -> dict[str, float]:
        """Seconds of each part since the last reading; waits for CUDA. On Apple's mps the seconds of enqueuing."""
        if self.is_cuda and self._laps:
            self._laps[-1][1].synchronize()
            for (_, before), (name, event) in zip(self._laps, self._laps[1:], strict=False):
                if name:
                    self._seconds[name] += before.elapsed_time(event) / 1000
            self._laps.clear()
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # Linux: start the process's high-water mark again
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """The peak since the reset: memory that PyTorch allocated on CUDA, else the process's whole resident memory, which
    only Linux resets."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
