"""The statistics of the report: spreads, paired tests, verdicts. Pure functions of lists of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean of at least one number."""
    return math.fsum(values) / len(values)


def std(values: Sequence[float]) -> float:
    """The standard deviation of a sample (n - 1), of at least two numbers."""
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))
