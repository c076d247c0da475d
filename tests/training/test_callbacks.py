"""Callbacks, among them TensorBoard: their calls, exceptions and resumption of the run."""

from __future__ import annotations

import builtins
import importlib.util
import re
import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import pytest
from conftest import run_script

from gloss.config import ROOT
from gloss.errors import ConfigError
from gloss.records.reading import read_records
from gloss.training.callbacks import Callback, TensorBoard, numbers_of
from gloss.training.run import train


class Diary(Callback):
    def __init__(self, stop_after: int | None = None) -> None:
        self.lines, self.stop_after = [], stop_after

    def on_start(self, cfg, folder, epochs) -> None:
        assert folder.is_dir()
        self.lines.append(("start", cfg.loss.name, [row["epoch"] for row in epochs]))

    def on_step(self, values) -> None:
        self.lines.append(("step", values["epoch"], values["step"], values["steps"], values["texts"]))

    def on_epoch(self, row) -> None:
        self.lines.append(("epoch", row["epoch"], row["score"]))
        if row["epoch"] == self.stop_after:
            raise KeyError("enough")

    def on_end(self, result) -> None:
        self.lines.append(("end", result and result["best_epoch"]))


def test_callbacks_are_called_at_start_steps_epochs_and_end(tiny_config):
    diary = Diary()
    record = train(tiny_config("loss=ce"), callbacks=[diary])
    scores = [row["score"] for row in record.epochs()]
    steps = [(n, texts) for n, texts in enumerate((32, 32, 32, 24), start=1)]  # 120 texts
    expected = [("start", "ce", [])]
    for epoch in (1, 2):
        expected += [("step", epoch, n, 4, texts) for n, texts in steps] + [("epoch", epoch, scores[epoch - 1])]
    assert diary.lines == [*expected, ("end", record.result["best_epoch"])]
    again = Diary()
    train(tiny_config("loss=ce"), callbacks=[again])  # the run is finished: no calls
    assert again.lines == []


def test_an_exception_in_a_callback_ends_the_run_and_it_resumes_after_the_epoch(tiny_config, capsys):
    options = ["loss=ce", "trainer.max_epochs=3", "trainer.checkpoint_minutes=0"]
    first, second = Diary(stop_after=2), Diary()
    with pytest.raises(KeyError, match="enough"):
        train(tiny_config(*options), callbacks=[first])
    assert first.lines[-1] == ("end", None)
    train(tiny_config(*options), callbacks=[second])
    assert second.lines[0] == ("start", "ce", [1, 2]) and {x[1] for x in second.lines if x[0] == "step"} == {3}
    assert "seed 1 · going on from epoch 3\n" in capsys.readouterr().out


def test_on_end_of_every_callback_is_called_and_the_run_is_finished_where_one_raises(tiny_config):
    first, second = Callback(), Diary()
    first.on_end = lambda result: second.lines.append(result["no such key"])
    with pytest.raises(KeyError, match="no such key"):
        train(tiny_config("loss=ce", "trainer.embeddings_at=[1]"), callbacks=[first, second])
    assert second.lines[-1][0] == "end" and second.lines[-1][1]
    record = train(tiny_config("loss=ce", "trainer.embeddings_at=[1]"))
    assert not {"error.json", "embeddings", "checkpoint"} & {path.name for path in record.folder.iterdir()}


def test_tensorboard_is_imported_only_on_request_and_its_absence_gives_an_error(tiny_config, monkeypatch):
    original = builtins.__import__

    def without(name, *arguments, **options):
        assert not name.startswith("tensorboard"), "imported although nobody asked for it"
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    train(tiny_config("loss=ce", "trainer.max_epochs=1"))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "tensorboard" else find(name, *a))
    with pytest.raises(ConfigError, match="not here: pip install tensorboard"):
        train(tiny_config("loss=scl", "trainer.tensorboard=true"))


def test_wandb_script_of_the_guide_logs_a_sweep(toy_csv, tmp_path, monkeypatch, capsys):
    """Uses a stub for the package wandb."""
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "live-curves.md").read_text(), re.DOTALL)
    (tmp_path / "wandb_train.py").write_text(script)
    calls = []

    class Run:
        def __init__(self, project, dir, config):
            self.summary = {}
            calls.append(("begun", project, config["loss"]["name"], config["seed"]))

        def log(self, numbers, step):
            calls.append(("epoch", step, numbers["loss"]))

        def finish(self, exit_code):
            calls.append(("finished", exit_code, self.summary["test/accuracy"]))

    stub = SimpleNamespace(init=Run, __spec__=ModuleSpec("wandb", None))  # accelerate looks for the spec
    monkeypatch.setitem(sys.modules, "wandb", stub)
    arguments = ["-m", "seed=1,2", "dataset=csv", f"dataset.path={toy_csv}", "model=tiny", "loss=ce"]
    arguments += ["trainer.max_epochs=2", "trainer.device=cpu", f"paths.outputs={tmp_path / 'out'}"]
    assert run_script(monkeypatch, str(tmp_path / "wandb_train.py"), *arguments) == 0
    expected = []
    for record in read_records(tmp_path / "out")[0]:
        expected.append(("begun", "gloss", "ce", record.identity.seed))
        expected += [("epoch", row["epoch"], row["loss"]) for row in record.epochs()]
        expected.append(("finished", 0, record.result["metrics"]["test"]["accuracy"]))
    assert calls == expected and len(calls) == 8
    assert run_script(monkeypatch, str(tmp_path / "wandb_train.py"), "--help") == 0
    assert len(calls) == 8 and "trainer.lr=2e-05" in capsys.readouterr().out


def test_numbers_of_an_epoch_are_named_by_their_path():
    row = {"epoch": 2, "ce": None, "val": {"macro_f1": 60.5, "graph_quality": {"homophily": 0.5}}, "name": "x"}
    assert numbers_of(row) == {"epoch": 2.0, "val/macro_f1": 60.5, "val/graph_quality/homophily": 0.5}


def test_tensorboard_has_each_epoch_once_after_an_interruption(tiny_config):
    pytest.importorskip("tensorboard", reason="TensorBoard is no dependency")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = ["loss=ce", "trainer.max_epochs=3", "trainer.checkpoint_minutes=0", "trainer.tensorboard=true"]
    with pytest.raises(KeyError):
        train(tiny_config(*options), callbacks=[Diary(stop_after=2)])
    record = train(tiny_config(*options))
    events = EventAccumulator(str(record.folder / "tensorboard")).Reload()
    for name, values in (("loss", [row["loss"] for row in record.epochs()]),):
        points = events.Scalars(name)
        assert [point.step for point in points] == [1, 2, 3]
        assert [point.value for point in points] == pytest.approx(values, rel=1e-6)
    assert [p.value for p in events.Scalars("val/macro_f1")] == pytest.approx([r["score"] for r in record.epochs()])
    (best,) = events.Scalars("best/test/accuracy")
    assert best.value == pytest.approx(record.result["metrics"]["test"]["accuracy"])
    assert isinstance(TensorBoard(), Callback)
