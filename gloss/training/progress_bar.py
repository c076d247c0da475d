"""The output of a run while it works: a live view on a terminal, and everywhere a line an epoch."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gloss.config import CE, INTEGRATED, Config
from gloss.runtime.terminal import escape_control_characters, is_live
from gloss.training.checkpoint import Progress

log = logging.getLogger(__name__)


class Display:
    """The live view of a run, and the lines above it. Use as a context.

    place: of the run in a sweep, as "run 2 of 6".
    """

    def __init__(self, cfg: Config, place: str = "") -> None:
        self.cfg, self.place = cfg, place
        self.name = f"{cfg.dataset.name} {cfg.model.alias} {cfg.mode} {cfg.loss.name} seed {cfg.seed}"
        self.score = "F1" if cfg.mode == INTEGRATED else "silhouette"
        self.progress = Progress()
        self.phase, self.since = "", time.monotonic()
        self.values: dict = {}  # of the last step
        self.epoch_since, self.texts, self.first_step = self.since, 0, 0
        self.live = None
        if is_live():
            console = Console(file=sys.stderr, highlight=False)
            self.live = Live(get_renderable=self._view, console=console, transient=True, refresh_per_second=4)

    def __enter__(self) -> Display:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def show(self, event: str, values: dict) -> None:
        """Show an event of a run: "phase", "start", "step", "epoch", "note" or "stopped"."""
        getattr(self, f"_{event}")(values)

    def _phase(self, values: dict) -> None:
        self.phase, self.since = values["name"], time.monotonic()

    def _step(self, values: dict) -> None:
        if not self.values or values["epoch"] != self.values["epoch"]:  # its time counts from the end of this step
            self.epoch_since, self.texts, self.first_step = time.monotonic(), 0, values["step"]
        else:
            self.texts += values["texts"]
        self.values = values

    def _epoch(self, row: dict) -> None:
        seconds = row["seconds"]["total"] + row["seconds"]["evaluation"]
        text = f"epoch {row['epoch']} · loss {self._losses(row)} · val {self.score} {row['score']:.4g}"
        log.info(f"{self.name} · {text} · {seconds:.1f} s")

    def _note(self, values: dict) -> None:
        log.warning(f"{self.name} · note: {escape_control_characters(values['text'])}")

    def _start(self, values: dict) -> None:
        p = self.progress
        if (p.epoch, p.step) != (1, 0) and p.stopped is None:
            step = f", step {p.step + 1}" if p.step else ""
            log.info(f"{self.name} · going on from epoch {p.epoch}{step}")

    def _stopped(self, values: dict) -> None:
        p = self.progress
        if p.stopped == "patience":
            why = f"{p.num_stale} epochs without a better val {self.score} than {p.best_score:.4g}"
            log.info(f"{self.name} · stopped after epoch {len(p.epochs)}: {why}")

    def summary(self, result: dict, folder: Path) -> None:
        log.info(
            f"{self.name}: {scores(result)}; best epoch {result['best_epoch']} of {result['epochs']}, "
            f"{result['seconds']['total']:.1f} s\n  {folder}"
        )

    def _losses(self, row: dict) -> str:
        parts = {"ce": row["ce"], self.cfg.loss.name.removesuffix("_ce"): row["embedding_loss"]}
        if self.cfg.loss.name == CE or row["ce"] is None:
            return f"{row['loss']:.4f}"
        return f"{row['loss']:.4f} ({', '.join(f'{name} {value:.4f}' for name, value in parts.items())})"

    # --------------------------------------------------------------------------------------------------- the live view

    def _view(self) -> Group:
        now = time.monotonic()
        head = " · ".join(filter(None, (self.place, self.name, f"{self.phase} ({clock(now - self.since)})")))
        lines: list[Text | Table] = [Text(head, overflow="ellipsis", no_wrap=True)]
        if self.values:
            step, steps = self.values["step"], self.values["steps"]
            rate = self.texts / (now - self.epoch_since) if self.texts and self.phase == "training" else 0
            row = Table.grid(padding=(0, 1))
            row.add_row(
                f"epoch {self.values['epoch']} of at most {self.cfg.trainer.max_epochs}",
                ProgressBar(total=steps, completed=step, width=24),
                f"step {step} of {steps}" + (f" · {rate:,.0f} examples/s" if rate else ""),
            )
            lines.append(row)
            lines.append(Text(" · ".join(self._numbers()), overflow="ellipsis", no_wrap=True))
            if left := self._time_left(now):
                earliest, latest = map(clock, left)
                span = earliest if earliest == latest else f"{earliest} (no better score) to {latest} (all epochs)"
                lines.append(Text(f"training ends in {span}", overflow="ellipsis", no_wrap=True))
        return Group(*lines)

    def _numbers(self) -> list[str]:
        """The most wanted first: a narrow terminal cuts the end."""
        p, patience = self.progress, self.cfg.trainer.patience
        parts = [] if self.values["loss"] is None else [f"loss {self.values['loss']:.4f}"]
        if p.epochs:
            row = p.epochs[-1]
            parts.append(f"best val {self.score} {p.best_score:.4g} at epoch {p.best_epoch}")
            if patience is not None:
                parts.append(f"patience {max(0, patience - p.num_stale)} of {patience} left")
            parts.append(f"epoch {row['epoch']}: val {self.score} {row['score']:.4g}, loss {self._losses(row)}")
        return parts

    def _time_left(self, now: float) -> tuple[float, float] | None:
        """Seconds to the earliest and to the latest end of training; None before a step is timed."""
        p, trainer = self.progress, self.cfg.trainer
        step, steps = self.values["step"], self.values["steps"]
        if p.epochs:
            epoch = sum(r["seconds"]["total"] + r["seconds"]["evaluation"] for r in p.epochs) / len(p.epochs)
        elif step > self.first_step:
            epoch = (now - self.epoch_since) / (step - self.first_step) * steps
        else:
            return None
        latest = trainer.max_epochs - len(p.epochs)
        earliest = latest
        if trainer.patience is not None:
            earliest = min(latest, trainer.patience - p.num_stale + (not p.epochs))  # the first epoch is always better
        under_way = step / steps if len(p.epochs) < self.values["epoch"] else 0
        return max(0.0, (earliest - under_way) * epoch), max(0.0, (latest - under_way) * epoch)


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:03 or 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def scores(result: dict) -> str:
    """The metrics of a record in words: validation, then test, which a trial of a search does not have."""
    parts = []
    for split, name in {"val": "validation", "test": "test"}.items():
        if metrics := result["metrics"].get(split):
            silhouette = metrics["macro_silhouette"]
            shown = "" if silhouette is None else f", silhouette {silhouette:.4f}"
            parts.append(f"{name} accuracy {metrics['accuracy']:.2f}, macro-F1 {metrics['macro_f1']:.2f}{shown}")
            if "grouped_accuracy" in metrics:
                parts[-1] += f", right option {metrics['grouped_accuracy']:.2f}"
    return "; ".join(parts)
