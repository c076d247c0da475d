"""Faults: full disks, lack of memory, non-finite numbers. The last checkpoint survives; messages name the remedy."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import subprocess
from collections.abc import Callable
from functools import partial

import pytest
import torch
from conftest import folder_of, outcome
from test_fit import after_step, undisturbed
from test_stops import EVERY_EPOCH

from gloss.cli.hydra_main import main
from gloss.config import Config
from gloss.errors import RunError
from gloss.models.encoder import TokenTable
from gloss.records.reading import read_records
from gloss.records.run_folder import is_done
from gloss.training.failures import Diverged, explain_lack_of_memory
from gloss.training.run import train
from gloss.training.trainer import Fit

# ---------------------------------------------------------------------------------------------------- disks and memory


def check_fault(cfg: Config, monkeypatch, strike: Callable, mend: Callable, number: int, kept: str = "*") -> None:
    """A run into which `strike` strikes in epoch 2 keeps the checkpoint of epoch 1; mended, it ends as undisturbed."""
    folder, expected = undisturbed(cfg)
    try:
        with after_step(monkeypatch, 2, 1, strike), pytest.raises(OSError) as caught:
            train(cfg)
    finally:
        mend()
    assert caught.value.errno == number and str(folder) in str(caught.value.filename)
    assert [p.name for p in (folder / "checkpoint").glob(kept)] == ["00002-0000000"] and not is_done(folder)
    assert outcome(train(cfg).folder) == expected


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_resumes(small_disk, tiny_config, monkeypatch):
    filler = small_disk / "filler"

    def fill() -> None:
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(2**27))

    cfg = tiny_config(f"paths.outputs={small_disk}/outputs", *EVERY_EPOCH)
    check_fault(cfg, monkeypatch, fill, filler.unlink, errno.ENOSPC)


@pytest.mark.parametrize("limit, number", [("RLIMIT_FSIZE", errno.EFBIG), ("RLIMIT_NOFILE", errno.EMFILE)])
def test_resource_limits_keep_the_last_checkpoint_and_the_run_resumes(tiny_config, monkeypatch, limit, number):
    kind = getattr(resource, limit)
    soft, hard = resource.getrlimit(kind)

    def lower() -> None:
        os.close(free := os.dup(0))  # the lowest free file descriptor
        resource.setrlimit(kind, ({"RLIMIT_FSIZE": 2**20, "RLIMIT_NOFILE": free}[limit], hard))

    mend = partial(resource.setrlimit, kind, (soft, hard))
    check_fault(tiny_config(*EVERY_EPOCH), monkeypatch, lower, mend, number, "[0-9]*")


def test_a_read_only_folder_refuses_new_runs_and_finished_runs_are_read(small_disk, tiny_config, capsys):
    outputs = f"paths.outputs={small_disk}/outputs"
    record = train(tiny_config(outputs, "loss=ce"))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert train(tiny_config(outputs, "loss=ce")).result == record.result
    with pytest.raises(OSError, match="Read-only"):
        train(tiny_config(outputs, "loss=ce", "seed=2"))
    assert len(read_records(small_disk / "outputs")[0]) == 1


@pytest.mark.parametrize(("name", "reason", "shown"), [
    ("UncompletedJobError", "Job 7 (task: 0) has no output (state: CANCELLED by 0)", "a job was cancelled or killed"),
    ("FailedJobError", "sbatch: error\nInvalid partition", "SLURM refused the jobs (Invalid partition): set hydra.lau"),
])  # fmt: skip
def test_a_lost_job_of_a_launcher_gives_one_line(name, reason, shown, capsys):
    import submitit.core.utils

    def task(cfg, is_sweep):
        raise getattr(submitit.core.utils, name)(reason)

    assert main(task, ["dataset=mr", "model=tiny", "loss=ce"]) == 1
    output = capsys.readouterr().err
    assert output.startswith(f"error: {shown}") and output.count("\n") == 1


def test_out_of_memory_names_batch_size_text_length_and_remedy(tiny_config, monkeypatch):
    def starved(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    def no_room(*arguments: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    cfg = tiny_config("loss=ce", "trainer.max_epochs=1")
    with monkeypatch.context() as patch:
        patch.setattr(Fit, "backward", starved)
        message = r"out of memory with batches of 32 texts of up to 16 tokens: set trainer.grad_cache_chunk=16"
        with pytest.raises(RunError, match=message):
            train(cfg)
    for target in ("training.trainer.embed", "training.run.choose_sigma", "models.encoder.Classifier.to"):
        with monkeypatch.context() as patch, pytest.raises(RunError, match=message):
            patch.setattr(f"gloss.{target}", no_room)
            train(cfg)
    folder = folder_of(cfg)
    assert json.loads((folder / "error.json").read_text())["error"] == "RunError"
    train(cfg)  # the folder can be used again
    assert not (folder / "error.json").exists()


def test_out_of_memory_on_a_cpu_is_recognised(tiny_config, monkeypatch):
    monkeypatch.setattr(Fit, "backward", lambda *arguments: torch.zeros(10**14))
    with pytest.raises(RunError, match="cpu is out of memory with batches"):
        train(tiny_config("loss=ce"))
    monkeypatch.setattr(Fit, "backward", lambda *arguments: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size") as caught:  # other errors are unchanged
        train(tiny_config("loss=ce"))
    assert not isinstance(caught.value, RunError)


@pytest.mark.parametrize(
    "options, advised",
    [
        (["loss=ce"], "trainer.grad_cache_chunk=16"),
        (["loss=ce", "trainer.grad_cache_chunk=2"], "trainer.grad_cache_chunk=1"),
        (["loss=ce", "trainer.grad_cache_chunk=1"], None),
        (["loss=gloss_sqrt", "variant=released"], None),
    ],
)
def test_the_remedy_for_out_of_memory_is_a_valid_setting(tiny_config, options, advised):
    texts = "out of memory", "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
    for error in (torch.OutOfMemoryError("out of memory"), *map(RuntimeError, texts)):
        with pytest.raises(RunError) as caught:
            explain_lack_of_memory(error, tiny_config(*options), torch.device("cpu"))
        assert re.findall(r"\S+=\S+", str(caught.value)) == ([advised] if advised else [])
    tiny_config(*options, *([advised] if advised else []))


def test_micro_batches_limit_the_batches_of_an_evaluation(tiny_config, monkeypatch):
    sizes, encode = [], TokenTable.encode

    def watched(self: TokenTable, model: object, rows, *arguments: object):
        sizes.append(len(rows))
        return encode(self, model, rows, *arguments)

    monkeypatch.setattr(TokenTable, "encode", watched)
    options = ["loss=gloss_sqrt", "trainer.grad_cache_chunk=8", "trainer.embeddings_at=[0,1]", "trainer.max_epochs=1"]
    train(tiny_config(*options))
    assert max(sizes) == 8


# ------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("loss", ["loss=ce", "loss=gloss_sqrt", "loss=gloss_o"])
def test_non_finite_embeddings_after_the_last_step_give_no_record_and_name_keys_of_the_loss(tiny_config, loss):
    options = [loss, "trainer.lr=1e38", "trainer.batch_size=128", "trainer.max_epochs=1"]  # one step
    options += ["loss.sigma=0.5"] * (loss == "loss=gloss_o")
    with pytest.raises(Diverged, match="embeddings of val are not finite at epoch 1, step 1") as caught:
        train(tiny_config(*options))
    folder = folder_of(tiny_config(*options))
    details = json.loads((folder / "error.json").read_text())["details"]
    assert not is_done(folder) and details["lr"] == 1e38 and float(details["loss"]) > 0 and details["texts"]
    advised = re.findall(r"(?:trainer|loss)\.\w+", str(caught.value))
    assert len(advised) == 1 + loss.startswith("loss=gloss")
    other = re.findall(r"loss=gloss_o", str(caught.value)) or [loss]  # G-Loss-SQRT takes no σ
    tiny_config(*other, *options[1:], *(f"{key}=0.7" for key in advised))


def test_non_finite_logits_give_no_record(tiny_config, monkeypatch):
    def huge(self: Fit, split: str) -> torch.Tensor:
        return 3e38 * self.model.head.weight[:1].sign().expand(len(self.tables[split]), -1)

    monkeypatch.setattr(Fit, "embed", huge)
    with pytest.raises(Diverged, match="logits are not finite"):
        train(tiny_config("loss=ce", "trainer.max_epochs=1"))


def test_collapsed_embeddings_end_the_run_with_an_error(tiny_config, monkeypatch):
    monkeypatch.setattr("gloss.training.sigma.embed", lambda *arguments: torch.ones(5, 3))
    with pytest.raises(RunError, match=r"loss=gloss_sqrt cannot compute σ with model=tiny: .*collapsed"):
        train(tiny_config("loss=gloss_sqrt"))
