"""Nearest neighbours in the embedding space."""

from __future__ import annotations

import numpy as np

NEIGHBOURS = (1, 5, 10, 20, 50)  # k of the nearest neighbours


def nearest_labels(train: np.ndarray, train_labels: np.ndarray, texts: np.ndarray, block: int = 512) -> np.ndarray:
    """The labels of the training texts of largest cosine to each text, the nearest first: int [M, K].

    K: the largest of NEIGHBOURS, or N where that is less. Of equal cosines the earlier training text comes first.
    Cosines are rounded, so that equal texts are equally near whatever order a matrix product sums in: a library's
    search breaks such ties by the last bit, and the same run twice would differ.

    Args:
        train: float [N, D], any scale.
        train_labels: int [N].
        texts: float [M, D], any scale.
    """
    unit, queries = (x.astype(np.float64) for x in (train, texts))
    unit, queries = (x / np.linalg.norm(x, axis=1, keepdims=True).clip(min=1e-30) for x in (unit, queries))
    count = min(max(NEIGHBOURS), len(train))
    tie = np.arange(len(train)) * (0.5e-9 / len(train))  # below the rounding
    found = []
    for start in range(0, len(queries), block):
        distance = tie - (queries[start : start + block] @ unit.T).round(9)  # [n, N]
        nearest = np.argpartition(distance, count - 1, axis=1)[:, :count]
        order = np.argsort(np.take_along_axis(distance, nearest, axis=1), axis=1)
        found.append(train_labels[np.take_along_axis(nearest, order, axis=1)])
    return np.concatenate(found)


def vote(nearest: np.ndarray, k: int) -> np.ndarray:
    """The most frequent of the first k labels of each row of [M, K]; of equally many the smallest."""
    votes = (nearest[:, :k, None] == np.arange(nearest.max() + 1)).sum(axis=1)  # [M, C]
    return votes.argmax(axis=1)


def best_k(nearest: np.ndarray, labels: np.ndarray) -> int:
    """The k of NEIGHBOURS whose vote is most often right, the smallest of equals.

    Args:
        nearest: int [M, K], from `nearest_labels`, of validation texts.
        labels: int [M], theirs.
    """
    return max((k for k in NEIGHBOURS if k <= nearest.shape[1]), key=lambda k: (vote(nearest, k) == labels).mean())
