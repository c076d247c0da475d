"""The paper's formulas as plain loops over the examples of a batch, and Adam. This module does not import gloss.

x: float64 [B, D]; y: the labels, a list of B numbers. Autograd works through all functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


def value_and_gradient(loss: Callable, x: Tensor, labels: Tensor, **settings: object) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    value = loss(x, labels, **settings)
    return value.detach(), torch.autograd.grad(value, x)[0]


def adam_steps(head: torch.nn.Linear, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Iterator[np.ndarray]:
    """The parameters [C, D + 1] after each step of full-batch Adam with rate 1e-4 on weighted cross-entropy."""
    theta = np.hstack([head.weight.detach().numpy(), head.bias.detach().numpy()[:, None]]).astype(np.float64)
    x = np.hstack([x, np.ones((len(x), 1))]).astype(np.float64)
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    for step in itertools.count(1):
        logits = x @ theta.T
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        gradient = (weights[:, None] * (p - np.eye(len(theta))[y])).T @ x / weights.sum()
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        theta = theta - 1e-4 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        yield theta


def unit(x: Tensor) -> list[Tensor]:
    return [row / sum(value * value for value in row).sqrt() for row in x]


def distance(a: Tensor, b: Tensor) -> Tensor:
    return sum((u - v) ** 2 for u, v in zip(a, b, strict=True)).sqrt()


def dot(a: Tensor, b: Tensor) -> Tensor:
    return sum(u * v for u, v in zip(a, b, strict=True))


def weighted_mean(terms: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return sum(w * term for w, term in zip(weights, terms, strict=True)) / sum(weights)


def cross_entropy(logits: Tensor, y: Sequence[int], class_weights: Sequence[float] | None = None) -> Tensor:
    terms = [sum(value.exp() for value in row).log() - row[label] for row, label in zip(logits, y, strict=True)]
    return weighted_mean(terms, [1.0 if class_weights is None else class_weights[label] for label in y])


def supcon(x: Tensor, y: Sequence[int], temperature: float, released: bool = False) -> Tensor:
    """Khosla et al. 2020, equation 2. released: times τ / 0.07, and the mean counts anchors without a positive as 0."""
    z, n, anchors = unit(x), range(len(y)), []
    for i in n:
        positives = [p for p in n if p != i and y[p] == y[i]]
        if positives:
            denominator = sum((dot(z[i], z[a]) / temperature).exp() for a in n if a != i)
            terms = [-((dot(z[i], z[p]) / temperature).exp() / denominator).log() for p in positives]
            anchors.append(sum(terms) / len(terms))
    if released:
        return temperature / 0.07 * sum(anchors) / len(y)
    return sum(anchors) / len(anchors)


def triplet(x: Tensor, y: Sequence[int], margin: float) -> Tensor:
    n = range(len(y))
    triplets = [(a, p, m) for a in n for p in n for m in n if p != a and y[p] == y[a] and y[m] != y[a]]
    terms = [distance(x[a], x[p]) - distance(x[a], x[m]) + margin for a, p, m in triplets]
    positive = [term for term in terms if term > 0]
    return sum(positive) / len(positive)


def cosine(x: Tensor, y: Sequence[int]) -> Tensor:
    z, n = unit(x), range(len(y))
    terms = [(dot(z[i], z[j]) - (1.0 if y[i] == y[j] else 0.0)) ** 2 for i in n for j in range(i)]
    return sum(terms) / len(terms)


def graph(z: Sequence[Tensor], sigma: float) -> list[Tensor]:
    """Kernel W, S and T, each [B, B], of unit vectors z (steps 2, 3 and 5 of the method)."""
    n = range(len(z))
    zero = 0.0 * z[0].sum()
    w = [[zero if i == j else (-(distance(z[i], z[j]) ** 2) / (2 * sigma**2)).exp() for j in n] for i in n]
    degree = [sum(row) for row in w]
    s = [[w[i][j] / (degree[i] * degree[j]).sqrt() for j in n] for i in n]
    column = [sum(s[i][j] for i in n) for j in n]
    t = [[s[i][j] / column[j] for j in n] for i in n]
    t = [[value / sum(row) for value in row] for row in t]
    return [torch.stack([torch.stack(row) for row in matrix]) for matrix in (w, s, t)]


def propagated(z: Sequence[Tensor], y: Sequence[int], is_labeled: Sequence[bool], sigma: float, classes: int) -> Tensor:
    """F_U [U, C] of unit vectors z by the graph and the closed form (step 6)."""
    n, zero, t = range(len(y)), 0.0 * z[0].sum(), graph(z, sigma)[2]
    hidden, seen = [i for i in n if not is_labeled[i]], [i for i in n if is_labeled[i]]
    rows = [torch.stack([sum((t[i][k] for k in seen if y[k] == c), zero) for c in range(classes)]) for i in hidden]
    among = t[hidden][:, hidden]
    return torch.linalg.inv(torch.eye(len(hidden), dtype=torch.float64) - among) @ torch.stack(rows)


def gloss(
    z: Sequence[Tensor],
    y: Sequence[int],
    is_labeled: Sequence[bool],
    sigma: float,
    classes: int,
    objective: str = "nll",
    class_weights: Sequence[float] | None = None,
) -> Tensor:
    """nll: Eq. 1 over the hidden nodes whose class has a visible node. softmax: F_U as logits, all hidden nodes."""
    terms, weights = [], []
    hidden = [label for label, visible in zip(y, is_labeled, strict=True) if not visible]
    seen = {label for label, visible in zip(y, is_labeled, strict=True) if visible}
    for row, label in zip(propagated(z, y, is_labeled, sigma, classes), hidden, strict=True):
        if objective == "softmax":
            terms.append(sum(value.exp() for value in row).log() - row[label])
        elif label in seen:
            terms.append(-row[label].log())
        else:
            continue
        weights.append(1.0 if class_weights is None else class_weights[label])
    return weighted_mean(terms, weights)
