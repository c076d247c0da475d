"""State elimination: the plain loop against a linear solve; blocks of nodes and the Triton kernel against the loop.

Without a GPU the kernel runs in Triton's interpreter, if Triton is installed.
"""

import os
import re
import subprocess
import sys
import types

import pytest
import torch
from loops import value_and_gradient

from gloss.losses import choose_labeled, gloss_loss
from gloss.losses import gloss as gloss_module
from gloss.losses import state_elimination as elimination
from gloss.losses.state_elimination import eliminate, log_absorption

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported


def weighted(function, rates: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities [U, C], and the gradient of a weighted sum of them with respect to the log rates [U, C + U]."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(len(rates), num_classes, generator=generator, dtype=torch.float64).to(rates)
    x = rates.clone().requires_grad_()
    value = function(x, num_classes)
    (gradient,) = torch.autograd.grad((value * weight).sum(), x)
    return value.detach(), gradient


def blocks(x: torch.Tensor, num_classes: int) -> torch.Tensor:
    return log_absorption((x - x.detach().amax(dim=1, keepdim=True)).exp(), num_classes)


def loop(x: torch.Tensor, num_classes: int) -> torch.Tensor:
    return eliminate(x, num_classes).log_softmax(dim=1)


def solve(x: torch.Tensor, num_classes: int) -> torch.Tensor:
    to_class, to_unlabeled = x.softmax(dim=1).split([num_classes, len(x)], dim=1)
    return torch.linalg.solve(torch.eye(len(x), dtype=x.dtype) - to_unlabeled, to_class).log()


def log_rates(num_unlabeled: int, num_classes: int, spread: float, num_groups: int = 1) -> torch.Tensor:
    """Random log rates, without self-rates.

    Rates between groups, and to classes from all groups but the first, are e^(10 · spread) times smaller.
    """
    generator = torch.Generator().manual_seed(0)
    rates = spread * torch.randn(num_unlabeled, num_classes + num_unlabeled, generator=generator, dtype=torch.float64)
    group = torch.arange(num_unlabeled) % num_groups
    rates[:, num_classes:] -= 10 * spread * (group[:, None] != group)
    rates[:, :num_classes] -= 10 * spread * (group > 0)[:, None]
    rates[:, num_classes:].diagonal().fill_(-1e30)
    return rates


@pytest.mark.parametrize("num_unlabeled", [1, 2, 51, 64, 65, 150])  # a block has 64
@pytest.mark.parametrize("num_classes", [1, 2, 20])
def test_blocks_and_loop_equal_a_plain_solve(num_unlabeled, num_classes):
    rates = log_rates(num_unlabeled, num_classes, 1.0)
    expected = weighted(solve, rates, num_classes)
    for function in (blocks, loop):
        torch.testing.assert_close(weighted(function, rates, num_classes), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("num_unlabeled", "spread", "num_groups"), [(150, 5.0, 1), (150, 5.0, 3), (70, 25.0, 5)])
def test_blocks_equal_the_loop_where_a_solve_is_singular(num_unlabeled, spread, num_groups):
    rates = log_rates(num_unlabeled, 3, spread, num_groups)
    (value, gradient), expected = weighted(blocks, rates, 3), weighted(loop, rates, 3)
    torch.testing.assert_close(value, expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected[1], rtol=0, atol=1e-12 * expected[1].abs().max().item())
    if num_groups > 1:  # a walk needs e^50 steps or more to leave a group
        lost = weighted(solve, rates, 3)[0]
        assert not lost.isfinite().all() or (lost - value).abs().max() > 0.1


@pytest.mark.parametrize("num_unlabeled", [1, 3, 4, 9])
def test_gradient_of_the_block_elimination(num_unlabeled, monkeypatch):
    monkeypatch.setattr(elimination, "BLOCK", 4)
    rates = log_rates(num_unlabeled, 2, 1.0).exp().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: log_absorption(x, 2), rates)
    value = log_absorption(rates, 2)
    (slope,) = torch.autograd.grad(value[:, 0].sum(), rates, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_self_rates_and_row_scaling_do_not_change_the_result():
    rates = log_rates(70, 3, 1.0).exp()
    other = 1e5 * rates
    other[:, 3:].diagonal().fill_(7.0)
    torch.testing.assert_close(log_absorption(other, 3), log_absorption(rates, 3), rtol=1e-12, atol=1e-12)


def test_an_unreachable_class_has_probability_0_and_gradient_0():
    rates = log_rates(70, 3, 1.0).exp()
    rates[:, 1] = 0
    rates.requires_grad_()
    value = log_absorption(rates, 3)
    assert (value[:, 1] < -700).all() and (value.exp().sum(dim=1) - 1).abs().max() < 1e-14
    (gradient,) = torch.autograd.grad(value[:, 1].sum(), rates)
    assert (gradient * rates).abs().max() < 1e-14


def kernel_as_loop(rates: torch.Tensor, num_classes: int) -> torch.Tensor:
    """The elimination as a GPU's kernel does it, on any device."""
    for k in reversed(range(len(rates))):
        rest, to_k = rates.split([num_classes + k, 1], dim=1)
        rates = torch.logaddexp(rest, to_k + rest[k].log_softmax(dim=0))
    return rates


@pytest.mark.parametrize("sigma", [0.06, 0.1, 0.5, 5.0])
@pytest.mark.parametrize("spread", [1.0, 0.05, 1e-5])  # in a group, which a walk with σ = 0.06 leaves only at 1.0
@pytest.mark.parametrize("objective", ["nll", "softmax"])
def test_linear_and_log_space_give_the_same_loss(sigma, spread, objective, monkeypatch):
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(5, (200,), generator=generator)
    centers = torch.randn(7, 16, generator=generator, dtype=torch.float64)
    x = centers[labels + torch.randint(3, (200,), generator=generator)]
    x += spread * torch.randn(200, 16, generator=generator, dtype=torch.float64)
    settings = {"labels": labels, "sigma": sigma, "num_classes": 6, "objective": objective}
    settings["is_labeled"] = choose_labeled(200, 0.4, generator) & (labels > 0)
    value, gradient = value_and_gradient(gloss_loss, x, **settings)
    narrow, narrow_gradient = value_and_gradient(gloss_loss, x.float(), **settings)
    with monkeypatch.context() as patch:  # as on a GPU: the rates in float64, the elimination by a kernel
        patch.setattr(elimination, "has_kernel", lambda device: True)
        patch.setattr(elimination, "_kernel", lambda device: kernel_as_loop)
        by_kernel, kernel_gradient = value_and_gradient(gloss_loss, x, **settings)
        narrow_by_kernel, _ = value_and_gradient(gloss_loss, x.float(), **settings)
    monkeypatch.setattr(gloss_module, "NARROW", 1e9)
    expected, expected_gradient = value_and_gradient(gloss_loss, x, **settings)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-14)
    assert (gradient - expected_gradient).norm() < 1e-7 * expected_gradient.norm() + 1e-12
    assert by_kernel.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-14)
    assert (kernel_gradient - expected_gradient).norm() < 1e-7 * expected_gradient.norm() + 1e-12
    for value in (narrow, narrow_by_kernel):
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)
    assert narrow_gradient.dtype == torch.float32


