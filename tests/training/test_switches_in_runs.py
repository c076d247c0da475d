"""The switches with effects outside the objective: σ, passes, weights, early stopping, probe, labels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import loops
import numpy as np
import pytest
import torch
from conftest import composed

import gloss.training.evaluate
import gloss.training.sigma
from gloss.config import Config
from gloss.data.datasets import load_dataset
from gloss.models.pretrained import load_encoder, load_tokenizer
from gloss.records.reading import Record
from gloss.training.metrics import best_k, nearest_labels, vote
from gloss.training.objective import Objective
from gloss.training.probe import logistic_probe
from gloss.training.run import train
from gloss.training.trainer import Fit

COUNTS = {"fruit": 60, "tool": 30, "weather": 15}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file with classes of unequal size."""
    words = {"fruit": "apple pear plum cherry", "tool": "hammer saw drill wrench", "weather": "rain snow wind storm"}
    rng, rows = np.random.default_rng(0), ["text,label"]
    for label, count in COUNTS.items():
        rows += [f"{' '.join(rng.choice(words[label].split(), 3))} {i},{label}" for i in range(count)]
    path = tmp_path / "texts.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def one_step(texts: Path, tiny_config: Callable[..., Config], monkeypatch) -> Callable[..., SimpleNamespace]:
    """one_step(*overrides): a run of one epoch of one batch; returns its record and the inputs of its objective."""

    def run(*overrides: str) -> SimpleNamespace:
        words = "model.dropout=0", "trainer.batch_size=256", "trainer.max_epochs=1"
        cfg = tiny_config(f"dataset.path={texts}", *words, *overrides)
        given: list[tuple] = []
        call = Objective.__call__
        with monkeypatch.context() as patch:
            patch.setattr(Objective, "__call__", lambda *args: (given.append(args), call(*args))[1])
            record = train(cfg)
        assert len(given) == 1
        of, x, logits, labels, is_labeled, _ = given[0]
        x, logits = x.detach(), None if logits is None else logits.detach()
        row = record.epochs()[0]
        inputs = {"of": of, "x": x, "logits": logits, "labels": labels, "is_labeled": is_labeled}
        return SimpleNamespace(cfg=cfg, record=record, row=row, **inputs)

    return run


def first_head(cfg: Config, num_classes: int) -> torch.nn.Linear:
    """The head before training, drawn with the seed of the run."""
    torch.manual_seed(cfg.seed)
    return torch.nn.Linear(64, num_classes)


def pretrained_embeddings(cfg: Config, split: str) -> np.ndarray:
    """Embeddings of the untrained encoder, one text at a time, by the forward pass of transformers."""
    tokenizer, model = load_tokenizer(cfg.model), load_encoder(cfg.model).transformer.eval()
    rows = []
    for (text,) in load_dataset(cfg.dataset, cfg.paths.data, cfg.seed).splits[split].texts:
        tokens = tokenizer(text, truncation=True, max_length=cfg.model.max_length, return_tensors="pt")
        with torch.no_grad():
            rows.append(model(**tokens).last_hidden_state[0, 0].numpy())
    return np.stack(rows).astype(np.float64)


def distances(embeddings: np.ndarray) -> np.ndarray:
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.linalg.norm(unit[:, None] - unit, axis=2)


@pytest.mark.parametrize(("rule", "scale"), [("d/sqrt(3)", 2.0), ("sqrt(d/3)", 1.0)])
def test_variant_sqrt_rule_and_ablation_sigma_scale(one_step, rule, scale):
    """σ is computed from the pretrained encoder's embeddings of the training texts."""
    step = one_step("loss=gloss_sqrt", f"variant.sqrt_rule='{rule}'", f"ablation.sigma_scale={scale}")
    full = distances(pretrained_embeddings(step.cfg, "train"))
    pairs = full[np.triu_indices(len(full), k=1)]
    sigma = {"d/sqrt(3)": np.median(pairs) / math.sqrt(3), "sqrt(d/3)": math.sqrt(np.median(full) / 3)}[rule]
    assert step.record.result["hyperparameters"]["sigma"] == pytest.approx(scale * sigma, rel=1e-5)
    assert step.of.embedding_loss.keywords["sigma"] == step.record.result["hyperparameters"]["sigma"]


def test_ablation_sigma_scale(one_step):
    """A given σ is scaled too, and the loss uses the scaled value."""
    step = one_step("loss=gloss_o", "loss.sigma=0.02", "ablation.sigma_scale=0.5", "dataset.train_limit=16")
    z = loops.unit(step.x.double())
    values = {s: loops.gloss(z, step.labels.tolist(), step.is_labeled.tolist(), s, 3).item() for s in (0.01, 0.02)}
    assert step.record.result["hyperparameters"]["sigma"] == 0.01
    assert step.row["embedding_loss"] == pytest.approx(values[0.01], rel=1e-4)
    assert abs(values[0.02] - values[0.01]) > 1e-2 * values[0.01]


