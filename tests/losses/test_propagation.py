"""gloss.losses.reference against the iteration of label propagation and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.semi_supervised import LabelPropagation

from gloss.losses.reference import gaussian_kernel, propagate_labels, symmetric_normalize, transition_matrix


def batch(num: int = 14, num_classes: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(num, 5, dtype=torch.float64, generator=generator)
    labels = torch.arange(num) % num_classes
    is_labeled = torch.isin(torch.arange(num) % 7, torch.tensor([0, 1, 3, 5]))  # every class has a labeled member
    return x, labels, is_labeled


@pytest.mark.parametrize("sigma", [0.3, 0.7, 5.0])
def test_closed_form_is_the_limit_of_the_iteration(sigma):
    x, labels, is_labeled = batch()
    transition = transition_matrix(symmetric_normalize(gaussian_kernel(x, sigma)))
    closed = propagate_labels(transition, labels, is_labeled, 4)
    one_hot = torch.eye(4, dtype=torch.float64)[labels]
    scores = torch.where(is_labeled[:, None], one_hot, torch.zeros_like(one_hot))
    for _ in range(20_000):
        scores = torch.where(is_labeled[:, None], one_hot, transition @ scores)  # labeled nodes keep their labels
    torch.testing.assert_close(closed, scores[~is_labeled], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(closed.sum(1), torch.ones(len(closed), dtype=torch.float64))


def test_a_class_without_labeled_nodes_gets_probability_0():
    x, labels, is_labeled = batch()
    is_labeled = is_labeled & (labels != 2)
    closed = propagate_labels(transition_matrix(gaussian_kernel(x, 0.7)), labels, is_labeled, 4)
    assert (closed[:, 2] == 0).all() and (closed[:, [0, 1, 3]] > 0).all()


def test_num_classes_sets_the_number_of_columns():
    x, labels, is_labeled = batch()
    closed = propagate_labels(transition_matrix(gaussian_kernel(x, 0.7)), labels, is_labeled, 6)
    assert closed.shape == (int((~is_labeled).sum()), 6) and (closed[:, 4:] == 0).all()


def scikit_learn(weights: torch.Tensor, labels: torch.Tensor, is_labeled: torch.Tensor) -> torch.Tensor:
    """scikit-learn's result: the kernel divided by its row sums, then an iteration with clamped labels."""
    model = LabelPropagation(kernel=lambda a, b: weights.numpy().copy(), max_iter=100_000, tol=1e-13)
    model.fit(np.zeros((len(labels), 1)), np.where(is_labeled, labels, -1))
    return torch.tensor(model.label_distributions_)[~is_labeled]


def test_equals_scikit_learn_on_a_row_normalised_kernel():
    x, labels, is_labeled = batch()
    weights = gaussian_kernel(x, 0.7)
    ours = propagate_labels(weights / weights.sum(1, keepdim=True), labels, is_labeled, 4)
    torch.testing.assert_close(ours, scikit_learn(weights, labels, is_labeled), rtol=1e-8, atol=1e-10)


def test_equals_scikit_learn_from_the_embeddings_on_a_regular_polygon():
    """All nodes have the same degree, so the column step divides by a constant and both methods agree."""
    angle = torch.arange(12, dtype=torch.float64) * (2 * math.pi / 12)
    x = torch.stack([angle.cos(), angle.sin()], dim=1)
    _, labels, is_labeled = batch(12, 3)
    weights = gaussian_kernel(x, 0.5)
    ours = propagate_labels(transition_matrix(symmetric_normalize(weights)), labels, is_labeled, 3)
    torch.testing.assert_close(ours, scikit_learn(weights, labels, is_labeled), rtol=1e-8, atol=1e-10)


def test_wrong_shapes_and_types_are_refused():
    x, labels, is_labeled = batch()
    transition = transition_matrix(gaussian_kernel(x, 0.7))
    with pytest.raises(ValueError, match=r"\[B, B\], \[B\] and \[B\]"):
        propagate_labels(transition, labels[:-1], is_labeled, 4)
    with pytest.raises(ValueError, match="is_labeled must be bool"):
        propagate_labels(transition, labels, is_labeled.long(), 4)
