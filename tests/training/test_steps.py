"""One step and one epoch of the training loop, with expected numbers worked out by hand."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, composed
from test_fit import prepared
from test_objective import config

import gloss.training.trainer
from gloss.errors import RunError
from gloss.models.encoder import TokenTable
from gloss.training.checkpoint import Progress
from gloss.training.failures import Diverged
from gloss.training.metrics import classification_metrics, macro_silhouette
from gloss.training.objective import LossOutput, Objective
from gloss.training.trainer import LOG, Fit


class Laps(list):
    """A stopwatch that records only the names of the parts."""

    lap = list.append


@pytest.fixture(scope="module")
def first(toy_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """A Fit on the toy texts with the tiny encoder, before its first step."""
    return prepared(composed(*TINY, f"dataset.path={toy_csv}", "loss=ce"), tmp_path_factory.mktemp("first"))


@pytest.fixture
def fit_of(first: Fit, tmp_path: Path) -> Callable[..., Fit]:
    """fit_of("loss=ce", "trainer.lr=1e-3", …): a Fit on the toy texts in float32, before its first step."""

    def make(*overrides: str) -> Fit:
        cfg = copy.deepcopy(
            config("trainer.num_length_buckets=1", "trainer.lr=1e-3", "variant.loss_dtype=float32", *overrides)
        )
        cfg.dataset, cfg.model = first.cfg.dataset, copy.deepcopy(first.cfg.model)
        model = copy.deepcopy(first.model)
        for override in overrides:
            if override.startswith("model.dropout="):
                for module in model.modules():
                    if isinstance(module, torch.nn.Dropout):
                        module.p = float(override.partition("=")[2])
        if cfg.mode == "standalone":
            model.head.requires_grad_(False)
        objective, progress = Objective.of(cfg, 3, 0.5), Progress(sigma=0.5)
        made = {"cfg": cfg, "model": model, "objective": objective, "progress": progress, "folder": tmp_path}
        fit = dataclasses.replace(first, labels=dict(first.labels), **made)
        fit.watch, fit.log = Laps(), torch.zeros(3, len(LOG))
        return fit

    return make


INDICES = np.arange(10)
DEVICE_INDICES = torch.arange(10)
IS_LABELED = torch.arange(10) < 6


def stub_backward(fit: Fit, loss: float, gradient: float, **parts: object) -> list[tuple]:
    """Replace the backward pass by a constant loss, parts and gradient; return the list of its calls."""
    calls = []

    def backward(*arguments: object) -> LossOutput:
        calls.append(arguments)
        for p in fit.parameters:
            p.grad = torch.full_like(p, gradient)
        made = {"ce": None, "embedding_loss": None, "num_unscorable": None, "is_empty": None} | parts
        return LossOutput(torch.tensor(loss, requires_grad=True), **made)

    fit.backward = backward
    return calls


# ------------------------------------------------------------------------------------------------------------ the step


@pytest.mark.parametrize("fused_on", [("cpu",), ()])
@pytest.mark.parametrize("max_norm", [0.25, 1e6])
def test_a_step_clips_the_gradient_norm(fit_of, monkeypatch, fused_on, max_norm):
    monkeypatch.setattr(gloss.training.trainer, "FUSED_ON", fused_on)
    fit = fit_of("loss=ce", f"trainer.max_grad_norm={max_norm}")
    stub_backward(fit, 2.0, 0.5)
    before = [p.detach().clone() for p in fit.parameters]
    fit.step(1, INDICES, DEVICE_INDICES, None)
    norm = 0.5 * sum(p.numel() for p in fit.parameters) ** 0.5
    clipped = 0.5 / max(1.0, norm / max_norm)
    for p, old in zip(fit.parameters, before, strict=True):
        state = fit.optimizer.state[p]
        torch.testing.assert_close(state["exp_avg"], torch.full_like(p, 0.1 * clipped), rtol=1e-4, atol=0)
        first = torch.full_like(p, 1e-3)  # Adam's first step equals the learning rate
        torch.testing.assert_close(old - p, first, rtol=2e-2, atol=0)
        assert p.grad is None
    assert fit.log[1].tolist() == pytest.approx([2.0, 0, 0, 0, 0, 0, norm, 0], rel=1e-4)
    assert (fit.log[[0, 2]] == 0).all()


def test_a_step_logs_its_losses_and_counts(fit_of):
    fit = fit_of("loss=gloss_o", "loss.sigma=0.5")
    parts = {"ce": torch.tensor(1.5), "embedding_loss": torch.tensor(2.5, dtype=torch.float64, requires_grad=True)}
    stub_backward(fit, 2.0, 0.0, **parts, num_unscorable=torch.tensor(3), is_empty=torch.tensor(True))
    fit.step(2, INDICES, DEVICE_INDICES, IS_LABELED)
    assert LOG == ("loss", "ce", "embedding_loss", "num_unscorable", "num_unlabeled", "is_empty", "grad_norm", "is_bad")
    assert fit.log[2].tolist() == [2.0, 1.5, 2.5, 3, 4, 1, 0, 0] and not fit.log.requires_grad
    assert fit.watch == ["data", "backward", "optimizer"]


def test_a_step_passes_labels_and_a_distinct_seed(fit_of):
    seeds = []
    for run_seed, epoch, step in ((1, 1, 0), (1, 1, 1), (1, 2, 0), (1, 1, 0), (2, 1, 0)):
        fit = fit_of("loss=ce", f"seed={run_seed}")
        calls = stub_backward(fit, 1.0, 0.0)
        fit.progress.epoch = epoch
        fit.step(step, INDICES, DEVICE_INDICES, IS_LABELED)
        indices, device_indices, labels, is_labeled, seed = calls[0]
        assert indices is INDICES and device_indices is DEVICE_INDICES and is_labeled is IS_LABELED
        assert torch.equal(labels, fit.labels["train"][:10])
        seeds.append(seed)
    assert seeds[0] == seeds[3] and len(set(seeds)) == 4


@pytest.mark.parametrize("fused_on", [("cpu",), ()])
@pytest.mark.parametrize("loss, gradient", [(float("nan"), 1.0), (1.0, float("inf")), (float("inf"), float("nan"))])
def test_a_non_finite_step_blocks_all_later_updates(fit_of, monkeypatch, fused_on, loss, gradient):
    monkeypatch.setattr(gloss.training.trainer, "FUSED_ON", fused_on)
    fit = fit_of("loss=ce")
    stub_backward(fit, 1.0, 1.0)
    fit.step(0, INDICES, DEVICE_INDICES, None)
    before = [p.detach().clone() for p in fit.parameters]
    for step, values in ((1, (loss, gradient)), (2, (1.0, 1.0))):
        stub_backward(fit, *values)
        fit.step(step, INDICES, DEVICE_INDICES, None)
        assert all(torch.equal(p, old) for p, old in zip(fit.parameters, before, strict=True))
    assert fit.log[:, LOG.index("is_bad")].tolist() == [0, 1, 1]


def test_a_pass_uses_num_length_buckets(fit_of, monkeypatch):
    fit = fit_of("loss=ce", "trainer.num_length_buckets=3")
    given, pack = [], TokenTable.pack
    monkeypatch.setattr(TokenTable, "pack", lambda *args: (given.append(args[1:]), pack(*args))[1])
    fit.encode(INDICES, DEVICE_INDICES, 1)
    assert given[0][0] is INDICES and given[0][1] is DEVICE_INDICES and given[0][2] == 3


@pytest.mark.parametrize(
    "overrides, passes",  # (texts, seed) of each pass
    [
        (["loss=ce", "variant=released"], [(10, 7)]),
        (["loss=cosine"], [(10, 7)]),
        (["loss=cosine", "variant.forward_passes=2"], [(10, 7), (10, 8)]),
        (["loss=cosine", "mode=standalone", "variant=released"], [(10, 7)]),
        (["loss=cosine", "trainer.grad_cache_chunk=4"], [(3, 7), (4, 8), (3, 9)] * 2),
        (["loss=gloss_o", "loss.sigma=0.5"], [(10, 7)]),
        (["loss=gloss_o", "loss.sigma=0.5", "trainer.grad_cache_chunk=5"], [(5, 7), (5, 8)] * 2),
        (["loss=cosine", "trainer.grad_cache_chunk=10"], [(10, 7)] * 2),
    ],
)
def test_variant_forward_passes_sizes_and_seeds(fit_of, overrides, passes):
    fit, made = fit_of(*overrides), []
    encode = fit.encode

    def watch(indices: np.ndarray, device_indices: torch.Tensor, seed: int) -> torch.Tensor:
        assert indices.tolist() == device_indices.tolist()
        made.append((len(indices), seed, torch.is_grad_enabled()))
        return encode(indices, device_indices, seed)

    fit.encode = watch
    is_labeled = IS_LABELED if fit.cfg.loss.name == "gloss_o" else None
    parts = fit.backward(INDICES, DEVICE_INDICES, fit.labels["train"][:10], is_labeled, 7)
    assert [entry[:2] for entry in made] == passes
    if "grad_cache_chunk" in overrides[-1]:  # first without gradients, then with them
        assert [entry[2] for entry in made] == [False] * (len(passes) // 2) + [True] * (len(passes) // 2)
    assert fit.watch == ["forward", *["graph", "propagation"] * (is_labeled is not None), "loss"]
    assert (parts.ce is None) == (fit.cfg.mode == "standalone")
    assert (parts.embedding_loss is None) == (fit.cfg.loss.name == "ce")
    assert all(p.grad is not None for p in fit.model.encoder.transformer.encoder.parameters())


def test_the_second_pass_feeds_cross_entropy_and_the_first_the_embedding_loss(fit_of):
    fit, given = fit_of("loss=cosine", "variant.forward_passes=2", "model.dropout=0.3"), []
    fit.model.train()
    loss = fit._loss
    fit._loss = lambda *arguments: (given.append(arguments), loss(*arguments))[1]
    fit.backward(INDICES, DEVICE_INDICES, fit.labels["train"][:10], None, 7)
    with torch.no_grad():
        assert torch.equal(given[0][0], fit.encode(INDICES, DEVICE_INDICES, 7))
        assert torch.equal(given[0][1], fit.encode(INDICES, DEVICE_INDICES, 8))


@pytest.mark.parametrize(("chunk", "passes"), [("null", [(10, True)]), ("4", [(4, False), (4, True)])])
def test_warm_up_encodes_as_many_texts_at_once_as_a_step(fit_of, chunk, passes):
    fit, made = fit_of("loss=ce", "trainer.compile=true", f"trainer.grad_cache_chunk={chunk}"), []
    encode = fit.encode
    fit.encode = lambda indices, *rest: made.append((len(indices), torch.is_grad_enabled())) or encode(indices, *rest)
    fit._warm_up([INDICES], [None])
    assert made == passes and all(p.grad is None for p in fit.parameters)


# ----------------------------------------------------------------------------------------------------------- the epoch


def ended(fit: Fit, score: float, total: float = 1.0, **log: list[float]) -> dict:
    """End an epoch with this validation score and these columns of the log; return its row."""
    fit.log = torch.tensor([log.get(name, [0.0, 0.0]) for name in LOG]).T
    fit.progress.seconds = {"forward": 0.1234567, "total": total}
    fit._validate = lambda: (score, {"macro_f1": score})
    row = fit._end_epoch()
    fit.progress.epoch += 1
    return row


def test_row_of_an_epoch_by_hand(fit_of):
    fit = fit_of("loss=gloss_o", "loss.sigma=0.5", "trainer.lr=1e-3")
    log = {"loss": [1.0, 2.0], "ce": [3.0, 5.0], "embedding_loss": [0.5, 1.0], "num_unscorable": [1.0, 2.0]}
    row = ended(fit, 61.5, **log, num_unlabeled=[4.0, 8.0], is_empty=[1.0, 0.0], grad_norm=[9.0, 9.0])
    seconds = row.pop("seconds")
    assert row == {
        **{"epoch": 1, "lr": 1e-3, "loss": 1.5, "ce": 4.0, "embedding_loss": 0.75, "score": 61.5},
        **{"val": {"macro_f1": 61.5}, "frac_unscorable": 0.25, "batches_without_signal": 1, "steps": 2},
    }
    assert list(seconds) == ["evaluation", "forward", "total"]
    assert (seconds["forward"], seconds["total"]) == (0.123457, 1.0) and 0 <= seconds["evaluation"] < 5
    assert fit.progress.epochs[0]["epoch"] == 1 and len(fit.progress.epochs) == 1


def test_best_epoch_is_kept_with_weights_and_time(fit_of):
    """Of equal scores the one with the lowest training loss is kept, but does not reset the count."""
    fit, found = fit_of("loss=ce"), []
    head = fit.model.head.weight
    scores, losses, totals = (25.0, 25.0, 50.0, 50.0, 50.0), (3.0, 3.0, 3.0, 2.0, 2.5), (1.0, 2.0, 4.0, 8.0, 1.0)
    for score, loss, total in zip(scores, losses, totals, strict=True):
        with torch.no_grad():
            head.add_(1.0)
        ended(fit, score, total, loss=[loss, loss])
        progress = fit.progress
        found.append((progress.best_score, progress.best_epoch, progress.num_stale, progress.seconds_to_best))
    assert found == [(25, 1, 0, 1.0), (25, 1, 1, 1.0), (50, 3, 0, 7.0), (50, 4, 1, 15.0), (50, 4, 2, 15.0)]
    torch.testing.assert_close(fit.best["head.weight"], head.detach() - 1.0)  # the weights of the fourth epoch
    assert fit.best.keys() == fit.model.state_dict().keys() and not fit.best["head.weight"].requires_grad
    evaluation = sum(row["seconds"]["evaluation"] for row in progress.epochs)
    assert progress.total_seconds == pytest.approx(evaluation, abs=1e-5)


def test_a_score_near_the_best_resets_patience_in_standalone_mode_only(fit_of):
    for mode, stale in (("integrated", 1), ("standalone", 0)):
        fit = fit_of("loss=cosine", f"mode={mode}", "variant.early_stopping_min_delta=0.01")
        ended(fit, 0.5), ended(fit, 0.495)
        assert fit.progress.num_stale == stale


def test_embeddings_that_are_not_finite_after_the_training_name_its_last_step(fit_of, monkeypatch):
    monkeypatch.setattr(gloss.training.trainer, "embed", lambda *arguments: torch.full((2, 3), torch.nan))
    fit = fit_of("loss=ce", "trainer.lr_decay_epoch=1")
    ended(fit, 50.0)
    fit.progress.stopped = "max_epochs"
    with pytest.raises(Diverged, match=r"embeddings of test are not finite at epoch 1, step 2 \(.* lr 0.001\)"):
        fit.embed("test")


def test_epochs_record_peak_memory_and_device_sharing(fit_of, monkeypatch):
    fit, found = fit_of("loss=ce"), []
    memory, shared = iter([5, 9, 7]), iter([False, True, False])
    peak = lambda device: next(memory) * (device == fit.device)  # noqa: E731
    monkeypatch.setattr(gloss.training.trainer, "peak_memory_bytes", peak)
    monkeypatch.setattr(gloss.training.trainer, "is_shared", lambda device: next(shared))
    for _ in range(3):
        ended(fit, 0.5)
        found.append((fit.progress.peak_memory_bytes, fit.progress.was_shared))
    assert found == [(5, False), (9, True), (9, True)]


def test_validation_score_is_macro_f1_or_silhouette(fit_of):
    fit = fit_of("loss=ce")
    z = fit.embed("val")
    truth = fit.labels["val"].numpy()
    score, val = fit._validate()
    metrics = classification_metrics(fit.logits(z), truth)
    assert val == metrics | {"graph_quality": None} and score == val["macro_f1"]
    fit = fit_of("loss=scl", "mode=standalone")
    expected = macro_silhouette(z, fit.labels["val"])
    assert fit._validate() == (expected, {"macro_silhouette": expected, "graph_quality": None})
    fit.labels["val"] = torch.arange(len(truth))
    with pytest.raises(RunError, match="no two classes with two texts"):
        fit._validate()


def test_lr_is_lowered_after_lr_decay_epoch(fit_of):
    fit = fit_of("loss=ce", "trainer.lr=1e-3", "trainer.lr_decay_epoch=2", "trainer.lr_decay_factor=0.25")
    assert [ended(fit, 0.5)["lr"] for _ in range(4)] == [1e-3, 1e-3, 2.5e-4, 2.5e-4]
