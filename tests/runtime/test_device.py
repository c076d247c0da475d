"""The choice of the device, simulated without a GPU: old drivers, attention backends, the warm-up."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_fit import prepared

from gloss.config import ROOT
from gloss.errors import ConfigError
from gloss.runtime.device import choose_device, has_bf16
from gloss.runtime.environment import commit_of

A100, V100 = "NVIDIA A100-SXM4-40GB, 8.0, {}\n", "Tesla V100-SXM2-16GB, 7.0, {}\n"


@pytest.fixture
def machine(monkeypatch):
    """machine(driver, output of nvidia-smi or None, CUDA of PyTorch): simulate such a machine."""

    def make(driver: str, gpus: str | None, cuda: str | None) -> None:
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

        def run(command, **options):
            if gpus is None:
                raise FileNotFoundError(command[0])
            return subprocess.CompletedProcess(command, 0, gpus.replace("{}", driver))

        monkeypatch.setattr(subprocess, "run", run)

    return make


@pytest.mark.parametrize(("driver", "gpus", "cuda", "stops", "parts"), [
    ("535.104.05", A100, "13.0", True, ("A100-SXM4-40GB is 535", "needs 580", "make setup TORCH_INDEX=https")),
    ("570.86.15", A100 + V100, "13.0", True, ("570", "cu126", "trainer.device=cpu")),
    ("570.86.15", V100, "13.0", False, ("V100", "570", "cu126")),
    ("470.57.02", A100, "12.6", True, ("470", "needs 525", "update the driver")),
    ("580.65.06", A100, "13.0", False, ("finds none it may use", "nvidia-smi")),
    ("535.104.05", A100, None, False, ("built without CUDA", "make setup")),
])  # fmt: skip
def test_auto_device_explains_why_a_gpu_is_not_used(machine, capsys, driver, gpus, cuda, stops, parts):
    machine(driver, gpus, cuda)
    if stops:
        with pytest.raises(ConfigError) as caught:
            choose_device("auto")
        output = str(caught.value)
    else:
        assert choose_device("auto").type == "cpu"
        output = capsys.readouterr().err
    assert all(part in output for part in parts), output
    with pytest.raises(ConfigError, match="found 0 CUDA devices") as caught:
        choose_device("cuda")
    assert parts[0] in str(caught.value)
    assert choose_device("cpu").type == "cpu" and not capsys.readouterr().err
    with pytest.raises(ConfigError, match="device=meta is not allowed"):
        choose_device("meta")


def test_a_hidden_or_missing_gpu_gives_no_message(machine, capsys, monkeypatch):
    for gpus, hidden in ((A100, ""), (A100, "-1"), (None, "0"), ("No devices were found", "0")):
        machine("535.104.05", gpus, "13.0")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert choose_device("auto").type == "cpu"
    assert not capsys.readouterr().err


def test_the_chosen_gpu_becomes_current_and_cudnn_attention_is_off(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    torch.backends.cuda.enable_cudnn_sdp(True)
    assert choose_device("cuda:1") == torch.device("cuda:1") and chosen == [torch.device("cuda:1")]
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this processor has no units for bf16")
@pytest.mark.parametrize(("own", "is_kept"), [({}, False), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024"}, True),
                                              ({"DNNL_PRIMITIVE_CACHE_CAPACITY": "1024"}, True)])  # fmt: skip
def test_on_a_cpu_few_compiled_products_are_kept(own, is_kept):
    """300 shapes twice: the second time all are compiled again, unless the user keeps more."""
    code = (
        "import torch; from gloss.runtime.device import autocast; autocast(torch.device('cpu'), 'bf16')\n"
        "for rows in [*range(300), *range(300)]: torch.ones(rows + 2, 64).bfloat16() @ torch.ones(64, 64).bfloat16()"
    )
    env = {k: v for k, v in os.environ.items() if "DNN" not in k} | {"ONEDNN_VERBOSE": "profile_create"} | own
    shown = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    num_compiled = len(re.findall("create:cache_miss.*matmul", shown.stdout))
    assert 300 <= num_compiled < 600 if is_kept else num_compiled >= 600


def test_make_setup_accepts_another_package_index_for_torch():
    def commands(*words: str) -> str:
        return subprocess.run(["make", "-n", "setup", *words], cwd=ROOT, capture_output=True, text=True).stdout

    output = commands("TORCH_INDEX=https://example.org/cu126")
    assert "--upgrade --extra-index-url https://example.org/cu126 --requirement requirements.txt" in output
    assert "--upgrade" not in commands("-B")


@pytest.mark.parametrize("options", [["loss=gloss_o", "loss.sigma=0.5"], ["loss=scl", "mode=standalone"], ["loss=ce"]])
def test_warm_up_runs_the_loss_for_each_batch_size_and_changes_no_weights(tiny_config, tmp_path, monkeypatch, options):
    fit, sizes = prepared(tiny_config(*options), tmp_path), []
    call = type(fit.objective).__call__
    monkeypatch.setattr(
        type(fit.objective), "__call__", lambda self, z, *rest: sizes.append(len(z)) or call(self, z, *rest)
    )
    before = {name: value.clone() for name, value in fit.model.state_dict().items()}
    batches = [np.arange(32), np.arange(32), np.arange(10)]
    fit._warm_up(batches, [fit.objective.draw_labeled(len(b), torch.Generator().manual_seed(0)) for b in batches])
    assert sizes == [32, 10]
    assert all(p.grad is None for p in fit.parameters) and not fit.watch.read()
    assert all(torch.equal(value, before[name]) for name, value in fit.model.state_dict().items())


def test_the_commit_is_that_of_the_packages_own_repository(tmp_path):
    """An environment inside another project's repository would give that project's commit."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    identity = ["-c", "user.name=x", "-c", "user.email=x@y"]
    (tmp_path / "outputs").mkdir()
    for name in ("code.py", "outputs/record"):
        (tmp_path / name).write_text("old")
    subprocess.run(["git", "-C", tmp_path, "add", "."], check=True)
    subprocess.run(["git", "-C", tmp_path, *identity, "commit", "-q", "-m", "x"], check=True)
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "outputs" / "record").write_text("a record made again")
    commit, is_clean = commit_of(tmp_path)
    assert len(commit) == 40 and is_clean
    (tmp_path / "code.py").write_text("new")
    assert commit_of(tmp_path) == (commit, False)
    assert commit_of(tmp_path / "site-packages") == (None, None)
