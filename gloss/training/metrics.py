"""Accuracy, macro-F1, macro-silhouette, and nearest neighbours in the embedding space."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from torch import Tensor

NEIGHBOURS = (1, 5, 10, 20, 50)  # k of the nearest neighbours


def classification_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy and macro-F1 in percent; logits: float [N, C], labels: int [N].

    Macro-F1 averages over the classes that occur among labels or predictions, as scikit-learn does.
    """
    predicted = logits.argmax(axis=1)
    return {
        "accuracy": 100 * float((predicted == labels).mean()),
        "macro_f1": 100 * float(f1_score(labels, predicted, average="macro")),
    }


def grouped_accuracy(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray, right: int) -> float:
    """Percent of the groups whose highest-scored row is of the class `right`; a tie for the highest is not right.

    Args:
        logits: float [N, 2].
        labels: int [N], 0 or 1; `right` exactly once in each group.
        groups: str or int [N], the question that a row is an option of.
        right: 0 or 1, the class of right options; a row's score is its logit above that of the other class.
    """
    score = logits[:, right] - logits[:, 1 - right]
    questions, which = np.unique(groups, return_inverse=True)
    best_wrong = np.full(len(questions), -np.inf)
    np.maximum.at(best_wrong, which[labels != right], score[labels != right])
    return 100 * float((score[labels == right] > best_wrong[which[labels == right]]).mean())


def macro_silhouette(embeddings: Tensor, labels: Tensor, block: int = 1024) -> float | None:
    """Mean over classes of the mean silhouette of each class, Euclidean on unit-length embeddings; from −1 to 1.

    For text i with a the mean distance to its own class (itself left out) and b the smallest mean distance to another
    class, its silhouette is (b − a) / max(a, b). Classes with one member are left out of the mean over classes, but
    their member counts as a neighbour. None where fewer than two classes, or no class with two members, are there.

    embeddings: float [N, D], labels: int64 [N], on one device. Memory grows with block · N.
    """
    z = F.normalize(embeddings.float())
    classes, labels = labels.unique(return_inverse=True)
    counts = torch.bincount(labels)
    if len(classes) < 2 or counts.max() < 2:
        return None
    member = F.one_hot(labels).to(z.dtype)  # [N, C]
    scores = []
    for start in range(0, len(z), block):
        distance = torch.cdist(z[start : start + block], z, compute_mode="donot_use_mm_for_euclid_dist")
        total = distance @ member  # [n, C]: summed distance to each class
        own = labels[start : start + block, None]
        a = total.gather(1, own)[:, 0] / (counts[own[:, 0]] - 1).clamp(min=1)
        b = (total / counts).scatter(1, own, torch.inf).amin(dim=1)
        scores.append((b - a) / torch.maximum(a, b).clamp(min=torch.finfo(z.dtype).tiny))
    score_of_class = z.new_zeros(len(classes)).index_add_(0, labels, torch.cat(scores)) / counts
    return float(score_of_class[counts > 1].mean())


def nearest_labels(train: np.ndarray, train_labels: np.ndarray, queries: np.ndarray, block: int = 512) -> np.ndarray:
    """The labels of the training texts of largest cosine to each query, the nearest first: int [M, K].

    K: the largest of NEIGHBOURS, or N where that is less. Of equal cosines the earlier training text comes first.
    Cosines are rounded, so that equal texts are equally near whatever order a matrix product sums in: a library's
    search breaks such ties by the last bit, and the same run twice would differ.

    Args:
        train: float [N, D], any scale.
        train_labels: int [N].
        queries: float [M, D], any scale.
    """
    unit, queries = (x.astype(np.float64) for x in (train, queries))
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
