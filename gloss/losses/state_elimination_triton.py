"""The elimination of `gloss.losses.state_elimination` on a GPU: one kernel forward and one backward.

Each runs as one block of threads, since every pivot needs the one before. Other threads read the values of a step in
the next step, hence the barriers: Triton does not place them for global memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILES = {"COLUMNS": 32, "ROWS": 64, "num_warps": 8}  # 8 values a thread; wider tiles are padded more


@triton.jit
def _log_sum_exp(row, width, COLUMNS: tl.constexpr):
    """(peak, log Σ exp(x − peak)) of the first `width` values of a row. Two numbers: their sum would round x − lse."""
    columns = tl.arange(0, COLUMNS)
    highest = tl.full([COLUMNS], float("-inf"), row.dtype.element_ty)
    for start in range(0, width, COLUMNS):
        x = tl.load(row + start + columns, mask=start + columns < width, other=float("-inf"))
        highest = tl.maximum(highest, x)
    peak = tl.max(highest, axis=0)
    total = tl.zeros([COLUMNS], row.dtype.element_ty)
    for start in range(0, width, COLUMNS):
        x = tl.load(row + start + columns, mask=start + columns < width, other=float("-inf"))
        total += tl.exp(x - peak)
    return peak, tl.log(tl.sum(total, axis=0))


@triton.jit
def _forward(history, num_unlabeled, num_classes, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """history[k] = history[k + 1] without node k, for k = U − 1 … 0; history: [U + 1, U, C + U], the last one given."""
    stride = num_classes + num_unlabeled
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    for step in range(0, num_unlabeled):
        k = num_unlabeled - 1 - step
        width = num_classes + k
        after = history + (k * num_unlabeled).to(tl.int64) * stride
        before = after + num_unlabeled * stride
        peak, log_total = _log_sum_exp(before + k * stride, width, COLUMNS)
        for first_row in range(0, num_unlabeled, ROWS):
            i = first_row + rows
            to_k = tl.load(before + i * stride + width, mask=i < num_unlabeled, other=0.0)
            for first_column in range(0, width, COLUMNS):
                m = first_column + columns
                is_inside = (i < num_unlabeled)[:, None] & (m < width)[None, :]
                where = i[:, None] * stride + m[None, :]
                from_k = tl.load(before + k * stride + m, mask=m < width, other=0.0) - peak - log_total
                direct = tl.load(before + where, mask=is_inside, other=0.0)
                over_k = to_k[:, None] + from_k[None, :]
                larger = tl.maximum(direct, over_k)
                total = larger + tl.log(1.0 + tl.exp(tl.minimum(direct, over_k) - larger))
                tl.store(after + where, total, mask=is_inside)
        tl.debug_barrier()


@triton.jit
def _backward(history, grad, column_sums, num_unlabeled, num_classes, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Turn grad [U, C + U] by history[0], 0 beyond its first C columns, into the gradient by history[U], in place."""
    stride = num_classes + num_unlabeled
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    for k in range(0, num_unlabeled):
        width = num_classes + k
        before = history + ((k + 1) * num_unlabeled).to(tl.int64) * stride
        peak, log_total = _log_sum_exp(before + k * stride, width, COLUMNS)
        for first_column in range(0, width, COLUMNS):
            m = first_column + columns
            from_k = tl.load(before + k * stride + m, mask=m < width, other=0.0) - peak - log_total
            of_column = tl.zeros([COLUMNS], grad.dtype.element_ty)
            for first_row in range(0, num_unlabeled, ROWS):
                i = first_row + rows
                is_inside = (i < num_unlabeled)[:, None] & (m < width)[None, :]
                where = i[:, None] * stride + m[None, :]
                to_k = tl.load(before + i * stride + width, mask=i < num_unlabeled, other=0.0)
                direct = tl.load(before + where, mask=is_inside, other=0.0)
                g = tl.load(grad + where, mask=is_inside, other=0.0)
                advantage = to_k[:, None] + from_k[None, :] - direct
                over_k = g * tl.sigmoid(advantage)
                tl.store(grad + where, g * tl.sigmoid(-advantage), mask=is_inside)
                of_row = tl.load(grad + i * stride + width, mask=i < num_unlabeled, other=0.0) + tl.sum(over_k, axis=1)
                tl.store(grad + i * stride + width, of_row, mask=i < num_unlabeled)
                of_column += tl.sum(over_k, axis=0)
            tl.store(column_sums + m, of_column, mask=m < width)
            tl.debug_barrier()  # the next tile adds to the same sums of rows
        # The row of k through its log-softmax.
        of_all = tl.zeros([COLUMNS], grad.dtype.element_ty)
        for first_column in range(0, width, COLUMNS):
            m = first_column + columns
            of_all += tl.load(column_sums + m, mask=m < width, other=0.0)
        total = tl.sum(of_all, axis=0)
        for first_column in range(0, width, COLUMNS):
            m = first_column + columns
            from_k = tl.load(before + k * stride + m, mask=m < width, other=float("-inf")) - peak - log_total
            g = tl.load(grad + k * stride + m, mask=m < width, other=0.0)
            g += tl.load(column_sums + m, mask=m < width, other=0.0) - tl.exp(from_k) * total
            tl.store(grad + k * stride + m, g, mask=m < width)
        tl.debug_barrier()


class Eliminate(torch.autograd.Function):
    """`gloss.losses.state_elimination.eliminate` in two kernels; keeps U² (C + U) numbers for the backward pass."""

    @staticmethod
    def forward(ctx, rates: Tensor, num_classes: int) -> Tensor:
        num_unlabeled, width = rates.shape
        history = rates.new_empty(num_unlabeled + 1, num_unlabeled, width)
        history[num_unlabeled] = rates
        with torch.cuda.device_of(rates):
            _forward[(1,)](history, num_unlabeled, num_classes, **TILES)
        ctx.save_for_backward(history)
        ctx.num_classes = num_classes
        return history[0, :, :num_classes].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, None]:
        (history,) = ctx.saved_tensors
        _, num_unlabeled, width = history.shape
        grad = history.new_zeros(num_unlabeled, width)
        grad[:, : ctx.num_classes] = grad_output
        with torch.cuda.device_of(grad):
            _backward[(1,)](history, grad, history.new_empty(width), num_unlabeled, ctx.num_classes, **TILES)
        return grad, None
