"""Fetch, check and prepare the benchmark texts, or fetch models; see data/README.md.

Examples:

  python scripts/data.py datasets=mr,r8
  python scripts/data.py models=bert,mpnet
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from gloss.cli.command import Texts, names


@dataclass
class Data:
    datasets: list[str] = names()  # which sets; []: all, or none where models are given
    models: list[str] = names()  # which models, for machines without the hub: bert, roberta_large, distilbert, mpnet
    paths: Texts = field(default_factory=Texts)


def task(cfg: Data) -> int:
    from gloss.data.datasets import read_manifest  # here: slow to import
    from gloss.data.download import prepare
    from gloss.models.download import fetch_model

    for name in cfg.models:
        fetch_model(name)
    datasets = cfg.datasets or ([] if cfg.models else list(read_manifest()["sets"]))
    problems = prepare(datasets, Path(cfg.paths.data or "data").expanduser())
    print("".join(f"error: {problem}\n" for problem in problems), file=sys.stderr, end="")
    return 2 if problems else 0
