"""Signals, kills and concurrent processes: the final record equals an uninterrupted run, partial files are ignored."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import TINY, folder_of, held, outcome
from test_fit import undisturbed

import gloss.training.run
from gloss.cli import entry
from gloss.cli.hydra_main import main
from gloss.config import ROOT, Config
from gloss.errors import DataError
from gloss.records.reading import read_record, read_records
from gloss.records.run_folder import clear, is_done, locked
from gloss.runtime.signals import Interrupted, noted, raise_on_signal
from gloss.runtime.terminal import run_with_exit_code
from gloss.training.callbacks import Callback
from gloss.training.checkpoint import Progress
from gloss.training.checkpoint import load as load_checkpoint
from gloss.training.checkpoint import save as save_checkpoint
from gloss.training.run import train
from gloss.training.trainer import Fit

EVERY_EPOCH = ["loss=ce", "trainer.max_epochs=3", "trainer.checkpoint_minutes=1e-9"]


# ------------------------------------------------------------------------------------------------------------- signals


def test_a_signal_during_the_final_evaluation_keeps_the_training(tiny_config, monkeypatch):
    cfg = tiny_config("loss=scl", "mode=standalone", "trainer.checkpoint_minutes=60")
    folder, expected = undisturbed(cfg)

    def stop(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    with monkeypatch.context() as patch, raise_on_signal(), pytest.raises(Interrupted, match="SIGTERM"):
        patch.setattr("gloss.training.evaluate.logistic_probe", stop)
        train(cfg)
    assert len(list((folder / "checkpoint").iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(Fit, "step", stop)  # no training step is repeated
        assert outcome(train(cfg).folder) == expected


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """SIGINT with its default handler, as on a terminal; background jobs are started with SIGINT ignored."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


def test_signals_are_recorded_then_raised_and_handlers_restored(heeds_ctrl_c):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with raise_on_signal():
        with noted() as pending:
            os.kill(os.getpid(), signal.SIGTERM)
            assert pending == [signal.SIGTERM]
            with pytest.raises(Interrupted):  # a second signal is raised at once
                os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGINT") as caught:
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert pickle.loads(pickle.dumps(caught.value)).number == signal.SIGINT  # a worker sends it to its parent
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with raise_on_signal():
            os.kill(os.getpid(), signal.SIGTERM)  # ignored by the parent process: stays ignored
    finally:
        signal.signal(signal.SIGTERM, before[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_imports_gives_one_line(number, heeds_ctrl_c, monkeypatch, capsys):
    monkeypatch.setattr(entry, "import_module", lambda name: os.kill(os.getpid(), number))
    assert entry.main("train") == 128 + number
    assert capsys.readouterr().err == f"error: stopped by {number.name}\n"


def test_a_signal_hidden_by_an_error_of_a_library_still_counts(heeds_ctrl_c, capsys):
    """A `finally` of a library that Interrupted has passed may fail in turn."""

    def task() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise AttributeError("a half-made object")

    assert run_with_exit_code(task) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "error: stopped by SIGTERM\n"


def test_the_hint_of_a_stopped_rerun_leaves_rerun_out(capsys):
    task = lambda cfg, place: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    for words, then in (([], ""), (["rerun=true"], " without rerun=true")):
        assert main(task, ["loss=ce", *words]) == 143
        assert f"stopped by SIGTERM; the same command{then} goes on" in capsys.readouterr().err


def start(*overrides: str, **options: object) -> subprocess.Popen:
    """Start scripts/train.py in a new process group with the default handling of signals."""
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *overrides]
    default_sigint = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    return subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, preexec_fn=default_sigint, **options)


def command_of(toy_csv: Path, outputs: Path, *overrides: str) -> list[str]:
    settings = [word for word in TINY if not word.startswith(("trainer.max_epochs=", "trainer.save_model="))]
    return [*settings, f"dataset.path={toy_csv}", f"paths.outputs={outputs}", *overrides]


