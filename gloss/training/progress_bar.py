"""What a run shows while it works."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from gloss.config import INTEGRATED, Config


class Display:
    """A bar on a terminal, a line an epoch elsewhere."""

    def __init__(self, cfg: Config, folder: Path) -> None:
        self.cfg, self.folder = cfg, folder
        self.name = f"{cfg.dataset.name} {cfg.model.alias} {cfg.mode} {cfg.loss.name} seed {cfg.seed}"
        self.is_terminal = sys.stderr.isatty()
        self.bar: tqdm | None = None
        self.shown: dict[str, str] = {}

    def show(self, what: str, values: dict) -> None:
        """values: of a step (step, steps, epoch), or the line of an epoch."""
        if what == "step" and self.is_terminal:
            if self.bar is None:
                total = self.cfg.trainer.max_epochs * values["steps"]
                done = (values["epoch"] - 1) * values["steps"] + values["step"] - 1
                self.bar = tqdm(total=total, initial=done, desc=self.name, unit="step", dynamic_ncols=True, leave=False)
            if values["loss"] is not None:
                self.bar.set_postfix({**self.shown, "loss": f"{values['loss']:.4f}"}, refresh=False)
            self.bar.update()
        elif what == "epoch":
            score = "F1" if self.cfg.mode == INTEGRATED else "silhouette"
            self.shown = {
                "epoch": str(values["epoch"]),
                "loss": f"{values['loss']:.4f}",
                f"val {score}": f"{values['score']:.4g}",
            }
            if self.bar is not None:
                self.bar.set_postfix(self.shown)
            elif not self.is_terminal:
                seconds = values["seconds"]["total"] + values["seconds"]["evaluation"]
                text = " · ".join(f"{key} {value}" for key, value in self.shown.items())
                print(f"{self.name} · {text} · {seconds:.1f} s", flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def summary(self, result: dict) -> None:
        print(
            f"{self.name}: {scores(result)}; best epoch {result['best_epoch']} of {result['epochs']}, "
            f"{result['seconds']['total']:.1f} s\n  {self.folder}",
            flush=True,
        )


def scores(result: dict) -> str:
    """The metrics of a record in words, those of validation first; a trial of a search has no others."""
    parts = []
    for split, name in {"val": "validation", "test": "test"}.items():
        if metrics := result["metrics"].get(split):
            silhouette = metrics["macro_silhouette"]
            shown = "" if silhouette is None else f", silhouette {silhouette:.4f}"
            parts.append(f"{name} accuracy {metrics['accuracy']:.2f}, macro-F1 {metrics['macro_f1']:.2f}{shown}")
            if "grouped_accuracy" in metrics:
                parts[-1] += f", right option {metrics['grouped_accuracy']:.2f}"
    return "; ".join(parts)
