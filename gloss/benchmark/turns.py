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
    """Seconds, once the devices have done what they were given."""
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
    """The median, and the 95 % interval of it from the order of the values alone; of fewer than six the extremes."""
    low, high = quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    ends = [low, high] if np.isfinite([low, high]).all() else [np.min(values), np.max(values)]
    return [float(x) for x in (np.median(values), *ends)]


def repeated(act: Callable[[], object], clock: Clock, seconds: float = 0.2) -> list[float]:
    """Seconds of `act`, again and again for so many seconds; the first time, which warms up, does not count."""
    timer = Timer("act()", globals={"act": act}, timer=clock, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=seconds).times
