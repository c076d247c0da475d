"""The output of a run: lines in all cases, and a live view on a terminal."""

from __future__ import annotations

import os
import re
import time

import pytest
from conftest import on_terminal
from rich.console import Console

from gloss.training import progress_bar
from gloss.training.checkpoint import Progress
from gloss.training.progress_bar import Display, clock


def row(epoch: int, score: float = 60.0, seconds: float = 8.0) -> dict:
    parts = {"loss": 0.5, "ce": 0.3, "embedding_loss": 0.55, "score": score}
    return {"epoch": epoch, **parts, "seconds": {"total": seconds, "evaluation": 2.0}}


@pytest.fixture
def view(tiny_config, monkeypatch):
    """(display, clock, text): a run of at most 20 epochs with a patience of 5; the test sets the clock."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display = Display(tiny_config("loss=gloss_sqrt", "trainer.max_epochs=20", "trainer.patience=5"), "run 2 of 6")

    def text() -> str:
        console = Console(width=150, file=open(os.devnull, "w"), record=True)
        console.print(display._view())
        return console.export_text()

    return display, now, text


def step(display: Display, epoch: int, number: int, loss: float | None = 0.25) -> None:
    display.show("step", {"epoch": epoch, "step": number, "steps": 10, "texts": 32, "loss": loss})


def test_live_view_shows_run_phase_and_estimated_time(view):
    display, now, text = view
    display.show("phase", {"name": "tokenising"})
    now[0] += 65
    assert text().splitlines() == ["run 2 of 6 · csv tiny integrated gloss_sqrt seed 1 · tokenising (1:05)"]
    display.show("phase", {"name": "training"})
    step(display, 1, 1)
    now[0] += 4
    step(display, 1, 3)  # two steps in four seconds
    step(display, 1, 4)
    assert "epoch 1 of at most 20" in text() and "step 4 of 10 · 16 examples/s" in text()
    # 3 steps take 4 s, an epoch 13.3 s; 0.4 of epoch 1 is done. Epoch 1 always improves: at least 6 epochs
    assert display._time_left(now[0]) == pytest.approx((5.6 * 40 / 3, 19.6 * 40 / 3))
    display.progress = Progress(epochs=[row(1), row(2, 61.0), row(3, 50.0)], best_epoch=2, best_score=61.0, num_stale=1)
    step(display, 4, 5)
    shown = text()
    numbers = "loss 0.2500 · best val F1 61 at epoch 2 · patience 4 of 5 left · epoch 3: val F1 50, loss 0.5000"
    assert f"{numbers} (ce 0.3000, gloss_sqrt 0.5500)" in shown
    assert display._time_left(now[0]) == (35.0, 165.0)  # 3.5 and 16.5 epochs of 10 s
    assert "training ends in 0:35 (no better score) to 2:45 (all epochs)" in shown


def test_live_view_without_patience_and_without_step_loss(view):
    display, now, text = view
    display.cfg.trainer.patience = None
    display.progress = Progress(epochs=[row(1)], best_epoch=1, best_score=60.0)
    step(display, 2, 10, loss=None)
    assert "training ends in 3:00\n" in text() and "patience" not in text()
    assert "\nbest val F1 60 at epoch 1 · epoch 1: val" in text()


def test_only_an_early_stop_prints_a_line(tiny_config, capsys):
    display = Display(tiny_config("loss=ce"))
    display.progress = Progress(epochs=[row(1)] * 7, num_stale=5, best_score=61.234, stopped="patience")
    display.show("stopped", {})
    display.progress.stopped = "max_epochs"
    display.show("stopped", {})
    output = "csv tiny integrated ce seed 1 · stopped after epoch 7: 5 epochs without a better val F1 than 61.23\n"
    assert capsys.readouterr().out == output


@pytest.mark.parametrize(("seconds", "text"), [(0.9, "0:00"), (61, "1:01"), (3599, "59:59"), (3723.5, "1:02:03")])
def test_clock_formats_seconds(seconds, text):
    assert clock(seconds) == text


def test_a_terminal_shows_phases_and_lines(toy_csv, tmp_path):
    """Workers of a sweep show only lines: test_sweeps.py."""
    arguments = ["-m", "seed=1,2", "dataset=csv", f"dataset.path={toy_csv}", "model=tiny", "loss=ce"]
    arguments += ["trainer.batch_size=16", "trainer.max_epochs=2", "trainer.device=cpu", f"paths.outputs={tmp_path}"]
    status, lines = on_terminal("scripts/train.py", *arguments)
    assert status == 0
    for seed in (1, 2):
        name = f"csv tiny integrated ce seed {seed}"
        assert [sum(line.startswith(f"{name} · epoch {n} · loss ") for line in lines) for n in (1, 2)] == [1, 1]
    phases = {m[1] for line in lines if (m := re.match(r"run \d of 2 · csv .* · ([^·]+) \(\d:\d\d\)", line))}
    assert phases & {"loading texts", "loading the encoder"}
    shown = "\n".join(lines)
    assert "starting …" in shown and "loading PyTorch and transformers …" in shown
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("Data set")) :]
    assert re.search(r" ± ", table[1]) and f"{tmp_path}/report/index.html" in "".join(table)


def test_output_to_a_pipe_has_only_lines(tiny_config, capsys):
    with Display(tiny_config("loss=ce")) as display:
        display.show("phase", {"name": "training"})
        step(display, 1, 1)
        display.show("epoch", row(1))
    output = capsys.readouterr()
    assert (
        output.out == "csv tiny integrated ce seed 1 · epoch 1 · loss 0.5000 · val F1 60 · 10.0 s\n" and not output.err
    )
    assert progress_bar.is_live() is False
