"""Reference lines of Tables 2 and 3: frozen encoder, TF-IDF, published numbers."""

from __future__ import annotations

import pytest
from from_runs import texts, write_groups

from gloss.report.tables import results as tables
from gloss.report.tables.reference import with_references

FROZEN = [{"dataset": "mr", "model": "bert", "test": {"accuracy": 71.5, "macro_f1": 71.25}}]
TFIDF = [{"dataset": "mr", "test": {"accuracy": 76.25, "macro_f1": 76.0}}, {"dataset": "r8", "test": {"accuracy": "?"}}]
BY_MODE = pytest.mark.parametrize(
    ("make", "mode", "loss"), [(tables.table2, "integrated", "ce"), (tables.table3, "standalone", "scl")]
)


def added_to(table, *references):
    """The table with reference lines, and the texts of these lines."""
    found = with_references(table, *references)
    assert found.rows[: len(table.rows)] == table.rows
    new = found.rows[len(table.rows) :]
    assert not any(part.rank or part.verdict for row in new for e in row for part in e.parts)
    assert all(len(row) == len(table.columns) for row in new)
    return found, [texts(row) for row in new]


@BY_MODE
def test_measured_references_have_no_rank_or_verdict(tmp_path, make, mode, loss):
    spec = {"mode": mode, "loss": loss}
    runs = write_groups(tmp_path, spec | {"accuracy": (85.0, 85.0)}, spec | {"dataset": "r8"}, seeds=(1, 2))
    table, added = added_to(make(runs), runs, FROZEN, TFIDF)
    frozen, tfidf = "Frozen encoder + logistic probe", "TF-IDF + linear SVM"
    if make is tables.table2:
        assert added == [
            ["BERT-base", frozen, "reference", "71.50 / 71.25", "—"],
            ["—", tfidf, "reference", "76.25 / 76.00", "—"],
        ]
    else:
        assert [row[:6] for row in added] == [
            ["MR", "BERT-base", frozen, "reference", "71.50", "71.25"],
            ["MR", "—", tfidf, "reference", "76.25", "76.00"],
        ]
    assert list(table.data["accuracy"].dropna()) == [71.5, 76.25]
    assert "are not ranked and bear no verdict" in table.notes[-1]
    assert with_references(table, [], [], []) is table


@BY_MODE
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


def test_reference_lines_stand_under_their_data_set_where_the_first_model_lacks_one(tmp_path):
    places = [("mr", "minilm"), ("r52", "mpnet"), ("ohsumed", "minilm"), ("ohsumed", "mpnet")]
    runs = write_groups(tmp_path, *({"dataset": d, "model": m, "loss": "ce", "accuracy": 80.0} for d, m in places))
    table, added = added_to(tables.table2(runs), runs, [], [])
    assert table.columns[3:] == ["MR", "R52", "Ohsumed"]
    assert added == [["BERT-base", "CE", "paper", "85.64 / 85.64", "96.29 / 84.42", "71.09 / 63.40"]]
    measured = {"dataset": "ohsumed", "test": {"accuracy": 67.0, "macro_f1": 57.5}}
    assert added_to(tables.table2(runs), runs, [], [measured])[1][-1][3:] == ["—", "—", "67.00 / 57.50"]
