"""Exported models: same embeddings and logits in other libraries, the model card, refusal of manipulated folders."""

import json
import os
import re

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score
from small import byte_level, wordpiece
from synthetic import result

from gloss.config import ModelConfig
from gloss.data.tokens import tokenize
from gloss.errors import RunError
from gloss.inference.export import export
from gloss.models.encoder import Classifier, Encoder, TokenTable, embed
from gloss.models.model_card import macro_f1_interval, model_card
from gloss.models.pretrained import load_encoder, load_tokenizer
from gloss.models.saved_model import MAX_BYTES, REFUSED_KEYS, load_model, save_model
from gloss.records.reading import Record

TEXTS = ["a film to remember", "no", "long, far too long and then it has no end at all, they say, and so on", "é — ∑"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WORDS = "a film to remember no long far too and then it has end at all they say so on , the".split()


def bert():
    tokenizer = wordpiece(WORDS)
    return transformers.BertModel(transformers.BertConfig(vocab_size=len(tokenizer), **SMALL)), tokenizer


def distilbert():
    tokenizer = wordpiece(WORDS, model_input_names=["input_ids", "attention_mask"])
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    return transformers.DistilBertModel(transformers.DistilBertConfig(vocab_size=len(tokenizer), **sizes)), tokenizer


def roberta():
    tokenizer = byte_level()
    special = {"max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config = transformers.RobertaConfig(vocab_size=len(tokenizer), **special, **SMALL)
    return transformers.RobertaModel(config), tokenizer


def record_of(columns=("text",)):
    metrics = {"accuracy": 70.0, "macro_f1": 61.5, "macro_silhouette": None}
    return result(
        **{"dataset": "films", "model": "small", "loss": "gloss_sqrt"},
        config={
            "model": {"name": "/home/someone/secret/model", "revision": None, "max_length": 24},
            "dataset": {"text": list(columns), "path": "/home/someone/secret.csv"},
            "variant": {"tested_weights": "best"},
        },
        labels=["bad", "so-so | fine", "good"],
        num_rows={"train": 80, "val": 10, "test": 10},
        hyperparameters={"lr": 2e-5, "sigma": 0.25, "temperature": None},
        metrics={"test": metrics},
    )


PREDICTIONS = {
    "test_labels": np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2]),
    "test_logits": np.eye(3)[[0, 0, 0, 1, 1, 1, 1, 2, 0, 0]],
}


@pytest.fixture(params=[bert, roberta, distilbert])
def exported(request, tmp_path):
    """(folder, our embeddings [N, D], our logits [N, C]) of a random model loaded from a folder of transformers."""
    torch.manual_seed(0)
    transformer, tokenizer = request.param()
    transformer.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    cfg = ModelConfig(alias="hf", name=str(tmp_path / "start"), max_length=24)
    model, tokenizer = Classifier(load_encoder(cfg), 3), load_tokenizer(cfg)
    model.head.weight.data *= 10
    tokens = tokenize([(text,) for text in TEXTS], tokenizer, 24)
    table = TokenTable.build(tokens, tokenizer.pad_token_id, torch.device("cpu"))
    ours = embed(
        model, table, torch.device("cpu"), "float32"
    ).clone()  # a clone, because autograd rejects inference tensors
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_model(tmp_path / "model", model, tokenizer, record_of(), PREDICTIONS)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    return tmp_path / "model", ours, model.head(ours).detach()


def test_exported_model_gives_our_embeddings_and_logits_in_other_libraries(exported):
    folder, ours, logits = exported
    assert np.diff(ours.numpy(), axis=0).any(axis=1).all()  # the embeddings of the four texts differ
    assert len({path.stat().st_mode for path in folder.iterdir() if path.is_file()}) == 1  # readable by the same users
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoder = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] <= 24
    with torch.no_grad():
        found = encoder(**inputs).last_hidden_state[:, 0]
    torch.testing.assert_close(found, ours, atol=1e-5, rtol=0)
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
    found = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(found.clone(), ours, atol=1e-5, rtol=0)

    model, tokenizer, labels, max_length = load_model(folder)
    assert (labels, max_length) == (["bad", "so-so | fine", "good"], 24)
    tokens = tokenize([(text,) for text in TEXTS], tokenizer, 24)
    table = TokenTable.build(tokens, tokenizer.pad_token_id, torch.device("cpu"))
    again = embed(model, table, torch.device("cpu"), "float32").clone()
    torch.testing.assert_close(again, ours, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.head(again).detach(), logits, atol=1e-5, rtol=0)


def test_code_of_the_model_card_gives_our_classes(exported, monkeypatch, capsys):
    folder, _, logits = exported
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    monkeypatch.chdir(folder)
    exec(code.replace('["a text"]', repr(TEXTS)), {})
    names = ["bad", "so-so | fine", "good"]
    assert capsys.readouterr().out.strip() == str([names[i] for i in logits.argmax(dim=1).tolist()])


def test_model_card_shows_results_but_no_paths():
    card = model_card(record_of(), PREDICTIONS)
    assert "someone" not in card and "secret" not in card
    numbers = ["80 train, 10 val, 10 test", "sigma 0.25", "70.00 %", "39.68 – 89.22 %", "61.50 %"]
    for shown in [*numbers, "films", "gloss_sqrt", "2604.25853", "so-so \\| fine", "## Limits"]:
        assert shown in card, shown
    assert "temperature" not in card and "macro-silhouette" not in card
    assert '["a question"], ["a sentence"]' in model_card(record_of(columns=("question", "sentence")), PREDICTIONS)


