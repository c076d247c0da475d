"""Atomic writes: either the complete new file or the old file remains, and no temporary file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gloss.runtime.atomic import atomic_file, atomic_folder, remove_half_written, write_atomic


def full(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, "full")


def test_file_permissions_follow_the_umask(tmp_path):
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
def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path, monkeypatch, make, fault):
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


def test_errors_of_writers_name_the_file(tmp_path, monkeypatch):
    """safetensors raises its own error type for a full disk, with the errno only in the message."""
    with pytest.raises(OSError) as found, atomic_folder(tmp_path / "model") as new:
        save_file({"x": torch.zeros(1)}, new / "no" / "folder")
    assert found.value.errno == errno.ENOENT and found.value.filename == str(tmp_path / "model")
    with pytest.raises(OSError) as found, atomic_file(tmp_path / "a") as _:
        full()
    assert found.value.filename == str(tmp_path / "a")


@pytest.mark.parametrize("make", [atomic_file, atomic_folder])
def test_temporary_files_of_a_killed_process_are_removed(tmp_path, make):
    (tmp_path / ".nfs0001").touch()  # a file of another program
    if os.fork() == 0:
        with make(tmp_path / "below" / "x") as new:
            fill(new, "half")
            os._exit(0)  # no clean-up, as with kill -9
    os.wait()
    assert len(os.listdir(tmp_path / "below")) == 1
    remove_half_written(tmp_path)
    assert os.listdir(tmp_path / "below") == [] and (tmp_path / ".nfs0001").exists()
