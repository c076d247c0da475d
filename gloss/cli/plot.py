"""Draw a map of a run's embeddings, coloured by class, with the wrongly classified texts marked.

Examples:

  python scripts/plot.py run=best dataset=mr
  python scripts/plot.py run="dataset=r8 loss=gloss_sqrt seed=1" method=pca split=val to=figures
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gloss.cli.command import Device, Paths, Selection
from gloss.config import choice


@dataclass
class Plot(Selection):
    split: str = choice("test", "train", "val", "test")  # the split with the texts
    method: str = choice("tsne", "tsne", "pca")  # how 2 dimensions are made
    to: str | None = None  # folder for the PDF, the PNG and the CSV with the numbers; null: maps/ in the outputs
    trainer: Device = field(default_factory=Device)
    paths: Paths = field(default_factory=Paths)


def task(cfg: Plot) -> None:
    from gloss.inference.embedding_plot import map_of_run  # here: torch is loaded only once the command line is right
    from gloss.inference.predictor import find_run

    record = find_run(cfg.run, cfg.paths.outputs, **cfg.selected())
    drawing = map_of_run(record, cfg.split, cfg.method, cfg.trainer.device, cfg.paths.data or None)
    folder = Path(cfg.to or Path(cfg.paths.outputs) / "maps")
    folder.mkdir(parents=True, exist_ok=True)
    drawing.save(folder)
    print("\n".join([f"{folder / drawing.name}.png (also .pdf and .csv)", *drawing.notes]))