def test_train_script_exits_with_the_status_of_the_signal(toy_csv, tmp_path):
    arguments = command_of(toy_csv, tmp_path, "loss=ce", "trainer.max_epochs=500", "trainer.patience=null")
    for moment, number in (("runs", signal.SIGINT), ("trains", signal.SIGTERM)):
        process = start(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        pattern = {"runs": "config.yaml", "trains": "epochs.jsonl"}[moment]
        while process.poll() is None and not list(tmp_path.glob(f"runs/*/*/*/*/*/{pattern}")):
            time.sleep(0.02)
        process.send_signal(number)
        output = process.communicate(timeout=120)[1]
        assert process.returncode == 128 + number, output
        assert f"stopped by {number.name}; the same command goes on" in output and "Traceback" not in output
    [folder] = tmp_path.glob("runs/*/*/*/*/*")
    assert len(list((folder / "checkpoint").iterdir())) == 1 and not is_done(folder)


# ------------------------------------------------------------------------------------------------ concurrent processes


def test_a_second_process_waits_or_skips_and_a_killed_process_releases_its_lock(tiny_config, tmp_path, capsys):
    cfg = tiny_config("loss=ce")
    folder = folder_of(cfg)
    folder.mkdir(parents=True)
    with held(folder / "lock"):
        assert train(cfg, wait=False) is None and "left to it" in capsys.readouterr().err
    with held(folder / "lock", 3) as other:  # the process that held the lock was killed
        record = train(cfg)
        assert record is not None and other.poll() == 0 and "waiting for it" in capsys.readouterr().err
    with locked(folder, wait=False) as is_held:
        assert is_held


# -------------------------------------------------------------------------------------------- output and partial files


class Gone:
    """A pipe without a reader."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    flush = lambda self: self.write("")  # noqa: E731
    isatty = lambda self: False  # noqa: E731
    fileno = lambda self: os.open(os.devnull, os.O_WRONLY)  # noqa: E731


def test_a_closed_pipe_does_not_fail_a_run(tiny_config, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Gone())
    record = train(tiny_config("loss=ce"))
    assert is_done(record.folder) and not (record.folder / "error.json").exists()


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_full_disk_in_one_run_or_a_closed_pipe_does_not_end_a_sweep(
    monkeypatch, tmp_path, toy_csv, capsys, is_closed
):
    def task(cfg: Config, is_sweep: bool) -> None:
        print("a note", file=sys.stderr, flush=True)
        done.append(cfg.seed)
        if cfg.seed == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/result.json")
        if cfg.seed == 3:
            raise DataError("its reason\nand the rest")

    done: list[int] = []
    for stream in ("stdout", "stderr") if is_closed else ():
        monkeypatch.setattr(sys, stream, Gone())
    sweep = ["-m", "dataset=csv", f"dataset.path={toy_csv}", "loss=ce", "seed=1,2,3", f"paths.outputs={tmp_path}"]
    assert main(task, sweep) == 1 and done == [1, 2, 3]
    if not is_closed:
        output = capsys.readouterr().err
        assert "/somewhere/result.json: No space left on device: free some space there" in output
        assert output.count("its reason\n") == 2 and output.count("and the rest") == 1  # at the end in short
        assert "2 runs failed" in output


@pytest.mark.parametrize("name", ["checkpoint", "embeddings"])
def test_a_folder_left_beside_a_finished_run_is_removed(tiny_config, name):
    record = train(tiny_config("loss=ce"))
    (record.folder / name / "00003-0000000").mkdir(parents=True)
    with locked(record.folder):  # another process is removing it
        train(tiny_config("loss=ce"))
    assert (record.folder / name).is_dir()
    train(tiny_config("loss=ce"))
    assert not (record.folder / name).exists() and is_done(record.folder)
    (record.folder / "error.json").write_text('{"message": "old"}')  # the run still counts as finished
    records, problems = read_records(Path(record.folder).parents[5])
    assert len(records) == 1 and not problems


@pytest.mark.parametrize("error", [DataError("no network"), OSError(errno.ENOSPC, "full")])
def test_a_failed_rerun_keeps_the_old_record(tiny_config, monkeypatch, error):
    record = train(tiny_config("loss=ce"))

    def fails(*arguments: object) -> None:
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(gloss.training.run, "load_encoder", fails)
        train(tiny_config("loss=ce", "rerun=true"))
    assert read_record(record.folder).result == record.result
    train(tiny_config("loss=ce", "rerun=true", "trainer.embeddings_at=[0]"))


def test_a_partly_cleared_run_counts_as_unfinished(tmp_path, monkeypatch):
    for name in ("result.json", "DONE", "epochs.jsonl"):
        (tmp_path / name).touch()

    def killed(self: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "iterdir", killed)
    with pytest.raises(KeyboardInterrupt):
        clear(tmp_path)
    assert not is_done(tmp_path)


def test_embeddings_of_the_last_epoch_before_a_stop_are_kept(tiny_config, monkeypatch):
    cfg = tiny_config(*EVERY_EPOCH, "trainer.embeddings_at=[0,1,2]")
    folder, expected = undisturbed(cfg)
    save = Fit.save

    def killed(self: Fit) -> None:
        save(self)
        raise KeyboardInterrupt  # as with kill -9: nothing runs after the checkpoint of epoch 1

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Fit, "save", killed)
        train(cfg)
    assert outcome(train(cfg).folder) == expected
    assert {f"epoch_{n}_embeddings" for n in (0, 1, 2)} <= read_record(folder).predictions().keys()


def test_a_checkpoint_is_removed_only_after_the_next_one_is_written(tmp_path, monkeypatch):
    state = {"x": torch.arange(3.0)}

    def save() -> None:
        save_checkpoint(tmp_path, {"lr": 1}, Progress(epoch=2, step=1), state, None, {}, torch.zeros(1, 1))

    save()
    monkeypatch.setattr(shutil, "rmtree", lambda *arguments, **options: pytest.fail("removed"))
    save()  # at the same epoch and step
    progress, model, *_ = load_checkpoint(tmp_path, {"lr": 1})
    assert progress.epoch == 2 and torch.equal(model["x"], state["x"])


def test_partial_files_in_a_run_folder_are_removed_at_the_start(tiny_config):
    cfg = tiny_config("loss=ce")
    folder = folder_of(cfg)
    folder.mkdir(parents=True)
    (folder / "checkpoint" / ".00001-0000001.01234567").mkdir(parents=True)
    (folder / ".result.json.89abcdef").write_text("{")
    seen = []
    callback = Callback()
    callback.on_epoch = lambda row: seen.append(list(folder.rglob(".*")))
    train(cfg, callbacks=[callback])
    assert seen[0] == []  # removed at the start, because checkpoints need the space
