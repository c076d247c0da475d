"""Every switch of configs/variant/released.yaml and every ablation, against an independent calculation.

The name of a test contains its key: test_variant_<key>, test_trainer_<key> or test_ablation_<key>. Tests of one call of
the objective are here, tests of a step or a small run in test_switches_in_runs.py, test_steps.py and test_shift.py.
"""

from __future__ import annotations

import loops
import pytest
import torch
from conftest import composed
from test_objective import CLASSES, IS_LABELED, LABELS, LAM, SIGMA, TEMPERATURE, batch, objective

from gloss.errors import ConfigError
from gloss.training.objective import Objective


def gloss_by_loop(x: torch.Tensor, **settings: object) -> torch.Tensor:
    return loops.gloss(loops.unit(x), LABELS, IS_LABELED.tolist(), SIGMA, CLASSES, **settings)


def test_variant_gloss_objective():
    x, logits, labels = batch()
    expected = {"nll": gloss_by_loop(x).item(), "softmax": gloss_by_loop(x, objective="softmax").item()}
    assert abs(expected["nll"] - expected["softmax"]) > 0.1
    for name, value in expected.items():
        parts = objective("gloss_o", "integrated", f"variant.gloss_objective={name}")(x, logits, labels, IS_LABELED)
        assert parts.embedding_loss.item() == pytest.approx(value, rel=1e-9)
        # softmax scores all six unlabeled texts, nll (the paper) three of them
        assert int(parts.num_unscorable) == {"nll": 3, "softmax": 0}[name]
        assert parts.loss.item() == pytest.approx(LAM * value + (1 - LAM) * parts.ce.item(), rel=1e-12)


def test_variant_divide_by_unlabeled():
    x, logits, labels = batch()
    value, ce = gloss_by_loop(x).item(), loops.cross_entropy(logits, LABELS).item()
    parts = objective("gloss_o", "integrated", "variant.divide_by_unlabeled=true")(x, logits, labels, IS_LABELED)
    assert parts.embedding_loss.item() == pytest.approx(value / 6, rel=1e-9)  # six of ten texts are unlabeled
    assert parts.loss.item() == pytest.approx(LAM * value / 6 + (1 - LAM) * ce, rel=1e-9)
    # The switch has an effect only in integrated mode.
    alone = objective("gloss_o", "standalone", "variant.divide_by_unlabeled=true")
    assert alone(x, None, labels, IS_LABELED).loss.item() == pytest.approx(value, rel=1e-9)


def test_variant_supcon():
    x, logits, labels = batch()
    for name in ("khosla", "released"):
        expected = loops.supcon(x, LABELS, TEMPERATURE, released=name == "released").item()
        parts = objective("scl_ce", "integrated", f"variant.supcon={name}")(x, logits, labels, None)
        assert parts.embedding_loss.item() == pytest.approx(expected, rel=1e-9)


def test_variant_scl_lam():
    assert composed("variant=released", "loss=scl_ce").loss.lam == 0.9
    assert composed("loss=scl_ce", "loss.lam=0.5").loss.lam == 0.5
    for scl_lam, lam in ((0.9, 0.5), (0.5, 0.9)):
        with pytest.raises(ConfigError, match=rf"loss.lam={lam} is not allowed with .* fixed at {scl_lam}"):
            composed("loss=scl_ce", f"variant.scl_lam={scl_lam}", f"loss.lam={lam}")
    x, logits, labels = batch()
    cfg = composed("variant=released", "loss=scl_ce", f"loss.temperature={TEMPERATURE}")
    parts = Objective.of(cfg, CLASSES, None)(x, logits, labels, None)
    expected = 0.9 * loops.supcon(x, LABELS, TEMPERATURE, released=True) + 0.1 * loops.cross_entropy(logits, LABELS)
    assert parts.loss.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("loss", ["ce", "scl_ce", "triplet", "cosine", "gloss_o"])
