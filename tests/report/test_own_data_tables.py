"""Tables of runs on the user's own texts: scores by class, confusions, and errors with their texts."""

import os

import numpy as np
import pytest
from from_runs import DPI, texts
from synthetic import result, write_run

from gloss.config import DatasetConfig
from gloss.data.datasets import load_dataset
from gloss.records.reading import read_records
from gloss.report.build import build
from gloss.report.seed_groups import ungrouped_runs
from gloss.report.tables.own_data import own_data_tables

TEST = [("a", f"text {i} <b>") for i in range(6)] + [("b", f"other {i}") for i in range(4)]


@pytest.fixture
def outputs(tmp_path):
    """A run on a CSV file: 2 of 6 texts of class a are predicted as b, 1 of 4 texts of b as a."""
    for part, rows in (("train", TEST + [("b", "one more"), ("a", "yet one")]), ("test", TEST)):
        lines = "".join(f"{label},{text}\n" for label, text in rows)
        (tmp_path / f"{part}.csv").write_text("label,text\n" + lines)
    files = {part: str(tmp_path / f"{part}.csv") for part in ("train", "test")}
    given = {"name": "mine", "source": "csv", "path": files["train"]}
    given |= {"val_path": files["test"], "test_path": files["test"]}
    dataset = load_dataset(DatasetConfig(**given), tmp_path, 1)
    split = dataset.splits["test"]
    wrong = {"text 1 <b>": 0.9, "text 4 <b>": 0.6, "other 2": 0.7}
    sure = np.array([wrong.get(texts[0], 0.8) for texts in split.texts])
    guess = np.array([1 - y if t[0] in wrong else y for t, y in zip(split.texts, split.labels, strict=True)])
    logits = np.log(np.where(np.arange(2) == guess[:, None], sure[:, None], 1 - sure[:, None]))
    config = {"dataset": given, "paths": {"data": "data"}, "trainer": {"max_epochs": 200}}
    record = result(dataset="mine", config=config, labels=["a", "b"], fingerprint=dataset.fingerprint)
    write_run(tmp_path, record, {"test_labels": split.labels, "test_logits": logits.astype(np.float32)})
    return tmp_path


def tables(outputs):
    return own_data_tables(ungrouped_runs(read_records(outputs)[0]), [])["mine"][0]


def test_own_data_tables_show_scores_by_class_confusions_and_errors(outputs):
    by_class, errors = tables(outputs)
    assert [texts(row) for row in by_class.rows] == [
        ["a", "6", "80.00", "66.67", "72.73", "4", "2"],  # precision 4 of 5, recall 4 of 6
        ["b", "4", "60.00", "75.00", "66.67", "1", "3"],
    ]
    assert by_class.columns[-2:] == ["→ a", "→ b"] and "3 errors among 10" in errors.title
    # row numbers as in a spreadsheet, with the header as row 1
    assert [texts(row) for row in errors.rows] == [
        ["3", "text 1 <b>", "a", "b", "90.0"],
        ["10", "other 2", "b", "a", "70.0"],
        ["6", "text 4 <b>", "a", "b", "60.0"],
    ]
    page = build(outputs, dpi=DPI).page.read_text()
    assert "text 1 &lt;b&gt;" in page and "text 1 <b>" not in page


@pytest.mark.parametrize("change", ["gone", "pipe", "changed"])
def test_errors_without_readable_texts_are_listed_with_the_reason(outputs, change):
    path = outputs / "test.csv"
    if change == "changed":
        path.write_text(path.read_text() + "b,a new one\n")
    else:
        path.unlink()
    if change == "pipe":  # a foreign record may name any path
        os.mkfifo(path)
    errors = tables(outputs)[1]
    assert errors.columns[0] == "Prediction" and "Text" not in errors.columns and len(errors.rows) == 3
    (note,) = errors.notes
    assert note.startswith("Texts cannot be shown: ")
    assert ("have changed" if change == "changed" else "test.csv") in note


def test_predictions_in_another_order_are_not_matched_with_texts(outputs):
    (record,) = read_records(outputs)[0]
    arrays = dict(np.load(record.folder / "predictions.npz"))
    order = np.argsort(-arrays["test_labels"], kind="stable")
    np.savez(record.folder / "predictions.npz", **{name: values[order] for name, values in arrays.items()})
    errors = tables(outputs)[1]
    assert "another order" in errors.notes[0] and errors.rows and "Text" not in errors.columns


def test_runs_on_prepared_sets_have_no_own_data_tables(tmp_path):
    write_run(tmp_path)
    assert own_data_tables(ungrouped_runs(read_records(tmp_path)[0]), []) == {}


def test_broken_predictions_omit_only_their_run(outputs):
    record = read_records(outputs)[0][0].result
    other = record | {"identity": record["identity"] | {"seed": 2}}
    (write_run(outputs, other) / "predictions.npz").write_bytes(b"PK half a file")
    problems = []
    found = own_data_tables(ungrouped_runs(read_records(outputs)[0]), problems)
    assert len(found["mine"]) == 1 and len(problems) == 1 and "predictions.npz cannot be read" in problems[0]
