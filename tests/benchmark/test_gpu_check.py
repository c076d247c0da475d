"""`make gpu-check` on a CPU: the checks run and can fail, and an exception in one check does not end the others."""

from __future__ import annotations

import json

import torch
from conftest import run_script

import gloss.training.trainer
from gloss.benchmark import gpu_check as module
from gloss.config import ROOT


def check(monkeypatch, tmp_path, *checks) -> dict:
    monkeypatch.setattr(module, "CHECKS", checks)
    return module.gpu_check("cpu", str(tmp_path), lambda row: None)


def test_the_checks_pass_on_a_cpu_and_the_result_is_written(monkeypatch, tmp_path, capsys):
    slow = module.benchmarks, module.short_run  # other tests cover the functions that they call
    monkeypatch.setattr(module, "CHECKS", tuple(one for one in module.CHECKS if one not in slow))
    assert run_script(monkeypatch, "gpu_check.py", "device=cpu", f"paths.outputs={tmp_path}") == 0
    kept = json.loads((tmp_path / "gpu_check" / "result.json").read_text())
    assert kept["failed"] == [] and "| check | expected |" in capsys.readouterr().out
    assert sum(row["verdict"] == "ok" for row in kept["rows"]) >= 8


def test_the_listed_cuda_tests_exist():
    assert all(len(list((ROOT / "tests").glob(f"*/{name}"))) == 1 for name in module.CUDA_TESTS)


def test_a_wrong_elimination_fails_its_check(monkeypatch, tmp_path):
    right = module.elimination.eliminate
    wrong = lambda rates, classes: right(rates, classes) * (1 if rates.dtype == torch.float64 else 1 + 1e-4)  # noqa: E731
    monkeypatch.setattr(module.elimination, "eliminate", wrong)
    assert len(check(monkeypatch, tmp_path, module.elimination_kernels)["failed"]) == 2


def test_another_dropout_in_the_second_pass_fails_its_check(monkeypatch, tmp_path):
    monkeypatch.setattr(gloss.training.trainer.torch, "manual_seed", lambda seed: None)
    assert check(monkeypatch, tmp_path, module.gradient_caching)["failed"]


def test_an_exception_in_a_check_gives_a_failed_row(monkeypatch, tmp_path):
    def broken(place):
        raise RuntimeError("no such kernel image")

    result = check(monkeypatch, tmp_path, broken, module.precision)
    assert result["failed"] == ["broken"] and result["rows"][1]["verdict"] == "ok"


def test_an_exception_in_a_benchmark_leaves_the_other_benchmarks(monkeypatch, tmp_path):
    def only_plain(settings, outputs):
        if settings.compile:
            raise TypeError("no such option")
        candidate = {"seconds": [0.02] * 3, "mfu": [0.3] * 3, "overhead": [1.1, 1.0, 1.2]}
        return {"candidates": dict.fromkeys(settings.losses, candidate)}, tmp_path

    monkeypatch.setattr(module, "bench", only_plain)
    monkeypatch.setattr(module, "device_name", lambda device: "H100")
    place = module.Place(torch.device("cuda"), module.Settings(losses=["ce", "gloss_o"]), "outputs")
    found = {row["what"]: row["verdict"] for row in module.benchmarks(place)}
    assert [name for name, verdict in found.items() if verdict == "failed"] == ["benchmark, 128 tokens, compiled"]
    assert [name for name, verdict in found.items() if verdict == "ok"] == [
        "CE's step with G-Loss in it ÷ CE's, 128 tokens",
        "CE's step with G-Loss in it ÷ CE's, 10-45 tokens",
    ]
