"""Nearest neighbours of embeddings: against a double loop, and in the records of runs."""

from __future__ import annotations

import numpy as np
import pytest

from gloss.training.neighbours import NEIGHBOURS, best_k, nearest_labels, vote
from gloss.training.run import train


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


@pytest.mark.parametrize("options", [["loss=ce"], ["loss=scl", "mode=standalone"]])
def test_records_have_a_nearest_neighbour_accuracy(tiny_config, monkeypatch, options):
    record = train(tiny_config(*options, "trainer.max_epochs=1", "trainer.save_embeddings=true"))
    for split in ("val", "test"):
        assert 0 <= record.result["metrics"][split]["knn_accuracy"] <= 100
    assert record.result["hyperparameters"]["num_neighbours"] in NEIGHBOURS
    monkeypatch.setattr("gloss.training.evaluate.NEIGHBOURS_SAMPLE", 40)
    sizes = []

    def kept(z, y, texts):
        sizes.append((len(z), len(y)))
        return nearest_labels(z, y, texts)

    monkeypatch.setattr("gloss.training.evaluate.nearest_labels", kept)
    train(tiny_config(*options, "trainer.max_epochs=1", "rerun=true"))
    assert sizes == [(40, 40)] * 2
