"""G-Loss against an exact calculation, also at bandwidths where floating-point arithmetic fails.

By the matrix-tree theorem, the probability that unlabeled node i ends at a labeled node of class c is a quotient of two
sums over forests in which every unlabeled node leads to a labeled one. Each term is the product of the edge rates of a
forest. The numerator sums over the forests that lead i to c, the denominator over all forests. All terms are positive
and have 60 digits and any exponent.
"""

import itertools

import pytest
import torch
from mpmath import mp, mpf

from gloss.losses import gloss_loss

SIGMAS = [1e-3, 1e-2, 0.1, 1.0, 30.0, 1e3]


def forests(num_labeled: int, num_unlabeled: int) -> list[tuple[tuple[int, ...], list[int]]]:
    """All acyclic choices of a next node for each unlabeled node, with the labeled node at the end of each path."""
    found = []
    for following in itertools.product(range(num_labeled + num_unlabeled), repeat=num_unlabeled):
        ends = []
        for node in range(num_labeled, num_labeled + num_unlabeled):
            for _ in range(num_unlabeled):
                node = following[node - num_labeled] if node >= num_labeled else node
            ends.append(node)
        if max(ends) < num_labeled:
            found.append((following, ends))
    return found


def exact_loss(rows: list[list[mpf]], labels: list[int], num_labeled: int, sigma: float) -> mpf:
    """Eq. 1 from the definitions of W, S and T; the first `num_labeled` nodes are labeled."""
    n = range(len(rows))
    unit = []
    for row in rows:
        length = mp.sqrt(sum(v * v for v in row))
        unit.append([v / length if length else v for v in row])
    two_variances = 2 * mpf(sigma) ** 2
    squared = [[sum((a - b) ** 2 for a, b in zip(unit[i], unit[j], strict=True)) for j in n] for i in n]
    w = [[mp.exp(-squared[i][j] / two_variances) if i != j else mpf(0) for j in n] for i in n]
    degree = [sum(row) for row in w]
    s = [[w[i][j] / mp.sqrt(degree[i] * degree[j]) for j in n] for i in n]
    column = [sum(s[i][j] for i in n) for j in n]
    rate = [[s[i][j] / column[j] / sum(s[i][k] / column[k] for k in n) for j in n] for i in n]
    unlabeled = range(num_labeled, len(rows))
    total, right = mpf(0), {i: mpf(0) for i in unlabeled}
    for following, ends in forests(num_labeled, len(unlabeled)):
        weight = mp.fprod(rate[i][j] for i, j in zip(unlabeled, following, strict=True))
        total += weight
        for i, end in zip(unlabeled, ends, strict=True):
            if labels[end] == labels[i]:
                right[i] += weight
    scored = [i for i in unlabeled if labels[i] in labels[:num_labeled]]
    return -sum(mp.log(right[i] / total) for i in scored) / len(scored)


def tight_groups() -> tuple[torch.Tensor, list[int]]:
    """Labeled nodes 0 and 1 are far apart; unlabeled nodes 2 and 3 form a tight group far from all other nodes."""
    x = torch.tensor([[1.0, 0.1, 0.0], [0.0, 1.0, 0.2], [-0.3, 0.02, 1.0], [-0.3, 0.0201, 1.0], [0.9, 0.3, 0.1]])
    return x.double(), [0, 1, 0, 1, 1]


def scattered() -> tuple[torch.Tensor, list[int]]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(6, 3, dtype=torch.float64, generator=generator), [0, 1, 0, 0, 1, 2]


def duplicates() -> tuple[torch.Tensor, list[int]]:
    x, labels = scattered()
    return x[torch.tensor([0, 1, 0, 3, 3, 4])], labels


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("group", [tight_groups, scattered, duplicates])
def test_value_and_gradient_equal_the_exact_calculation_at_every_bandwidth(sigma, group):
    """In float64 and float32. At extreme σ the linear reference would divide 0 by 0 or solve a singular system."""
    x, labels = group()
    is_labeled = torch.tensor([True, True] + [False] * (len(x) - 2))
    settings = {"sigma": sigma, "is_labeled": is_labeled, "num_classes": 3}
    with mp.workdps(60):
        for dtype, tolerance in [(torch.float64, 1e-7), (torch.float32, 1e-3)]:
            leaf = x.to(dtype).requires_grad_()
            value = gloss_loss(leaf, torch.tensor(labels), **settings)
            (gradient,) = torch.autograd.grad(value, leaf)
            rows = [[mpf(v) for v in row] for row in leaf.tolist()]
            assert value.item() == pytest.approx(float(exact_loss(rows, labels, 2, sigma)), rel=tolerance)
            gradient, scale = gradient.double(), gradient.double().norm()
            for node, coordinate in itertools.product(range(len(rows)), (0, 2)):
                ends, step = [], mpf("1e-20")
                for signed_step in (step, -step):
                    moved = [list(row) for row in rows]
                    moved[node][coordinate] += signed_step
                    ends.append(exact_loss(moved, labels, 2, sigma))
                slope = float((ends[0] - ends[1]) / (2 * step))
                assert abs(slope - gradient[node, coordinate]) < tolerance * scale, (dtype, node, coordinate)
