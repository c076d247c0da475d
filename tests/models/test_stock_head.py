"""The exported head: stock classifiers give our logits or cannot be loaded."""

import pytest
import torch
import transformers

from gloss.models.encoder import Classifier, Encoder
from gloss.models.pretrained import pretrained
from gloss.models.stock_head import stock_classifier

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SMALL = {**SIZES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
IDS = torch.arange(3, 48).reshape(5, 9)


def classifier(config: transformers.PreTrainedConfig, num_classes: int, folder) -> Classifier:
    """A random encoder without pooler, as training loads it, and a head with large logits (10 and more)."""
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    model = Classifier(Encoder(pretrained(folder)), num_classes).eval()
    torch.nn.init.normal_(model.head.weight, std=2.0)
    torch.nn.init.normal_(model.head.bias)
    return model


def ours(model: Classifier) -> torch.Tensor:
    with torch.no_grad():
        return model.head(model.encoder.transformer(IDS, attention_mask=torch.ones_like(IDS)).last_hidden_state[:, 0])


@pytest.mark.parametrize("config", [
    transformers.BertConfig(**SMALL),  # pooler, tanh
    transformers.AlbertConfig(**SMALL, embedding_size=16),
    transformers.RobertaConfig(**SMALL),  # dense, tanh
    transformers.MPNetConfig(**SMALL),
    transformers.BigBirdConfig(**SMALL),  # dense, GELU, and an unused pooler
    transformers.DistilBertConfig(vocab_size=60, dim=32, n_layers=2, n_heads=2, hidden_dim=64),  # dense, ReLU
    transformers.ElectraConfig(**SMALL, embedding_size=16),  # dense, GELU
    transformers.DebertaV2Config(**SMALL),
    transformers.ModernBertConfig(**SMALL),  # dense, GELU, LayerNorm
    transformers.ModernBertConfig(**SMALL, classifier_pooling="mean"),
    transformers.EuroBertConfig(**SMALL, mask_token_id=3),  # mean of the tokens by default
    transformers.XLMConfig(vocab_size=60, emb_dim=32, n_layers=2, n_heads=2, pad_index=0),  # linear
], ids=lambda config: config.model_type)  # fmt: skip
@pytest.mark.parametrize("num_classes", [2, 15])
def test_stock_classifier_gives_our_logits(tmp_path, config, num_classes):
    model = classifier(config, num_classes, tmp_path / "start")
    expected = ours(model)
    assert 10 < expected.abs().max() < 80
    stock, is_classifier = stock_classifier(model, [f"class {i}" for i in range(num_classes)])
    assert is_classifier
    stock.save_pretrained(tmp_path / "kept")
    kept = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "kept")
    assert kept.config.id2label[1] == "class 1"
    with torch.no_grad():
        logits = kept(IDS, attention_mask=torch.ones_like(IDS)).logits
    torch.testing.assert_close(logits, expected, atol=3e-5, rtol=0)
    torch.testing.assert_close(logits.softmax(dim=1), expected.softmax(dim=1), atol=1e-5, rtol=0)
    again = Classifier(Encoder(pretrained(tmp_path / "kept")), num_classes).eval()  # the encoder is unchanged
    again.head.load_state_dict(model.head.state_dict())
    torch.testing.assert_close(ours(again), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("config, num_classes", [
    (transformers.BertConfig(**SMALL), 17),  # more classes than half the width
    (transformers.ModernBertConfig(**SMALL), 16),
    (transformers.LongformerConfig(**SMALL, attention_window=4), 3),  # the stock classifier uses another attention
])  # fmt: skip
def test_a_stock_classifier_with_other_logits_cannot_be_loaded(tmp_path, config, num_classes):
    model = classifier(config, num_classes, tmp_path / "start")
    stock, is_classifier = stock_classifier(model, [f"class {i}" for i in range(num_classes)])
    assert not is_classifier
    stock.save_pretrained(tmp_path / "kept")
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "kept")
    again = Classifier(Encoder(pretrained(tmp_path / "kept")), num_classes).eval()
    again.head.load_state_dict(model.head.state_dict())
    torch.testing.assert_close(ours(again), ours(model), atol=1e-5, rtol=0)


def test_an_architecture_without_a_stock_classifier_is_saved_as_an_encoder(tmp_path):
    config = transformers.SplinterConfig(**SMALL)
    stock, is_classifier = stock_classifier(classifier(config, 3, tmp_path / "start"), ["a", "b", "c"])
    stock.save_pretrained(tmp_path / "kept")
    assert not is_classifier and transformers.AutoConfig.from_pretrained(tmp_path / "kept").id2label[2] == "c"
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "kept")
