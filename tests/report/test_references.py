"""Reference lines of Tables 2 and 3: frozen encoder, nearest neighbours, TF-IDF, published numbers."""

from __future__ import annotations

import json

import pytest
from from_runs import texts, write_groups

from gloss.records.reading import read_records
from gloss.report.tables import results as tables
from gloss.report.tables.reference import with_references

FROZEN = [{"dataset": "mr", "model": "bert", "test": {"accuracy": 71.5, "macro_f1": 71.25}}]
TFIDF = [{"dataset": "mr", "test": {"accuracy": 76.25, "macro_f1": 76.0}}, {"dataset": "r8", "test": {"accuracy": "?"}}]


def groups(root, mode, loss):
    specs = [{"mode": mode, "loss": loss, "accuracy": (85.0, 85.0)}, {"mode": mode, "loss": loss, "dataset": "r8"}]
    write_groups(root, *specs, seeds=(1, 2))
    for record, knn in zip(read_records(root)[0], (80.0, 82.0), strict=True):
        record.result["metrics"]["test"]["knn_accuracy"] = knn
        (record.folder / "result.json").write_text(json.dumps(record.result))
    return write_groups(
        root, *({key: x for key, x in spec.items() if key != "accuracy"} for spec in specs), seeds=(1, 2)
    )


def added_to(table, *references):
    """The table with reference lines, and the texts of these lines."""
    found = with_references(table, *references)
    assert found.rows[: len(table.rows)] == table.rows
    new = found.rows[len(table.rows) :]
    assert not any(part.rank or part.verdict for row in new for e in row for part in e.parts)
    assert all(len(row) == len(table.columns) for row in new)
    return found, [texts(row) for row in new]


def test_reference_lines_of_table2_have_no_rank_or_verdict(tmp_path):
    runs = groups(tmp_path, "integrated", "ce")
    table, added = added_to(tables.table2(runs), runs, FROZEN, TFIDF)
    assert added == [
        ["BERT-base", "Frozen encoder + logistic probe", "reference", "71.50 / 71.25", "—"],
        ["BERT-base", "CE: nearest neighbours", "reference", "81.00 ± 1.41 (2)", "—"],
        ["—", "TF-IDF + linear SVM", "reference", "76.25 / 76.00", "—"],
    ]
    numbers = dict(table.data[["reference", "mean"]].iloc[-3:].values.tolist())
    assert numbers == {"frozen": 71.5, "knn": 81.0, "tfidf": 76.25}
    assert "are not ranked and bear no verdict" in table.notes[-1]
    plain = tables.table2(write_groups(tmp_path, {"dataset": "r52"}))
    assert with_references(plain, [], [], []) is plain


def test_reference_lines_of_table3(tmp_path):
    runs = groups(tmp_path, "standalone", "scl")
    _, added = added_to(tables.table3(runs), runs, FROZEN, TFIDF)
    assert [row[:6] for row in added] == [
        ["MR", "BERT-base", "Frozen encoder + logistic probe", "reference", "71.50", "71.25"],
        ["MR", "BERT-base", "SCL: nearest neighbours", "reference", "81.00 ± 1.41 (2)", "—"],
        ["MR", "—", "TF-IDF + linear SVM", "reference", "76.25", "76.00"],
    ]


@pytest.mark.parametrize(
    ("make", "mode", "loss"), [(tables.table2, "integrated", "ce"), (tables.table3, "standalone", "scl")]
)
def test_published_numbers_are_reference_lines_for_another_model(tmp_path, make, mode, loss):
    runs = write_groups(
        tmp_path, *({"model": "minilm", "mode": mode, "loss": loss, "dataset": d} for d in ("mr", "r8", "mine"))
    )
    table, added = added_to(make(runs), runs, [], [])
    if make is tables.table2:
        assert added == [["BERT-base", "CE", "paper", "85.64 / 85.64", "97.57 / 93.90", "—"]]
    else:
        assert added[0] == ["MR", "BERT-base", "SCL", "paper", "86.18", "86.18", "0.5725", "1258.4", "33.04", "35"]
        assert [row[0] for row in added] == ["MR", "R8"]  # the paper has no number for the user's own data set
    assert set(table.data["reference"].dropna()) == {"paper"} and "its own for BERT-base" in table.notes[-1]
    assert "paper key" in table.html()
