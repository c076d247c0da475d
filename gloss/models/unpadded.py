"""Batches of tokens end to end; attention in groups of similar length, padded where lengths differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """n texts: their N tokens one after the other, and the groups of neighbours that attend together.

    input_ids: int [N]; positions: int64 [N], from 0 in each text; token_type_ids: int64 [N] or None; first: int64 [n],
    where each text begins; groups: number of texts, and of tokens with padding, for each; is_token: for each group
    bool [texts, 1, 1, longest], or None where its texts have one length; place: int64 [N], where each token goes when
    groups are padded, and token: int64 [P], which one each of the P places takes; or None where no group needs it.
    """

    input_ids: Tensor
    positions: Tensor
    token_type_ids: Tensor | None
    first: Tensor
    groups: list[tuple[int, int]]
    is_token: list[Tensor | None]
    place: Tensor | None
    token: Tensor | None

    def split(self, x: Tensor) -> list[Tensor]:
        """x: [N, D] of all tokens -> [texts, longest, D] of each group; padding holds the first token's numbers, and
        its gradient is left out."""
        if self.place is not None:
            x = _Spread.apply(x, self.token, self.place)
        pieces = x.split([texts * longest for texts, longest in self.groups])
        return [piece.unflatten(0, group) for piece, group in zip(pieces, self.groups, strict=True)]

    def split_first(self, x: Tensor) -> list[Tensor]:
        """x: [n, D] of the first tokens -> [texts, 1, D] of each group."""
        return [piece[:, None] for piece in x.split([texts for texts, _ in self.groups])]

    def join(self, pieces: list[Tensor]) -> Tensor:
        """The inverse of `split`: [N, D]; or of `split_first`: [n, D]."""
        x = torch.cat([piece.flatten(0, 1) for piece in pieces])
        return x if self.place is None or len(x) == len(self.first) else x.index_select(0, self.place)


class _Spread(torch.autograd.Function):
    """x[token], and back only from the place of each token: no zeros are written or added up."""

    @staticmethod
    def forward(ctx, x: Tensor, token: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return x.index_select(0, token)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


def runs(lengths: np.ndarray) -> Sequence[tuple[int, int]]:
    """Bounds of the runs of neighbours that are equal: [(start, stop), ...]."""
    edges = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def bucket_bounds(num_texts: int, num_buckets: int) -> Sequence[tuple[int, int]]:
    """Cut a batch, sorted by length, into buckets of nearly equal numbers of texts: [(start, stop), ...]."""
    edges = np.linspace(0, num_texts, min(num_buckets, num_texts) + 1).round().astype(int)
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
