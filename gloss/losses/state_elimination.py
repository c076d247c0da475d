"""Taking nodes out of a Markov chain one by one, without subtraction: where walks from unlabeled nodes end.

I − T_UU, the matrix of the closed form, becomes singular to working precision once a cluster of unlabeled nodes has no
labeled neighbour; this never forms it (Grassmann, Taksar, Heyman 1985).
"""

import warnings
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 64  # nodes that are eliminated before the rest of the matrix is updated
# `log_absorption` leaves so many to a GPU's kernel, whose time and memory grow with U³ (H100: 66 ms and 0.3 GB at 409
# nodes, so 0.5 s and 2 GB at 819).
MOST_NODES = 512


def log_absorption(rates: Tensor, num_classes: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Rates [U, C + U] of U unlabeled nodes to C classes and to each other -> log F_U [U, C], where their walks end.

    rates: float64, >= 0, not so far apart that they leave float64; a node's rate to itself never matters, nor does a
    factor of a row. dtype: of the result, and of the elimination by a GPU's kernel, which is used for up to MOST_NODES
    nodes. A class that no walk reaches gets −150 or less, probability 0, and no gradient. Costs U² (C + U) operations
    and U (C + U) numbers for the gradient (the kernel: U² (C + U)); there is no second derivative.
    """
    tiny = torch.finfo(rates.dtype).tiny
    if len(rates) <= MOST_NODES and has_kernel(rates.device):
        log_probabilities = eliminate(rates.clamp(min=tiny).log().to(dtype), num_classes)
    else:
        log_probabilities = _Absorption.apply(rates, num_classes).clamp(min=tiny).log()
    return log_probabilities.log_softmax(dim=1).to(dtype)


def eliminate(rates: Tensor, num_classes: int) -> Tensor:
    """Log rates [U, C + U] of U unlabeled nodes to C classes and to each other -> log rates [U, C] to classes alone.

    Eliminating node k redirects each rate to k to the nodes that k leads to. Rates of a node to itself never matter,
    nor does a constant added to a row. Costs U² (C + U) operations and, for the gradient, as many numbers:
    for rates that float64 can't hold, and for GPUs.
    """
    if has_kernel(rates.device):
        return _kernel(rates.device)(rates.contiguous(), num_classes)
    for k in reversed(range(len(rates))):
        rest, to_k = rates.split([num_classes + k, 1], dim=1)
        rates = torch.logaddexp(rest, to_k + rest[k].log_softmax(dim=0))  # row k only gains a factor
    return rates


def has_kernel(device: torch.device) -> bool:
    """Whether `eliminate` has a kernel of its own on the device."""
    return device.type == "cuda" and _kernel(device) is not None


@cache
def _kernel(device: torch.device):
    """`eliminate` in two launches instead of 20 a node; None, with a warning, where it cannot be built."""
    try:
        from gloss.losses.state_elimination_triton import Eliminate

        Eliminate.apply(torch.zeros(1, 2, device=device), 1)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no Triton (Windows), no C compiler or Python headers, a GPU it does not know
        reason = str(error).strip().splitlines() or [""]
        warnings.warn(
            f"G-Loss runs on {device} without its kernel, in many small steps ({type(error).__name__}: {reason[0]}); "
            "it needs triton, a C compiler and Python's headers",
            stacklevel=2,
        )
        return None
    return Eliminate.apply


class _Absorption(torch.autograd.Function):
    """The elimination as a factorisation D − A_UU = (I − C)(S − R), computed in place of A, in blocks of nodes.

    Node k, from the last to the first: s_k, the sum of its row; c_ik = a_ik / s_k for i < k; a_ij += c_ik a_kj for
    j < k. Row k then holds R (rates to nodes before k) and the rates to the classes; S − R gives the probabilities by
    forward substitution. Within a block, the forward steps need only the sums of its long rows, and the backward steps
    only inner products with them; the rest are matrix products and triangular systems. In the forward pass all terms
    have the same sign.
    """

    @staticmethod
    def forward(ctx, rates: Tensor, num_classes: int) -> Tensor:
        a = rates.clone()
        sums = a.new_empty(len(a))
        for low, high in reversed(_blocks(len(a))):
            outside, inside = a[low:high].split([num_classes + low, len(a) - low], dim=1)
            inside = inside[:, : high - low]
            block = torch.cat([outside.sum(dim=1, keepdim=True), inside], dim=1)
            rows, columns = block.unbind(), block[:, 1:, None].unbind(1)
            ones = a.new_ones(high - low)
            total = list(rows)  # of each row its sum
            for k in reversed(range(len(rows))):
                row = rows[k][: k + 1]
                total[k] = row.dot(ones[: k + 1])  # takes half the time of its sum
                block[:k, : k + 1].addcmul_(columns[k][:k].div_(total[k]), row)
            sums[low:high] = torch.stack(total)
            inside.copy_(block[:, 1:])
            outside.copy_(_solve(-inside, outside, upper=True, unitriangular=True))
            if low:
                to_block = a[:low, num_classes + low : num_classes + high]
                to_block.copy_(_solve(_pivots(inside, sums[low:high]), to_block, upper=False, left=False))
                a[:low, : num_classes + low].addmm_(to_block, outside)
        to_class, unlabeled = a.split([num_classes, len(a)], dim=1)
        probabilities = _solve(_pivots(unlabeled, sums), to_class, upper=False)
        ctx.save_for_backward(a, sums, probabilities)
        return probabilities

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        a, sums, probabilities = ctx.saved_tensors
        num_classes = probabilities.shape[1]
        visits = _solve(_pivots(a[:, num_classes:], sums).T, grad, upper=True)
        g = torch.cat([visits, visits @ probabilities.T], dim=1)  # gradient by R and by the rates to classes, so far
        by_sum = -g[:, num_classes:].diagonal()
        for low, high in _blocks(len(a)):
            start, stop, num = num_classes + low, num_classes + high, high - low
            outside, inside, total = a[low:high, :start], a[low:high, start:stop], sums[low:high]
            g_outside, g_inside = g[low:high, :start], g[low:high, start:stop]
            if low:
                to_block, g_before = a[:low, start:stop], g[:low, :start]
                g_outside.addmm_(to_block.T, g_before)
                g_to_block = _solve(_pivots(inside, total).T, g_before @ outside.T, upper=True, left=False)
                g[:low, start:stop] = g_to_block
                by_block = to_block.T @ g_to_block
                by_sum[low:high] -= by_block.diagonal()
                g_inside += by_block
            # Per row: inner products with the rows outside, and the gradient inside, by c instead of a: times s.
            h = torch.cat([g_outside @ outside.T, (g_inside * total).tril(-1)], dim=1)
            rest = inside.tril(-1)
            to_c = torch.cat([a.new_zeros(num, num).fill_diagonal_(1.0), rest / total], dim=1).unbind()
            ones = torch.cat([outside.sum(dim=1).expand(num, num), total.expand(num, num).tril(-1)], dim=1).unbind()
            rows, h_columns, columns = h.unbind(), h[:, num:].unbind(1), inside.triu(1).T.contiguous().unbind()
            totals, by_sums = total.unbind(), list(by_sum[low:high].unbind())
            transposed = h.T
            for k in range(num):
                by_c = torch.mv(h[:k], to_c[k])
                by_sums[k] = torch.addcdiv(by_sums[k], by_c.dot(columns[k][:k]), totals[k], value=-1)
                row = torch.addmv(rows[k], transposed, columns[k])
                torch.addcmul(row, by_sums[k], ones[k], out=rows[k])
                h_columns[k][:k].copy_(by_c)
            torch.div(h[:, num:], total, out=g_inside)
            g_outside += torch.stack(by_sums)[:, None]
            g_outside.copy_(_solve(-inside.T, g_outside, upper=False, unitriangular=True))
        return g, None


_solve = torch.linalg.solve_triangular


def _pivots(unlabeled: Tensor, sums: Tensor) -> Tensor:
    """S − R."""
    return unlabeled.tril(-1).neg_().diagonal_scatter(sums)


def _blocks(num: int) -> list[tuple[int, int]]:
    return [(low, min(low + BLOCK, num)) for low in range(0, num, BLOCK)]
