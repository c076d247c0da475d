"""The statistics of the report: spreads, paired tests, verdicts. Pure functions of lists of numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats would take a second to import

# |our mean - the paper's| up to which a cell is "ok" and "near"
BOUNDS = {"accuracy": (0.5, 1.5), "macro_f1": (1.0, 3.0), "macro_silhouette": (0.05, 0.15)}
MIN_SEEDS = 3
PAPER_SEEDS = 5  # assumed behind a deviation that the paper prints: it does not say how many there were
PRACTICAL = 0.5  # points of accuracy below which a difference does not matter in practice
MAX_PAIRS = 40  # the sign-flip test enumerates 2^(n/2) sums twice
_TIE = 1e-9  # differences of percentages: far above rounding errors, far below one text


def mean(values: Collection[float]) -> float:
    """The arithmetic mean; NaN for no number, which tables and CSV files leave out."""
    return math.fsum(values) / len(values) if values else math.nan


def std(values: Collection[float]) -> float:
    """The standard deviation of a sample (n - 1); NaN for fewer than two numbers."""
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else math.nan


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % confidence interval of the mean; None for fewer than two numbers."""
    n = len(values)
    if n < 2:
        return None
    half = float(stdtrit(n - 1, 0.975)) * std(values) / math.sqrt(n)
    return mean(values) - half, mean(values) + half


def paired_t(differences: Sequence[float]) -> float | None:
    """Two-sided p of the paired t-test, from the differences; None where it is undefined (n < 2, or no spread)."""
    n = len(differences)
    if n < 2 or std(differences) < _TIE:
        return None
    t = mean(differences) / (std(differences) / math.sqrt(n))
    return 2 * float(stdtr(n - 1, -abs(t)))


def sign_flip(differences: Sequence[float]) -> float | None:
    """Exact two-sided p of the sign-flip (paired permutation) test of the mean; None for none or more than 40 pairs.

    Under the null hypothesis each difference is as likely to be positive as negative: p is the share of all 2^n sign
    patterns whose |sum| is at least the observed one. The sums of either half are enumerated and counted against each
    other, so the count is exact at a cost of 2^(n/2).
    """
    n = len(differences)
    if not 0 < n <= MAX_PAIRS:
        return None
    left, right = (_signed_sums(part) for part in (differences[: n // 2], differences[n // 2 :]))
    right = np.sort(right)
    observed = abs(math.fsum(differences)) - _TIE
    at_least = len(right) - np.searchsorted(right, observed - left)
    at_most = np.searchsorted(right, -observed - left)
    count = int((at_least + at_most).sum()) if observed > 0 else 2**n  # at 0 the two tails overlap
    return count / 2**n


def _signed_sums(values: Sequence[float]) -> np.ndarray:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def smallest_p(num_pairs: int) -> float:
    """The smallest p that the sign-flip test of so many pairs can reach: 2 of 2^n patterns."""
    return min(1.0, 2.0 ** (1 - num_pairs))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment: the i-th smallest of m p-values times (m - i + 1), made monotone, at most 1.

    None (no test) stays None and is not counted.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for position, (p, i) in enumerate(order):
        running = max(running, min(1.0, p * (len(order) - position)))
        adjusted[i] = running
    return adjusted


def welch_half(values: Sequence[float], spread: float | None) -> float:
    """Half the width of the 95 % interval (Welch) of the mean of `values` minus a published mean.

    spread: its standard deviation, over PAPER_SEEDS values; None: a plain number, and Student's interval of ours.
    values: at least two.
    """
    mine, other = std(values) ** 2 / len(values), (spread or 0.0) ** 2 / PAPER_SEEDS
    if mine + other == 0:
        return 0.0
    freedom = (mine + other) ** 2 / (mine**2 / (len(values) - 1) + other**2 / (PAPER_SEEDS - 1))
    return float(stdtrit(freedom, 0.975)) * math.sqrt(mine + other)


def verdict(values: Sequence[float], published: float | None, metric: str, spread: float | None = None) -> str:
    """The verdict of our runs on the paper's number: "ok", "near", "off", "unresolved", or "" without either of them.

    spread: the deviation that the paper prints. Off: the 95 % interval of the difference lies wholly outside ± near;
    ok and near: the difference lies within ± ok or ± near (BOUNDS), and half the interval's width is at most near.
    Unresolved: anything else, and fewer than 3 seeds.
    """
    if published is None or not values:
        return ""
    if len(values) < MIN_SEEDS:
        return "unresolved"
    ok, near = BOUNDS[metric]
    distance, half = abs(mean(values) - published), welch_half(values, spread)
    if distance - half > near + _TIE:
        return "off"
    if half > near + _TIE or distance > near + _TIE:
        return "unresolved"
    return "ok" if distance <= ok + _TIE else "near"


def claim(differences: Sequence[float], practical: float = PRACTICAL) -> str:
    """Whether "A beats B" holds, from the paired differences A - B.

    "supported": the 95 % t interval of the mean lies above 0; "contradicted": below 0; "no practical difference":
    within ± practical; else, for fewer than two pairs, and for two that agree by chance, "inconclusive".
    """
    interval = t_interval(differences)
    if interval is None or len(differences) < MIN_SEEDS and interval[1] - interval[0] < _TIE:
        return "inconclusive"
    low, high = interval
    if low > _TIE:
        return "supported"
    if high < -_TIE:
        return "contradicted"
    return "no practical difference" if -practical <= low and high <= practical else "inconclusive"
