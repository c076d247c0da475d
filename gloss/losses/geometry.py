"""Unit length, pairwise distances, and the bandwidth of G-Loss-SQRT."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MANY, BLOCK_PAIRS = 16_384, 2**25  # for more texts than MANY, distances are held in blocks of this size
SMALLEST_SIGMA = 1e-6  # float32 tells unit vectors apart from 1e-7 on; with smaller σ gradients leave its range
SAME_DISTANCE = 1e-10  # relative to the largest coordinate: nearer rows count as the same, with gradient 0


def to_working_precision(embeddings: Tensor) -> Tensor:
    """float32 for every narrower float type; float64 stays."""
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def unit_length(embeddings: Tensor) -> Tensor:
    """embeddings: float [B, D], any scale -> [B, D] of Euclidean length 1, in float32 or wider.

    A vector whose largest coordinate is below 1e-30 counts as zero: it stays zero and has gradient zero.
    """
    x = to_working_precision(embeddings)
    # Squares of 1e-20 or 1e20 would leave float32. The result does not depend on this scale, so it needs no gradient.
    largest = x.detach().abs().amax(dim=1, keepdim=True)
    is_zero = largest < 1e-30
    x = x / largest.masked_fill(is_zero, torch.inf)
    return x / x.square().sum(dim=1, keepdim=True).masked_fill(is_zero, torch.inf).sqrt()


class _PairwiseDistances(torch.autograd.Function):
    """Distances from the differences themselves: |a|² + |b|² − 2ab would lose near neighbours to cancellation (all the
    more in TF32). The gradient Σ_j g_ij (x_i − x_j) / d_ij cancels likewise, so it is summed in float64, in B² memory
    (torch's own, of `cdist`, takes B²·D on CUDA)."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        largest = x.abs().amax().clamp(min=1e-30)
        scale = largest.log2().floor().exp2()  # a power of 2 rounds nothing; squares of 1e20 leave float32
        x = x / scale
        distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        ctx.save_for_backward(x, distances)
        return distances * scale

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        x, distances = ctx.saved_tensors
        exact = (x.cpu() if x.is_mps else x).double()  # Apple's GPUs have no float64
        weight = (grad + grad.T) / distances.masked_fill(distances < SAME_DISTANCE, torch.inf)
        weight = weight.to(exact.device).to(exact.dtype)  # one call would cast first
        return (weight.sum(dim=1, keepdim=True) * exact - weight @ exact).to(x)


def pairwise_distances(x: Tensor) -> Tensor:
    """x: float [B, D], any scale -> Euclidean distances [B, B]; gradient 0 where two rows are the same."""
    return _PairwiseDistances.apply(x)


@torch.no_grad()
def sqrt_bandwidth(embeddings: Tensor, *, released: bool = False) -> float:
    """σ of G-Loss-SQRT: d/√3, d the median Euclidean distance over all pairs of the embeddings [N, D] at unit length.

    exp(−d²/2σ²) as a function of σ has its inflection there (appendix D).

    Args:
        embeddings: float [N, D], N >= 2, any scale. Memory grows with N² (4,096: 67 MB) up to 16,384, and no further.
        released: the authors' code instead: sqrt(d/3), with the N zeros of the diagonal among the distances.

    Raises ValueError for embeddings that are not finite, and where σ is below 1e-6, as for collapsed embeddings.
    """
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise ValueError(f"embeddings must be [N, D] with N >= 2, got shape {list(embeddings.shape)}")
    if not embeddings.isfinite().all():
        raise ValueError("embeddings must be finite, got NaN or infinity")
    z = unit_length(embeddings.cpu() if embeddings.is_mps else embeddings)  # Apple's GPUs have no pdist
    zeros = len(z) if released else 0
    count = zeros + len(z) * (len(z) - 1)  # of a matrix, which holds each distance twice
    middle = [(k - zeros) // 2 for k in ((count - 1) // 2, count // 2)]
    ranks = [max(k, 0) for k in middle]
    if len(z) > MANY:
        found = _distances_of_rank(z, ranks)
    else:
        distances = torch.pdist(z).cpu()  # [N(N-1)/2]
        found = [distances.kthvalue(k + 1).values.item() for k in ranks]
    median = sum(d if k >= 0 else 0.0 for k, d in zip(middle, found, strict=True)) / 2
    sigma = math.sqrt(median / 3) if released else median / math.sqrt(3)
    if not sigma >= SMALLEST_SIGMA:
        why = "they have (almost) all collapsed; pass sigma as a number instead"
        raise ValueError(f"the median distance of the {len(embeddings)} embeddings is {median}: {why}")
    return sigma


def _distances_of_rank(x: Tensor, ranks: list[int]) -> list[float]:
    """The distances at these ranks, from 0, among all pairs of x [N, D] in ascending order, by blocks of pairs.

    Bits of floats >= 0 are in the order of the floats: each pass over all pairs counts the values of the next 16 bits.
    """
    bits = torch.int32 if x.dtype == torch.float32 else torch.int64
    heads, ranks = [0] * len(ranks), list(ranks)
    num_rows = -(-BLOCK_PAIRS // len(x))
    for shift in reversed(range(0, torch.iinfo(bits).bits, 16)):
        counts = [torch.tensor(0)] * len(ranks)
        for low in range(0, len(x), num_rows):
            distances = torch.cdist(x[low : low + num_rows], x[low:], compute_mode="donot_use_mm_for_euclid_dist")
            is_pair = torch.ones_like(distances, dtype=torch.bool).triu(1)
            values = (distances[is_pair].view(bits) & torch.iinfo(bits).max) >> shift  # a NaN may have a sign
            for i, head in enumerate(heads):
                counts[i] = counts[i] + torch.bincount(values[values >> 16 == head] & 0xFFFF, minlength=2**16)
        for i, count in enumerate(counts):
            ends = count.cumsum(dim=0).cpu()
            value = int(torch.searchsorted(ends, ranks[i], right=True))
            ranks[i] -= int(ends[value - 1]) if value else 0
            heads[i] = heads[i] << 16 | value
    return torch.tensor(heads, dtype=bits).view(x.dtype).tolist()
