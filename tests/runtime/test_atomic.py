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


@pytest.mark.parametrize(("module", "name"), [(os, "fsync"), (Path, "replace"), (Path, "open")])
def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch, module, name):
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(module, name, full)
        write_atomic(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_who_may_read_is_the_umasks_to_say(tmp_path):
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "a", "private")
        with atomic_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o600, 0o700]


@pytest.mark.parametrize("make", [atomic_file, atomic_folder])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_old_one(tmp_path, make, error):
    path = tmp_path / "x"
    for number in (1, 2):
        with pytest.raises(error) if number == 2 else make(path) as new:
            if number == 1:
                fill(new, "old")
            else:
                with make(path) as new:
                    fill(new, "half")
                    raise error
    assert os.listdir(tmp_path) == ["x"] and (path / "f" if path.is_dir() else path).read_text() == "old"


def fill(new: object, content: str) -> None:
    if isinstance(new, Path):
        (new / "f").write_text(content)
    else:
        new.write(content.encode())


@pytest.mark.parametrize(("module", "name"), [(os, "fsync"), (Path, "rename"), (Path, "mkdir")])
def test_a_folder_that_cannot_be_written_leaves_no_part_of_it(tmp_path, monkeypatch, module, name):
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(module, name, full)
        with atomic_folder(tmp_path / "model") as new:
            (new / "f").write_text("new")
    assert os.listdir(tmp_path) == []


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
