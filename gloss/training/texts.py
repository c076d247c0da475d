"""The texts of a run, as token ids and labels on its device."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gloss.config import Config
from gloss.data.datasets import TextDataset
from gloss.data.other_sets import shifted_test
from gloss.data.splits import add_label_noise
from gloss.data.tokens import check_tokens, count_truncated, tokenize
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
    if is_trial:
        del splits["test"]
    else:
        splits |= {split: shifted_test(cfg, dataset, name) for split, name in cfg.ablation.tested_on.items()}
    if dataset.unlabeled is not None:
        splits["unlabeled"] = dataset.unlabeled
    tokenizer = load_tokenizer(cfg.model)
    cache = Path(cfg.paths.outputs) / "cache" / "tokens"
    tables, labels, num_truncated = {}, {}, 0
    for name, split in splits.items():
        tokens = tokenize(split.texts, tokenizer, cfg.model.max_length, cache)
        if name == "train":
            check_tokens(split.texts, tokens, tokenizer, cfg.model.max_length)
        num_truncated += count_truncated(split.texts, tokens, tokenizer, cfg.model.max_length, cache)
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
