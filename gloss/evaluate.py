"""Logits or embeddings -> accuracy, macro-F1, macro-silhouette; linear probe and nearest neighbours on embeddings."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch import Tensor, nn

NEIGHBOURS = (1, 5, 10, 20, 50)  # k of the nearest neighbours
PROBE_STRENGTHS = tuple(10.0**k for k in range(-3, 4))  # inverse regularisation C of the logistic probe


def classification_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy and macro-F1 in percent; logits: float [N, C], labels: int [N].

    Macro-F1 averages over the classes that occur among labels or predictions, as scikit-learn does.
    """
    predicted = logits.argmax(axis=1)
    return {
        "accuracy": 100 * float((predicted == labels).mean()),
        "macro_f1": 100 * float(f1_score(labels, predicted, average="macro", zero_division=0)),
    }


def macro_silhouette(embeddings: Tensor, labels: Tensor, block: int = 1024) -> float | None:
    """Mean over classes of the mean silhouette of each class, Euclidean on unit-length embeddings; from −1 to 1.

    For text i with a the mean distance to its own class (itself left out) and b the smallest mean distance to another
    class, its silhouette is (b − a) / max(a, b). Classes with one member are left out of the mean over classes, but
    their member counts as a neighbour. None where fewer than two classes, or no class with two members, are there.

    embeddings: float [N, D], labels: int64 [N], on one device. Memory grows with block · N.
    """
    z = F.normalize(embeddings.float(), dim=1)
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
    score_of_class = torch.zeros(len(classes), device=z.device).index_add_(0, labels, torch.cat(scores)) / counts
    return float(score_of_class[counts > 1].mean())


def logistic_probe(
    train: np.ndarray, train_labels: np.ndarray, val: np.ndarray, val_labels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """A logistic regression on frozen embeddings [N, D], trained to convergence: weight [C, D], bias [C], settings.

    The regularisation is the one of PROBE_STRENGTHS with the best macro-F1 on validation (the strongest of equals).
    Features are standardised for the solver, and the standardisation folded into weight and bias. Classes that do not
    occur among the training labels get a bias of −1e4, so that they are never predicted.
    """
    mean, scale = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    scale = np.where(scale > 0, scale, 1.0)
    features = (train - mean) / scale
    best = None
    classifier = LogisticRegression(max_iter=5000, warm_start=True, tol=1e-5)
    for strength in PROBE_STRENGTHS:
        classifier.set_params(C=strength).fit(features, train_labels)
        coefficients, intercepts = classifier.coef_, classifier.intercept_
        if len(classifier.classes_) == 2:  # scikit-learn keeps one row for two classes
            coefficients = np.concatenate([-coefficients, coefficients]) / 2
            intercepts = np.concatenate([-intercepts, intercepts]) / 2
        weight, bias = np.zeros((num_classes, train.shape[1])), np.full(num_classes, -1e4)
        weight[classifier.classes_] = coefficients / scale
        bias[classifier.classes_] = intercepts - weight[classifier.classes_] @ mean
        score = classification_metrics(val @ weight.T + bias, val_labels)["macro_f1"]
        if best is None or score > best[0]:
            best = (
                score,
                weight,
                bias,
                {"probe_strength": strength, "probe_converged": bool(classifier.n_iter_.max() < 5000)},
            )
    return best[1], best[2], best[3]


def adam_probe(
    train: np.ndarray,
    train_labels: np.ndarray,
    val: np.ndarray,
    val_labels: np.ndarray,
    num_classes: int,
    seed: int,
    class_weights: Tensor | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """The released code's probe on frozen embeddings [N, D]: weight [C, D], bias [C], settings.

    A linear layer, full-batch Adam, learning rate 1e-4, at most 50 steps, stopped after 10 without a better macro-F1 on
    validation. The weights are those of the last step: the best are kept by reference, so training goes on in them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(train.shape[1], num_classes)
    features, labels = torch.from_numpy(train), torch.from_numpy(train_labels)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-4)
    best, best_step = 0.0, 0
    for step in range(1, 51):
        optimizer.zero_grad()
        F.cross_entropy(layer(features), labels, weight=class_weights).backward()
        optimizer.step()
        with torch.no_grad():
            score = classification_metrics(layer(torch.from_numpy(val)).numpy(), val_labels)["macro_f1"]
        if score > best:
            best, best_step = score, step
        if step - best_step >= 10:
            break
    return layer.weight.detach().numpy(), layer.bias.detach().numpy(), {"probe_steps": step}


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
    tie = np.arange(len(train)) * (0.5e-9 / len(train))  # below what is rounded away
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
    """The one of NEIGHBOURS whose vote is most often right, the smallest of equals.

    Args:
        nearest: int [M, K], from `nearest_labels`, of validation texts.
        labels: int [M], theirs.
    """
    return max((k for k in NEIGHBOURS if k <= nearest.shape[1]), key=lambda k: (vote(nearest, k) == labels).mean())
