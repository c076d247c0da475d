"""The texts of a run, as token ids and labels on its device, also those of other sets (`ablation.test_on`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gloss.config import Config, DatasetConfig, is_csv_file
from gloss.data.checks import letters_and_digits
from gloss.data.datasets import SOURCES, TextDataset, load_dataset, read_manifest, row_digests, split_of
from gloss.data.splits import Split, add_label_noise
from gloss.data.tokens import check_tokens, count_truncated, tokenize
from gloss.errors import ConfigError, DataError
from gloss.models.encoder import TokenTable
from gloss.models.pretrained import load_tokenizer
from gloss.runtime.terminal import escape_control_characters

log = logging.getLogger(__name__)

TRUNCATED_NOTED = 0.01  # share of the texts
CLASSES_NAMED = 20


@dataclass
class Texts:
    """The texts of a run; tables and labels by split."""

    rows: np.ndarray  # of the training texts in their file
    tables: dict[str, TokenTable]
    labels: dict[str, Tensor]
    tokenizer: PreTrainedTokenizerBase


def texts_on_device(cfg: Config, dataset: TextDataset, device: torch.device, is_trial: bool) -> Texts:
    """The texts to train, validate and test on, with the label noise of `cfg`, but no test texts for a trial.

    Logs notes on them for the user. Raises ConfigError and DataError.
    """
    splits = dict(dataset.splits)
    if cfg.ablation.label_noise:
        splits["train"] = add_label_noise(splits["train"], cfg.ablation.label_noise, len(dataset.labels), cfg.seed)
        if len(np.unique(splits["train"].labels)) < 2:
            raise DataError(f"ablation.label_noise={cfg.ablation.label_noise} left one class in the training texts")
    if (num_classes := cfg.trainer.classes_per_batch or 0) > len(dataset.labels):
        allowed = f"expected at most {len(dataset.labels)}, the classes of {dataset.name}"
        raise ConfigError(f"trainer.classes_per_batch={num_classes} is not allowed: {allowed}")
    if is_trial:
        del splits["test"]
    else:
        splits |= {split: shifted_test(cfg, dataset, name) for split, name in cfg.ablation.tested_on.items()}
    if dataset.unlabeled is not None:
        splits["unlabeled"] = dataset.unlabeled
    tokenizer = load_tokenizer(cfg.model)
    tables, labels, num_truncated = {}, {}, 0
    for name, split in splits.items():
        tokens = tokenize(split.texts, tokenizer, cfg.model.max_length)
        if name == "train":
            check_tokens(split.texts, tokens, tokenizer, cfg.model.max_length)
        num_truncated += count_truncated(split.texts, tokens, tokenizer, cfg.model.max_length)
        tables[name] = TokenTable.build(tokens, tokenizer.pad_token_id, device)
        labels[name] = torch.from_numpy(split.labels).to(device)
    num_examples = sum(map(len, tables.values()))
    if num_truncated >= TRUNCATED_NOTED * num_examples:
        dataset.notes.append(
            f"{num_truncated:,} of the {num_examples:,} texts ({num_truncated / num_examples:.0%}) are truncated at "
            f"model.max_length={cfg.model.max_length} tokens"
        )
    if cfg.dataset.has_own_texts:
        log_once(f"{cfg.dataset.name}: {_summary(dataset)}")
    for note in dataset.notes:
        log_once(f"{cfg.dataset.name}: note: {note}")
    return Texts(splits["train"].rows, tables, labels, tokenizer)


def _summary(dataset: TextDataset) -> str:
    """The numbers of texts and the names of the classes."""
    sizes = ", ".join(f"{len(split):,} {part}" for part, split in dataset.splits.items())
    names = ", ".join(map(repr, dataset.labels[:CLASSES_NAMED]))
    more = f" and {len(dataset.labels) - CLASSES_NAMED} more" if len(dataset.labels) > CLASSES_NAMED else ""
    return f"{sizes} texts; {len(dataset.labels)} classes: {names}{more}"


@cache
def log_once(line: str) -> None:
    """Log a line that many runs of one process have in common."""
    log.warning(escape_control_characters(line))


# -- other sets with the same classes, whose texts a run is also tested on ---------------------------------------------
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

    A file or hub set has the columns, separator and encoding of the run's own. Raises ConfigError.
    """
    columns: dict[str, Any] = {"text": own.text, "label": own.label}
    if name.startswith("hub:"):
        path, _, revision = name.removeprefix("hub:").partition("@")
        return DatasetConfig(name=path, source="hub", path=path, revision=revision or None, **columns)
    if is_csv_file(name):
        form: dict[str, Any] = {"separator": own.separator, "encoding": own.encoding}
        return DatasetConfig(name=Path(name).name, source="csv", path=name, **columns, **form)
    if name not in (sets := read_manifest()["sets"]):
        expected = f"a .csv or .tsv file, hub:owner/name, or one of {', '.join(sets)}"
        raise ConfigError(f"ablation.test_on={name} is not allowed: expected {expected}")
    return DatasetConfig(name=name, text=[*sets[name]["columns"].values()][:-1])  # the last is the label


def load_test(cfg: DatasetConfig, labels: Sequence[str]) -> tuple[list[str], Split]:
    """The classes and the test texts of a set that is only tested: all rows of a CSV file; of a hub set the test split,
    else the validation split, else the training split, the first of these with labels. A set without classes beyond
    `labels` has its labels numbered as in `labels`. Raises DataError.
    """
    classes, parts, _ = SOURCES[cfg.source](cfg, Path())
    rows = next(parts[part] for part in ("test", "val", "train") if part in parts)
    classes = list(labels) if set(classes) <= set(labels) else classes
    return classes, split_of(rows, classes, row_digests((*row.texts, *row.names) for row in rows))