def test_variant_sqrt_rule_uses_a_sample_or_all_texts(one_step, monkeypatch):
    """The paper's rule uses a sample, the released rule all texts."""
    monkeypatch.setattr(gloss.training.sigma, "SIGMA_SAMPLE", 20)
    seen, of = [], gloss.training.sigma.sqrt_bandwidth
    monkeypatch.setattr(
        gloss.training.sigma, "sqrt_bandwidth", lambda x, **rule: (seen.append(len(x)), of(x, **rule))[1]
    )
    one_step("loss=gloss_sqrt")
    released = one_step("loss=gloss_sqrt", "variant.sqrt_rule='sqrt(d/3)'")
    num_train = released.record.result["num_rows"]["train"]
    assert seen == [20, num_train] and num_train > 50


@pytest.mark.parametrize("balanced", [False, True])
def test_variant_class_weights_in_cross_entropy_and_in_gloss(one_step, balanced):
    step = one_step(
        "loss=gloss_o", "loss.sigma=0.6", "dataset.train_limit=24", *["variant.class_weights=balanced"] * balanced
    )
    labels = step.labels.tolist()
    counts = [labels.count(c) for c in range(3)]  # the batch has all training texts
    assert min(counts) > 1 and len(set(counts)) == 3
    weights = [len(labels) / (3 * count) for count in counts] if balanced else None
    ce = loops.cross_entropy(step.logits.double(), labels, weights).item()
    value = loops.gloss(
        loops.unit(step.x.double()), labels, step.is_labeled.tolist(), 0.6, 3, class_weights=weights
    ).item()
    assert step.row["ce"] == pytest.approx(ce, rel=1e-5)
    assert step.row["embedding_loss"] == pytest.approx(value, rel=1e-4)
    assert step.row["loss"] == pytest.approx(0.8 * value + 0.2 * ce, rel=1e-4)
    other = loops.cross_entropy(step.logits.double(), labels, None if balanced else [1.0, 2.0, 4.0]).item()
    assert abs(other - ce) > 1e-3


@pytest.mark.parametrize(("mode", "tested"), [("integrated", "best"), ("standalone", "last")])
def test_variant_tested_weights(tiny_config, monkeypatch, mode, tested):
    """Epoch 2 of 3 is the best: the tested model has the weights of epoch 2 (best) or of epoch 3 (last)."""
    scores, weights, at_test = iter([0.3, 0.5, 0.4]), {}, {}

    def validate(self: Fit) -> tuple[float, dict]:
        epoch = self.progress.epoch
        weights[epoch] = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        return next(scores), {"graph_quality": {**self.progress.graph_at_start, "homophily": epoch / 10}}

    logits = Fit.logits
    monkeypatch.setattr(Fit, "_validate", validate)
    monkeypatch.setattr(Fit, "logits", lambda self, z: (at_test.update(self.model.state_dict()), logits(self, z))[1])
    loss = ["loss=ce"] if mode == "integrated" else ["loss=scl", "mode=standalone"]
    record = train(tiny_config(*loss, f"variant.tested_weights={tested}", "trainer.max_epochs=3"))
    assert record.result["best_epoch"] == 2
    assert record.result["graph_quality"]["at_best"]["homophily"] == (0.2 if tested == "best" else 0.3)
    expected, other = (weights[2], weights[3]) if tested == "best" else (weights[3], weights[2])
    names = [name for name in expected if mode == "integrated" or not name.startswith("head.")]  # of the probe
    assert all(torch.equal(at_test[name], expected[name]) for name in names)
    assert any(not torch.equal(at_test[name], value) for name, value in other.items())


def test_variant_early_stopping_min_delta(tiny_config, monkeypatch):
    """Any higher score becomes the best score; a score just at the tolerance below it resets the patience of 2."""
    scores = iter([0.5, 0.3, 0.501953125, 0.494140625, 0.3, 0.3, 0.9])
    monkeypatch.setattr(Fit, "_validate", lambda self: (next(scores), {"graph_quality": self.progress.graph_at_start}))
    options = ["trainer.max_epochs=7", "trainer.patience=2", "trainer.batch_size=128"]
    options += ["loss=scl", "mode=standalone", "variant.early_stopping_min_delta=0.0078125"]
    result = train(tiny_config(*options)).result
    assert (result["epochs"], result["stopped"], result["best_epoch"]) == (6, "patience", 3)


@pytest.fixture
def embedded(monkeypatch) -> dict[str, np.ndarray]:
    """The last embeddings of each whole split in a run."""
    found: dict[str, np.ndarray] = {}
    embed = Fit.embed

    def keep(self: Fit, split: str, *rows: np.ndarray) -> torch.Tensor:
        z = embed(self, split, *rows)
        if not rows:
            found[split] = z.cpu().numpy()
        return z

    monkeypatch.setattr(Fit, "embed", keep)
    return found


def kept(record: Record, name: str) -> np.ndarray:
    return record.predictions()[name]


