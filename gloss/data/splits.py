"""Splits: texts with labels, stratified samples of them, whole groups, and labels that are changed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

SPLIT_SEED = 0  # of the splits that we cut: the same texts are tested whatever the seed of a run


@dataclass(frozen=True)
class Split:
    """N texts of one split."""

    texts: list[tuple[str, ...]]  # one string, or (question, sentence)
    labels: np.ndarray  # int64 [N], index into TextDataset.labels
    rows: np.ndarray  # int64 [N], number of its row, as `gloss.data.files` counts
    groups: np.ndarray | None = None  # str [N], the question that each text is an option of

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, index: np.ndarray) -> Split:
        """The rows at `index` (int [M]), in that order."""
        groups = None if self.groups is None else self.groups[index]
        return Split([self.texts[i] for i in index], self.labels[index], self.rows[index], groups)


def stratified(labels: np.ndarray, size: int, seed: int, least: int = 0, leave: int = 0) -> np.ndarray:
    """Sorted indices of `size` rows, each class in proportion, but at least `least` of it, and `leave` of it not taken.

    The two bounds come before `size`: with many small classes it can be more or fewer rows.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(labels)
    low, high = np.minimum(least, counts), np.maximum(counts - leave, 0)
    quota = counts * size / len(labels)
    num_taken = np.clip(np.floor(quota).astype(np.int64), low, high)
    while (missing := size - num_taken.sum()) != 0:  # largest remainders first
        step = np.sign(missing)
        movable = num_taken < high if step > 0 else num_taken > low
        if not movable.any():
            break
        num_taken[np.argmax(np.where(movable, step * (quota - num_taken), -np.inf))] += step
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:n] for c, n in enumerate(num_taken)]
    return np.sort(np.concatenate(chosen))


def whole_groups(groups: np.ndarray, size: int) -> np.ndarray:
    """Sorted indices of about `size` rows: all rows of groups drawn at random, but never of all groups."""
    names, which = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(names))
    num_rows = np.bincount(which)[order].cumsum()
    num_chosen = min(int(np.searchsorted(num_rows, size)) + 1, len(names) - 1)
    return np.flatnonzero(np.isin(which, order[:num_chosen]))


def right_class(labels: np.ndarray, groups: np.ndarray) -> int | None:
    """The class (0 or 1) that exactly one row of each group has; 1 where both classes do, None where neither does.

    With two options a question both do: then a group is scored right for one class exactly where it is for the other.
    """
    if set(labels) - {0, 1}:
        return None
    which = np.unique(groups, return_inverse=True)[1]
    once = [k for k in (0, 1) if (np.bincount(which, weights=labels == k) == 1).all()]
    return once[-1] if once else None


def add_label_noise(split: Split, fraction: float, num_classes: int, seed: int) -> Split:
    """The split with exactly round(fraction · N) labels changed, each to one of the other classes at random.

    fraction: from 0 to 1; num_classes: at least 2.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(split))[: round(fraction * len(split))]
    labels = split.labels.copy()
    labels[chosen] = (labels[chosen] + rng.integers(1, num_classes, len(chosen))) % num_classes
    return replace(split, labels=labels)
