"""The GPU's kernel against the plain loop. Without a GPU it runs in Triton's interpreter, where Triton is installed."""

import os

import pytest
import torch

from gloss.losses import elimination
from gloss.losses.elimination import eliminate

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported


@pytest.fixture(scope="module")
def kernel():
    pytest.importorskip("triton")
    from gloss.losses.elimination_kernels import Eliminate

    return Eliminate.apply


@pytest.mark.parametrize(
    ("num_hidden", "num_classes", "spread"),
    [(1, 2, 1.0), (5, 3, 1.0), (51, 2, 5.0), (9, 300, 1.0), (70, 200, 3.0), (12, 2, 3000.0)],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_the_kernel_is_the_loop(kernel, num_hidden, num_classes, spread, dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    rates = spread * torch.randn(num_hidden, num_classes + num_hidden, generator=generator, dtype=torch.float64)
    rates[:, num_classes:].diagonal().fill_(-1e30)
    weight = torch.randn(num_hidden, num_classes, generator=generator, dtype=torch.float64).to(dtype)

    def value_and_gradient(of, device: str):
        x = rates.to(device, dtype).requires_grad_()
        value = of(x, num_classes).log_softmax(dim=1)
        (value * weight.to(device)).sum().backward()
        return value.detach().cpu(), x.grad.cpu()

    expected_value, expected_gradient = value_and_gradient(eliminate, "cpu")
    value, gradient = value_and_gradient(kernel, "cuda" if HAS_GPU else "cpu")
    torch.testing.assert_close(value, expected_value, rtol=tolerance, atol=tolerance)
    largest = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=tolerance * largest)


@pytest.mark.skipif(HAS_GPU, reason="needs a machine without a GPU")
def test_without_the_kernel_it_says_so_and_goes_on():
    elimination._kernel.cache_clear()
    with pytest.warns(UserWarning, match="without its kernel"):
        assert elimination._kernel(torch.device("cuda")) is None
