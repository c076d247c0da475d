"""An exported model gives our embeddings and logits in the libraries that load it; what is odd is refused."""

import json
import os
import re

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from gloss.config import ModelConfig
from gloss.data.tokens import tokenize
from gloss.errors import RunError
from gloss.inference.export import export
from gloss.models.encoder import Classifier, Encoder, TokenTable, embed
from gloss.models.model_card import macro_f1_interval, model_card, wilson_interval
from gloss.models.pretrained import load_encoder, load_tokenizer
from gloss.models.saved_model import MAX_BYTES, REFUSED_KEYS, load_model, save_model
from gloss.records.reading import Record

TEXTS = ["a film to remember", "no", "long, far too long and then it has no end at all, they say, and so on", "é — ∑"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WORDS = "a film to remember no long far too and then it has end at all they say so on , the".split()


def bert():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    return transformers.BertModel(transformers.BertConfig(vocab_size=len(words), **SMALL)), tokenizer


def distilbert():
    _, tokenizer = bert()
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    model = transformers.DistilBertModel(transformers.DistilBertConfig(vocab_size=len(tokenizer), **sizes))
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return model, tokenizer


def roberta():
    """A byte-level BPE without merges: every byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    special = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", mask_token="<mask>", **special,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    config = transformers.RobertaConfig(
        vocab_size=len(vocab), max_position_embeddings=66, pad_token_id=1, bos_token_id=0, eos_token_id=2, **SMALL
    )
    return transformers.RobertaModel(config), tokenizer


def record_of(max_length=24, columns=("text",), labels=("bad", "so-so | fine", "good")):
    """What result.json holds, as far as an export needs it."""
    return {
        "schema_version": 1,
        "identity": {"dataset": "films", "model": "small", "mode": "integrated", "loss": "gloss_sqrt",
                     "variant": "paper", "config_hash": "0" * 8, "seed": 1},
        "config": {"model": {"name": "/home/someone/secret/model", "revision": None, "max_length": max_length},
                   "dataset": {"text": list(columns), "path": "/home/someone/secret.csv"},
                   "variant": {"tested_weights": "best"}},
        "labels": list(labels),
        "num_rows": {"train": 80, "val": 10, "test": 10},
        "fingerprint": "ab" * 16,
        "hyperparameters": {"lr": 2e-5, "sigma": 0.25, "temperature": None},
        "metrics": {"test": {"accuracy": 70.0, "macro_f1": 61.5, "macro_silhouette": None}},
        "best_epoch": 2, "epochs": 3, "num_parameters": 12345, "precision": "float32", "commit": "c" * 40,
    }  # fmt: skip


PREDICTIONS = {
    "test_labels": np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2]),
    "test_logits": np.eye(3)[[0, 0, 0, 1, 1, 1, 1, 2, 0, 0]],
}


@pytest.fixture(params=[bert, roberta, distilbert])
def exported(request, tmp_path):
    """(folder, our embeddings [N, D], our logits [N, C]) of a random model that began as a folder of transformers."""
    torch.manual_seed(0)
    transformer, tokenizer = request.param()
    transformer.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    cfg = ModelConfig(alias="hf", name=str(tmp_path / "start"), max_length=24)
    model, tokenizer = Classifier(load_encoder(cfg), 3), load_tokenizer(cfg)
    model.head.weight.data *= 10
    tokens = tokenize([(text,) for text in TEXTS], tokenizer, 24)
    table = TokenTable.build(tokens, tokenizer.pad_token_id, torch.device("cpu"))
    ours = embed(model, table, torch.device("cpu"), "float32").clone()  # the clone is no inference tensor
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_model(tmp_path / "model", model, tokenizer, record_of(), PREDICTIONS)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    return tmp_path / "model", ours, model.head(ours).detach()


def test_round_trip(exported):
    folder, ours, logits = exported
    assert np.diff(ours.numpy(), axis=0).any(axis=1).all()  # four texts, four embeddings
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoder = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] <= 24
    with torch.no_grad():
        theirs = encoder(**inputs).last_hidden_state[:, 0]
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    assert encoder.config.id2label == {0: "bad", 1: "so-so | fine", 2: "good"}

    probabilities = logits.softmax(dim=1)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        torch.testing.assert_close(classifier(**inputs).logits.softmax(dim=1), probabilities, atol=1e-5, rtol=0)
    classify = transformers.pipeline("text-classification", str(folder), device="cpu")
    answers = classify(TEXTS, truncation=True, batch_size=4, top_k=None)
    for answer, expected in zip(answers, probabilities.tolist(), strict=True):
        scores = {one["label"]: one["score"] for one in answer}
        assert [scores[label] for label in ("bad", "so-so | fine", "good")] == pytest.approx(expected, abs=1e-5)

    sentence_transformers = pytest.importorskip("sentence_transformers")
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(theirs.clone(), ours, atol=1e-5, rtol=0)

    model, tokenizer, labels, max_length = load_model(folder)
    assert (labels, max_length) == (["bad", "so-so | fine", "good"], 24)
    tokens = tokenize([(text,) for text in TEXTS], tokenizer, 24)
    table = TokenTable.build(tokens, tokenizer.pad_token_id, torch.device("cpu"))
    again = embed(model, table, torch.device("cpu"), "float32").clone()
    torch.testing.assert_close(again, ours, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.head(again).detach(), logits, atol=1e-5, rtol=0)


def test_the_cards_code_gives_our_classes(exported, monkeypatch, capsys):
    folder, _, logits = exported
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    monkeypatch.chdir(folder)
    exec(code.replace('["a text"]', repr(TEXTS)), {})
    names = ["bad", "so-so | fine", "good"]
    assert capsys.readouterr().out.strip() == str([names[i] for i in logits.argmax(dim=1).tolist()])


def test_card_tells_all_but_paths():
    card = model_card(record_of(), PREDICTIONS)
    assert "someone" not in card and "secret" not in card
    for output in ("films", "gloss_sqrt", "80 train, 10 val, 10 test", "sigma 0.25", "70.00 %", "61.50 %", "2604.25853",
                 "so-so \\| fine", "## Limits"):  # fmt: skip
        assert output in card, output
    assert "temperature" not in card and "macro-silhouette" not in card
    assert '["a question"], ["a sentence"]' in model_card(record_of(columns=("question", "sentence")), PREDICTIONS)


def test_intervals():
    # Wilson's interval solves |p − share| = z sqrt(p (1 − p) / n).
    for share, n in ((0.7, 10), (0.0, 5), (1.0, 40), (0.9132, 1821)):
        for p in wilson_interval(share, n):
            assert abs(p - share) == pytest.approx(1.959964 * (max(p * (1 - p), 0) / n) ** 0.5, abs=1e-9)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 200)
    predicted = np.where(rng.random(200) < 0.8, labels, rng.integers(0, 3, 200))
    draws = [rng.integers(0, 200, 200) for _ in range(2000)]  # text by text
    scores = [f1_score(labels[d], predicted[d], average="macro") for d in draws[:500]]
    # The standard error of a quantile of 500 draws is below 0.006 here.
    assert macro_f1_interval(labels, predicted) == pytest.approx(np.quantile(scores, (0.025, 0.975)), abs=0.02)
    assert macro_f1_interval(labels, labels) == (1.0, 1.0)


def test_half_an_export_is_none(tmp_path, monkeypatch):
    transformer, tokenizer = bert()
    monkeypatch.setattr("gloss.models.saved_model.model_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(tmp_path / "model", Classifier(Encoder(transformer), 3), tokenizer, record_of(), PREDICTIONS)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def model_of_a_run(tmp_path):
    transformer, tokenizer = bert()
    save_model(tmp_path / "run" / "model", Classifier(Encoder(transformer), 3), tokenizer, record_of(), PREDICTIONS)
    return tmp_path / "run" / "model"


@pytest.mark.parametrize("key", REFUSED_KEYS)
def test_config_that_names_other_code_is_refused(model_of_a_run, key):
    config = json.loads((model_of_a_run / "config.json").read_text())
    (model_of_a_run / "config.json").write_text(json.dumps({**config, key: "someone/code"}))
    with pytest.raises(RunError, match=f"sets {key}"):
        load_model(model_of_a_run)


def test_only_safetensors_are_read(model_of_a_run, tmp_path):
    weights = model_of_a_run / "model.safetensors"
    torch.save({}, model_of_a_run / "pytorch_model.bin")
    weights.rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="cannot be loaded"):
        load_model(model_of_a_run)
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is a link"):
        load_model(model_of_a_run)
    weights.unlink()
    weights.write_bytes((tmp_path / "elsewhere").read_bytes()[:-100])
    with pytest.raises(RunError, match="cannot be loaded"):
        load_model(model_of_a_run)


@pytest.mark.parametrize("damage", [
    lambda folder: (folder / "config.json").write_text("[1"),
    lambda folder: (folder / "config.json").write_text("[1]"),
    lambda folder: (folder / "config.json").unlink(),
    lambda folder: (folder / "head.safetensors").unlink(),
    lambda folder: (folder / "tokenizer.json").write_text("{}"),
    lambda folder: (folder / "adapter_config.json").write_text("{}"),
    lambda folder: (folder / "sentence_bert_config.json").write_text('{"max_seq_length": "many"}'),
])  # fmt: skip
def test_damage_is_told(model_of_a_run, damage):
    damage(model_of_a_run)
    with pytest.raises(RunError, match=str(model_of_a_run)):
        load_model(model_of_a_run)


def test_weights_that_are_missing_are_not_made_up(model_of_a_run):
    weights = load_file(model_of_a_run / "model.safetensors")
    first = {key: value for key, value in weights.items() if "layer.1." not in key}
    assert 0 < len(first) < len(weights)
    save_file(first, model_of_a_run / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"encoder.layer.1.\S+ is missing.* \(16 of "):
        load_model(model_of_a_run)


@pytest.mark.parametrize("settings", [
    {"num_hidden_layers": 10**9}, {"num_hidden_layers": 35}, {"vocab_size": 10**9}, {"hidden_size": 40_000},
    {"intermediate_size": 10**9}, {"max_position_embeddings": 10**11}, {"model_type": "bart", "decoder_layers": 10**9},
])  # fmt: skip
@pytest.mark.timeout(20)
def test_a_model_larger_than_its_weights_is_not_built(model_of_a_run, monkeypatch, settings):
    config = json.loads((model_of_a_run / "config.json").read_text())
    (model_of_a_run / "config.json").write_text(json.dumps({**config, **settings}))
    monkeypatch.setattr("gloss.models.saved_model.pretrained", None)
    with pytest.raises(RunError, match=r"config.json asks for .*, the weights (hold|are) \d"):
        load_model(model_of_a_run)


def test_as_many_classes_as_the_head_has(model_of_a_run):
    config = json.loads((model_of_a_run / "config.json").read_text())
    config["id2label"]["3"] = "one more"
    (model_of_a_run / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="the head has 3 classes, config.json names 4"):
        load_model(model_of_a_run)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["sentence_bert_config.json", "model.safetensors", "vocab.txt"])
def test_what_is_no_file_or_too_large_is_not_read(model_of_a_run, name):
    (model_of_a_run / name).unlink(missing_ok=True)
    os.mkfifo(model_of_a_run / name)
    with pytest.raises(RunError, match=f"{name} is neither a file nor a folder"):
        load_model(model_of_a_run)
    (model_of_a_run / name).unlink()
    with open(model_of_a_run / name, "wb") as file:
        file.truncate(MAX_BYTES + 2**20)
    message = "cannot be loaded" if name == "model.safetensors" else f"{name} has more than 64 MB"
    with pytest.raises(RunError, match=message):
        load_model(model_of_a_run)


def test_export_writes_onnx_where_the_packages_are(exported, tmp_path):
    """onnxruntime, which knows nothing of torch, gives our logits for another batch size and length."""
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    folder, _, logits = exported
    (tmp_path / "run").mkdir()
    folder.rename(tmp_path / "run" / "model")
    copy = export(Record(tmp_path / "run", record_of()), tmp_path / "copy")
    session = runtime.InferenceSession(copy / "onnx" / "model.onnx")
    tokenizer = transformers.AutoTokenizer.from_pretrained(copy)
    inputs = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="np")
    (theirs,) = session.run(["logits"], {x.name: inputs[x.name].astype(np.int64) for x in session.get_inputs()})
    np.testing.assert_allclose(theirs, logits, atol=1e-5)
    load_model(copy)


def test_export_copies_or_says_why_not(model_of_a_run, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no ONNX
    record = Record(model_of_a_run.parent, record_of())
    export(record, tmp_path / "copy")
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == sorted(p.name for p in model_of_a_run.iterdir())
    with pytest.raises(RunError, match="exists already"):
        export(record, tmp_path / "copy")
    with pytest.raises(RunError, match="trainer.save_model=true"):
        export(Record(tmp_path / "empty", record_of()), tmp_path / "other")
    assert not (tmp_path / "other").exists()
