"""Copy the model of a run to a folder that transformers and sentence-transformers load.

  python scripts/export.py run=best dataset=mr to=my-model

The run must have kept its weights, as single runs and those on your own texts do (trainer.save_model).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from gloss.cli.command import Outputs, Selection


@dataclass
class Export(Selection):
    to: str = MISSING  # the folder to make
    paths: Outputs = field(default_factory=Outputs)


def task(cfg: Export) -> None:
    from gloss.inference.export import export  # here: torch is loaded only once the command line is right
    from gloss.inference.predictor import find_run

    record = find_run(cfg.run, cfg.paths.outputs, **cfg.selected())
    print(f"{export(record, Path(cfg.to))}: see its README.md")
