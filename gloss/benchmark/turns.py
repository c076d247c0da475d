"""Clocks, turns and intervals of the benchmark."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from scipy.stats import quantile_test
from torch.utils.benchmark import Timer

Clock = Callable[[], float]
Result = TypeVar("Result")


def wall() -> float:
    """Seconds, read after the devices have finished their work."""
    for device in (torch.cuda, torch.mps):
        if device.device_count():
            device.synchronize()
    return time.perf_counter()


CLOCKS: dict[str, Clock] = {"wall": wall, "cpu": time.process_time}


def in_turn(candidates: Mapping[str, Callable[[], Result]], number: int) -> dict[str, Result]:
    """The result of each candidate in round `number` (from 0), in an order that shifts from round to round."""
    names = list(candidates)
    shift = number % len(names)
    found = {name: candidates[name]() for name in [*names[shift:], *names[:shift]]}
    return {name: found[name] for name in names}


def interval(values: Sequence[float]) -> list[float]:
    """The median, and its 95 % interval from order statistics; for fewer than six values, the extremes."""
    low, high = quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    ends = [low, high] if np.isfinite([low, high]).all() else [np.min(values), np.max(values)]
    return [float(x) for x in (np.median(values), *ends)]


def repeated(act: Callable[[], object], clock: Clock, seconds: float = 0.2) -> list[float]:
    """Seconds per call of `act`, repeated for at least `seconds` seconds; the first call, a warm-up, is not counted."""
    timer = Timer("act()", globals={"act": act}, timer=clock, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=seconds).times
