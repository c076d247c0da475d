"""The graph against plain loops and numpy; the label propagation against its iteration and scikit-learn."""

import math

import loops
import numpy as np
import pytest
import torch
from sklearn.semi_supervised import LabelPropagation

from gloss.losses.geometry import _distances_of_rank, pairwise_distances, sqrt_bandwidth, unit_length
from gloss.losses.reference import gaussian_kernel, propagate_labels, symmetric_normalize, transition_matrix


def random_embeddings(num: int, width: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_kernel_and_normalisations_equal_their_loops():
    x = random_embeddings(7)
    w, s, t = loops.graph(loops.unit(x), 0.6)
    weights = gaussian_kernel(x, 0.6)
    normalized = symmetric_normalize(weights)
    transition = transition_matrix(normalized)
    torch.testing.assert_close([weights, normalized, transition], [w, s, t], rtol=1e-12, atol=0)
    torch.testing.assert_close(transition.sum(1), torch.ones(7, dtype=torch.float64))
    assert (transition - transition.T).abs().max() > 1e-3  # T differs from S: both normalisations have an effect


@pytest.mark.parametrize("num", [2, 3, 4, 5, 6, 7])  # 1, 3, 6, 10, 15, 21 pairs: odd and even numbers
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_sqrt_bandwidth_is_the_median_over_root_three(num, scale):
    x = random_embeddings(num, seed=num).numpy()
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    full = np.linalg.norm(z[:, None] - z, axis=2)
    scaled, pairs = torch.tensor(x * scale), full[np.triu_indices(num, k=1)]
    assert sqrt_bandwidth(scaled) == pytest.approx(np.median(pairs) / np.sqrt(3), rel=1e-12)
    assert sqrt_bandwidth(scaled, released=True) == pytest.approx(np.sqrt(np.median(full) / 3), rel=1e-12)
    scaled[0, 0] = math.nan  # few NaN would leave a median, of the other pairs
    with pytest.raises(ValueError, match="embeddings must be finite"):
        sqrt_bandwidth(scaled)


@pytest.mark.parametrize("num", [2, 3, 4, 7, 40, 151])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block_pairs", [1, 1000, 2**25])
def test_sqrt_bandwidth_is_the_same_in_blocks_of_pairs(num, dtype, block_pairs, monkeypatch):
    """This path is for more than 16,384 texts: the full distance matrix is never in memory."""
    x = random_embeddings(num, seed=num).to(dtype)
    x[: num // 2] = x[0]  # many equal distances
    distances = torch.pdist(unit_length(x)).sort().values
    middle = (distances[(len(distances) - 1) // 2].item() + distances[len(distances) // 2].item()) / 2
    expected = sqrt_bandwidth(x, released=False), sqrt_bandwidth(x, released=True)
    monkeypatch.setattr("gloss.losses.geometry.MANY", 0)
    monkeypatch.setattr("gloss.losses.geometry.BLOCK_PAIRS", block_pairs)
    found = sqrt_bandwidth(x, released=False), sqrt_bandwidth(x, released=True)
    assert found == pytest.approx(expected, rel=3e-7 if dtype == torch.float32 else 1e-15)
    assert found[0] == pytest.approx(middle / math.sqrt(3), rel=3e-7 if dtype == torch.float32 else 1e-15)
    with pytest.raises(ValueError, match="must be finite"):
        sqrt_bandwidth(x * math.nan)


def test_distances_that_differ_in_the_last_bits_are_ordered():
    x = torch.tensor([[0.0], [0.5], [1 + 2.0**-40]], dtype=torch.float64)
    assert _distances_of_rank(x, [0, 1, 2]) == [0.5, 0.5 + 2.0**-40, 1 + 2.0**-40]


def test_distances_of_near_texts_are_exact():
    """For more than 25 texts `cdist` would compute |a|² + |b|² − 2ab and lose 3 % of such distances."""
    x = 1000 + random_embeddings(40).float()
    expected = torch.pdist(x.double()).sort().values
    found = torch.tensor(_distances_of_rank(x, list(range(len(expected)))))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_vectors_below_1e_30_count_as_zero():
    x = torch.tensor([[0.99e-30, 0.5e-30], [1e-30, -1e-30], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    z = unit_length(x)
    assert torch.equal(z[[0, 2]], torch.zeros(2, 2, dtype=torch.float64))
    torch.testing.assert_close(z[1], torch.tensor([1.0, -1.0], dtype=torch.float64) / math.sqrt(2))
    (gradient,) = torch.autograd.grad(z[:, 0].sum(), x)
    assert torch.equal(gradient[[0, 2]], torch.zeros(2, 2, dtype=torch.float64)) and gradient[1].isfinite().all()
    assert torch.autograd.gradcheck(unit_length, random_embeddings(3, 2).requires_grad_())


def test_graph_is_on_the_device_of_its_embeddings():
    """On torch's "meta" device, which has shapes but no values: mixing it with the CPU fails as it would on a GPU."""
    x = torch.randn(6, 3, device="meta", requires_grad=True)
    transition = transition_matrix(symmetric_normalize(gaussian_kernel(x, 0.5)))
    assert (transition.device.type, transition.shape, transition.dtype) == ("meta", (6, 6), torch.float32)
    (gradient,) = torch.autograd.grad(pairwise_distances(x).sum(), x)
    assert (gradient.device.type, gradient.shape) == ("meta", (6, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_unit_length_at_every_scale(dtype, scale):
    x = (random_embeddings(4) * scale).to(dtype).requires_grad_()
    z = unit_length(x)
    assert z.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = x.detach().double() / x.detach().double().norm(dim=1, keepdim=True)
    torch.testing.assert_close(z.detach().double(), expected, rtol=1e-6, atol=1e-7)
    (gradient,) = torch.autograd.grad(z[:, 0].sum(), x)
    along = (gradient.double() * x.detach().double()).sum(1)  # the length is ignored: the slope along the vector is 0
    assert along.abs().max() < (1e-2 if dtype == torch.bfloat16 else 1e-6)
    assert gradient.abs().max() * scale > 0.05


def test_distances_and_their_gradient():
    x = random_embeddings(6, 4).requires_grad_()
    torch.testing.assert_close(pairwise_distances(x), (x[:, None] - x).norm(dim=2), rtol=1e-14, atol=0)
    off_diagonal = ~torch.eye(6, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda x: pairwise_distances(x)[off_diagonal], x)
    equal = torch.ones(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(pairwise_distances(equal).sum(), equal)
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e20])
def test_distances_at_every_scale_in_float32(scale):
    """The squares of 1e-25 and of 1e20 are out of range in float32."""
    x = (random_embeddings(5, 4) * scale).float()
    expected = (x.double()[:, None] - x.double()).norm(dim=2)
    assert expected.max() < 1e2 * scale
    torch.testing.assert_close(pairwise_distances(x).double() / scale, expected / scale, rtol=1e-5, atol=0)


def test_distances_of_near_neighbours_in_float32():
    """Unit vectors 1e-5 apart, for which |a|² + |b|² − 2ab has no correct digit.

    They are among 28 other vectors, because PyTorch uses that formula for more than 25 vectors.
    """
    direction = torch.zeros(8, dtype=torch.float64)
    direction[3] = 1e-5
    pair = random_embeddings(1, 8).expand(2, 8) + torch.stack([direction * 0, direction])
    x = unit_length(torch.cat([pair, random_embeddings(28, 8, seed=1)])).float()
    exact = x.double().requires_grad_()
    narrow = x.clone().requires_grad_()
    wide, short = (exact[0] - exact[1]).norm(), pairwise_distances(narrow)[0, 1]
    assert short.item() == pytest.approx(wide.item(), rel=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(short, narrow)[0].double(), torch.autograd.grad(wide, exact)[0], rtol=1e-4, atol=1e-5
    )


# ----------------------------------------------------------------------------------------------- the label propagation


def batch(num: int = 14, num_classes: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(num, 5, dtype=torch.float64, generator=generator)
    labels = torch.arange(num) % num_classes
    is_labeled = torch.isin(torch.arange(num) % 7, torch.tensor([0, 1, 3, 5]))  # every class has a labeled member
    return x, labels, is_labeled


@pytest.mark.parametrize("sigma", [0.3, 0.7, 5.0])
def test_closed_form_is_the_limit_of_the_iteration(sigma):
    x, labels, is_labeled = batch()
    transition = transition_matrix(symmetric_normalize(gaussian_kernel(x, sigma)))
    closed = propagate_labels(transition, labels.int(), is_labeled, 4)
    one_hot = torch.eye(4, dtype=torch.float64)[labels]
    scores = torch.where(is_labeled[:, None], one_hot, torch.zeros_like(one_hot))
    for _ in range(20_000):
        scores = torch.where(is_labeled[:, None], one_hot, transition @ scores)  # labeled nodes keep their labels
    torch.testing.assert_close(closed, scores[~is_labeled], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(closed.sum(1), torch.ones(len(closed), dtype=torch.float64))


def test_classes_without_labeled_nodes_get_probability_0():
    x, labels, is_labeled = batch()
    is_labeled = is_labeled & (labels != 2)
    closed = propagate_labels(transition_matrix(gaussian_kernel(x, 0.7)), labels, is_labeled, 6)
    assert closed.shape == (int((~is_labeled).sum()), 6)  # no text has class 4 or 5
    assert (closed[:, [2, 4, 5]] == 0).all() and (closed[:, [0, 1, 3]] > 0).all()


def scikit_learn(weights: torch.Tensor, labels: torch.Tensor, is_labeled: torch.Tensor) -> torch.Tensor:
    """scikit-learn's result: the kernel divided by its row sums, then an iteration with clamped labels."""
    model = LabelPropagation(kernel=lambda a, b: weights.numpy().copy(), max_iter=100_000, tol=1e-13)
    model.fit(np.zeros((len(labels), 1)), np.where(is_labeled, labels, -1))
    return torch.tensor(model.label_distributions_)[~is_labeled]


def test_equals_scikit_learn_from_the_embeddings_on_a_regular_polygon():
    """All nodes have the same degree, so the column step divides by a constant and both methods agree."""
    angle = torch.arange(12, dtype=torch.float64) * (2 * math.pi / 12)
    x = torch.stack([angle.cos(), angle.sin()], dim=1)
    _, labels, is_labeled = batch(12, 3)
    weights = gaussian_kernel(x, 0.5)
    ours = propagate_labels(transition_matrix(symmetric_normalize(weights)), labels, is_labeled, 3)
    torch.testing.assert_close(ours, scikit_learn(weights, labels, is_labeled), rtol=1e-8, atol=1e-10)


def test_wrong_arguments_are_refused():
    x, labels, is_labeled = batch()
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="sigma must be positive"):
            gaussian_kernel(x, sigma)
    with pytest.raises(ValueError, match="pass sigma as a number"):
        sqrt_bandwidth(torch.ones(5, 3))
    with pytest.raises(ValueError, match="collapsed"):  # σ 6e-10
        sqrt_bandwidth(torch.ones(5, 3, dtype=torch.float64) + 1e-9 * torch.eye(5, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"\[N, D\] with N >= 2"):
        sqrt_bandwidth(torch.ones(1, 3))
    with pytest.raises(ValueError, match="is_labeled must be bool"):
        propagate_labels(transition_matrix(gaussian_kernel(x, 0.7)), labels, is_labeled.long(), 4)
