"""Several processes on one machine: detection of shared devices, the choice of a GPU, the folder for locks."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from conftest import held

from gloss.runtime import gpu_sharing as workers
from gloss.runtime.gpu_sharing import is_shared, lock_folder


@pytest.mark.parametrize(
    ("script", "shared"),
    [
        ('[ "$1" = --id=GPU-12-ab ] && echo 7', False),  # only this process; its number may differ in a container
        ("echo 7; echo 8", True),
        ("exit 9", True),  # unknown counts as shared
    ],
)
def test_a_gpu_is_shared_if_the_driver_lists_another_process(tmp_path, monkeypatch, script, shared):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-ab"))
    assert is_shared(torch.device("cuda:0")) is shared
    monkeypatch.setenv("PATH", "/nowhere")
    assert is_shared(torch.device("cuda:0")) is True


def test_a_cpu_is_shared_if_its_load_exceeds_its_cores(monkeypatch):
    for load, shared in ((1.9, False), (2.4, False), (2.6, True)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 9.0, 9.0))
        monkeypatch.setattr(os, "cpu_count", lambda: 2)
        assert is_shared(torch.device("cpu")) is shared


def test_a_lock_folder_writable_by_others_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(workers.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delattr("getpass.getuser")  # in a container the uid may have no name
    folder = tmp_path / f"gloss-{os.getuid()}"
    assert lock_folder() == folder and folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)  # other users could create links there
    assert lock_folder() is None
    folder.rmdir()
    (tmp_path / "precious").mkdir()
    folder.symlink_to(tmp_path / "precious")
    assert lock_folder() is None


def test_each_worker_gets_a_separate_gpu(tmp_path, monkeypatch):
    chosen = []
    monkeypatch.setattr(workers.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(workers, "_mine", None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: type("P", (), {"uuid": f"gpu-{i}"}))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1])
    folder = tmp_path / f"gloss-{os.getuid()}"
    assert workers.assign_gpu() == 0 and workers.assign_gpu() == 0
    workers._mine.release()
    monkeypatch.setattr(workers, "_mine", None)
    with held(folder / "gpu-0"):  # another process uses the first GPU
        assert workers.assign_gpu() == 1
    workers._mine.release()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert workers.assign_gpu() is None
