"""Training: fast paths equal plain paths; resumption, early stopping, checkpoints and non-finite losses."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import outcome

from gloss.config import Config
from gloss.data.datasets import load_dataset
from gloss.data.tokens import tokenize
from gloss.errors import RunError
from gloss.models.encoder import Classifier
from gloss.models.pretrained import load_encoder, load_tokenizer
from gloss.records.reading import read_record
from gloss.runtime.signals import Interrupted
from gloss.training.callbacks import Callback
from gloss.training.failures import Diverged
from gloss.training.objective import Objective
from gloss.training.run import build_fit, train
from gloss.training.trainer import Fit

NO_DROPOUT = "model.dropout=0"
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def prepared(cfg: Config, folder: Path, device: str = "cpu") -> Fit:
    """The training of a run, for single steps."""
    folder.mkdir(exist_ok=True)
    dataset = load_dataset(cfg.dataset, cfg.paths.data, cfg.seed)
    return build_fit(cfg, dataset, torch.device(device), folder, report=lambda event, values: None)[0]


def gradient(fit: Fit) -> dict[str, torch.Tensor]:
    """The gradients of the first step, before the optimizer."""
    indices = np.argsort(fit.tables["train"].host_lengths, kind="stable")[:32]
    device_indices = torch.from_numpy(indices).to(fit.device)
    labeled = fit.objective.draw_labeled(len(indices), torch.Generator().manual_seed(0))
    fit.model.train()
    fit.backward(indices, device_indices, fit.labels["train"][device_indices], labeled, seed=5)
    return {name: p.grad.clone() for name, p in fit.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mode", ["integrated", "standalone"])
@pytest.mark.parametrize("fast", ["trainer.num_length_buckets=4", "trainer.grad_cache_chunk=8"])
@pytest.mark.parametrize("device", DEVICES)
def test_slices_and_micro_batches_give_the_gradient_of_the_whole_batch(tiny_config, tmp_path, mode, fast, device):
    options = [NO_DROPOUT, "variant.loss_dtype=float64", "loss=gloss_o", "loss.sigma=0.5", f"mode={mode}"]
    gradients = []
    for path in ("trainer.num_length_buckets=1", fast):
        fit = prepared(tiny_config(path, *options), tmp_path, device)
        fit.model.double()  # float64: rounding cannot hide a difference
        gradients.append(gradient(fit))
    plain, got = gradients
    assert got.keys() == plain.keys()
    difference = sum((got[name] - value).square().sum() for name, value in plain.items()).sqrt()
    assert difference <= 1e-10 * sum(value.square().sum() for value in plain.values()).sqrt()


@pytest.mark.parametrize(
    ("device", "precision", "tolerance"),
    [("cpu", "float32", 1e-4), ("cpu", "bf16", 0.02), *[("cuda", "float32", 1e-4)] * torch.cuda.is_available()],
)
def test_micro_batches_repeat_their_dropout_masks(tiny_config, tmp_path, monkeypatch, device, precision, tolerance):
    """Their gradient equals that of one pass with the same seeds, and not that of one with other seeds."""
    options = ["loss=gloss_o", "loss.sigma=0.5", "model.dropout=0.2"]
    encode, gradients = Fit.encode, []

    def flat(*chunk: str) -> torch.Tensor:
        fit = prepared(tiny_config(*options, *chunk), tmp_path, device)
        fit.precision = precision
        return torch.cat([g.flatten() for g in gradient(fit).values()])

    got = flat("trainer.grad_cache_chunk=8")
    for shift in (0, 1000):

        def at_once(self: Fit, indices, device_indices, seed: int, shift=shift):
            pieces = [(indices[i : i + 8], device_indices[i : i + 8], seed + shift + i // 8) for i in range(0, 32, 8)]
            return torch.cat([encode(self, *piece) for piece in pieces])

        monkeypatch.setattr(Fit, "encode", at_once)
        gradients.append(flat())
    plain, other = gradients
    assert (got - plain).norm() < tolerance * plain.norm() < 0.1 * (other - plain).norm()


def undisturbed(cfg: Config) -> tuple[Path, dict[str, object]]:
    """Train once, delete the run, and return its folder and outcome."""
    folder = train(cfg).folder
    expected = outcome(folder)
    shutil.rmtree(folder)
    return folder, expected


@contextmanager
def after_step(monkeypatch: pytest.MonkeyPatch, epoch: int, number: int, act: Callable[[], None]) -> Iterator[None]:
    """Call `act` after step `number` of an epoch."""
    step = Fit.step

    def acting(self: Fit, done: int, *arguments: object) -> None:
        step(self, done, *arguments)
        if (self.progress.epoch, done + 1) == (epoch, number):
            act()

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "step", acting)
        yield


@contextmanager
def stopped_after(monkeypatch: pytest.MonkeyPatch, epoch: int, number: int) -> Iterator[None]:
    """Send SIGTERM after step `number` of an epoch and expect the run to stop."""
    stop = partial(os.kill, os.getpid(), signal.SIGTERM)
    with after_step(monkeypatch, epoch, number, stop), pytest.raises(Interrupted, match="SIGTERM"):
        yield


@pytest.mark.parametrize("options", [["loss=gloss_sqrt"], ["loss=scl", "mode=standalone"]])
def test_a_repeated_run_gives_identical_numbers(tiny_config, options):
    record = train(tiny_config(*options))
    first = outcome(record.folder)
    assert train(tiny_config(*options)).result["finished_at"] == record.result["finished_at"]  # it is not repeated
    written = (record.folder / "result.json").stat().st_mtime_ns
    assert outcome(train(tiny_config(*options, "rerun=true")).folder) == first
    assert (record.folder / "result.json").stat().st_mtime_ns > written


@pytest.mark.parametrize(
    ("option", "same"),  # what two seeds share: without a limit the training texts
    [("ablation.label_noise=0.3", {"texts"}), ("dataset.train_limit=60", set())],
)
def test_all_that_a_run_draws_follows_from_its_seed(tiny_config, monkeypatch, option, same):
    drawn: list[dict[str, object]] = []

    class Stop(Exception):
        pass

    def stop(self: Fit, number: int, indices, device_indices, is_labeled) -> None:
        found = {"texts": self.rows.tolist(), "labels": self.train_labels.tolist(), "batch": indices.tolist()}
        found |= {"head": self.model.head.weight.tolist(), "is_labeled": is_labeled.tolist()}
        drawn.append(found | {"sigma": self.progress.sigma})
        raise Stop

    monkeypatch.setattr("gloss.training.sigma.SIGMA_SAMPLE", 40)
    monkeypatch.setattr(Fit, "step", stop)
    for seed in (1, 1, 2):
        with pytest.raises(Stop):
            train(tiny_config("loss=gloss_sqrt", option, f"seed={seed}"))
    one, again, other = drawn
    assert one == again and {key for key in one if one[key] == other[key]} == same


@pytest.mark.parametrize("stop_at", [(1, 2), (2, 1)])
def test_a_resumed_run_equals_an_uninterrupted_run(tiny_config, monkeypatch, stop_at):
    options = ["loss=gloss_sqrt", "trainer.max_epochs=3"]
    folder, expected = undisturbed(tiny_config(*options))
    with stopped_after(monkeypatch, *stop_at):
        train(tiny_config(*options))
    assert not (folder / "DONE").exists() and (folder / "checkpoint").exists()
    (state,) = folder.glob("checkpoint/*/state.json")
    content = json.loads(state.read_text())
    content["progress"]["total_seconds"] = 1000.0
    state.write_text(json.dumps(content))
    older = shutil.copytree(
        state.parent, state.parent.with_name("00001-0000001")
    )  # its process died before removing it
    (older / "model.safetensors").write_bytes(b"")
    resumed = train(tiny_config(*options))
    assert outcome(resumed.folder) == expected and resumed.result.get("resumed_on") is None
    assert resumed.result["seconds"]["total"] > 1000
    assert not (folder / "checkpoint").exists()


def test_a_stop_in_the_last_epochs_callback_counts(tiny_config):
    class Stop(Callback):
        def on_epoch(self, row):
            if row["epoch"] == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    options = ["loss=ce", "trainer.max_epochs=2"]
    with pytest.raises(Interrupted):
        train(tiny_config(*options), callbacks=[Stop()])
    assert train(tiny_config(*options)).result["epochs"] == 2


def test_epoch_seconds_exclude_checkpoints(tiny_config, monkeypatch):
    slept, save = [], Fit.save
    monkeypatch.setattr(Fit, "save", lambda self: (slept.append(time.sleep(0.3)), save(self)))
    record = train(tiny_config("loss=ce", "trainer.max_epochs=1", "trainer.checkpoint_minutes=1e-9"))
    assert len(slept) > 2 and record.result["seconds"]["training"] < 0.3 * (len(slept) - 1)


def test_seconds_and_counts_of_a_record_follow_from_its_epochs(tiny_config, monkeypatch):
    scores = iter([0.3, 0.5, 0.4])
    monkeypatch.setattr(Fit, "_validate", lambda self: (next(scores), {"graph_quality": self.progress.graph_at_start}))
    monkeypatch.setattr("gloss.training.trainer.is_shared", lambda device: True)
    offsets = ["ablation.lam_offset=0.1", "ablation.gamma_offset=-0.1"]  # λ 0.8 and γ 0.6
    cfg = tiny_config("loss=gloss_o", "loss.sigma=0.5", "trainer.batch_size=6", "trainer.max_epochs=3", *offsets)
    cfg.tuned = {"study": "s", "trials": 3}
    record = train(cfg)
    result, rows = record.result, record.epochs()
    training, evaluation = ([row["seconds"][key] for row in rows] for key in ("total", "evaluation"))
    expected = {"training": sum(training), "evaluation": sum(evaluation), "per_epoch": sum(training) / 3}
    expected |= {"to_best": sum(training[:2]), "total": result["seconds"]["total"]}
    assert result["seconds"] == pytest.approx(expected, abs=1e-3) and result["best_epoch"] == 2
    left_out = [row["frac_unscorable"] for row in rows]
    assert result["counts"]["frac_unscorable"] == pytest.approx(np.mean(left_out)) and min(left_out) > 0
    assert result["counts"]["steps"] == 3 * 20  # 120 texts
    assert [result["hyperparameters"][key] for key in ("lam", "gamma")] == pytest.approx([0.9, 0.5])
    assert (result["shared_device"], result["tuned"]) == (True, cfg.tuned)
    texts = load_dataset(cfg.dataset, "", cfg.seed).splits["train"].texts
    assert result["tokens_per_epoch"] == len(tokenize(texts, load_tokenizer(cfg.model), 16).input_ids)


def test_a_checkpoint_of_another_configuration_or_precision_is_refused_with_the_difference(
    tiny_config, tmp_path, monkeypatch
):
    def fit(flags: str, *options: str) -> Fit:
        monkeypatch.setattr("gloss.runtime.device._cpuinfo", {"flags": flags}.get)
        return prepared(tiny_config("loss=ce", "trainer.precision=auto", *options), tmp_path / "run")

    fit("").save()
    with pytest.raises(RunError, match=r"another configuration: trainer.lr was 0.001, is 0.002"):
        fit("", "trainer.lr=2e-3").run()
    with pytest.raises(RunError, match="precision was float32, is bf16"):
        fit("avx512_bf16").run()


def test_a_checkpoint_of_other_texts_is_refused_and_another_machine_is_recorded(tiny_config, tmp_path):
    def fit(**progress: object) -> Fit:
        made = prepared(tiny_config("loss=ce"), tmp_path / "run")
        vars(made.progress).update(progress)
        return made

    here = {"commit": "a1", "packages": {"torch": "2.13"}, "threads": 4}
    fit(fingerprint="one", machine=here, epoch=2, step=3).save()
    with pytest.raises(RunError, match="other texts: their fingerprint was one, is two"):
        fit(fingerprint="two", machine=here).run()
    with pytest.raises(RunError, match="with 0 batches an epoch, now there are 4"):  # the log of the saved run is empty
        fit(fingerprint="one", machine=here).run()
    same, other = fit(fingerprint="one", machine=here), fit(fingerprint="one", machine={**here, "threads": 8})
    same._restore(), other._restore()
    assert same.progress.resumed_on == []
    assert other.progress.resumed_on == ["epoch 2, step 3: threads was 4, is 8"]


def test_a_record_names_changes_between_start_and_resumption(tiny_config, monkeypatch):
    save = Fit.save

    def killed(self: Fit) -> None:
        save(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Fit, "save", killed)
        train(tiny_config("loss=ce", "trainer.checkpoint_minutes=1e-9"))
    result = train(tiny_config("loss=ce", "trainer.grad_cache_chunk=8")).result
    assert result["resumed_on"] == ["epoch 1, step 1: grad_cache_chunk was None, is 8"]


def test_a_damaged_checkpoint_is_refused(tiny_config, tmp_path):
    fit = prepared(tiny_config("loss=ce"), tmp_path / "run")
    fit.save()
    path = next((tmp_path / "run").glob("checkpoint/*/optimizer.pt"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match="cannot be read"):
        fit.run()


def test_the_test_split_is_encoded_once(tiny_config, monkeypatch):
    seen = []
    embed = Fit.embed
    monkeypatch.setattr(Fit, "embed", lambda self, split: (seen.append(split), embed(self, split))[1])
    train(tiny_config("loss=scl", "mode=standalone"))
    assert (seen.count("test"), seen.count("val")) == (1, 4)  # val: before training, twice in it, for the final metrics


def test_a_non_finite_loss_ends_the_run_with_its_step_and_texts(tiny_config, monkeypatch):
    call = Objective.__call__

    def spoiled(self: Objective, embeddings, *arguments):
        spoiled.calls += 1
        parts = call(self, embeddings, *arguments)
        if spoiled.calls == 2:
            object.__setattr__(parts, "loss", parts.loss * float("nan"))
        return parts

    spoiled.calls = 0
    monkeypatch.setattr(Objective, "__call__", spoiled)
    cfg = tiny_config("loss=gloss_sqrt")
    with pytest.raises(Diverged, match="epoch 1, step 2"):
        train(cfg)
    folder = next(Path(cfg.paths.outputs).glob("runs/*/*/*/*/seed=1"))
    error = json.loads((folder / "error.json").read_text())
    assert error["details"]["step"] == 2 and len(error["details"]["rows"]) == 32 and error["details"]["sigma"] > 0
    assert not (folder / "DONE").exists()
    with pytest.raises(RunError, match="is not finished"):
        read_record(folder)


def test_a_resumed_run_keeps_its_sigma(tiny_config, tmp_path):
    begun = prepared(tiny_config("loss=gloss_o", "loss.sigma=0.5"), tmp_path / "run")
    begun.progress.sigma = 0.7
    begun.save()
    resumed = prepared(tiny_config("loss=gloss_o", "loss.sigma=0.5"), tmp_path / "run")
    resumed._restore()
    assert resumed.objective.embedding_loss.keywords["sigma"] == 0.7


def test_batches_without_signal_are_counted_and_noted_once(tiny_config, monkeypatch, capsys):
    monkeypatch.setattr(Objective, "draw_labeled", lambda self, n, g, known: torch.arange(n) < 1)  # one is labeled
    options = ["loss=gloss_o", "loss.sigma=0.5", "dataset.train_limit=24", "trainer.max_epochs=1"]
    counts = train(tiny_config(*options, "trainer.batch_size=2")).result["counts"]
    assert counts["batches_without_signal"] > counts["steps"] / 2
    assert capsys.readouterr().err.count("had nothing to compare") == 1


@pytest.mark.parametrize("error", [None, torch.OutOfMemoryError, ValueError])
def test_a_run_leaves_no_model_in_memory_for_the_next_one(tiny_config, monkeypatch, error):
    steps = []

    def failing(*_):
        steps.append(0)
        raise error("CUDA out of memory")

    def models():
        return [thing for thing in gc.get_objects() if type(thing) is Classifier]

    if error is not None:
        monkeypatch.setattr(Fit, "step", failing)
    load_encoder(tiny_config().model)  # its first import keeps the frames of its callers
    gc.collect()
    before = len(models())
    gc.disable()
    try:
        with contextlib.suppress(RunError, ValueError):
            steps += train(tiny_config("loss=gloss_sqrt")).epochs()
        assert steps and len(models()) == before  # it came to the training
    finally:
        gc.enable()
