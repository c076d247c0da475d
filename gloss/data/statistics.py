"""Sizes, classes, truncation and duplicates of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gloss.config import DatasetConfig
from gloss.data.datasets import describe
from gloss.records.run_folder import write_json


def measure_texts(
    cfg: DatasetConfig, data_dir: str | Path, tokenizer: Any, outputs: str | Path, name: str | None = None
) -> dict[str, Any]:
    """Rows, classes, truncation and duplicates of a data set, for Table 1: <outputs>/baselines/texts-<name>.json.

    tokenizer: a Hugging Face tokenizer, or None: truncation is then left open; name: of its model. Raises DataError.
    """
    record = {"dataset": cfg.name, **describe(cfg, data_dir, tokenizer)}
    record["tokenizer"] = name
    write_json(Path(outputs) / "baselines" / f"texts-{cfg.name}.json", record)
    return record
