"""Other sets with the same classes, whose texts a run is also tested on (`ablation.test_on`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gloss.config import Config, DatasetConfig, is_csv_file
from gloss.data.checks import letters_and_digits
from gloss.data.datasets import SOURCES, TextDataset, load_dataset, row_digests, split_of
from gloss.data.splits import Split
from gloss.errors import ConfigError

log = logging.getLogger(__name__)


def shifted_test(cfg: Config, dataset: TextDataset, name: str) -> Split:
    """The test split of another set with the same classes (of `ablation.test_on`), without the texts that this set
    trains or validates on: two sets of one source share many, though not to the letter. Raises ConfigError, DataError.
    """
    other = other_set(cfg.dataset, name)
    if other.source == "prepared":
        shifted = load_dataset(other, cfg.paths.data, cfg.seed)
        classes, test = shifted.labels, shifted.splits["test"]
    else:
        classes, test = load_test(other, dataset.labels)
    if classes != dataset.labels:
        raise ConfigError(
            f"ablation.test_on={name} cannot test dataset={dataset.name}: its classes {classes} are "
            f"not {dataset.labels}"
        )
    known = {letters_and_digits(text) for part in ("train", "val") for text in dataset.splits[part].texts}
    kept = np.flatnonzero([letters_and_digits(text) not in known for text in test.texts])
    if not len(kept):
        raise ConfigError(f"ablation.test_on={name} cannot test {dataset.name}: it trains on all these texts")
    log.warning(
        f"test_on {other.name}: {len(test) - len(kept)} of {len(test)} texts are left out, because {dataset.name} "
        "trains or validates on them (compared by letters and digits, in lower case)"
    )
    return test.take(kept)


def other_set(own: DatasetConfig, name: str) -> DatasetConfig:
    """The set that `ablation.test_on` names: a prepared one; a CSV file; or hub:owner/name, hub:owner/name@revision.

    A file or hub set has the columns, separator and encoding of the run's own.
    """
    columns: dict[str, Any] = {"text": own.text, "label": own.label}
    if name.startswith("hub:"):
        path, _, revision = name.removeprefix("hub:").partition("@")
        return DatasetConfig(name=path, source="hub", path=path, revision=revision or None, **columns)
    if is_csv_file(name):
        form: dict[str, Any] = {"separator": own.separator, "encoding": own.encoding}
        return DatasetConfig(name=Path(name).name, source="csv", path=name, **columns, **form)
    return DatasetConfig(name=name)


def load_test(cfg: DatasetConfig, labels: Sequence[str]) -> tuple[list[str], Split]:
    """The classes and the test texts of a set that is only tested: all rows of a CSV file; of a hub set the test split,
    else the validation split, else the training split, the first of these with labels. A set without classes beyond
    `labels` has its labels numbered as in `labels`. Raises DataError.
    """
    classes, parts, _ = SOURCES[cfg.source](cfg, Path())
    rows = next(parts[part] for part in ("test", "val", "train") if part in parts)
    classes = list(labels) if set(classes) <= set(labels) else classes
    return classes, split_of(rows, classes, row_digests((*row.texts, *row.names) for row in rows))
