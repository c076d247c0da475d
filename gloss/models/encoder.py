"""Transformer and first token to embeddings [B, D]; linear head to logits [B, C]."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from gloss.errors import ConfigError
from gloss.models.dropout import Dropout, fast_dropout
from gloss.models.unpadded import Packed, bucket_bounds, runs
from gloss.runtime.device import autocast

_UNPADDED = ("bert", "roberta", "xlm-roberta", "mpnet", "distilbert")  # others go through the model, group by group
_PROJECTIONS = (("query", "key", "value"), ("q", "k", "v"), ("q_lin", "k_lin", "v_lin"))


class Encoder(nn.Module):
    """A transformer that returns the last hidden state at the first token."""

    transformer: Any  # PreTrainedModel, whose attributes differ from family to family

    def __init__(self, transformer: transformers.PreTrainedModel) -> None:
        super().__init__()
        self.transformer = transformer
        self.kind = transformer.config.model_type
        self.embedding_dim: int = transformer.config.hidden_size
        self.is_packed = self.kind in _UNPADDED
        self.finish: Callable[[Any, Tensor, Tensor], Tensor] = _finish
        for parent in list(transformer.modules()):
            for name, child in parent.named_children():
                if type(child) is nn.Dropout:
                    setattr(parent, name, Dropout(child.p).train(child.training))

    def compile_layers(self) -> None:
        """Let torch.compile fuse the part of each layer after attention, once for any number of tokens.

        Drops the compiled programs of this process, and sets torch.compile's limit of recompilations.
        """
        if not self.is_packed:
            raise ConfigError(f"trainer.compile=true is for {', '.join(_UNPADDED)}, not for {self.kind}")
        # One program for each mix of training, gradients, precision and kind of input: some ten. The limit is one for
        # all encoders of a process, so the programs of earlier ones are dropped.
        torch.compiler.reset()
        torch._dynamo.config.recompile_limit = 32
        self.finish = torch.compile(_finish, dynamic=True, fullgraph=True)

    def forward(self, texts: Packed) -> Tensor:
        """Embeddings [n, D]."""
        model = self.transformer
        if not self.is_packed:
            return torch.cat([self._padded(*group) for group in self._groups(texts)])
        positions = texts.positions
        if "roberta" in self.kind or self.kind == "mpnet":
            positions = positions + model.embeddings.padding_idx + 1
        inputs = {"input_ids": texts.input_ids[None], "position_ids": positions[None]}
        if texts.token_type_ids is not None:
            inputs["token_type_ids"] = texts.token_type_ids[None]
        hidden = model.embeddings(**inputs)[0]  # [N, D]
        if hidden.device.type == "cpu":  # the residual stream, too; autocast on a GPU leaves it in float32
            hidden = _lowered(hidden)
        layers = (model.transformer if self.kind == "distilbert" else model.encoder).layer
        masks = texts.is_token
        if self.kind == "mpnet":
            masks = _with_bias(masks, texts, model.encoder.compute_position_bias)
        for layer in layers:
            hidden = self.finish(layer, *_attention(layer, hidden, texts, masks, is_last=layer is layers[-1]))
        return hidden

    def _groups(self, texts: Packed):
        types: Any = [None] * len(texts.groups) if texts.token_type_ids is None else texts.split(texts.token_type_ids)
        return zip(texts.split(texts.input_ids), texts.is_token, types, strict=True)

    def _padded(self, input_ids: Tensor, is_token: Tensor | None, token_type_ids: Tensor | None) -> Tensor:
        mask = torch.ones_like(input_ids) if is_token is None else is_token[:, 0, 0].long()
        input_ids = input_ids * mask
        inputs = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.transformer(input_ids=input_ids, attention_mask=mask, **inputs).last_hidden_state[:, 0]


def _with_bias(masks: list[Tensor | None], texts: Packed, position_bias: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """MPNet's bias of each group's attention scores, [1 or texts, heads, longest, longest], -inf for padding."""
    longest = max(length for _, length in texts.groups)
    whole = position_bias(torch.empty(1, longest, device=texts.first.device))  # [1, heads, longest, longest]
    biases = [whole[..., :length, :length] for _, length in texts.groups]
    return [b if m is None else b.masked_fill(~m, -torch.inf) for b, m in zip(biases, masks, strict=True)]


def _projections(layer: Any) -> tuple[Any, tuple[str, str, str]]:
    """The module with query, key and value of a layer, and their names in it."""
    attention = getattr(layer.attention, "self", None) or getattr(layer.attention, "attn", layer.attention)
    return attention, next(names for names in _PROJECTIONS if hasattr(attention, names[0]))


def _attention(
    layer: Any, hidden: Tensor, texts: Packed, masks: list[Tensor | None], is_last: bool
) -> tuple[Tensor, Tensor]:
    """Attention in a layer of one of `_UNPADDED`, and the residual stream, both [N, D] of all tokens; in the last layer
    [n, D] of the first tokens.

    masks: of each group's attention scores, as `scaled_dot_product_attention` has them.
    """
    attention, names = _projections(layer)
    query, key, value = (getattr(attention, name) for name in names)
    heads = attention.n_heads if "q_lin" in names else attention.num_attention_heads
    dropout = attention.dropout.p if attention.training else 0.0
    lowered = _lowered(hidden)  # once for all three
    keys, values = texts.split(key(lowered)), texts.split(value(lowered))
    if is_last:
        hidden, lowered = hidden.index_select(0, texts.first), lowered.index_select(0, texts.first)
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))  # embeddings are not rounded to bf16
        masks = [mask if mask is None else mask[:, :, :1] for mask in masks]
    queries = (texts.split_first if is_last else texts.split)(query(lowered))
    groups = zip(queries, keys, values, masks, strict=True)
    return texts.join([_attend(*group, heads, dropout) for group in groups]), hidden


def _finish(layer: Any, context: Tensor, hidden: Tensor) -> Tensor:
    """The output of a layer, from the output of `_attention`."""
    attention, names = _projections(layer)
    if "q_lin" in names:  # DistilBERT
        hidden = _norm(layer.sa_layer_norm, attention.out_lin(context) + hidden)
        return _norm(layer.output_layer_norm, layer.ffn.ff_chunk(hidden) + hidden)
    first, second = layer.attention if "q" in names else layer.attention.output, layer.output
    project = attention.o if "q" in names else first.dense
    hidden = _norm(first.LayerNorm, first.dropout(project(context)) + hidden)
    return _norm(second.LayerNorm, second.dropout(second.dense(layer.intermediate(hidden))) + hidden)


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """The layer norm, in float32 for bf16: on a CPU PyTorch would sum the gradient of its bias in bf16, 70 % off."""
    return norm(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, heads: int, dropout: float) -> Tensor:
    """Multi-head attention of query [B, Q, D] over key and value [B, T, D] -> [B, Q, D].

    mask: bool, or float to be added to the scores, [1 or B, 1 or heads, 1 or Q, T].
    """
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        context = _attend_in_bf16(query, key, value, mask, dropout)
    else:
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return context.transpose(1, 2).flatten(2)


def _attend_in_bf16(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attention of [B, heads, Q, d] on a CPU, where PyTorch's with dropout multiplies in float32 (2.13)."""
    shape = query.shape[:2]
    bias = query.new_zeros(1, 1, 1, 1) if mask is None or mask.dtype == torch.bool else mask.to(query.dtype)
    if mask is not None and mask.dtype == torch.bool:
        bias = bias.masked_fill(~mask, -torch.inf)
    bias = bias.expand(*shape, -1, -1).flatten(0, 1)
    query, key, value = (x.flatten(0, 1) for x in (query, key, value))
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=query.shape[-1] ** -0.5)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    return (fast_dropout(weights, dropout) @ value).unflatten(0, shape)