def test_variant_loss_dtype(loss):
    """With float64 every part of the loss of float32 inputs is as exact as the loop on the same inputs."""
    x, logits, labels = batch()
    narrow, narrow_logits = x.detach().float(), logits.detach().float()
    is_labeled = IS_LABELED if loss == "gloss_o" else None
    wide, short = (
        objective(loss, "integrated", f"variant.loss_dtype={dtype}")(narrow, narrow_logits, labels, is_labeled)
        for dtype in ("float64", "float32")
    )
    assert (wide.loss.dtype, wide.ce.dtype, short.loss.dtype) == (torch.float64, torch.float64, torch.float32)
    exact = loops.cross_entropy(narrow_logits.double(), LABELS).item()
    assert wide.ce.item() == pytest.approx(exact, rel=1e-14)
    assert 0 < abs(short.ce.item() - exact) < 1e-6
    if loss == "gloss_o":
        exact = gloss_by_loop(narrow.double()).item()
        assert wide.embedding_loss.item() == pytest.approx(exact, rel=1e-12)
        assert 0 < abs(short.embedding_loss.item() - exact) < 1e-5
    weights = torch.ones(CLASSES, dtype=torch.float64)  # the weights are cast to the dtype of the loss
    weighted = objective(loss, "integrated", "variant.loss_dtype=float32", weights=weights)
    assert torch.equal(weighted(narrow, narrow_logits, labels, is_labeled).loss, short.loss)
    if loss != "ce":
        assert (wide.embedding_loss.dtype, short.embedding_loss.dtype) == (torch.float64, torch.float32)


@pytest.mark.parametrize("lam, offset, expected", [(0.7, 0.1, 0.8), (0.7, -0.1, 0.6), (0.7, 0.3, 0.99)])
def test_ablation_lam_offset(lam, offset, expected):
    x, logits, labels = batch()
    of = objective("cosine", "integrated", f"loss.lam={lam}", f"ablation.lam_offset={offset}")
    parts = of(x, logits, labels, None)
    by_loop = expected * loops.cosine(x, LABELS) + (1 - expected) * loops.cross_entropy(logits, LABELS)
    assert parts.loss.item() == pytest.approx(by_loop.item(), rel=1e-9)


@pytest.mark.parametrize(
    "gamma, offset, labeled",  # of 20 texts
    [(0.6, 0, 12), (0.6, 0.1, 14), (0.6, -0.1, 10), (0.9, 0.5, 19), (0.3, -0.9, 1), (0.005, 0, 1)],
)
def test_ablation_gamma_offset(gamma, offset, labeled):
    of = objective("gloss_o", "integrated", f"loss.gamma={gamma}", f"ablation.gamma_offset={offset}")
    drawn, again = (of.draw_labeled(20, torch.Generator().manual_seed(0)) for _ in range(2))
    assert drawn.sum() == labeled and torch.equal(drawn, again)
    limited = {(0.9, 0.5): 0.99, (0.3, -0.9): 0.01}
    assert of.gamma == pytest.approx(limited.get((gamma, offset), gamma + offset), rel=1e-12)
    assert objective("cosine").draw_labeled(20, torch.Generator()) is None


def check_graph_of(switch: str, change) -> None:
    """The graph's embeddings are changed (by a function of x that draws random numbers); cross-entropy is not."""
    x, logits, labels = batch()
    torch.manual_seed(3)
    expected = gloss_by_loop(change(x))
    gradient = torch.autograd.grad(expected, x)[0]
    torch.manual_seed(3)
    parts = objective("gloss_o", "integrated", switch)(x, logits, labels, IS_LABELED)
    assert parts.embedding_loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert abs(expected.item() - gloss_by_loop(x).item()) > 0.05
    torch.testing.assert_close(torch.autograd.grad(parts.embedding_loss, x)[0], gradient, rtol=1e-9, atol=1e-12)
    assert parts.ce.item() == pytest.approx(loops.cross_entropy(logits, LABELS).item(), rel=1e-12)


def test_ablation_graph_noise():
    """Normal noise is added to the unit vectors."""
    noise = lambda x: torch.stack(loops.unit(x)) + 0.5 * torch.randn(x.shape, dtype=x.dtype)  # noqa: E731
    check_graph_of("ablation.graph_noise=0.5", noise)


def test_ablation_graph_shuffle():
    """The nodes get the embeddings in a random order."""
    check_graph_of("ablation.graph_shuffle=true", lambda x: x[torch.randperm(len(x))])
