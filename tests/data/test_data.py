"""Prepared sets, splits, fingerprints. Tests on the real texts run where GLOSS_DATA_DIR names them."""

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from small import wordpiece

from gloss.config import CONFIG_DIR, DatasetConfig
from gloss.data import datasets as data
from gloss.data.datasets import load_dataset
from gloss.data.download import prepared_form
from gloss.data.splits import Split, add_label_noise, stratified
from gloss.data.statistics import measure_texts
from gloss.errors import DataError

REAL = Path(os.environ.get("GLOSS_DATA_DIR", ""))
TABLE_1 = {  # of the paper: train, val, test, classes
    "mr": (6397, 711, 3554, 2),
    "r8": (4936, 549, 2189, 8),
    "r52": (5865, 667, 2568, 52),
    "20ng": (10182, 1132, 7532, 20),
    "ohsumed": (3021, 336, 4043, 23),
}
WORDS = "the a film was good bad dull bright slow and very , . what who is it".split()


def needs(name):
    return pytest.mark.skipif(
        not os.environ.get("GLOSS_DATA_DIR") or not (REAL / name).is_dir(),
        reason=f"the texts of {name} may not be distributed: `make data DATASETS={name}`, then set GLOSS_DATA_DIR",
    )


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(prepared_form(["text", "label"], rows))


