"""Baselines and counts of texts, measured on a small data set with known results."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from gloss.config import DatasetConfig, ModelConfig
from gloss.data.datasets import load_dataset
from gloss.errors import ConfigError
from gloss.report.tables import datasets_and_search as starting
from gloss.training import baselines as measure
from gloss.training.baselines import STRENGTHS, measure_tfidf
from gloss.training.metrics import macro_silhouette


@pytest.fixture
def separable(tmp_path):
    """A CSV data set without given splits, in which one word determines the class."""
    words = {"ham": "cured leg of pork", "egg": "laid by a hen"}
    rows = [f"{label} number {i} {text},{label}" for i in range(60) for label, text in words.items()]
    (tmp_path / "texts.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return DatasetConfig(name="food", source="csv", path=str(tmp_path / "texts.csv"))


@pytest.fixture
def noisy(tmp_path):
    """A CSV data set of two classes that no classifier can part without error."""
    rng, rows = np.random.default_rng(0), ["text,label"]
    for i in range(400):
        words = rng.integers(0, 60, 6)
        rows.append(f"{' '.join(f'w{w}' for w in words)} n{i},{int((words < 20).sum() + rng.normal() > 2)}")
    (tmp_path / "texts.csv").write_text("\n".join([*rows, ""]))
    return DatasetConfig(name="noisy", source="csv", path=str(tmp_path / "texts.csv"))


@pytest.fixture
def flip_test_labels(monkeypatch):
    """flip_test_labels(): from then on both classes of a test split are exchanged."""
    load = measure.load_dataset

    def flipped(*args, **kwargs):
        dataset = load(*args, **kwargs)
        dataset.splits["test"] = replace(dataset.splits["test"], labels=1 - dataset.splits["test"].labels)
        return dataset

    return lambda: monkeypatch.setattr(measure, "load_dataset", flipped)


def test_tfidf_is_measured_and_read_again(tmp_path, separable):
    record = measure_tfidf(separable, tmp_path, tmp_path)
    assert record["test"] == {"accuracy": 100.0, "macro_f1": 100.0}
    assert record["num_rows"] == {"train": 96, "val": 12, "test": 12}
    assert record["C"] == 0.1  # ties: the strongest regularisation
    assert starting.read_measured(tmp_path, "tfidf") == ([record], [])
    assert measure_tfidf(separable, tmp_path, tmp_path) == record


def test_tfidf_does_not_use_test_labels(tmp_path, separable, flip_test_labels):
    before = measure_tfidf(separable, tmp_path, tmp_path)
    flip_test_labels()
    after = measure_tfidf(separable, tmp_path, tmp_path)
    assert after["test"]["accuracy"] == 0.0 and (after["C"], after["val"]) == (before["C"], before["val"])


def test_tfidf_takes_the_strength_that_is_best_on_validation(tmp_path, noisy):
    record, splits = measure_tfidf(noisy, tmp_path, tmp_path), load_dataset(noisy, tmp_path, 0).splits
    (train, y), (val, truth) = (([x for (x,) in splits[p].texts], splits[p].labels) for p in ("train", "val"))
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit(train)
    train, val = vectorizer.transform(train), vectorizer.transform(val)
    fitted = [LinearSVC(C=c, random_state=0, max_iter=20_000).fit(train, y) for c in STRENGTHS]
    scores = [100 * (classifier.predict(val) == truth).mean() for classifier in fitted]
    assert record["C"] == STRENGTHS[int(np.argmax(scores))] != STRENGTHS[0]
    assert record["val"]["accuracy"] == max(scores) < 100


def test_a_frozen_encoder_is_measured_with_probe_and_neighbours(tmp_path, separable, monkeypatch, capsys):
    tiny, given = measure._read("model", "tiny", ModelConfig), []
    with monkeypatch.context() as patch:
        for name in ("logistic_probe", "best_k"):
            real = getattr(measure, name)
            patch.setattr(measure, name, lambda *args, real=real: (given.append(args), real(*args))[1])
        record = measure.measure_frozen(separable, tiny, tmp_path, tmp_path)
    val = load_dataset(separable, tmp_path, 1).splits["val"].labels
    assert np.array_equal(given[0][3], val) and np.array_equal(given[1][1], val)
    silhouette = record["test"].pop("macro_silhouette")
    assert record["test"] == {"accuracy": 100.0, "macro_f1": 100.0, "knn_accuracy": 100.0} and 0 < silhouette <= 1
    record["test"]["macro_silhouette"] = silhouette
    assert (record["num_neighbours"], record["probe_strength"], record["num_rows"]["train"]) == (1, 0.001, 96)
    graph = {row["scale"]: row for row in record["graph"]}
    assert tuple(graph) == measure.SCALES and graph[0.5]["sigma"] == graph[1.0]["sigma"] / 2 > 0
    assert graph[0.125]["homophily"] > 0.9 and graph[0.125]["propagated_accuracy"] == 100.0  # like texts are near
    assert graph[2.0]["homophily"] < graph[1.0]["homophily"] < graph[0.125]["homophily"]
    assert starting.read_measured(tmp_path, "frozen") == ([record], [])
    monkeypatch.setattr(measure, "_read", lambda group, name, schema: separable if group == "dataset" else tiny)
    measure.measure(["frozen"], ["food"], "minilm", tmp_path, tmp_path, models=["tiny"])
    assert "food: frozen tiny with a logistic probe: test accuracy 100.00 %" in capsys.readouterr().out
    assert not list(tmp_path.glob("baselines/*.npz"))
    measure.measure(["frozen"], [separable], "minilm", tmp_path, tmp_path, models=[tiny], save_embeddings=True)
    with np.load(tmp_path / "baselines" / "frozen-food-tiny.npz") as arrays:
        z, y = arrays["test_embeddings"], load_dataset(separable, tmp_path, 1).splits["test"].labels
    near = np.square(z[:, None].astype(np.float32) - z).sum(2) + np.diag(np.full(len(z), np.inf))
    assert len(z) == 12 and (y[near.argmin(1)] == y).all()  # in the order of the test texts


def test_a_frozen_encoder_is_tested_on_the_test_texts_and_does_not_use_their_labels(tmp_path, noisy, flip_test_labels):
    tiny = measure._read("model", "tiny", ModelConfig)
    before = measure.measure_frozen(noisy, tiny, tmp_path, tmp_path, save_embeddings=True)
    y = torch.from_numpy(load_dataset(noisy, tmp_path, 1).splits["test"].labels)
    with np.load(tmp_path / "baselines" / "frozen-noisy-tiny.npz") as arrays:
        silhouette = macro_silhouette(torch.from_numpy(arrays["test_embeddings"]).float(), y)
    assert before["test"]["macro_silhouette"] == pytest.approx(silhouette, abs=5e-3)
    flip_test_labels()
    after = measure.measure_frozen(noisy, tiny, tmp_path, tmp_path)
    scores, flipped = before.pop("test"), after.pop("test")
    assert after == before  # the validation scores and all that is chosen by them
    for name in ("accuracy", "knn_accuracy"):
        assert flipped[name] == pytest.approx(100 - scores[name]) and 40 < scores[name] < 100


def test_texts_are_measured_for_table1(tmp_path, separable):
    measure.measure_texts(separable, tmp_path, None, tmp_path)
    (tmp_path / "baselines" / "texts-broken.json").write_text("[]")
    records, problems = starting.read_measured(tmp_path, "texts")
    table = starting.table1(records)
    (shown,) = ([e.plain() for e in r] for r in table.rows if [e.plain() for e in r[:2]] == ["food", "ours"])
    assert shown[2:] == ["120", "96", "12", "12", "2", "—", "0 / 0 / 0"]
    assert len(problems) == 1 and "texts-broken.json" in problems[0]


def test_unknown_measures_and_missing_data_sets_give_an_error(tmp_path, capsys):
    measure.measure(["tfidf"], ["mr"], "minilm", tmp_path, tmp_path)
    assert "mr is not measured" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="measure=tables is not allowed"):
        measure.measure(["tables"], ["mr"], "minilm", tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="dataset=nosuch is not allowed: expected one of 20ng, csv"):
        measure.measure(["tfidf"], ["nosuch"], "minilm", tmp_path, tmp_path)
    for datasets, models in ((["csv"], []), (["hub"], []), (["mr"], ["hf"])):
        with pytest.raises(ConfigError, match="is not allowed here: its file in configs/.* names no texts or encoder"):
            measure.measure(["frozen"], datasets, "minilm", tmp_path, tmp_path, models=models)
