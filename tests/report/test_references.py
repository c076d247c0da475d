"""Reference lines of Tables 2 and 3, and the nearest neighbours of every record."""

from __future__ import annotations

import json

import numpy as np
import pytest
from from_runs import made, texts

from gloss.records.reading import read_records
from gloss.report.tables import results as tables
from gloss.report.tables.reference import with_references
from gloss.training.neighbours import NEIGHBOURS, best_k, nearest_labels, vote
from gloss.training.run import train

FROZEN = [{"dataset": "mr", "model": "bert", "test": {"accuracy": 71.5, "macro_f1": 71.25}}]
TFIDF = [{"dataset": "mr", "test": {"accuracy": 76.25, "macro_f1": 76.0}}, {"dataset": "r8", "test": {"accuracy": "?"}}]


def by_loop(train, labels, queries, k):
    """By a double loop over cosines."""
    found = []
    for q in queries:
        cosine = [float(q @ x / np.linalg.norm(q) / np.linalg.norm(x)) for x in train]
        votes = [labels[i] for i in sorted(range(len(train)), key=lambda i: -cosine[i])[:k]]
        found.append(min(set(votes), key=lambda c: (-votes.count(c), c)))
    return found


def test_nearest_neighbours_are_those_of_a_double_loop_and_k_is_chosen_on_validation():
    rng = np.random.default_rng(0)
    labels = {name: rng.integers(0, 3, size) for name, size in (("train", 60), ("val", 25), ("test", 25))}
    z = {n: 4 * np.eye(3, 5)[y] + rng.normal(0, 2.0, (len(y), 5)) for n, y in labels.items()}
    z = {n: x * rng.uniform(0.1, 10, (len(x), 1)) for n, x in z.items()}  # lengths say nothing
    nearest = {n: nearest_labels(z["train"], labels["train"], z[n], block=7) for n in ("val", "test")}
    assert nearest["test"].shape == (25, 50)
    found = {j: np.mean(by_loop(z["train"], labels["train"], z["val"], j) == labels["val"]) for j in NEIGHBOURS}
    k = best_k(nearest["val"], labels["val"])
    assert k == max(found, key=found.get) and len(set(found.values())) > 2
    for j in NEIGHBOURS:
        assert vote(nearest["test"], j).tolist() == by_loop(z["train"], labels["train"], z["test"], j)


def test_fewer_texts_than_neighbours():
    z, y = np.eye(3), np.array([0, 1, 2])
    nearest = nearest_labels(z, y, z)
    assert nearest.tolist() == [[0, 1, 2], [1, 0, 2], [2, 0, 1]] and best_k(nearest, y) == 1


def test_equal_texts_are_equally_near_whatever_the_order_of_sums():
    """Of texts with one content, the earlier come first: no last bit of a product decides."""
    rng = np.random.default_rng(1)
    content = rng.normal(size=(4, 384)).astype(np.float32)
    which = rng.integers(0, 4, 300)
    train = content[which] * rng.uniform(0.5, 2, (300, 1)).astype(np.float32)
    for i, row in enumerate(nearest_labels(train, np.arange(300), content)):
        assert row.tolist() == np.flatnonzero(which == i)[:50].tolist()


@pytest.mark.parametrize("options", [["loss=ce"], ["loss=scl", "mode=standalone"]])
def test_every_record_has_its_nearest_neighbours(tiny_config, monkeypatch, options):
    record = train(tiny_config(*options, "trainer.max_epochs=1", "trainer.save_embeddings=true"))
    for split in ("val", "test"):
        assert 0 <= record.result["metrics"][split]["knn_accuracy"] <= 100
    assert record.result["hyperparameters"]["num_neighbours"] in NEIGHBOURS
    monkeypatch.setattr("gloss.training.evaluate.NEIGHBOURS_SAMPLE", 40)
    sizes = []

    def kept(z, y, texts):
        sizes.append((len(z), len(y)))
        return nearest_labels(z, y, texts)

    monkeypatch.setattr("gloss.training.evaluate.nearest_labels", kept)
    train(tiny_config(*options, "trainer.max_epochs=1", "rerun=true"))
    assert sizes == [(40, 40)] * 2


