"""Metrics, probes and nearest neighbours against scikit-learn, the released recipe and loops, also on corner cases."""

from __future__ import annotations

import loops
import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, silhouette_samples

import gloss.training.evaluate
from gloss.data.datasets import load_dataset
from gloss.training.metrics import NEIGHBOURS, best_k, classification_metrics, macro_silhouette, nearest_labels, vote
from gloss.training.probe import adam_probe, logistic_probe
from gloss.training.run import train


def blobs(sizes: list[int], seed: int = 0, dim: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return rng.normal(size=(len(labels), dim)) + 2 * np.eye(len(sizes), dim)[labels], labels


@pytest.mark.parametrize("sizes", [[20, 30], [5, 40, 2], [9, 1, 12], [1, 1, 6], [2, 2, 1]])
@pytest.mark.parametrize("block", [7, 1024])
def test_macro_silhouette_equals_the_mean_of_sklearn_class_means(sizes: list[int], block: int):
    points, labels = blobs(sizes)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    samples = silhouette_samples(unit, labels)
    expected = np.mean([samples[labels == c].mean() for c, n in enumerate(sizes) if n > 1])
    got = macro_silhouette(torch.from_numpy(points), torch.from_numpy(labels), block=block)
    assert got == pytest.approx(expected, abs=1e-5)


def test_macro_silhouette_of_near_neighbours():
    """All unit vectors are within 1e-3 of each other, so |a|² + |b|² − 2ab would have no correct digit."""
    points, labels = blobs([20, 30])
    points = torch.from_numpy(np.array([1.0, 2.0, 3.0, 4.0, 5.0]) + 1e-3 * points).float()
    unit = torch.nn.functional.normalize(points, dim=1).double().numpy()
    samples = silhouette_samples(unit, labels)
    expected = np.mean([samples[labels == c].mean() for c in (0, 1)])
    assert macro_silhouette(points, torch.from_numpy(labels)) == pytest.approx(expected, abs=1e-4)


def test_macro_silhouette_has_no_value_for_one_class_or_singletons_and_is_zero_for_equal_points():
    assert macro_silhouette(torch.randn(4, 3), torch.zeros(4, dtype=torch.long)) is None
    assert macro_silhouette(torch.randn(3, 3), torch.arange(3)) is None
    assert macro_silhouette(torch.ones(6, 3), torch.tensor([0, 0, 0, 1, 1, 1])) == 0


def test_accuracy_and_macro_f1_equal_sklearn_in_percent():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 3, size=50)  # class 3 is predicted, but is no label
    got = classification_metrics(logits, labels)
    assert got["accuracy"] == pytest.approx(100 * accuracy_score(labels, logits.argmax(1)))
    assert got["macro_f1"] == pytest.approx(100 * f1_score(labels, logits.argmax(1), average="macro"))


@pytest.mark.parametrize("sizes", [[60, 20], [60, 20, 35]])
def test_logistic_probe_equals_the_best_sklearn_regression_on_standardised_features(sizes: list[int]):
    """Features of very different scales, a constant feature, and overlapping classes of unequal size."""
    scale = np.array([3.0, 0.05, 1.0, 1.0, 40.0, 0.0])
    train, labels = blobs(sizes, seed=1, dim=6)
    val, val_labels = blobs(sizes[::-1], seed=2, dim=6)
    train, val = 0.4 * scale * train + 7, 0.4 * scale * val + 7
    weight, bias, settings = logistic_probe(train, labels, val, val_labels, len(sizes))
    mean, deviation = train.mean(0), np.where(train.std(0) > 0, train.std(0), 1)
    references, scores = {}, {}
    for strength in (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0):
        references[strength] = LogisticRegression(C=strength, max_iter=5000, tol=1e-8)
        references[strength].fit((train - mean) / deviation, labels)
        predicted = references[strength].predict((val - mean) / deviation)
        scores[strength] = f1_score(val_labels, predicted, average="macro")
    assert len(set(scores.values())) > 2
    assert settings["probe_strength"] == max(scores, key=scores.get)  # ties: the strongest regularisation
    assert settings["probe_converged"] is True
    logits = val @ weight.T + bias
    probability = np.exp(logits - logits.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    expected = references[settings["probe_strength"]].predict_proba((val - mean) / deviation)
    np.testing.assert_allclose(probability, expected, atol=2e-3)
    if len(sizes) == 2:  # scikit-learn's one row is split into two opposite rows
        np.testing.assert_allclose(weight[0], -weight[1], rtol=1e-9)


def test_logistic_probe_is_trained_to_convergence(monkeypatch):
    """With correlated features and little regularisation, which need many steps, the final gradient is 0."""
    monkeypatch.setattr("gloss.training.probe.PROBE_STRENGTHS", (1000.0,))
    train, labels = blobs([60, 50, 40], dim=30)
    train = train @ np.random.default_rng(3).normal(size=(30, 30))
    weight, bias, settings = logistic_probe(train, labels, train, labels, 3)
    mean, scale = train.mean(0), train.std(0)
    logits = train @ weight.T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    slope = ((p - np.eye(3)[labels]).T @ ((train - mean) / scale) + weight * scale / 1000) / len(labels)
    assert np.abs(slope).max() < 1.1e-5 and settings["probe_converged"] is True


def test_logistic_probe_records_missing_convergence(monkeypatch):
    monkeypatch.setattr("gloss.training.probe.MAX_ITERATIONS", 1)
    train, labels = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), np.arange(40) % 2
    with pytest.warns(ConvergenceWarning):
        assert logistic_probe(train, labels, train, labels, 2)[2]["probe_converged"] is False


