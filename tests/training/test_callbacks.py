"""Callbacks, among them TensorBoard: their calls, exceptions and resumption of the run."""

from __future__ import annotations

import builtins
import importlib.util
import json
import re

import pytest
from conftest import run_python

from gloss.config import ROOT
from gloss.errors import ConfigError
from gloss.records.reading import read_records
from gloss.records.run_folder import config_hash
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
    record = train(tiny_config(*options), callbacks=[second])
    assert second.lines[0] == ("start", "ce", [1, 2]) and {x[1] for x in second.lines if x[0] == "step"} == {3}
    assert "seed 1 · going on from epoch 3\n" in capsys.readouterr().out
    assert train(tiny_config(*options, "rerun=true")).epochs()[2]["score"] == record.epochs()[2]["score"]


def test_tensorboard_does_not_change_the_run_folder(tiny_config):
    plain, shown = (tiny_config("loss=ce", f"trainer.tensorboard={x}") for x in ("false", "true"))
    assert config_hash(plain, "0" * 64) == config_hash(shown, "0" * 64)


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


WANDB = """
import json

class Run:
    summary = {}
    def log(self, numbers, step):
        print("logged", step, json.dumps(numbers))
    def finish(self, exit_code):
        print("finished", exit_code, json.dumps(self.summary))

def init(project, dir, config):
    print("begun", project, config["loss"]["name"], config["seed"])
    return Run()
"""


def test_wandb_script_of_the_guide_logs_a_sweep(toy_csv, tmp_path):
    """Uses a stub for the package wandb."""
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "live-curves.md").read_text(), re.DOTALL)
    (tmp_path / "wandb_train.py").write_text(script)
    (tmp_path / "wandb.py").write_text(WANDB)
    arguments = ["-m", "seed=1,2", "dataset=csv", f"dataset.path={toy_csv}", "model=tiny", "loss=ce"]
    arguments += ["trainer.max_epochs=2", "trainer.device=cpu", f"paths.outputs={tmp_path / 'out'}"]
    done = run_python(str(tmp_path / "wandb_train.py"), *arguments, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 0, done.stderr
    records, _ = read_records(tmp_path / "out")
    assert [line for line in done.stdout.splitlines() if line.startswith("begun")] == [
        "begun gloss ce 1",
        "begun gloss ce 2",
    ]
    logged = [line.split(maxsplit=2)[1:] for line in done.stdout.splitlines() if line.startswith("logged")]
    rows = [row for record in records for row in record.epochs()]
    assert [(int(step), json.loads(text)["loss"]) for step, text in logged] == [(r["epoch"], r["loss"]) for r in rows]
    assert done.stdout.count("finished 0") == 2 and "test/accuracy" in done.stdout


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
