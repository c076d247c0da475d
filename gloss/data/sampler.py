"""The texts of each batch, and the seed of each step: functions of the seed and the epoch alone."""

from __future__ import annotations

import hashlib

import numpy as np

from gloss.config import TrainerConfig


def seed_of(*numbers: int) -> int:
    """A seed below 2**62 that depends on all numbers (seed, epoch, step), with room above it for increments."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


def step_batches(
    labels: np.ndarray, lengths: np.ndarray, cfg: TrainerConfig, seed: int, epoch: int
) -> list[np.ndarray]:
    """The batches of an epoch's steps: `epoch_batches` with the texts without a label added.

    The rows of a batch are sorted by length, so that its slices have texts of similar length.

    labels: int64 [N]; lengths: tokens of each text [N + M], the M texts without a label last.
    """
    batches = epoch_batches(labels, cfg, seed, epoch)
    if num_unlabeled := len(lengths) - len(labels):
        more = unlabeled_batches(num_unlabeled, len(batches), cfg.unlabeled_per_batch or cfg.batch_size, seed, epoch)
        batches = [np.concatenate([a, len(labels) + b]) for a, b in zip(batches, more, strict=True)]
    return [batch[np.argsort(lengths[batch], kind="stable")] for batch in batches]


def epoch_batches(labels: np.ndarray, cfg: TrainerConfig, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of an epoch, each an int array of indices.

    random: a permutation of all texts, `cut` into batches of B. balanced: P x K, for data with many rare classes; see
    `_balanced`.

    labels: int64 [N], N >= 2.
    """
    rng = np.random.default_rng([seed, epoch])
    if cfg.sampler == "balanced":
        return _balanced(labels, cfg.batch_size, cfg.classes_per_batch, rng)
    return cut(rng.permutation(len(labels)), cfg.batch_size)


def cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Pieces of `size` rows; the last is kept, and joined to the one before where it would be a single row."""
    starts = list(range(0, len(order), size))
    if len(order) - starts[-1] == 1 and len(starts) > 1:
        starts.pop()
    return np.split(order, starts[1:])


def unlabeled_batches(num_examples: int, num_batches: int, per_batch: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The texts without a label that are added to each batch of an epoch: int arrays of rows in [0, num_examples).

    All come in random order before any is repeated, none twice in a batch; fewer than `per_batch` are in all batches.
    """
    queue = _Queue(np.arange(num_examples), np.random.default_rng([seed, epoch, 1]))  # not the stream of epoch_batches
    return [queue.take(per_batch) for _ in range(num_batches)]


def _balanced(labels: np.ndarray, batch_size: int, num_classes: int, rng: np.random.Generator) -> list[np.ndarray]:
    """⌈N / B⌉ batches of P random classes with K = B / P texts each.

    A class goes through all its texts in random order before any comes again; a class with fewer than K texts gives
    each of them once a batch, so that no text is its own neighbour in the graph.
    """
    classes = np.unique(labels)
    num_classes = min(num_classes, len(classes))
    per_class = batch_size // num_classes
    queues = {c: _Queue(np.flatnonzero(labels == c), rng) for c in classes}
    batches = []
    for _ in range(-(-len(labels) // batch_size)):
        chosen = rng.choice(classes, num_classes, replace=False)
        batches.append(np.concatenate([queues[c].take(per_class) for c in chosen]))
    return batches


class _Queue:
    """Rows in random order, without end."""

    def __init__(self, rows: np.ndarray, rng: np.random.Generator) -> None:
        self.rows, self.rng = rows, rng
        self.waiting = rng.permutation(self.rows)

    def take(self, count: int) -> np.ndarray:
        """`count` different rows, or all there are."""
        count = min(count, len(self.rows))
        taken = self.waiting[:count]
        self.waiting = self.waiting[count:]
        if len(taken) < count:  # a new round; the rows already in this batch come last in it
            fresh = self.rng.permutation(np.setdiff1d(self.rows, taken))
            more = count - len(taken)
            self.waiting = np.concatenate([fresh[more:], self.rng.permutation(taken)])
            taken = np.concatenate([taken, fresh[:more]])
        return taken