def test_a_kernel_takes_no_more_nodes_than_its_memory_allows(monkeypatch):
    asked = []
    monkeypatch.setattr(elimination, "has_kernel", lambda device: True)
    monkeypatch.setattr(
        elimination, "_kernel", lambda device: lambda rates, num: asked.append(len(rates)) or rates[:, :num]
    )
    monkeypatch.setattr(elimination, "MOST_NODES", 9)
    for num in (9, 10):
        log_absorption(log_rates(num, 2, 1.0).exp(), 2)
    assert asked == [9]


def test_memory_for_the_backward_pass_is_quadratic_in_the_batch_size():
    def kept(num: int) -> int:
        generator, sizes = torch.Generator().manual_seed(0), []
        x = torch.randn(num, 8, generator=generator).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.nbytes), t)[1], lambda t: t):
            is_labeled = choose_labeled(num, 0.5, generator)
            gloss_loss(x, torch.arange(num) % 2, sigma=0.5, is_labeled=is_labeled, num_classes=2)
        return sum(sizes)

    assert kept(400) < 4.5 * kept(200)


@pytest.fixture(scope="module")
def kernel():
    pytest.importorskip("triton")
    from gloss.losses.state_elimination_triton import Eliminate

    return Eliminate.apply


@pytest.mark.parametrize(
    ("num_unlabeled", "num_classes", "spread"),
    [(1, 2, 1.0), (5, 3, 1.0), (51, 2, 5.0), (9, 300, 1.0), (66, 30, 3.0), (12, 2, 3000.0)],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_triton_kernel_equals_the_loop(kernel, num_unlabeled, num_classes, spread, dtype, tolerance):
    rates = log_rates(num_unlabeled, num_classes, spread).to(dtype)
    expected_value, expected_gradient = weighted(loop, rates, num_classes)
    rates = rates.to("cuda" if HAS_GPU else "cpu")
    found = weighted(lambda x, num: kernel(x, num).log_softmax(dim=1), rates, num_classes)
    value, gradient = (tensor.cpu() for tensor in found)
    torch.testing.assert_close(value, expected_value, rtol=tolerance, atol=tolerance)
    largest = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=tolerance * largest)


