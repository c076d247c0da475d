"""Sizes, classes, truncation and duplicates of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gloss.config import DatasetConfig
from gloss.data.datasets import load_dataset
from gloss.data.tokens import tokenize
from gloss.records.run_folder import write_json

MAX_LENGTH = 128  # the paper's


def measure_texts(
    cfg: DatasetConfig, data_dir: str | Path, tokenizer: Any, outputs: str | Path, name: str | None = None
) -> dict[str, Any]:
    """Rows, classes, truncation and duplicates of a data set, for Table 1: <outputs>/baselines/texts-<set>.json.

    tokenizer: a Hugging Face tokenizer, or None: truncation is then left open; name: of its model. Raises DataError.
    Returns {"dataset", "labels", "splits": {part: {"rows", "classes", "truncated"}}, "duplicates", "note",
    "tokenizer"}.
    truncated: share (0 to 1) of texts with more than MAX_LENGTH tokens, special ones counted; None if tokenizer is.
    duplicates: {"train-val", "train-test", "val-test"}: rows of the later split whose text is in the earlier one too.
    """
    dataset = load_dataset(cfg, data_dir, seed=0)
    splits, duplicates = {}, {}
    earlier: dict[str, set[tuple[str, ...]]] = {}
    for part, split in dataset.splits.items():
        truncated = None
        if tokenizer is not None:
            lengths = np.diff(tokenize(split.texts, tokenizer, MAX_LENGTH + 1).offsets)
            truncated = float((lengths > MAX_LENGTH).mean())
        splits[part] = {"rows": len(split), "classes": len(np.unique(split.labels)), "truncated": truncated}
        for other, texts in earlier.items():
            duplicates[f"{other}-{part}"] = sum(text in texts for text in split.texts)
        earlier[part] = set(split.texts)
    record = {"dataset": cfg.name, "labels": dataset.labels, "splits": splits, "duplicates": duplicates}
    record |= {"note": "; ".join(dataset.notes) or None, "tokenizer": name}
    write_json(Path(outputs) / "baselines" / f"texts-{cfg.name}.json", record)
    return record