@pytest.mark.parametrize("balanced", [False, True])
def test_variant_probe_adam(one_step, embedded, balanced):
    """The probe equals full-batch Adam with rate 1e-4 from torch's initial weights, with class weights in the loss."""
    weights = ["variant.class_weights=balanced"] * balanced
    step = one_step("loss=cosine", "mode=standalone", "variant.probe=adam", "seed=5", *weights)
    truth = load_dataset(step.cfg.dataset, step.cfg.paths.data, 5).splits["train"].labels
    w = (len(truth) / (3 * np.bincount(truth)))[truth] if balanced else np.ones(len(truth))
    steps = step.record.result["hyperparameters"]["probe_steps"]
    assert 1 <= steps <= 50
    by_step = loops.adam_steps(first_head(step.cfg, 3), embedded["train"], truth, w)
    theta = next(itertools.islice(by_step, steps - 1, None))
    for split in ("val", "test"):
        expected = embedded[split] @ theta[:, :-1].T + theta[:, -1]
        np.testing.assert_allclose(kept(step.record, f"{split}_logits"), expected, atol=2e-4)


def test_variant_probe_logistic(one_step, embedded, monkeypatch):
    """The tested head is the probe, trained on the embeddings of the trained encoder (see test_evaluate.py)."""
    calls = []
    spy = lambda *given: (calls.append((given, logistic_probe(*given))), calls[-1][1])[1]  # noqa: E731
    monkeypatch.setattr(gloss.training.evaluate, "logistic_probe", spy)
    step = one_step("loss=cosine", "mode=standalone", "variant.probe=logistic")
    splits = load_dataset(step.cfg.dataset, step.cfg.paths.data, step.cfg.seed).splits
    expected = (embedded["train"], splits["train"].labels, embedded["val"], splits["val"].labels, 3)
    ((given, (weight, bias, settings)),) = calls
    assert all(np.array_equal(got, wanted) for got, wanted in zip(given, expected, strict=True))
    assert settings.items() <= step.record.result["hyperparameters"].items()
    np.testing.assert_allclose(kept(step.record, "test_logits"), embedded["test"] @ weight.T + bias, atol=1e-4)
    labels = {name: split.labels for name, split in splits.items()}
    nearest = {s: nearest_labels(embedded["train"], labels["train"], embedded[s]) for s in ("val", "test")}
    k = step.record.result["hyperparameters"]["num_neighbours"]
    assert k == best_k(nearest["val"], labels["val"])
    for s, found in nearest.items():
        right = (vote(found, k) == labels[s]).mean()
        assert step.record.result["metrics"][s]["knn_accuracy"] == pytest.approx(100 * right)


def test_trainer_save_embeddings_and_embeddings_at(one_step, embedded):
    """Embeddings of validation and test, and those of the first validation texts before and after the epoch."""
    step = one_step("loss=ce", "trainer.save_embeddings=true", "trainer.embeddings_at=[0,1]")
    expected = {f"{split}_embeddings": embedded[split] for split in ("val", "test")}
    expected |= {"epoch_0_embeddings": pretrained_embeddings(step.cfg, "val"), "epoch_1_embeddings": embedded["val"]}
    for name, z in expected.items():
        np.testing.assert_allclose(kept(step.record, name), z, atol=2e-3, err_msg=name)
    assert np.abs(expected["epoch_0_embeddings"] - embedded["val"]).max() > 0.02
    assert np.array_equal(kept(step.record, "sample_labels"), kept(step.record, "val_labels"))


def test_trainer_precision(one_step):
    """Embeddings equal transformers' in float32 and are near them in bf16; the loss always gets float32."""
    float32, bf16 = (one_step("loss=ce", f"trainer.precision={name}") for name in ("float32", "bf16"))
    expected = pretrained_embeddings(float32.cfg, "train")
    order = [int(np.abs(expected - row).sum(1).argmin()) for row in float32.x.numpy()]
    np.testing.assert_allclose(float32.x.numpy(), expected[order], atol=1e-5)
    assert sorted(order) == list(range(len(expected)))
    gap = np.abs(bf16.x.numpy() - expected[order]).max()
    assert 1e-4 < gap < 0.2 and bf16.x.dtype == torch.float32
    assert composed("variant=released").trainer.precision == "float32"
    assert (float32.record.result["precision"], bf16.record.result["precision"]) == ("float32", "bf16")


def test_ablation_label_noise(one_step):
    """A quarter of the training labels is changed; the labels of validation and test are not."""
    plain, noisy = one_step("loss=ce"), one_step("loss=ce", "ablation.label_noise=0.25")
    torch.testing.assert_close(noisy.x, plain.x, rtol=0, atol=0)  # the same texts in the same order
    changed = int((noisy.labels != plain.labels).sum())
    assert changed == round(0.25 * len(plain.labels)) > 10
    for split in ("val", "test"):
        assert (kept(noisy.record, f"{split}_labels") == kept(plain.record, f"{split}_labels")).all()
    expected = loops.cross_entropy(plain.logits.double(), noisy.labels.tolist()).item()
    assert noisy.row["ce"] == pytest.approx(expected, rel=1e-5) != plain.row["ce"]