COMPILE = """
import subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gloss.losses import state_elimination_triton as kernels

for function in (kernels._forward, kernels._backward):
    tiles = {k: v for k, v in kernels.TILES.items() if k in function.arg_names}
    types = {name: "i32" for name in function.arg_names} | dict.fromkeys(tiles, "constexpr")
    types |= {name: "*" + sys.argv[2] for name in ("history", "grad", "column_sums") if name in types}
    source = ASTSource(function, types, {(function.arg_names.index(k),): v for k, v in tiles.items()})
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    built = triton.compile(source, target=target, options={"num_warps": kernels.TILES["num_warps"]})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        show = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        print(subprocess.check_output(show, text=True))
"""


@pytest.mark.parametrize("capability", [80, 90])  # A100, H100
@pytest.mark.parametrize(("dtype", "registers"), [("fp32", 128), ("fp64", 255)])
def test_kernels_compile_for_a100_and_h100(capability, dtype, registers, tmp_path):
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE, str(capability), dtype]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert not shown.returncode, shown.stderr
    used = [int(n) for n in re.findall(r"REG:(\d+)", shown.stdout)]
    spilt = [int(n) for n in re.findall(r"(?:STACK|LOCAL):(\d+)", shown.stdout)]
    assert len(used) == 2 and max(used) <= registers and len(spilt) == 4
    assert dtype == "fp64" or max(spilt) == 0


def test_kernel_gets_contiguous_rates(monkeypatch):
    seen = []
    monkeypatch.setattr(elimination, "has_kernel", lambda device: True)
    monkeypatch.setattr(elimination, "_kernel", lambda device: lambda *given: seen.append((device, *given)) or given[0])
    rates = torch.randn(5, 3, dtype=torch.float64).T
    assert torch.equal(elimination.eliminate(rates, 2), rates)
    ((device, given, num_classes),) = seen
    assert (device, num_classes) == (rates.device, 2) and given.is_contiguous() and torch.equal(given, rates)


def test_kernel_is_built_once_and_a_failure_gives_a_warning(monkeypatch):
    """Uses a stub for the Triton module, so that Triton need not be installed."""
    tried, failure = [], []

    class Eliminate:
        @staticmethod
        def apply(rates, num_classes):
            tried.append((rates.shape, rates.device.type, num_classes))
            if failure:
                raise failure[0]

    module = "gloss.losses.state_elimination_triton"
    monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(Eliminate=Eliminate))
    elimination._kernel.cache_clear()
    assert elimination._kernel(torch.device("meta")) is Eliminate.apply
    assert elimination._kernel(torch.device("meta")) is Eliminate.apply
    assert tried == [((1, 2), "meta", 1)]  # the smallest input: one node and one class
    failure.append(RuntimeError("no C compiler\nin PATH"))
    elimination._kernel.cache_clear()
    with pytest.warns(UserWarning, match=r"without its kernel.*\(RuntimeError: no C compiler\)"):
        assert elimination._kernel(torch.device("meta")) is None
    elimination._kernel.cache_clear()
