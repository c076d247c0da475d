"""Graph quality: against a naive loop, in corner cases, and in the record of a run."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gloss.losses import choose_labeled
from gloss.losses.geometry import sqrt_bandwidth
from gloss.losses.reference import gaussian_kernel, propagate_labels, symmetric_normalize, transition_matrix
from gloss.training.graph_quality import SEED, graph_quality
from gloss.training.run import train


def texts(num: int = 53, num_classes: int = 4, separation: float = 0.7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(num_classes, (num,), generator=generator)
    centres = separation * torch.eye(num_classes, 6, dtype=torch.float64)
    return torch.randn(num, 6, dtype=torch.float64, generator=generator) + 3 * centres[labels], labels


def naive(x, labels, sigma, gamma, num_classes, batch_size):
    """Graph quality by the formulas in float64; the propagation solves a linear system."""
    order = np.random.default_rng(SEED).permutation(len(labels)).tolist()
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    if len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] += last
    generator = torch.Generator().manual_seed(SEED)
    counts = [labels.tolist().count(c) for c in range(num_classes)]
    within = total = pairs = same_pairs = right = majority = unlabeled = 0
    for batch in batches:
        is_labeled = choose_labeled(len(batch), gamma, generator)
        weights = gaussian_kernel(x[batch], sigma)
        is_same = (labels[batch, None] == labels[batch]) & ~torch.eye(len(batch), dtype=torch.bool)
        within, total = within + float(weights[is_same].sum()), total + float(weights.sum())
        same_pairs, pairs = same_pairs + int(is_same.sum()), pairs + len(batch) * (len(batch) - 1)
        transition = transition_matrix(symmetric_normalize(weights))
        found = propagate_labels(transition, labels[batch], is_labeled, num_classes).argmax(1)
        truth = labels[batch][~is_labeled]
        right += int((found == truth).sum())
        majority += sum(counts[int(y)] == max(counts) for y in truth)
        unlabeled += len(truth)
    return [within / total, same_pairs / pairs, 100 * right / unlabeled, 100 * majority / unlabeled]


@pytest.mark.parametrize(
    ("num", "batch_size", "sigma", "gamma"), [(53, 16, 0.5, 0.6), (49, 16, 0.3, 0.3), (40, 64, 2.0, 0.9)]
)
def test_graph_quality_equals_a_naive_loop(num, batch_size, sigma, gamma):
    x, labels = texts(num)
    counts = torch.bincount(labels).tolist()
    assert counts.count(max(counts)) == 1  # exactly one class is the most frequent
    found = graph_quality(x, labels, sigma=sigma, gamma=gamma, num_classes=4, batch_size=batch_size)
    assert list(found.values()) == pytest.approx(naive(x, labels, sigma, gamma, 4, batch_size), rel=1e-9)
    single = graph_quality(x.float(), labels, sigma=sigma, gamma=gamma, num_classes=4, batch_size=batch_size)
    assert single == pytest.approx(found, rel=1e-5)


def test_constant_embeddings_are_at_chance_and_one_hot_embeddings_at_100_percent():
    labels = torch.arange(400) % 4
    same = graph_quality(torch.ones(400, 3), labels, sigma=0.5, gamma=0.6, num_classes=4, batch_size=100)
    assert same["homophily"] == pytest.approx(same["homophily_chance"], rel=1e-5)
    known = torch.eye(4)[labels]
    found = graph_quality(known, labels, sigma=0.1, gamma=0.6, num_classes=4, batch_size=100)
    assert found["homophily"] == pytest.approx(1.0) and found["propagated_accuracy"] == 100.0
    assert found["homophily_chance"] == same["homophily_chance"] == pytest.approx(0.25, abs=0.02)
    assert found["majority_accuracy"] == same["majority_accuracy"] == pytest.approx(25.0, abs=5.0)


def test_a_kernel_that_underflows_gives_finite_quality():
    x, labels = texts()
    z = x / x.norm(dim=1, keepdim=True)
    assert gaussian_kernel(z.float(), 1e-3).sum() == 0  # a plain sum of the weights would be 0 in the denominator
    found = graph_quality(x.float(), labels, sigma=1e-3, gamma=0.6, num_classes=4, batch_size=16)
    assert all(math.isfinite(value) for value in found.values())


def test_fewer_than_two_texts_have_no_graph():
    x, labels = texts(1)
    assert graph_quality(x, labels, sigma=0.5, gamma=0.6, num_classes=4, batch_size=16) is None


@pytest.mark.parametrize(
    "options", [["loss=ce"], ["loss=gloss_sqrt", "mode=standalone"], ["loss=gloss_o", "loss.sigma=0.2"]]
)
def test_records_have_graph_quality_before_training_and_at_each_validation(tiny_config, monkeypatch, options):
    seen = []

    def kept(embeddings, labels, **settings):
        seen.append((embeddings.clone(), labels, settings))
        return graph_quality(embeddings, labels, **settings)

    monkeypatch.setattr("gloss.training.trainer.graph_quality", kept)
    record = train(tiny_config(*options, "trainer.precision=float32"))
    quality, (start, one, two) = record.result["graph_quality"], seen
    rows = [row["val"]["graph_quality"] for row in record.epochs()]
    expected = [graph_quality(z, y, **settings) for z, y, settings in seen]
    assert [quality["at_start"], *rows] == expected and not torch.equal(start[0], one[0])
    assert quality["at_best"] == rows[record.result["best_epoch"] - 1]
    for name in ("homophily_chance", "majority_accuracy"):  # these depend only on the texts
        assert len({quality["at_start"][name], *(row[name] for row in rows)}) == 1
    settings = {"sigma": quality["sigma"], "gamma": quality["gamma"], "num_classes": 3, "batch_size": 32}
    assert start[2] == one[2] == two[2] == settings and settings["gamma"] == 0.6
    sigma = record.result["hyperparameters"]["sigma"]
    assert sigma is None if options == ["loss=ce"] else sigma == quality["sigma"]


def test_graph_quality_of_other_losses_uses_the_sigma_of_gloss_sqrt(tiny_config):
    ce, sqrt = (train(tiny_config(f"loss={loss}", "trainer.max_epochs=1")).result for loss in ("ce", "gloss_sqrt"))
    assert ce["graph_quality"]["at_start"] == sqrt["graph_quality"]["at_start"]
    assert ce["graph_quality"]["sigma"] == sqrt["hyperparameters"]["sigma"]


def test_collapsed_embeddings_have_no_graph_quality(tiny_config, monkeypatch):
    def collapsed(embeddings, **options):
        return sqrt_bandwidth(torch.ones_like(embeddings), **options)

    monkeypatch.setattr("gloss.training.sigma.sqrt_bandwidth", collapsed)
    record = train(tiny_config("loss=ce", "trainer.max_epochs=1"))
    assert record.result["graph_quality"] is None and record.epochs()[0]["val"]["graph_quality"] is None