def test_logistic_probe_never_predicts_a_class_without_training_texts():
    train, labels = blobs([10, 10, 10])
    keep = labels != 1
    weight, bias, _ = logistic_probe(train[keep], labels[keep], train, labels, 3)
    assert 1 not in (train @ weight.T + bias).argmax(1)
    assert bias[1] == -1e4 and (weight[1] == 0).all()


def released_probe(train, labels, val, val_labels, num_classes, seed, patience=10, max_steps=50):
    """The parameters and the number of steps of the released recipe, with scikit-learn's macro-F1."""
    torch.manual_seed(seed)
    start = torch.nn.Linear(train.shape[1], num_classes)
    val = np.hstack([val, np.ones((len(val), 1))])
    best, counter = 0.0, 0
    for step, theta in enumerate(loops.adam_steps(start, train, labels, np.ones(len(labels))), start=1):
        f1 = f1_score(val_labels, (val @ theta.T).argmax(1), average="macro", zero_division=0)
        best, counter = (f1, 0) if f1 > best else (best, counter + 1)
        if counter >= patience or step == max_steps:
            break
    return theta, step


@pytest.mark.parametrize("seed", range(6))
def test_adam_probe_equals_the_released_recipe(seed):
    train, labels = blobs([40, 30, 20, 10], seed=seed, dim=16)
    val, val_labels = blobs([20, 15, 10, 5], seed=100 + seed, dim=16)
    train, val = train.astype(np.float32), (3.0 * val).astype(np.float32)
    weight, bias, settings = adam_probe(train, labels, val, val_labels, 4, seed)
    theta, steps = released_probe(train, labels, val, val_labels, 4, seed)
    assert settings == {"probe_steps": steps} and 11 <= steps <= 50
    np.testing.assert_allclose(weight, theta[:, :-1], atol=1e-6)
    np.testing.assert_allclose(bias, theta[:, -1], atol=1e-6)


def test_adam_probe_makes_between_11_and_50_steps():
    train, labels = blobs([40, 30, 20, 10], dim=16)
    train = train.astype(np.float32)
    at_once = adam_probe(train, labels, np.zeros((4, 16), np.float32), np.arange(4), 4, seed=0)[2]
    assert at_once == {"probe_steps": 11}  # all validation texts are equal: no step after the first is better
    many, truth = blobs([800, 600, 400, 200], dim=16)  # with so many texts each step improves the score
    many = many.astype(np.float32)
    assert adam_probe(many, truth, many, truth, 4, seed=0)[2] == {"probe_steps": 50}


# ------------------------------------------------------------------------------------------------- nearest neighbours


def by_loop(train, labels, queries, k):
    """The predicted classes by a double loop over cosines."""
    found = []
    for q in queries:
        cosine = [float(q @ x / np.linalg.norm(q) / np.linalg.norm(x)) for x in train]
        votes = [labels[i] for i in sorted(range(len(train)), key=lambda i: -cosine[i])[:k]]
        found.append(min(set(votes), key=lambda c: (-votes.count(c), c)))
    return found


