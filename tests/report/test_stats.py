"""The statistics of the report against scipy, brute force and values worked out by hand."""

import itertools
import math
import random

import pytest
from scipy import stats as scipy_stats
from scipy.special import stdtrit

from gloss.paper import published as paper
from gloss.report import statistics as stats

DIFFERENCES = [[0.4, 0.9, -0.2, 1.3, 0.6], [0.1, -0.1], [2.0, 2.5, 3.0, 1.0, 0.5, 0.75, -1.0, 4.0]]


def test_mean_and_std_by_hand():
    assert stats.mean([2, 4, 4, 4, 5, 5, 7, 9]) == 5
    assert stats.std([2, 4, 4, 4, 5, 5, 7, 9]) == pytest.approx((32 / 7) ** 0.5, rel=1e-15)
    assert math.isnan(stats.mean([])) and math.isnan(stats.std([1.0]))


@pytest.mark.parametrize("values", DIFFERENCES)
def test_t_interval_and_paired_t_agree_with_scipy(values):
    low, high = stats.t_interval(values)
    n = len(values)
    expected = scipy_stats.t.interval(0.95, n - 1, loc=stats.mean(values), scale=scipy_stats.sem(values))
    assert (low, high) == pytest.approx(expected, rel=1e-9)
    other = [random.Random(n).random() for _ in values]
    ours = [d + o for d, o in zip(values, other, strict=True)]
    p = stats.paired_t([a - b for a, b in zip(ours, other, strict=True)])
    assert p == pytest.approx(scipy_stats.ttest_rel(ours, other).pvalue, rel=1e-6)


def test_t_tests_are_undefined_without_spread_or_pairs():
    assert stats.t_interval([1.0]) is None
    assert stats.paired_t([1.0]) is None
    assert stats.paired_t([0.3, 0.3, 0.3]) is None
    assert stats.t_interval([0.3, 0.3, 0.3]) == pytest.approx((0.3, 0.3))


@pytest.mark.parametrize("values", [*DIFFERENCES, [1.0], [0.0, 0.0], [1, -1, 2, -2], [0.1] * 9])
def test_sign_flip_agrees_with_brute_force(values):
    observed = abs(sum(values))
    signs = itertools.product((1, -1), repeat=len(values))
    sums = [abs(sum(s * v for s, v in zip(pattern, values, strict=True))) for pattern in signs]
    assert stats.sign_flip(values) == sum(s >= observed - 1e-9 for s in sums) / len(sums)


def test_sign_flip_is_exact_with_bounds_on_the_number_of_pairs():
    assert stats.sign_flip([1.0] * 25) == 2 / 2**25 == stats.smallest_p(25)
    assert stats.smallest_p(0) == stats.smallest_p(1) == 1.0
    assert stats.smallest_p(5) == 0.0625  # with five seeds of one data set p cannot reach 0.05
    assert stats.sign_flip([1.0] * 40) == 2 / 2**40
    assert stats.sign_flip([5e-10, 5e-10]) == 1.0  # within rounding: every sign pattern counts
    assert stats.sign_flip([]) is None
    assert stats.sign_flip([1.0] * 41) is None


def test_holm_by_hand():
    # 0.01 x 4, 0.02 x 3, 0.03 x 2 (kept at 0.06), 0.04 x 1 (raised to 0.06)
    assert stats.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert stats.holm([0.5, None, 0.9]) == pytest.approx([1.0, None, 1.0])
    assert stats.holm([0.6, 0.9]) == [1.0, 1.0]  # never above 1
    assert stats.holm([]) == []


@pytest.mark.parametrize(
    "values, published, metric, expected",
    [
        ([85.0, 85.1, 85.2], 85.6, "accuracy", "ok"),  # a difference of 0.5, the bound, is ok
        ([85.0, 85.1, 85.2], 85.61, "accuracy", "near"),
        ([85.0, 85.1, 85.2], 86.6, "accuracy", "near"),
        ([85.0, 85.1, 85.2], 86.61, "accuracy", "unresolved"),  # 1.51 ± 0.25 reaches below 1.5
        ([85.0, 85.1, 85.2], 86.86, "accuracy", "off"),  # 1.76 ± 0.25 lies above 1.5
        ([85.0, 85.0, 85.0], 86.5, "accuracy", "near"),  # 1.5 without rounding, and no spread
        ([85.0, 85.0, 85.0], 86.51, "accuracy", "off"),
        ([50.12, 52.26, 50.65, 51.72, 51.19], 71.28, "accuracy", "off"),  # a wide interval, and 20 points away
        ([30.0, 50.0, 70.0], 71.28, "accuracy", "unresolved"),  # 21 ± 50
        ([85.0, 85.1], 85.0, "accuracy", "unresolved"),  # two seeds
        ([84.0, 85.0, 86.0], 85.0, "accuracy", "unresolved"),  # interval 85 ± 2.48
        ([84.6, 85.0, 85.4], 85.0, "accuracy", "ok"),  # half width 0.99
        ([84.4, 85.0, 85.6], 85.0, "accuracy", "ok"),  # half width 1.49
        ([84.38, 85.0, 85.62], 85.0, "accuracy", "unresolved"),  # half width 1.54
        ([84.8, 85.0, 85.2], 85.0, "accuracy", "ok"),  # full width 0.99
        ([84.0, 84.1, 84.2], 85.1, "macro_f1", "ok"),
        ([84.0, 84.1, 84.2], 87.1, "macro_f1", "near"),
        ([84.0, 84.1, 84.2], 87.4, "macro_f1", "off"),
        ([0.50, 0.51, 0.52], 0.56, "macro_silhouette", "ok"),
        ([0.50, 0.51, 0.52], 0.65, "macro_silhouette", "near"),
        ([0.50, 0.51, 0.52], 0.67, "macro_silhouette", "unresolved"),  # 0.16 ± 0.025
        ([0.50, 0.51, 0.52], 0.69, "macro_silhouette", "off"),
        ([85.0, 85.1, 85.2], None, "accuracy", ""),
        ([], 85.0, "accuracy", ""),
    ],
)
def test_verdict(values, published, metric, expected):
    assert stats.verdict(values, published, metric) == expected


