"""What is written is there as a whole, or the old one still is, and nothing beside it."""

from __future__ import annotations

import errno
import os
import signal
import stat
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gloss.runtime.atomic import atomic_file, atomic_folder, remove_half_written, write_atomic
from gloss.runtime.terminal import run_with_exit_code


def full(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, "full")


def test_who_may_read_is_the_umasks_to_say(tmp_path):
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "a", "private")
        with atomic_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o600, 0o700]


def fill(new: object, content: str) -> None:
    if isinstance(new, Path):
        (new / "f").write_text(content)
    else:
        new.write(content.encode())


FAULTS = [(os, "fsync"), (Path, "open"), (Path, "mkdir"), RuntimeError, KeyboardInterrupt]
CASES = [(atomic_file, x) for x in (*FAULTS, (Path, "replace"))]
CASES += [(atomic_folder, x) for x in (*FAULTS, (Path, "rename"))]


@pytest.mark.parametrize(("make", "fault"), CASES)
def test_what_cannot_be_written_leaves_the_old_one_and_nothing_beside_it(tmp_path, monkeypatch, make, fault):
    path = tmp_path / "x"
    with make(path) as new:
        fill(new, "old")
    is_call = isinstance(fault, tuple)
    with monkeypatch.context() as patch, pytest.raises(OSError if is_call else fault):
        if is_call:
            patch.setattr(*fault, full)
        with make(path) as new:
            fill(new, "new")
            if not is_call:
                raise fault
    assert os.listdir(tmp_path) == ["x"]
    assert (path / "f" if path.is_dir() else path).read_text() == "old"


def test_the_error_of_any_writer_names_the_file(tmp_path, monkeypatch):
    """safetensors tells a full disk as an error of its own, with the number in its text."""
    with pytest.raises(OSError) as found, atomic_folder(tmp_path / "model") as new:
        save_file({"x": torch.zeros(1)}, new / "no" / "folder")
    assert found.value.errno == errno.ENOENT and found.value.filename == str(tmp_path / "model")
    with pytest.raises(OSError) as found, atomic_file(tmp_path / "a") as _:
        full()
    assert found.value.filename == str(tmp_path / "a")


@pytest.mark.parametrize("make", [atomic_file, atomic_folder])
def test_what_a_killed_process_left_is_removed(tmp_path, make):
    (tmp_path / ".nfs0001").touch()  # not ours
    if os.fork() == 0:
        with make(tmp_path / "below" / "x") as new:
            fill(new, "half")
            os._exit(0)  # no cleaning up, as with kill -9
    os.wait()
    assert len(os.listdir(tmp_path / "below")) == 1
    remove_half_written(tmp_path)
    assert os.listdir(tmp_path / "below") == [] and (tmp_path / ".nfs0001").exists()


def test_a_script_that_is_told_to_stop_leaves_nothing_half_written(tmp_path):
    def task() -> None:
        with atomic_file(tmp_path / "predictions.csv") as file:
            file.write(b"half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    assert run_with_exit_code(task) == 128 + signal.SIGTERM and os.listdir(tmp_path) == []
