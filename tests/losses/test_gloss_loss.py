"""gloss_loss and GLoss: golden values, a plain loop, corner cases, invariances, the module, wrong arguments."""

import json
import math
from pathlib import Path

import loops
import pytest
import torch
from loops import value_and_gradient
from safetensors.torch import load_model, save_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gloss.losses import GLoss, choose_labeled, gloss_loss, is_scored
from gloss.losses.geometry import sqrt_bandwidth
from gloss.losses.gloss import linear_rates, log_propagate, log_transition_rates, nan_if_unknown
from gloss.losses.reference import gaussian_kernel, propagate_labels, symmetric_normalize, transition_matrix

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/losses.json").read_text())["cases"]
GLOSS_CASES = [case for case in GOLDEN if case["kind"] == "gloss"]
SIGMAS = [1e-6, 1e-3, 1e-2, 0.1, 1.0, 30.0, 1e3]


def batch(num: int = 14, num_classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % num_classes
    x = torch.randn(num, 6, dtype=torch.float64, generator=generator)
    return x, labels, choose_labeled(num, 0.6, generator)


def golden_settings(case: dict) -> dict:
    return {"sigma": case["sigma"], "is_labeled": torch.tensor(case["visible"]), "num_classes": case["num_classes"]}


@pytest.mark.parametrize("case", GLOSS_CASES, ids=lambda case: case["name"])
@pytest.mark.parametrize(("objective", "key"), [("nll", "paper_nll"), ("softmax", "released_softmax_ce")])
def test_golden_values(case, objective, key):
    x, labels = torch.tensor(case["embeddings"], dtype=torch.float64), torch.tensor(case["labels"])
    weights = torch.tensor(case["class_weights"], dtype=torch.float64) if objective == "softmax" else None
    value, gradient = value_and_gradient(
        gloss_loss, x, labels, objective=objective, class_weights=weights, **golden_settings(case)
    )
    expected = torch.tensor(case[key + "_grad"], dtype=torch.float64)
    assert value.item() == pytest.approx(case[key], rel=1e-9)
    assert (gradient - expected).norm() < 1e-9 * expected.norm()
    if objective == "softmax":  # the released code, integrated mode, divides once more by the number of unlabeled nodes
        num_unlabeled = case["visible"].count(False)
        assert value.item() / num_unlabeled == pytest.approx(case["released_integrated"], rel=1e-9)


@pytest.mark.parametrize("case", GLOSS_CASES, ids=lambda case: case["name"])
def test_golden_propagation_and_scored_nodes(case):
    x, labels = torch.tensor(case["embeddings"], dtype=torch.float64), torch.tensor(case["labels"])
    settings = golden_settings(case)
    is_labeled, expected = settings["is_labeled"], torch.tensor(case["propagated"], dtype=torch.float64)
    order = torch.cat([is_labeled.nonzero()[:, 0], (~is_labeled).nonzero()[:, 0]])
    log_rates = log_transition_rates(x[order], case["sigma"])
    stable = log_propagate(log_rates, labels[order], int(is_labeled.sum()), case["num_classes"]).exp()
    transition = transition_matrix(symmetric_normalize(gaussian_kernel(x, case["sigma"])))
    linear = propagate_labels(transition, labels, is_labeled, case["num_classes"])
    torch.testing.assert_close(stable, expected, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(linear, expected, rtol=1e-9, atol=1e-15)
    assert is_scored(labels, is_labeled, case["num_classes"])[~is_labeled].tolist() == case["evaluable"]


@pytest.mark.parametrize("sigma", [0.2, 0.7, 3.0])
@pytest.mark.parametrize("objective", ["nll", "softmax"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("num_classes", [3, 9])  # 9 classes on 14 texts: some have no labeled node
def test_equals_a_plain_loop(sigma, objective, weighted, num_classes):
    x, labels, is_labeled = batch(num_classes=num_classes)
    weights = torch.linspace(0.5, 2.0, num_classes, dtype=torch.float64) if weighted else None
    by_loop = x.clone().requires_grad_()
    given = (sigma, num_classes, objective, weights.tolist() if weighted else None)
    value = loops.gloss(loops.unit(by_loop), labels.tolist(), is_labeled.tolist(), *given)
    expected = value.detach(), torch.autograd.grad(value, by_loop)[0]
    settings = {"sigma": sigma, "num_classes": num_classes, "objective": objective, "class_weights": weights}
    found = value_and_gradient(gloss_loss, x, labels, is_labeled=is_labeled, **settings)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("objective", ["nll", "softmax"])
@pytest.mark.parametrize("num_classes", [3, 6])
def test_gradcheck(objective, num_classes):
    x, labels, is_labeled = batch(9, num_classes)
    settings = {"sigma": 0.5, "is_labeled": is_labeled, "num_classes": num_classes, "objective": objective}
    assert torch.autograd.gradcheck(lambda x: gloss_loss(x, labels, **settings), x.requires_grad_())


CORNERS = {
    "ordinary": lambda x, y: (x, y),
    "one class": lambda x, y: (x, torch.zeros_like(y)),
    "every text a class": lambda x, y: (x, torch.arange(len(y))),
    "duplicates": lambda x, y: (x[torch.arange(len(x)) // 4], y),
    "all equal": lambda x, y: (x[:1].expand_as(x), y),
    "tight groups": lambda x, y: (torch.eye(6)[torch.arange(len(x)) // 3] + 1e-4 * x, torch.arange(len(x)) // 5),
    "all zero": lambda x, y: (0 * x, y),
    "a zero": lambda x, y: (x * (torch.arange(len(x)) > 0)[:, None], y),
    "two texts": lambda x, y: (x[:2], torch.tensor([0, 1])),
    "two texts, one class": lambda x, y: (x[:2], torch.tensor([1, 1])),
    "two equal texts": lambda x, y: (x[[0, 0]], torch.tensor([1, 1])),
}


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_loss_and_gradient_are_finite_in_corner_cases(corner, dtype, scale):
    x, labels = CORNERS[corner](*batch()[:2])
    x, num = (x * scale).to(dtype), len(x)
    first, most = torch.arange(num) < 1, torch.arange(num) < num - 1  # one labeled node; one unlabeled node
    for sigma in SIGMAS:
        for is_labeled in (first, most, choose_labeled(num, 0.5)):
            for objective in ("nll", "softmax"):
                settings = {"sigma": sigma, "is_labeled": is_labeled, "num_classes": 15, "objective": objective}
                value, gradient = value_and_gradient(gloss_loss, x, labels, **settings)
                assert value.shape == () and value.isfinite() and value >= 0
                assert gradient.isfinite().all() and gradient.dtype == dtype


@pytest.mark.parametrize("objective", ["nll", "softmax"])
def test_a_node_with_unknown_label_is_propagated_but_not_scored(objective):
    """Value and gradient equal the reference's propagation over all nodes, scored on the nodes with known labels."""
    x, labels, is_labeled = batch()
    x.requires_grad_()
    unknown = (~is_labeled).nonzero()[0]
    known = labels.index_fill(0, unknown, -1)
    propagated = propagate_labels(
        transition_matrix(symmetric_normalize(gaussian_kernel(x, 0.5))), labels, is_labeled, 3
    )
    truth, scored = labels[~is_labeled], known[~is_labeled] >= 0
    log_p = propagated.log() if objective == "nll" else propagated.log_softmax(1)
    expected = -log_p[scored, truth[scored]].mean()
    expected = expected.detach(), torch.autograd.grad(expected, x)[0]
    settings = {"sigma": 0.5, "is_labeled": is_labeled, "num_classes": 3, "objective": objective}
    found = value_and_gradient(gloss_loss, x, known, **settings)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert (found[1][unknown].norm(dim=1) > 1e-6).all()
    assert torch.equal(is_scored(known, is_labeled, 3)[~is_labeled], scored)
    assert not is_scored(known, is_labeled, 3)[is_labeled].any()


def test_no_scored_node_gives_loss_0_and_gradient_0():
    x, labels, is_labeled = batch()
    value, gradient = value_and_gradient(
        gloss_loss, x, torch.arange(14), sigma=0.5, is_labeled=is_labeled, num_classes=14
    )
    assert value == 0 and (gradient == 0).all()
    assert not is_scored(torch.arange(14), is_labeled, 14).any()
    assert gloss_loss(x, labels * 0, sigma=0.5, is_labeled=is_labeled, num_classes=1) == 0  # of its single class


def test_loss_is_invariant_to_order_rotation_scale_and_class_names():
    x, labels, is_labeled = batch()
    generator = torch.Generator().manual_seed(1)
    order, rotation = torch.randperm(14, generator=generator), torch.linalg.qr(batch(6)[0])[0]

    def found(x, labels, is_labeled=is_labeled, num_classes=3):
        settings = {"sigma": 0.5, "is_labeled": is_labeled, "num_classes": num_classes}
        return value_and_gradient(gloss_loss, x, labels, **settings)

    value, gradient = found(x, labels)
    for other, expected in [
        (found(x[order], labels[order], is_labeled[order]), gradient[order]),
        (found(x @ rotation, labels), gradient @ rotation),
        (found(8 * x, labels), gradient / 8),
        (found(x / 2**40, labels), gradient * 2**40),
        (found(x, torch.tensor([2, 0, 1])[labels]), gradient),
        (found(x, labels + 4, num_classes=9), gradient),
    ]:
        torch.testing.assert_close(other, (value, expected), rtol=1e-9, atol=1e-12)


def test_intermediate_tensors_are_on_the_device_of_the_embeddings():
    """On torch's "meta" device, which has shapes but no values: mixing it with the CPU fails as it would on a GPU."""
    x, labels = torch.randn(6, 3, device="meta"), torch.zeros(6, dtype=torch.long, device="meta")
    rates = log_transition_rates(x, 0.5)
    linear = linear_rates(x, labels, 0.5, 4, 3)
    scored = is_scored(labels, torch.arange(6) < 4, 3)
    propagated = log_propagate(rates, labels, 4, 3)
    assert {part.device.type for part in (rates, linear, scored, propagated)} == {"meta"}
    assert (rates.shape, linear.shape, scored.shape, propagated.shape) == ((6, 6), (2, 5), (6,), (2, 3))
    assert choose_labeled(6, 0.5, device="meta").device.type == "meta"


def test_computing_and_returned_dtype():
    """bfloat16 is cast to float32 before the graph; autocast and the dtype of the class weights change nothing."""
    x, labels, is_labeled = batch()
    settings = {"sigma": 0.3, "is_labeled": is_labeled, "num_classes": 3}
    expected = gloss_loss(x, labels, **settings).item()
    for other, own in ((torch.float64, torch.float32), (torch.float32, torch.float64)):
        value = gloss_loss(x.to(own), labels, class_weights=torch.ones(3, dtype=other), **settings)
        assert value.dtype == own and value.item() == pytest.approx(expected, rel=1e-4)
    narrow = gloss_loss(x.bfloat16(), labels, **settings)
    assert narrow.dtype == torch.float32 and narrow == gloss_loss(x.bfloat16().float(), labels, **settings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = value_and_gradient(gloss_loss, x.float(), labels, **settings)
    torch.testing.assert_close(inside, value_and_gradient(gloss_loss, x.float(), labels, **settings), rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only CUDA reports a wait of the host: needs a GPU")
def test_cuda_step_does_not_synchronize():
    x, labels, _ = batch(64)
    loss, x, labels = GLoss(0.5, num_classes=3), x.float().cuda().requires_grad_(), labels.cuda()
    loss(x, labels).backward()  # the first call may set up libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss(x, labels).backward()
        unknown = loss(x, torch.full_like(labels, -1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert unknown.isnan()  # it draws without a look at the labels


class NoCastOnTheDevice(TorchDispatchMode):
    """Apple's GPUs have no float64: `x.to(device, float64)`, in one call, would cast there before it copies."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        is_copy = func is torch.ops.aten._to_copy.default and kwargs.keys() == {"dtype", "device"}  # not autograd's own
        assert not (is_copy and kwargs["dtype"] == torch.float64), "copy first, then cast"
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("sigma", [0.5, 0.01])  # linear rates; log space with pairwise distances
def test_float32_is_copied_before_it_is_cast_to_float64(sigma):
    x, labels, is_labeled = batch()
    x = x.float().requires_grad_()
    with NoCastOnTheDevice():
        gloss_loss(x, labels, sigma=sigma, is_labeled=is_labeled, num_classes=3).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 9e-7}, "sigma must be a finite number of at least 1e-06, got 9e-07"),
        ({"sigma": math.inf}, "sigma must be a finite number of at least 1e-06, got inf"),
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
        ({"num_classes": 3.0}, "num_classes must be a whole number of at least 1, got 3.0"),
        ({"class_weights": torch.tensor([1.0, 0.0, 2.0])}, "class_weights must be positive"),
        ({"objective": "ce"}, "objective must be one of nll, softmax, got 'ce'"),
        ({"num_classes": 2}, r"in \[0, 2\), or be -1 if not known, got 0 to 2"),
        ({"labels": torch.arange(14) - 2, "num_classes": 14}, "got -2 to 11"),
        ({"labels": torch.arange(14) - 1, "num_classes": 14}, "is_labeled must be False where the label is -1"),
        ({"is_labeled": torch.ones(14, dtype=torch.bool)}, "True and a False, got 14 True of 14"),
        ({"is_labeled": torch.zeros(14, dtype=torch.bool)}, "got 0 True"),
        ({"is_labeled": torch.ones(13, dtype=torch.bool)}, r"a tensor, bool \[14\], got torch.bool \[13\]"),
        ({"is_labeled": torch.ones(14)}, "is_labeled must be a tensor, bool.*float32"),
        ({"is_labeled": [True, False] * 7}, r"is_labeled must be a tensor, bool \[14\], got list"),
        ({"class_weights": torch.ones(2)}, r"a tensor \[C\] with C = num_classes = 3, got .*\[2\]"),
        ({"class_weights": [1.0, 2.0, 3.0]}, r"class_weights must be a tensor \[C\] .*, got list"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    x, labels, is_labeled = batch()
    arguments = {"labels": labels, "sigma": 0.5, "is_labeled": is_labeled, "num_classes": 3} | changes
    with pytest.raises(ValueError, match=message):
        gloss_loss(x, **arguments)


@pytest.mark.parametrize(
    ("num", "gamma", "labeled"),
    [(10, 0.6, 6), (10, 0.7, 7), (10, 0.61, 7), (2, 0.9, 1), (2, 0.1, 1), (128, 0.6, 77), (5, 0.99, 4)],
)
def test_choose_labeled_draws_the_right_number(num, gamma, labeled):
    assert choose_labeled(num, gamma).sum() == labeled


def test_choose_labeled_is_random_and_repeatable():
    draws = torch.stack([choose_labeled(6, 0.5, torch.Generator().manual_seed(seed)) for seed in range(2000)])
    assert (draws.double().mean(0) - 0.5).abs().max() < 0.05  # 4.5 standard errors
    assert torch.equal(draws[7], choose_labeled(6, 0.5, torch.Generator().manual_seed(7)))
    with pytest.raises(ValueError, match="2 texts"):
        choose_labeled(1, 0.5)
    for gamma in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"gamma must be a number in \(0, 1\)"):
            choose_labeled(4, gamma)


# ---------------------------------------------------------------------------------------------------------- the module


def test_module_equals_the_function():
    x, labels, _ = batch()
    is_labeled = choose_labeled(14, 0.6, torch.Generator().manual_seed(5))
    for settings in (
        {"num_classes": 3},
        {"num_classes": 3, "objective": "softmax", "class_weights": torch.tensor([1.0, 2.0, 0.5])},
        {"num_classes": 5, "objective": "softmax"},  # the denominator has all classes, also those without a text here
    ):
        expected = gloss_loss(x, labels, sigma=0.4, is_labeled=is_labeled, **settings)
        assert GLoss(0.4, **settings)(x, labels, is_labeled) == expected
        assert GLoss(0.4, 0.6, **settings, generator=torch.Generator().manual_seed(5))(x, labels) == expected


def test_module_is_made_without_a_draw_from_torchs_generator():
    before = torch.get_rng_state()
    GLoss(0.4)
    assert torch.equal(torch.get_rng_state(), before)


def test_module_without_num_classes_accepts_any_integer_labels_and_leaves_minus_1_unknown():
    x, labels, is_labeled = batch()
    labels[(~is_labeled).nonzero()[:2, 0]] = -1
    any_integers = torch.where(labels < 0, -1, torch.tensor([-5, 1000, 7])[labels])
    assert GLoss(0.4)(x, any_integers, is_labeled) == GLoss(0.4, num_classes=3)(x, labels, is_labeled)
    for unknown in (labels, torch.full_like(labels, -1)):
        with pytest.raises(ValueError, match="is_labeled must be False where the label is -1"):
            GLoss(0.4)(x, unknown, torch.arange(14) != 13)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_module_draws_among_the_texts_that_have_a_label(num_classes):
    x, labels, _ = batch(60)
    labels[::2] = -1
    for seed in range(5):
        drawn = choose_labeled(30, 0.6, torch.Generator().manual_seed(seed))
        is_labeled = torch.zeros(60, dtype=torch.bool)
        is_labeled[1::2] = drawn
        module = GLoss(0.4, 0.6, num_classes, generator=torch.Generator().manual_seed(seed))
        assert module(x, labels) == gloss_loss(x, labels, sigma=0.4, is_labeled=is_labeled, num_classes=3)


def test_a_loss_with_an_unknown_node_among_the_labeled_ones_is_nan():
    labels, is_labeled = torch.tensor([0, -1, 1, -1]), torch.tensor([True, False, True, False])
    loss = torch.tensor(2.0, requires_grad=True)
    for mask, expected in ((is_labeled, 1.0), (~is_labeled, math.nan)):
        (gradient,) = torch.autograd.grad(nan_if_unknown(3 * loss, labels, mask), loss)
        torch.testing.assert_close(gradient, torch.tensor(3 * expected), equal_nan=True)


def test_module_keeps_the_bandwidth_of_its_first_batch():
    x, labels, is_labeled = batch()
    module = GLoss()
    value = module(x, labels, is_labeled)
    assert value == GLoss(sqrt_bandwidth(x))(x, labels, is_labeled)
    other = batch(seed=1)[0]
    assert sqrt_bandwidth(other) != module.sigma
    assert module(other, labels, is_labeled) == GLoss(sqrt_bandwidth(x))(other, labels, is_labeled)
    resumed = GLoss()
    resumed.load_state_dict(module.state_dict())
    assert resumed.sigma == sqrt_bandwidth(x)


def test_bandwidth_inside_a_model_survives_safetensors_and_casts(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), GLoss())
    for sigma in (None, 0.3, 1e-3):  # None: before the first batch
        model[1].sigma = sigma
        save_model(model, tmp_path / "model.safetensors")
        resumed = nn.Sequential(nn.Linear(2, 2), GLoss(0.9)).bfloat16()
        load_model(resumed, tmp_path / "model.safetensors")
        assert resumed.half()[1].sigma == sigma


def test_module_refuses_wrong_settings():
    for arguments, message in [
        ({"sigma": "median"}, "sigma must be a finite number of at least 1e-06, got 'median'"),
        ({"sigma": None}, "got None"),
        ({"gamma": None}, "gamma must be a number in .* got None"),
        ({"objective": "mse"}, "objective must be one of"),
        ({"objective": "softmax"}, "num_classes must be given"),
        ({"class_weights": torch.ones(2)}, "num_classes must be given"),
    ]:
        with pytest.raises(ValueError, match=message):
            GLoss(**arguments)