def some_rows(num, seed, labels=("0", "1")):
    rng = random.Random(seed)
    return [[f"{' '.join(rng.choices(WORDS, k=8))} {seed}.{i}", rng.choice(labels)] for i in range(num)]


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A manifest with two prepared sets: `toy` with three splits and `glue` with train and dev."""
    sets = {}
    for name, parts in {"toy": {"train": 60, "val": 20, "test": 20}, "glue": {"train": 200, "dev": 30}}.items():
        entry = sets[name] = {"labels": {"0": "bad", "1": "good"}, "splits": {}}
        entry["columns"] = {"text": "text", "label": "label"}
        for seed, (part, num) in enumerate(parts.items()):
            rows = some_rows(num, seed)
            write(tmp_path / name / f"{part}.csv.gz", rows)
            entry["splits"][part] = {"rows": num, "fingerprint": data.fingerprint_of(rows, entry)}
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"sets": sets}))
    monkeypatch.setattr(data, "MANIFEST", manifest)
    return tmp_path


# -- the real texts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in TABLE_1])
def test_real_data_sets_have_the_counts_of_table_1(tmp_path, name):
    found = measure_texts(DatasetConfig(name=name), REAL, None, tmp_path)
    *rows, num_classes = TABLE_1[name]
    assert [found["splits"][part]["rows"] for part in ("train", "val", "test")] == rows
    assert len(found["labels"]) == num_classes
    classes = {part: split["classes"] for part, split in found["splits"].items()}
    assert classes == {"train": num_classes, "val": num_classes - (name == "r52"), "test": num_classes}


# -- prepared sets -----------------------------------------------------------------------------------------------------


def test_a_prepared_set_is_read_with_labels_and_row_numbers(toy, monkeypatch):
    monkeypatch.setenv("HOME", str(toy.parent))
    dataset = load_dataset(DatasetConfig(name="toy"), f"~/{toy.name}", seed=1)  # as GLOSS_DATA_DIR may have it
    assert dataset.labels == ["bad", "good"] and dataset.notes == []
    rows = some_rows(60, seed=0)
    train = dataset.splits["train"]
    assert sorted(train.rows) == list(range(2, 62))
    for text, label, row in zip(train.texts, train.labels, train.rows, strict=True):
        assert [text[0], str(label)] == rows[row - 2]


def test_row_order_does_not_change_splits_or_fingerprint(toy):
    before = load_dataset(DatasetConfig(name="glue"), toy, seed=1)
    rows = some_rows(200, seed=0)
    write(toy / "glue" / "train.csv.gz", rows[::-1])
    after = load_dataset(DatasetConfig(name="glue"), toy, seed=1)
    assert before.fingerprint == after.fingerprint
    for part in before.splits:
        assert before.splits[part].texts == after.splits[part].texts
    assert (before.splits["train"].rows == 203 - after.splits["train"].rows).all()


@pytest.mark.parametrize(("change", "reason"), [
    (lambda rows: [[rows[0][0] + "x", rows[0][1]], *rows[1:]], "another content"),
    (lambda rows: [[rows[0][0], "10"[int(rows[0][1])]], *rows[1:]], "another content"),
    (lambda rows: rows[:-1], "19 rows, where the manifest has 20"),
    (lambda rows: [*rows[:-1], rows[0]], "another content"),  # one row replaced by a copy of another
    (lambda rows: [[rows[0][0], "2"], *rows[1:]], "the label '2' is none of 0, 1"),
    (lambda rows: [["", "1"], *rows[1:]], r"1 row left out, without 'text' \(row 2\)"),
])  # fmt: skip
def test_a_prepared_file_that_differs_is_refused(toy, change, reason):
    write(toy / "toy" / "val.csv.gz", change(some_rows(20, seed=1)))
    with pytest.raises(DataError, match=f"toy/val.csv.gz: {reason}"):
        load_dataset(DatasetConfig(name="toy"), toy, seed=1)


def test_a_missing_file_or_an_unknown_set_gives_the_remedy(toy):
    (toy / "toy" / "val.csv.gz").unlink()
    with pytest.raises(DataError, match="val.csv.gz: no such file. Run `make data DATASETS=toy`, or set GLOSS_D"):
        load_dataset(DatasetConfig(name="toy"), toy, seed=1)
    with pytest.raises(DataError, match="dataset.name=tyo is not a prepared set: expected one of toy, glue"):
        load_dataset(DatasetConfig(name="tyo"), toy, seed=1)
    with pytest.raises(DataError, match="dataset.label=class is not allowed: toy is read by its columns text, label"):
        load_dataset(DatasetConfig(name="toy", label="class"), toy, seed=1)


def test_every_data_set_of_the_manifest_has_a_config_and_pinned_sources():
    manifest = data.read_manifest()
    snippets = {f"snippets_{domain}" for domain in ("movie", "product", "news", "tweets")}
    assert set(TABLE_1) | {"sst2", "qnli"} | snippets == set(manifest["sets"])
    for name, entry in manifest["sets"].items():
        assert (CONFIG_DIR / "dataset" / f"{name}.yaml").read_text().startswith(f"name: {name}")
        source = manifest["sources"][entry["source"]]
        assert len(source.get("sha256", "")) == 64 or source["url"].startswith("https://")
        for part in entry["splits"].values():
            assert len(part.get("git_blob", "")) == 40 or len(part.get("sha256", source.get("sha256", ""))) == 64
            assert part["fingerprint"] or name == "qnli"


# -- fingerprints and splits -------------------------------------------------------------------------------------------


def test_fingerprint_depends_on_the_multiset_of_rows():
    def of(*rows):
        return data.fingerprint(data.row_digests(rows))

    a, b = ("some text", "x"), ("other", "y")
    assert of(a, b) == of(b, a)
    others = [of(a), of(b), of(a, b), of(a, a), of(b, b), of(a, a, b), of(a, b, b), of(a, a, a, b)]
    assert len(set(others)) == len(others)  # an exclusive or could not distinguish (a, b) from (a, a, a, b)
    assert of(("q", "s", "x")) != of(("qs", "x")) != of(("q:1:s", "x"))
    assert of(("text", "x")) != of(("text ", "x"))


@pytest.mark.parametrize("seed", range(20))
def test_stratified_samples_are_proportional_within_bounds(seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(6, size=300, p=[0.5, 0.3, 0.1, 0.05, 0.04, 0.01])
    counts = np.bincount(labels, minlength=6)
    size = int(rng.integers(6, 300))
    chosen = stratified(labels, size, seed, least=1)
    taken = np.bincount(labels[chosen], minlength=6)
    assert len(set(chosen)) == len(chosen) == size
    quota = counts * size / 300
    assert (taken >= np.minimum(counts, 1)).all() and (taken <= counts).all()
    # A class deviates from its quota by less than one text, plus the texts given to classes raised to one text.
    lifted = ((counts > 0) & (quota < 1)).sum()
    assert np.abs(taken - quota).max() <= 1 + lifted
    assert (chosen == stratified(labels, size, seed, least=1)).all()


def test_validation_is_cut_from_train_in_proportion(toy):
    a, b = (load_dataset(DatasetConfig(name="glue"), toy, seed=seed).splits for seed in (1, 2))
    assert a["val"].texts == b["val"].texts  # the split does not depend on the run's seed
    assert len(a["val"]) == 20 and len(a["train"]) == 180 and len(a["test"]) == 30
    assert sorted([*a["val"].rows, *a["train"].rows]) == list(range(2, 202))
    counts = np.bincount(np.concatenate([a["val"].labels, a["train"].labels]))
    assert np.abs(np.bincount(a["val"].labels) - counts / 10).max() < 1


def test_train_limit_draws_a_sample_by_seed(toy):
    def train(limit, seed):
        return load_dataset(DatasetConfig(name="toy", train_limit=limit), toy, seed)

    assert train(10, 1).splits["train"].texts == train(10, 1).splits["train"].texts
    assert train(10, 1).splits["train"].texts != train(10, 2).splits["train"].texts
    assert len(train(10, 1).splits["train"]) == 10 and len(train(10, 1).splits["test"]) == 20
    assert train(10, 1).fingerprint == train(None, 1).fingerprint
    assert "has no effect: there are 60" in str(train(61, 1).notes) and len(train(61, 1).splits["train"]) == 60
    with pytest.raises(DataError, match="train_limit=1 is not allowed: toy has 2 classes"):
        train(1, 1)


def test_long_texts_and_duplicates_are_counted(toy):
    rows = some_rows(20, seed=1)
    rows[0][0], rows[1][0], rows[2][0] = some_rows(60, seed=0)[7][0], "good " * 126, "good " * 127
    write(toy / "toy" / "val.csv.gz", rows)
    manifest = json.loads(data.MANIFEST.read_text())
    manifest["sets"]["toy"]["splits"]["val"]["fingerprint"] = None
    data.MANIFEST.write_text(json.dumps(manifest))
    found = measure_texts(DatasetConfig(name="toy"), toy, wordpiece(WORDS), toy)
    assert found["splits"]["val"] == {"rows": 20, "classes": 2, "truncated": 1 / 20}  # at 128, with [CLS] and [SEP]
    assert found["duplicates"] == {"train-val": 1, "train-test": 0, "val-test": 0}


# -- label noise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.4, 1.0])
def test_label_noise_changes_exactly_the_given_fraction(fraction):
    labels = np.random.default_rng(0).integers(0, 5, 205)
    split = Split([("x",)] * 205, labels.copy(), np.arange(205))
    noisy = add_label_noise(split, fraction, 5, seed=1)
    assert (noisy.labels != labels).sum() == round(fraction * 205)
    assert (split.labels == labels).all() and set(noisy.labels) <= set(range(5))
    assert (noisy.labels == add_label_noise(split, fraction, 5, seed=1).labels).all()
    if fraction == 1.0:  # labels change from every class to every other class
        assert len(set(zip(labels, noisy.labels, strict=True))) == 5 * 4
