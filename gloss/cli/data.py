"""Fetch, check and prepare the benchmark texts; see data/README.md.

Examples:

  python scripts/data.py datasets=mr,r8
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from gloss.cli.command import Texts, names


@dataclass
class Data:
    datasets: list[str] = names()  # which sets; []: all
    paths: Texts = field(default_factory=Texts)


def task(cfg: Data) -> int:
    from gloss.data.datasets import read_manifest  # here: slow to import
    from gloss.data.download import prepare

    problems = prepare(cfg.datasets or list(read_manifest()["sets"]), Path(cfg.paths.data or "data").expanduser())
    print("".join(f"error: {problem}\n" for problem in problems), file=sys.stderr, end="")
    return 2 if problems else 0