def test_macro_f1_interval_equals_a_bootstrap_over_texts():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 200)
    predicted = np.where(rng.random(200) < 0.8, labels, rng.integers(0, 3, 200))
    draws = [rng.integers(0, 200, 200) for _ in range(500)]
    scores = [f1_score(labels[d], predicted[d], average="macro") for d in draws]
    # The standard error of a quantile of 500 draws is below 0.006 here.
    assert macro_f1_interval(labels, predicted) == pytest.approx(np.quantile(scores, (0.025, 0.975)), abs=0.02)
    assert macro_f1_interval(labels, labels) == (1.0, 1.0)


def test_a_failed_export_leaves_no_folder(tmp_path, monkeypatch):
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


def set_in_config(**settings):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **settings}))

    return change


def replace(name, make):
    def change(folder):
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


def without_a_layer(folder):
    weights = load_file(folder / "model.safetensors")
    first = {key: value for key, value in weights.items() if "layer.1." not in key}
    save_file(first, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def link(path):
    path.symlink_to(path.with_name("config.json"))


def huge(path):
    path.touch()
    os.truncate(path, MAX_BYTES + 2**20)


CHANGES = {
    **{f"sets {key}": set_in_config(**{key: "someone/code"}) for key in REFUSED_KEYS},
    "the head has 3 classes, config.json names 4": set_in_config(id2label={str(i): str(i) for i in range(4)}),
    r"encoder.layer.1.\S+ is missing.* \(16 of ": without_a_layer,
    "No such file .*model.safetensors": pickled,
    "SafetensorError": lambda folder: os.truncate(folder / "model.safetensors", 1000),
    "model.safetensors is a link": replace("model.safetensors", link),
    "vocab.txt is a link, or neither a file nor a folder": replace("vocab.txt", os.mkfifo),
    "vocab.txt has more than 64 MB": replace("vocab.txt", huge),
    "by its adapter_config.json": replace("adapter_config.json", lambda path: path.write_text("{}")),
    "JSONDecodeError": replace("config.json", lambda path: path.write_text("[1")),
    "AttributeError: 'list'": replace("config.json", lambda path: path.write_text("[1]")),
    "FileNotFoundError: .*config.json": lambda folder: (folder / "config.json").unlink(),
    "FileNotFoundError.*head.safetensors": lambda folder: (folder / "head.safetensors").unlink(),
    "max_seq_length a whole number": replace(
        "sentence_bert_config.json", lambda path: path.write_text('{"max_seq_length": "many"}')
    ),
}


def test_classes_with_the_default_names_of_transformers_are_loaded(tmp_path):
    transformer, tokenizer = bert()
    content, predictions = record_of() | {"labels": ["LABEL_0", "LABEL_1"]}, {}
    for name, values in PREDICTIONS.items():
        predictions[name] = values[:7] if name == "test_labels" else values[:7, :2]
    save_model(tmp_path / "model", Classifier(Encoder(transformer), 2), tokenizer, content, predictions)
    assert "id2label" not in json.loads((tmp_path / "model" / "config.json").read_text())
    assert load_model(tmp_path / "model")[2] == ["LABEL_0", "LABEL_1"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("reason", CHANGES)
def test_manipulated_model_folders_are_refused(model_of_a_run, reason):
    CHANGES[reason](model_of_a_run)
    with pytest.raises(RunError, match=f"{model_of_a_run} cannot be loaded .*{reason}"):
        load_model(model_of_a_run)


@pytest.mark.parametrize("settings", [
    {"num_hidden_layers": 10**9}, {"num_hidden_layers": 35}, {"vocab_size": 10**9}, {"hidden_size": 40_000},
    {"intermediate_size": 10**9}, {"max_position_embeddings": 10**11}, {"model_type": "bart", "decoder_layers": 10**9},
])  # fmt: skip
@pytest.mark.timeout(20)
def test_a_model_larger_than_its_weights_is_not_built(model_of_a_run, monkeypatch, settings):
    set_in_config(**settings)(model_of_a_run)
    monkeypatch.setattr("gloss.models.saved_model.pretrained", None)
    with pytest.raises(RunError, match=r"config.json asks for .*, the weights (hold|are) \d"):
        load_model(model_of_a_run)


def test_export_writes_onnx_if_the_packages_are_installed(exported, tmp_path):
    """onnxruntime gives our logits for another batch size and length."""
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
    (found,) = session.run(["logits"], {x.name: inputs[x.name].astype(np.int64) for x in session.get_inputs()})
    np.testing.assert_allclose(found, logits, atol=1e-5)
    load_model(copy)


def test_export_copies_the_model_or_gives_an_error(model_of_a_run, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # as if the ONNX packages were missing
    record = Record(model_of_a_run.parent, record_of())
    export(record, tmp_path / "copy")
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == sorted(p.name for p in model_of_a_run.iterdir())
    with pytest.raises(RunError, match="exists already"):
        export(record, tmp_path / "copy")
    with pytest.raises(RunError, match="trainer.save_model=true"):
        export(Record(tmp_path / "empty", record_of()), tmp_path / "other")
    assert not (tmp_path / "other").exists()