def test_an_interval_as_wide_as_the_bound_is_resolved():
    """The half width of three seeds is 4.3027 · std / √3: here 1.5, the bound of "near", up to 5e-10 or 2e-9."""
    for half, expected in ((1.5 - 5e-10, "ok"), (1.5 + 5e-10, "ok"), (1.5 + 2e-9, "unresolved")):
        spread = half * math.sqrt(3) / stdtrit(2, 0.975)
        assert stats.verdict([85 - spread, 85.0, 85 + spread], 85.0, "accuracy") == expected


def sample(mean, std, n=5):
    """n numbers with exactly this mean and standard deviation."""
    shape = [i - (n - 1) / 2 for i in range(n)]
    return [mean + std * x / stats.std(shape) for x in shape]


@pytest.mark.parametrize("our_std, their_std", [(0.85, 0.17), (0.3, 1.1), (1.0, 1.0), (0.01, 0.4), (2.0, 1e-9)])
def test_welch_half_equals_scipy(our_std, their_std):
    ours, printed = sample(51.0, our_std, 4), sample(71.28, their_std)
    low, high = scipy_stats.ttest_ind(ours, printed, equal_var=False).confidence_interval()
    assert stats.welch_half(ours, their_std) == pytest.approx((high - low) / 2, rel=1e-6)
    assert (low + high) / 2 == pytest.approx(stats.mean(ours) - 71.28)


def test_the_published_deviation_widens_the_interval():
    values = [84.6, 85.0, 85.4]
    assert stats.verdict(values, 85.0, "accuracy", 0.1) == "ok"
    assert stats.verdict(values, 85.0, "accuracy", 1.6) == "unresolved"  # half width 2.0
    assert stats.verdict([85.0, 85.1, 85.2], 86.9, "accuracy", 0.0) == "off"  # 1.8 ± 0.25
    assert stats.verdict([85.0, 85.1, 85.2], 86.9, "accuracy", 0.5) == "unresolved"  # 1.8 ± 0.6


def test_repeating_a_published_cell_exactly_is_ok():
    """Only two of 160 cells are unresolved: their deviation is too large for five runs (half width 1.458 · std)."""
    verdicts = {}
    for table in ("table2", "table3"):
        for row in paper.rows(table):
            for metric in ("accuracy", "macro_f1"):
                centre, spread = float(row[metric]), float(row[f"{metric}_std"])
                key = (table, row.get("model"), row["loss"], row["dataset"], metric)
                verdicts[key] = stats.verdict(sample(centre, spread), centre, metric, spread)
    assert len(verdicts) == 160
    assert {key for key, v in verdicts.items() if v != "ok"} == {
        ("table2", "roberta_large", "ce", "mr", "accuracy"),  # ± 1.07
        ("table3", None, "cosine", "r52", "accuracy"),  # ± 1.11
    }
    assert set(verdicts.values()) == {"ok", "unresolved"}


@pytest.mark.parametrize(
    "differences, expected",
    [
        ([0.9, 1.0, 1.1], "supported"),  # 1 ± 0.25
        ([0.1, 0.11, 0.12], "supported"),  # small, but the interval is above 0
        ([-0.9, -1.0, -1.1], "contradicted"),
        ([-0.1, 0.0, 0.1], "no practical difference"),  # 0 ± 0.25
        ([-1.0, 0.0, 1.0], "inconclusive"),  # 0 ± 2.48
        ([1.0], "inconclusive"),
        ([0.0, 0.0, 0.0], "no practical difference"),
        ([4.0, 4.1], "supported"),  # 4.05 ± 0.64
        ([4.0, 4.0], "inconclusive"),  # no spread, so no interval
    ],
)
def test_claim(differences, expected):
    assert stats.claim(differences) == expected


def test_the_bounds_of_a_claim_belong_to_no_practical_difference():
    differences = [-0.1, 0.0, 0.125]
    low, high = stats.t_interval(differences)
    assert low < 0 < high and -low < high
    assert stats.claim(differences, practical=high) == "no practical difference"
    assert stats.claim([-d for d in differences], practical=high) == "no practical difference"
    assert stats.claim(differences, practical=high - 1e-6) == "inconclusive"
    assert stats.claim([-d for d in differences], practical=high - 1e-6) == "inconclusive"


def test_differences_within_rounding_support_no_claim():
    assert stats.claim([1e-9] * 4) == stats.claim([-1e-9] * 4) == "no practical difference"
    assert (stats.claim([2e-9] * 4), stats.claim([-2e-9] * 4)) == ("supported", "contradicted")