def _lowered(x: Tensor) -> Tensor:
    """x in the type that autocast would choose for a matrix product."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class Classifier(nn.Module):
    """An encoder and one linear layer on its embeddings."""

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.embedding_dim, num_classes)


# ------------------------------------------------------------------------------------------------ token ids on a device
@dataclass(frozen=True)
class TokenTable:
    """All texts of a split as padded token ids, moved to the device once.

    input_ids: int32 [N, T]; lengths: int64 [N] on the device, and as a NumPy array on the host, so that no step has to
    ask the device how long its texts are; token_type_ids: uint8 [N, T] or None.
    """

    input_ids: Tensor
    lengths: Tensor
    host_lengths: np.ndarray
    token_type_ids: Tensor | None

    @classmethod
    def build(cls, tokens: Any, pad_id: int, device: torch.device) -> TokenTable:
        """The table of gloss.data.tokens.Tokens, on a device."""
        lengths = np.diff(tokens.offsets)
        is_token = np.arange(max(lengths, default=1)) < lengths[:, None]  # [N, T]

        def padded(flat: np.ndarray, fill: int) -> Tensor:
            table = np.full(is_token.shape, fill, dtype=flat.dtype)
            table[is_token] = flat
            return torch.from_numpy(table).to(device)

        has_types = tokens.token_type_ids is not None and tokens.token_type_ids.any()  # zeros are every model's default
        types = padded(tokens.token_type_ids, 0) if has_types else None
        return cls(padded(tokens.input_ids, pad_id), torch.from_numpy(lengths).to(device), lengths, types)

    def __len__(self) -> int:
        return len(self.host_lengths)

    def take(self, indices: np.ndarray) -> TokenTable:
        """The table of the texts at these indices, in that order."""
        device_indices = torch.from_numpy(indices).to(self.lengths.device)
        types = None if self.token_type_ids is None else self.token_type_ids[device_indices]
        return TokenTable(
            self.input_ids[device_indices], self.lengths[device_indices], self.host_lengths[indices], types
        )

    def joined(self, other: TokenTable) -> TokenTable:
        """The rows of both tables, `other`'s last; padding is added where one is narrower."""
        width, both = max(self.input_ids.shape[1], other.input_ids.shape[1]), (self, other)

        def stacked(tables: Iterable[Tensor]) -> Tensor:
            return torch.cat([F.pad(x, (0, width - x.shape[1])) for x in tables])  # no step reads beyond a text's end

        types = [torch.zeros_like(x.input_ids).byte() if x.token_type_ids is None else x.token_type_ids for x in both]
        return TokenTable(
            stacked(x.input_ids for x in both),
            torch.cat([x.lengths for x in both]),
            np.concatenate([x.host_lengths for x in both]),
            stacked(types) if any(x.token_type_ids is not None for x in both) else None,
        )

    def encode(
        self, encoder: Encoder, indices: np.ndarray, device_indices: Tensor, num_groups: int | None = None
    ) -> Tensor:
        """Embeddings [n, D] of the texts at these indices, best sorted by length.

        indices and device_indices: the same numbers [n], on the host and on the device. num_groups: see `pack`; None
        chooses by model and device.
        """
        if num_groups is None:
            if device_indices.device.type != "cpu":
                num_groups = 2
            elif not encoder.is_packed:
                num_groups = 8
            else:
                num_groups = math.ceil(len(indices) / 16) if torch.is_autocast_enabled("cpu") else 0
        return encoder(self.pack(indices, device_indices, num_groups))

    def pack(self, indices: np.ndarray, device_indices: Tensor, num_groups: int) -> Packed:
        """The texts at these indices as tokens, one after the other; nothing here waits for the device.

        num_groups: nearly equal runs of neighbours, padded to the longest of each, on a GPU and under autocast to a
        multiple of 8; 0: a group for each run of texts of one length, without padding.
        """
        lengths, device_lengths = self.host_lengths[indices], self.lengths[device_indices]
        device = device_indices.device
        if num_groups and lengths.min() == lengths.max():
            num_groups = 1
        bounds = bucket_bounds(len(indices), num_groups) if num_groups else runs(lengths)
        is_even = [lengths[a:b].min() == lengths[a:b].max() for a, b in bounds]
        groups = []
        for (a, b), even in zip(bounds, is_even, strict=True):
            longest = int(lengths[a:b].max())
            if not even and (device.type != "cpu" or torch.is_autocast_enabled("cpu")):
                # GPUs are faster with multiples of 8; oneDNN compiles a bf16 product for each new shape, 0.5 ms.
                longest = min(-(-longest // 8) * 8, self.input_ids.shape[1])
            groups.append((b - a, longest))
        first = device_lengths.cumsum(0) - device_lengths
        text_of = torch.arange(len(indices), device=device)
        text_of = text_of.repeat_interleave(device_lengths, output_size=int(lengths.sum()))  # [N]
        positions = torch.arange(len(text_of), device=device) - first[text_of]
        place = token = None
        if not all(is_even):
            padded = np.repeat([longest for _, longest in groups], [texts for texts, _ in groups])
            starts = torch.from_numpy(padded.cumsum() - padded).to(device, non_blocking=True)
            place = starts[text_of] + positions
            token = torch.zeros(sum(texts * longest for texts, longest in groups), dtype=torch.int64, device=device)
            token[place] = torch.arange(len(place), device=device)
        masks = [
            None if even else (torch.arange(longest, device=device) < device_lengths[a:b, None])[:, None, None]
            for (a, b), (_, longest), even in zip(bounds, groups, is_even, strict=True)
        ]
        where = device_indices[text_of], positions
        types = None if self.token_type_ids is None else self.token_type_ids[where].long()
        return Packed(self.input_ids[where], positions, types, first, groups, masks, place, token)


@torch.inference_mode()
def embed(
    model: Classifier, table: TokenTable, device: torch.device, precision: str, at_most: int | None = None
) -> Tensor:
    """Embeddings [N, D] in evaluation mode, float32, in the table's order; encoded in batches of similar length.

    at_most: texts at once, if fewer than 32 (CPU) or 256 (elsewhere); it does not change a result beyond rounding.
    """
    was_training = model.training
    model.eval()
    order = np.argsort(-table.host_lengths, kind="stable")
    on_device = torch.from_numpy(order).to(device)
    size = 32 if device.type == "cpu" else 256
    size = min(size, at_most or size)
    with autocast(device, precision):
        starts = range(0, len(order), size)
        pieces = [table.encode(model.encoder, order[i : i + size], on_device[i : i + size]).float() for i in starts]
    model.train(was_training)
    embeddings = torch.cat(pieces)
    return torch.empty_like(embeddings).index_copy_(0, on_device, embeddings)
