"""Linear classifiers on frozen embeddings."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from gloss.training.metrics import classification_metrics

MAX_ITERATIONS = 5000  # of the logistic probe's solver
PROBE_STRENGTHS = tuple(10.0**k for k in range(-3, 4))  # inverse regularisation C of the logistic probe


def logistic_probe(
    train: np.ndarray, train_labels: np.ndarray, val: np.ndarray, val_labels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """A logistic regression on frozen embeddings [N, D], trained to convergence: weight [C, D], bias [C], settings.

    The regularisation is the one of PROBE_STRENGTHS with the best macro-F1 on validation (the strongest of equals).
    Features are standardised for the solver, and the standardisation folded into weight and bias. Classes that do not
    occur among the training labels get a bias of −1e4, so that they are never predicted.
    """
    train = train.astype(np.float64)
    mean, scale = train.mean(axis=0), train.std(axis=0)
    scale = np.where(scale > 0, scale, np.inf)
    features = (train - mean) / scale
    best = None
    classifier = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True, tol=1e-5)
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
            has_converged = bool(classifier.n_iter_.max() < MAX_ITERATIONS)
            best = score, weight, bias, {"probe_strength": strength, "probe_converged": has_converged}
    return best[1:]


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
    validation. The weights of the last step are returned: the best are kept by reference, so training changes them.
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
