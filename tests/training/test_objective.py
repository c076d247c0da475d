"""The objective λ · L_embedding + (1 − λ) · L_CE against plain loops: value and gradient, all losses, both modes."""

from __future__ import annotations

from functools import cache

import loops
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from gloss.config import CONFIG_DIR, Config, LossConfig, VariantConfig
from gloss.training.objective import Objective, balanced_class_weights

SIGMA, TEMPERATURE, MARGIN, LAM = 0.6, 0.3, 0.5, 0.7
LABELS = [0, 1, 2, 0, 1, 0, 3, 1, 0, 2]  # class 3 has one member; class 2 has no labeled one
IS_LABELED = torch.tensor([True, True, False, False, False, True, False, True, False, False])  # 4 of 10
CLASSES = 4
OPTIONS = dict.fromkeys(("scl_ce", "scl"), (f"loss.temperature={TEMPERATURE}",))
OPTIONS |= {"triplet": (f"loss.margin={MARGIN}",), "gloss_o": (f"loss.sigma={SIGMA}",)}
BY_LOOP = dict.fromkeys(("scl_ce", "scl"), lambda x: loops.supcon(x, LABELS, TEMPERATURE))
BY_LOOP |= {"triplet": lambda x: loops.triplet(x, LABELS, MARGIN), "cosine": lambda x: loops.cosine(x, LABELS)}
GRAPH = ("gloss_sqrt", "gloss_o")
ALLOWED = [
    *[(name, "integrated") for name in ("ce", "scl_ce", "triplet", "cosine", "gloss_sqrt", "gloss_o")],
    *[(name, "standalone") for name in ("scl", "triplet", "cosine", "gloss_sqrt", "gloss_o")],
]


@cache
def config(*overrides: str) -> Config:
    """The configuration of these overrides, composed without Hydra, which is slow."""
    cfg = Config(mode="integrated", variant=VariantConfig(name="paper", loss_dtype="float64"))
    for key, _, value in (override.partition("=") for override in overrides):
        group, _, field = key.partition(".")
        if field:
            setattr(getattr(cfg, group), field, OmegaConf.create(f"x: {value}").x)
        elif group in ("mode", "seed"):
            setattr(cfg, group, int(value) if group == "seed" else value)
        else:
            values = yaml.safe_load((CONFIG_DIR / group / f"{value}.yaml").read_text())
            setattr(cfg, group, {"loss": LossConfig, "variant": VariantConfig}[group](**values.get(group, values)))
    if cfg.mode == "standalone":
        cfg.loss.lam = None
    return cfg


def objective(loss: str, mode: str = "integrated", *overrides: str, weights: torch.Tensor | None = None) -> Objective:
    """An objective with λ = 0.7, if the loss and mode have a λ."""
    lam = () if mode == "standalone" or loss == "ce" else (f"loss.lam={LAM}",)
    cfg = config(f"mode={mode}", f"loss={loss}", *OPTIONS.get(loss, ()), *lam, *overrides)
    return Objective.of(cfg, CLASSES, SIGMA if loss in GRAPH else None, weights)


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings [10, 3], logits [10, 4] (both leaf tensors) and labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(LABELS), 3, dtype=torch.float64, generator=generator)
    logits = torch.randn(len(LABELS), CLASSES, dtype=torch.float64, generator=generator)
    return x.requires_grad_(), logits.requires_grad_(), torch.tensor(LABELS)


@pytest.mark.parametrize(("loss", "mode"), ALLOWED)
@pytest.mark.parametrize("weighted", [False, True])
def test_objective_equals_plain_loops_for_every_loss_and_mode(loss, mode, weighted):
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64) if weighted else None
    as_list = weights.tolist() if weighted else None

    def by_graph(x: torch.Tensor) -> torch.Tensor:
        return loops.gloss(loops.unit(x), LABELS, IS_LABELED.tolist(), SIGMA, CLASSES, class_weights=as_list)

    x, logits, labels = batch()
    expected_ce = loops.cross_entropy(logits, LABELS, as_list) if mode == "integrated" else None
    expected_embedding = None if loss == "ce" else BY_LOOP.get(loss, by_graph)(x)
    if loss == "ce":
        expected = expected_ce
    elif mode == "standalone":
        expected = expected_embedding
    else:
        expected = LAM * expected_embedding + (1 - LAM) * expected_ce
    expected_gradients = torch.autograd.grad(expected, (x, logits), allow_unused=True, materialize_grads=True)

    is_labeled = IS_LABELED if loss in GRAPH else None
    given = logits if mode == "integrated" else None
    laps: list[str] = []
    parts = objective(loss, mode, weights=weights)(x, given, labels, is_labeled, laps.append)
    gradients = torch.autograd.grad(parts.loss, (x, logits), allow_unused=True, materialize_grads=True)
    for got, wanted in [
        (parts.loss, expected),
        (parts.ce, expected_ce),
        (parts.embedding_loss, expected_embedding),
        *zip(gradients, expected_gradients, strict=True),
    ]:
        assert (got is None) == (wanted is None)
        if wanted is not None:
            torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)
    assert laps == [*(["graph", "propagation"] if loss in GRAPH else []), "loss"]
    if loss in GRAPH:  # 6 are unlabeled: 3 of classes 2 and 3, which have no labeled text, and 3 that can be scored
        assert (int(parts.num_unscorable), bool(parts.is_empty)) == (3, False)
    else:
        assert parts.num_unscorable is None
        assert parts.is_empty is None if loss == "ce" else not parts.is_empty


@pytest.mark.parametrize(
    ("loss", "labels", "is_empty"),
    [
        ("scl", [0, 1, 2, 3], True),  # no pair within a class
        ("scl", [0, 0, 2, 3], False),
        ("scl", [0, 0, 0, 0], False),  # a positive pair is enough
        ("scl_ce", [0, 1, 2, 3], True),
        ("triplet", [0, 1, 2, 3], True),
        ("triplet", [0, 0, 0, 0], True),  # no negative
        ("triplet", [0, 1, 1, 2], False),
        ("cosine", [0, 1, 2, 3], False),  # every pair has a target
        ("cosine", [0, 0, 0, 0], False),
        ("gloss_o", [0, 1, 2, 3], True),  # the last two are unlabeled
        ("gloss_o", [0, 1, 2, 1], False),
    ],
)
def test_batches_without_comparable_pairs_are_flagged(loss, labels, is_empty):
    x, logits, _ = batch()
    is_labeled = torch.tensor([True, True, False, False]) if loss in GRAPH else None
    mode = "standalone" if loss == "scl" else "integrated"
    parts = objective(loss, mode)(x[:4], logits[:4], torch.tensor(labels), is_labeled)
    assert bool(parts.is_empty) == is_empty
    assert loss in ("cosine", "gloss_o") or (parts.embedding_loss == 0) == is_empty


def test_balanced_class_weights_by_hand():
    """6 texts; classes of 3, 1, 2 and 0 texts. The weight is N / (C · N_c), with N_c of at least 1."""
    weights = balanced_class_weights(torch.tensor([0, 0, 0, 1, 2, 2]), 4)
    assert weights.tolist() == [6 / 12, 6 / 4, 6 / 8, 6 / 4] and weights.dtype == torch.float64
