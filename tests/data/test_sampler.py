"""Batches: every text once, at least two texts in a batch, an order that depends only on seed and epoch."""

from __future__ import annotations

import numpy as np
import pytest

from gloss.config import TrainerConfig
from gloss.data.sampler import epoch_batches, unlabeled_batches


@pytest.mark.parametrize("num_examples", [2, 7, 32, 33, 65, 100])
def test_random_batches_hold_every_text_once_and_at_least_two_each(num_examples: int):
    batches = epoch_batches(np.zeros(num_examples, dtype=int), TrainerConfig(batch_size=32), seed=1, epoch=1)
    assert sorted(np.concatenate(batches)) == list(range(num_examples))
    assert min(map(len, batches)) >= 2
    assert max(map(len, batches)) <= 33


def test_batches_depend_on_seed_and_epoch_only():
    labels, cfg = np.arange(50) % 3, TrainerConfig(batch_size=16)

    def order(seed: int, epoch: int) -> tuple[int, ...]:
        return tuple(np.concatenate(epoch_batches(labels, cfg, seed, epoch)).tolist())

    assert order(1, 1) == order(1, 1)
    assert len({order(seed, epoch) for seed in (1, 2) for epoch in (1, 2)}) == 4
    one, other = (unlabeled_batches(10, 7, 4, seed=seed, epoch=1) for seed in (1, 2))
    assert not np.array_equal(one, other)


def test_balanced_batches_have_p_classes_with_k_texts_and_rare_classes_once_each():
    labels = np.repeat(np.arange(6), [40, 40, 40, 40, 3, 1])
    cfg = TrainerConfig(batch_size=16, sampler="balanced", classes_per_batch=4)
    batches = epoch_batches(labels, cfg, seed=0, epoch=1)
    assert len(batches) == -(-len(labels) // 16)
    for batch in batches:
        assert len(set(batch)) == len(batch)
        classes, counts = np.unique(labels[batch], return_counts=True)
        assert len(classes) == 4 and (counts == np.minimum(4, np.bincount(labels)[classes])).all()
    assert set(labels[np.concatenate(batches)]) == set(range(6))  # rare classes come, too


def test_balanced_batches_use_all_texts_of_a_class_before_repeating_one():
    cfg = TrainerConfig(batch_size=8, sampler="balanced", classes_per_batch=2)
    batches = epoch_batches(np.repeat([0, 1], 12), cfg, seed=0, epoch=1)
    assert len(batches) == 3 and len(set(np.concatenate(batches))) == 24