def groups(root, mode, loss):
    specs = [{"mode": mode, "loss": loss, "accuracy": (85.0, 85.0)}, {"mode": mode, "loss": loss, "dataset": "r8"}]
    made(root, *specs, seeds=(1, 2))
    for record, knn in zip(read_records(root)[0], (80.0, 82.0), strict=True):
        record.result["metrics"]["test"]["knn_accuracy"] = knn
        (record.folder / "result.json").write_text(json.dumps(record.result))
    return made(root, *({key: x for key, x in spec.items() if key != "accuracy"} for spec in specs), seeds=(1, 2))


def added_to(table, *references):
    """The table with reference lines, and the texts of these."""
    found = with_references(table, *references)
    assert found.rows[: len(table.rows)] == table.rows
    new = found.rows[len(table.rows) :]
    assert not any(part.rank or part.verdict for row in new for e in row for part in e.parts)
    assert all(len(row) == len(table.columns) for row in new)
    return found, [texts(row) for row in new]


def test_reference_lines_of_table2_stand_below_it_without_rank_or_verdict(tmp_path):
    mine = groups(tmp_path, "integrated", "ce")
    table, added = added_to(tables.table2(mine), mine, FROZEN, TFIDF)
    assert added == [
        ["BERT-base", "Frozen encoder + logistic probe", "reference", "71.50 / 71.25", "—"],
        ["BERT-base", "CE: nearest neighbours", "reference", "81.00 ± 1.41 (2)", "—"],
        ["—", "TF-IDF + linear SVM", "reference", "76.25 / 76.00", "—"],
    ]
    numbers = dict(table.data[["reference", "mean"]].iloc[-3:].values.tolist())
    assert numbers == {"frozen": 71.5, "knn": 81.0, "tfidf": 76.25}
    assert "are not ranked and bear no verdict" in table.notes[-1]
    plain = tables.table2(made(tmp_path, {"dataset": "r52"}))
    assert with_references(plain, [], [], []) is plain


def test_reference_lines_of_table3(tmp_path):
    mine = groups(tmp_path, "standalone", "scl")
    _, added = added_to(tables.table3(mine), mine, FROZEN, TFIDF)
    assert [row[:6] for row in added] == [
        ["MR", "BERT-base", "Frozen encoder + logistic probe", "reference", "71.50", "71.25"],
        ["MR", "BERT-base", "SCL: nearest neighbours", "reference", "81.00 ± 1.41 (2)", "—"],
        ["MR", "—", "TF-IDF + linear SVM", "reference", "76.25", "76.00"],
    ]


@pytest.mark.parametrize(
    ("make", "mode", "loss"), [(tables.table2, "integrated", "ce"), (tables.table3, "standalone", "scl")]
)
def test_the_papers_numbers_stand_there_where_another_model_ran(tmp_path, make, mode, loss):
    mine = made(
        tmp_path, *({"model": "minilm", "mode": mode, "loss": loss, "dataset": d} for d in ("mr", "r8", "mine"))
    )
    table, added = added_to(make(mine), mine, [], [])
    if make is tables.table2:
        assert added == [["BERT-base", "CE", "paper", "85.64 / 85.64", "97.57 / 93.90", "—"]]
    else:
        assert added[0] == ["MR", "BERT-base", "SCL", "paper", "86.18", "86.18", "0.5725", "1258.4", "33.04", "35"]
        assert [row[0] for row in added] == ["MR", "R8"]  # of one's own set the paper has none
    assert set(table.data["reference"].dropna()) == {"paper"} and "its own for BERT-base" in table.notes[-1]
    assert "paper key" in table.html()