def test_nearest_neighbours_equal_a_double_loop_and_k_is_chosen_on_validation():
    rng = np.random.default_rng(0)
    labels = {name: rng.integers(0, 3, size) for name, size in (("train", 60), ("val", 25), ("test", 25))}
    z = {n: 4 * np.eye(3, 5)[y] + rng.normal(0, 2.0, (len(y), 5)) for n, y in labels.items()}
    z = {n: x * rng.uniform(0.1, 10, (len(x), 1)) for n, x in z.items()}  # the lengths of the vectors have no effect
    nearest = {n: nearest_labels(z["train"], labels["train"], z[n], block=7) for n in ("val", "test")}
    assert nearest["test"].shape == (25, 50)
    found = {j: np.mean(by_loop(z["train"], labels["train"], z["val"], j) == labels["val"]) for j in NEIGHBOURS}
    k = best_k(nearest["val"], labels["val"])
    assert k == max(found, key=found.get) and len(set(found.values())) > 2
    for j in NEIGHBOURS:
        assert vote(nearest["test"], j).tolist() == by_loop(z["train"], labels["train"], z["test"], j)


def test_fewer_texts_than_neighbours():
    z, y = np.eye(3), np.array([0, 1, 2])
    nearest = nearest_labels(z, y, z)
    assert nearest.tolist() == [[0, 1, 2], [1, 0, 2], [2, 0, 1]] and best_k(nearest, y) == 1


def test_equal_texts_keep_their_order_despite_rounding():
    """Equal texts are ordered by their row, not by rounding errors of the products."""
    rng = np.random.default_rng(1)
    content = rng.normal(size=(4, 384)).astype(np.float32)
    content_of = rng.integers(0, 4, 300)
    train = content[content_of] * rng.uniform(0.5, 2, (300, 1)).astype(np.float32)
    for i, row in enumerate(nearest_labels(train, np.arange(300), content)):
        assert row.tolist() == np.flatnonzero(content_of == i)[:50].tolist()


def test_k_is_chosen_on_validation_and_its_vote_is_recorded(tiny_config, monkeypatch):
    """The nearest text alone is right on validation and wrong on test; of five, it is the other way round."""
    monkeypatch.setattr("gloss.training.evaluate.NEIGHBOURS_SAMPLE", 40)
    cfg = tiny_config("loss=scl", "mode=standalone", "trainer.max_epochs=1")
    splits = load_dataset(cfg.dataset, "", cfg.seed).splits
    parts = iter((("val", 0), ("test", 1)))

    def nearest(vectors, labels, queries):
        assert len(vectors) == len(labels) == 40
        part, wrong = next(parts)
        return (splits[part].labels[:, None] + np.array([wrong, *[1 - wrong] * 4])) % 3

    monkeypatch.setattr(gloss.training.evaluate, "nearest_labels", nearest)
    result = train(cfg).result
    assert result["hyperparameters"]["num_neighbours"] == 1
    assert [result["metrics"][part]["knn_accuracy"] for part in ("val", "test")] == [100.0, 0.0]


def test_the_neighbours_sample_has_its_size_its_own_labels_and_its_share_of_wrong_ones(tiny_config, monkeypatch):
    fits, seen = [], []
    monkeypatch.setattr("gloss.training.evaluate.NEIGHBOURS_SAMPLE", 40)
    evaluate, nearest = gloss.training.evaluate.evaluate, gloss.training.evaluate.nearest_labels
    monkeypatch.setattr("gloss.training.run.evaluate", lambda fit, *rest: (fits.append(fit), evaluate(fit, *rest))[1])
    monkeypatch.setattr("gloss.training.evaluate.nearest_labels", lambda *of: (seen.append(of), nearest(*of))[1])
    labels = {}
    for noise in (0.0, 0.3):
        train(tiny_config("loss=ce", "trainer.max_epochs=1", f"ablation.label_noise={noise}"))
        vectors, labels[noise], _ = seen[-1]
        gaps = np.abs(fits[-1].embed("train").numpy() - vectors[:, None]).max(2)  # [40, N]
        rows = gaps.argmin(1)
        assert gaps.min(1).max() < 1e-5 and len(set(rows.tolist())) == 40
        assert np.array_equal(labels[noise], fits[-1].labels["train"].numpy()[rows])
    assert len(labels[0.0]) == 40
    assert 4 <= (labels[0.0] != labels[0.3]).sum() <= 20  # 12 expected; from one stream all wrong ones would be here
