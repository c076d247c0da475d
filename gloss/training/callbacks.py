"""Callbacks for the events of a run: the interface, and TensorBoard's curves."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from gloss.config import Config
from gloss.errors import ConfigError


class Callback:
    """The events of a run; override the methods you need. Exceptions in them end the run and reach the caller."""

    def on_start(self, cfg: Config, folder: Path, epochs: list[dict[str, Any]]) -> None:
        """Training begins. epochs: lines of epochs.jsonl of an interrupted run that goes on; else empty."""

    def on_step(self, values: dict[str, Any]) -> None:
        """A step is done. values: `epoch`, `step`, `steps`, `texts`; `loss`, None on a GPU (reading it would wait)."""

    def on_epoch(self, row: dict[str, Any]) -> None:
        """An epoch is done. row: its line of epochs.jsonl (`epoch`, `lr`, `loss`, `score`, `val`, `seconds`, …)."""

    def on_end(self, result: dict[str, Any] | None) -> None:
        """The run ends. result: the content of result.json; None where it was interrupted or failed."""


class TensorBoard(Callback):
    """Event files in the run's folder `tensorboard/`, one point an epoch: `tensorboard --logdir outputs/runs`.

    Raises ConfigError where TensorBoard is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigError("trainer.tensorboard=true needs tensorboard, which is not here: pip install tensorboard")

    def on_start(self, cfg: Config, folder: Path, epochs: list[dict[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder / "tensorboard", ignore_errors=True)  # the epochs so far are written anew
        self.writer = SummaryWriter(folder / "tensorboard")
        for row in epochs:
            self.on_epoch(row)

    def on_epoch(self, row: dict[str, Any]) -> None:
        for name, value in numbers_of(row).items():
            self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()

    def on_end(self, result: dict[str, Any] | None) -> None:
        for split, metrics in (result or {"metrics": {}})["metrics"].items():
            for name, value in numbers_of(metrics).items():
                self.writer.add_scalar(f"best/{split}/{name}", value, result["best_epoch"])
        self.writer.close()


def numbers_of(tree: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in nested dicts by their path: {"loss": 1.2, "val/macro_f1": 60.3}."""
    found: dict[str, float] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= numbers_of(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[prefix + key] = float(value)
    return found
