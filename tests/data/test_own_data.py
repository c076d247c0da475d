"""A user's own data as it comes: kinds of files, and labels and texts that are almost what was meant."""

import csv
import gzip
import io
import json

import pandas as pd
import pytest

from gloss.config import DatasetConfig
from gloss.data.cells import is_blank
from gloss.data.datasets import load_dataset
from gloss.data.files import read_examples
from gloss.errors import ConfigError, DataError
from gloss.inference.prediction_files import BadRow, format_of, input_kind, output, read_rows

ROWS = [[f'{adjective} "film", nr {i};\tone | two\nlines é', label]
        for i in range(12) for adjective, label in (("good", "pos"), ("bad", "neg"))]  # fmt: skip


def load(path, **settings):
    return load_dataset(DatasetConfig(name="mine", source="csv", path=str(path), **settings), "unused", seed=1)


def write(path, rows, header=("text", "label"), **dialect):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, **dialect).writerows([header, *rows])
    return path


def plain(labels, texts="number {}"):
    """Rows of a short text each."""
    return [[texts.format(i), label] for i, label in enumerate(labels)]


# -- kinds of files ----------------------------------------------------------------------------------------------------


def as_csv(rows, separator=",", encoding="utf-8", first=""):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator).writerows([("id", "text", "label"), *([7, *row] for row in rows)])
    return (first + text.getvalue()).encode(encoding)


def as_json_lines(rows):
    return "\n".join(json.dumps(dict(zip(("text", "label"), row, strict=True))) for row in rows).encode()


def as_parquet(rows):
    return pd.DataFrame(rows, columns=["text", "label"]).to_parquet()


FILES = {
    "comma.csv": (as_csv(ROWS), 2),
    "semicolon.csv": (as_csv(ROWS, ";"), 2),
    "bar.csv": (as_csv(ROWS, "|"), 2),
    "tab.txt": (as_csv(ROWS, "\t"), 2),
    "tab.tsv": (as_csv(ROWS, "\t"), 2),
    "excel.csv": (as_csv(ROWS, ";", "utf-8-sig"), 2),
    "excel16.csv": (as_csv(ROWS, "\t", "utf-16"), 2),  # Excel's "Unicode text"
    "declared.csv": (as_csv(ROWS, "|", "utf-8-sig", "sep=|\r\n"), 2),
    "blank.csv": (as_csv(ROWS, first="\r\n"), 3),
    "packed.csv.gz": (gzip.compress(as_csv(ROWS, ";")), 2),
    "noending": (as_csv(ROWS, ";"), 2),
    "lines.jsonl": (as_json_lines(ROWS), 1),
    "lines.ndjson.gz": (gzip.compress(as_json_lines(ROWS)), 1),
    "list.json": (pd.DataFrame(ROWS, columns=["text", "label"]).to_json(orient="records").encode(), 1),
    "lines.json": (as_json_lines(ROWS), 1),
    "table.parquet": (as_parquet(ROWS), 1),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_examples(tmp_path, name):
    content, first = FILES[name]
    (tmp_path / name).write_bytes(content)
    examples = read_examples(tmp_path / name, ["text", "label"])
    assert examples.rows == ROWS and examples.numbers == list(range(first, first + len(ROWS)))
    if name not in ("noending", "tab.txt"):  # which predict takes for lines
        rows = list(read_rows(str(tmp_path / name), input_kind(name), ["text"]))
        assert [(row.number, row.texts) for row in rows] == [
            (number, (text,)) for number, (text, _) in zip(examples.numbers, ROWS, strict=True)
        ]


def test_a_folder_per_class(tmp_path):
    for i, (text, label) in enumerate(ROWS):
        (tmp_path / "train" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / label / f"{i:02}.txt").write_text(text)
    (tmp_path / "train" / "README").write_text("about")
    (tmp_path / "train" / ".hidden").write_text("not shown")
    dataset = load(tmp_path / "train")
    for split in dataset.splits.values():
        assert all([*text, dataset.labels[y]] in ROWS for text, y in zip(split.texts, split.labels, strict=True))
    assert sum(map(len, dataset.splits.values())) == len(ROWS)
    assert dataset.notes[0] == "1 file left out, not directly in the folder of a class (file 1)"
    rows = list(read_rows(str(tmp_path / "train"), input_kind(str(tmp_path / "train")), ["text"]))
    assert [row.texts[0] for row in rows] == ["about", *(t for label in ("neg", "pos") for t, y in ROWS if y == label)]
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "x").write_text("x")
    with pytest.raises(DataError, match="has the folders test, train: expected one for each class; set dataset.path"):
        load(tmp_path)
    with pytest.raises(DataError, match="pairs of texts cannot be read from a folder"):
        load(tmp_path / "train", text=["a", "b"])


def test_a_given_separator_overrules_and_the_header_decides_otherwise(tmp_path):
    path = write(tmp_path / "x.csv", [["a, b; c, d", "x"], ["e, f", "y"]] * 6, ("text, which", "label"), delimiter=";")
    assert load(path, text="text, which").labels == ["x", "y"]
    with pytest.raises(DataError, match="no column 'label' in the header, which has 'text', 'which;label'"):
        load(path, separator=",")
    for separator in ("tab", "\\t", "\t"):
        tabs = write(tmp_path / "x.tsv", plain("xy" * 6), delimiter="\t")
        assert load(tabs, separator=separator).labels == ["x", "y"]
    spaced = tmp_path / "spaced.csv"
    spaced.write_text("text, label\n" + '"a, b", x\nc, y\n' * 6)
    dataset = load(spaced)
    assert dataset.labels == ["x", "y"] and ("a, b",) in dataset.splits["train"].texts


def test_numbers_and_missing_labels_of_files_with_types(tmp_path):
    frame = pd.DataFrame({"text": [f"text {i}" for i in range(20)], "label": pd.Categorical(["x", "y"] * 10)})
    frame.to_parquet(tmp_path / "category.parquet")
    assert load(tmp_path / "category.parquet").labels == ["x", "y"]
    frame["label"] = [10, 9] * 10
    frame.to_parquet(tmp_path / "whole.parquet")
    assert load(tmp_path / "whole.parquet").labels == ["9", "10"]
    frame["label"] = [True, False] * 9 + [None, True]
    frame.to_json(tmp_path / "lines.jsonl", orient="records", lines=True)
    dataset = load(tmp_path / "lines.jsonl")
    assert dataset.labels == ["False", "True"] and dataset.notes[0] == "1 line left out, without 'label' (line 19)"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"text": "a", "label": "x"}\n{"text": ', r"x.jsonl: line 2: not JSON \("),
        ("x.jsonl", b'{"body": "a", "topic": "x"}', "line 1: has no 'text', only 'body', 'topic'"),
        ("x.jsonl", b'{"text": 3, "label": "x"}', "line 1: column 'text' holds int, not text"),
        ("x.jsonl", b'{"text": "a", "label": ["x"]}', "line 1: the label is list: several labels per text are not"),
        ("x.json", b'[{"text": "a"', "x.json: not JSON"),
        ("x.parquet", b"PAR1 no more", "x.parquet: not a parquet file, or a damaged one"),
        ("x.parquet", as_parquet(ROWS), "no column 'body' in the file, which has 'text', 'label': set dataset.text"),
        ("x.csv", as_parquet(ROWS), "x.csv: not a file of texts but binary data"),
        ("x.csv", b"text,label\na,x\nlabel,text\nx,b\n", "row 3 is a second header with another order of columns"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(tmp_path / name, text="body" if "'body' in the file" in message else "text")


# -- rows that are left out --------------------------------------------------------------------------------------------


def test_blank_rows_repeated_headers_and_missing_cells_are_left_out_and_counted(tmp_path):
    path = tmp_path / "x.csv"
    good = [f"text {i},{'xy'[i % 2]}" for i in range(20)]
    lines = ["text,label", *good[:5], "", ",", "\ufefftext,label", " \u200b ,x", "a,", *good[5:], "text,label", "", ""]
    path.write_text("\n".join(lines))
    dataset = load(path)
    assert dataset.notes[:4] == [
        "2 rows left out, blank (rows 7, 8)",
        "2 rows left out, repeated header (rows 9, 27)",
        "1 row left out, without 'text' (row 10)",
        "1 row left out, without 'label' (row 11)",
    ]
    assert sum(map(len, dataset.splits.values())) == 20
    for split in dataset.splits.values():
        assert all(lines[row - 1].startswith(f"{text},") for (text,), row in zip(split.texts, split.rows, strict=True))


@pytest.mark.parametrize("text", ["", " \t\n", "\u00a0", "\u200b\ufeff", "\u2800", "\u3164", None])
def test_what_shows_nothing_is_blank(text):
    assert is_blank(text) and not is_blank((text or "") + ".")


# -- labels that are almost what was meant -----------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [("pos", "pos "), ("pos", " pos"), ("a b", "a  b"), ("a b", "a\u00a0b"),
                                  ("pos", "pos\u200b"), ("caf\u00e9", "cafe\u0301")])  # fmt: skip
def test_classes_that_look_alike_are_refused(tmp_path, pair):
    with pytest.raises(DataError, match=r"the classes .* \(10 texts, first in row 2\) and .* differ only in b"):
        load(write(tmp_path / "x.csv", plain(pair * 10)))


@pytest.mark.parametrize("pair", [("neg", "Neg"), ("1", "1.0"), ("007", "7"), ("1e2", "100"), ("SS", "\u00df"),
                                  ("A", "\uff21")])  # fmt: skip
def test_classes_that_mean_alike_are_noted(tmp_path, pair):
    note = load(write(tmp_path / "x.csv", plain([*pair, "other"] * 10))).notes[0]
    assert note.startswith("classes that differ only in case, form of letters or form of numbers: ")
    assert f"{pair[0]!r} (10 texts, first in row 2) and {pair[1]!r} (10 texts, first in row 3)" in note


@pytest.mark.parametrize("name", ["nan", "NaN", "None", "NULL", "n/a", "<NA>"])
def test_a_class_with_the_name_of_a_missing_label_is_noted(tmp_path, name):
    note = load(write(tmp_path / "x.csv", plain([name, "x", "y"] * 10))).notes[0]
    assert note.startswith(f"a class is called {name!r} (10 texts, first in row 2): if that means a missing label")


def test_classes_that_are_no_oddity_are_not_noted(tmp_path):
    for labels in (["+", "-"], ["C", "C++", "C#"], ["1", "2"], ["0.5", "1.0", "1.5"], ["a/b", "a"], ["(x)", "[y]"]):
        assert [n for n in load(write(tmp_path / "x.csv", plain(labels * 10))).notes if "is " not in n] == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([f"{i / 10:.2f}" for i in range(30)] * 8, "has 30 different numbers, 0.00 to 2.90, which looks like ratings"),
        ([f"id {i}" for i in range(60)], "60 different values in 61 rows, as 'id 0' and 'id 1': a classifier needs"),
        (["a", "b", "a|b"] * 10, r"'a\|b' \(10 texts, first in row 4 of train\) is a list: several labels"),
        (["a", "b", "b; a"] * 10, "several labels per text are not supported"),
        (["['a']", "['a', 'b']"] * 10, "several labels per text are not supported"),
        (["[0 1]", "[0]"] * 10, "several labels per text are not supported"),
    ],
)
def test_a_column_that_holds_no_classes_is_refused(tmp_path, labels, message):
    path = write(tmp_path / "x.csv", plain(labels))
    with pytest.raises(DataError, match=message):
        load(path, test_path=str(write(tmp_path / "test.csv", plain(labels[:1], "another {}"))))


def test_many_whole_numbers_are_noted(tmp_path):
    note = load(write(tmp_path / "x.csv", plain([str(i) for i in range(1, 101)] * 4))).notes[0]
    assert note == "the 100 classes are numbers, 1 to 100: if these are ratings, group them"


# -- texts that are almost what was meant ------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [("text", "label"), ("label", "text")])
@pytest.mark.parametrize("num_swallowed", [1, 7])
def test_a_quote_that_swallows_rows_is_refused(tmp_path, header, num_swallowed):
    lines = [",".join(row if header[0] == "text" else row[::-1]) for row in plain("xy" * 10)]
    text, label = lines[3].split(",")[:: 1 if header[0] == "text" else -1]
    lines[3] = f'"{text},{label}' if header[0] == "text" else f'{label},"{text}'
    end = 3 + num_swallowed
    text, label = lines[end].split(",")[:: 1 if header[0] == "text" else -1]
    lines[end] = f'{text}",{label}' if header[0] == "text" else f'{label},{text}"'
    path = tmp_path / "x.csv"
    path.write_text("\n".join([",".join(header), *lines]))
    with pytest.raises(DataError, match=f"row 5 holds {num_swallowed + 1} lines that look like rows themselves"):
        load(path)


def test_texts_of_several_lines_are_no_rows(tmp_path):
    rows = [[f"It was, all in all, x\nand {i},\ny", "xy"[i % 2]] for i in range(20)]
    assert len(load(write(tmp_path / "x.csv", rows)).splits["train"]) == 16


def test_a_test_file_that_is_the_training_file_is_refused(tmp_path):
    train = write(tmp_path / "train.csv", plain("xy" * 10))
    copy = write(tmp_path / "copy.csv", plain("xy" * 10)[::-1])
    for test in (train, copy):
        with pytest.raises(DataError, match="train.csv: test repeats the texts of train"):
            load(train, test_path=str(test))


def test_given_texts_that_repeat_training_texts_are_counted(tmp_path):
    rows = plain("xy" * 10)
    test = [["NUMBER  3", "y"], ["new", "x"], [rows[5][0], "x"]]
    dataset = load(write(tmp_path / "train.csv", rows), test_path=str(write(tmp_path / "test.csv", test)))
    assert dataset.notes[0] == "2 of the 3 texts of test are also among the training texts (rows 2, 4)"


def test_texts_that_stand_for_missing_ones_are_noted(tmp_path):
    dataset = load(write(tmp_path / "x.csv", [*plain("xy" * 10), ["nan", "x"], ["None", "y"]]))
    assert dataset.notes[0] == "2 of the 22 texts hold a word for a missing text, as nan or none (rows 22, 23)"


# -- Hugging Face data sets --------------------------------------------------------------------------------------------


def load_hub(tmp_path, monkeypatch, **settings):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    cfg = DatasetConfig(name="hub", source="hub", path=str(tmp_path / "set"), **settings)
    return load_dataset(cfg, "unused", 1)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (lambda i: [0, 1][: i % 2 + 1], "set, train: column 'label': the label is list: several labels per text"),
        (lambda i: {"a": i}, "the label is dict: several labels per text are not"),
        (lambda i: i / 7, "has 40 different numbers, 0.0 to 5.57.*, which looks like ratings: regression is not"),
    ],
)
def test_a_hub_set_without_classes_is_refused(tmp_path, monkeypatch, column, message):
    (tmp_path / "set").mkdir()
    lines = [json.dumps({"text": f"text {i}", "label": column(i)}) for i in range(40)]
    (tmp_path / "set" / "train.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        load_hub(tmp_path, monkeypatch)


def test_a_hub_set_of_csv_keeps_zeros_and_leaves_out_what_has_no_label(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    labels = ["007", "7", "NA", ""]
    write(tmp_path / "set" / "train.csv", [[str(i), labels[i % 4]] for i in range(80)], ("title", "topic"))
    dataset = load_hub(tmp_path, monkeypatch, text="title", label="topic")
    assert dataset.labels == ["007", "7", "NA"]
    assert dataset.notes[0] == "20 rows left out, without 'topic' (rows 4, 8, 12, 16, 20 and 15 more)"
    assert "'007' (20 texts, first in row 1) and '7' (20 texts, first in row 2)" in dataset.notes[1]
    assert "a class is called 'NA' (20 texts" in dataset.notes[2]


def test_a_hub_set_with_missing_labels(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    label = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    content = {"text": [f"text {i}" for i in range(30)], "label": [(-1, 0, 1)[i % 3] for i in range(29)] + [None]}
    datasets.Dataset.from_dict(content, features=features).to_parquet(tmp_path / "set" / "train-00000.parquet")
    dataset = load_hub(tmp_path, monkeypatch)
    assert sum(map(len, dataset.splits.values())) == 19
    assert dataset.notes[0].startswith("11 rows left out, without 'label' (rows 1, 4, 7, 10, 13")


def test_a_broken_hub_folder_is_refused_in_a_line(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text('text,label\n"a,b\n')
    with pytest.raises(DataError, match="set .* cannot be read"):
        load_hub(tmp_path, monkeypatch)


# -- predictions -------------------------------------------------------------------------------------------------------


def test_lines_of_another_encoding_are_read_by_the_fallback(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes("größe\nschön\n".encode("cp1252") + "schön\n".encode())
    (first, *rest) = read_rows(str(path), "csv", ["größe"], fallback="cp1252")
    assert first.texts == ("schön",) and [row.texts for row in rest] == [("schön",)]
    (bad,) = [row for row in read_rows(str(path), "txt", ["größe"]) if isinstance(row, BadRow)][:1]
    assert "save as UTF-8, or set the encoding" in bad.reason


@pytest.mark.parametrize("name", ["x.xlsx", "x.pdf", "x.dat", "notes.2024"])
def test_an_unknown_kind_is_not_taken_for_lines(name):
    with pytest.raises(ConfigError, match="has an unknown ending: expected .csv, .tsv"):
        input_kind(name)


def test_binary_data_under_a_text_name_is_refused(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(as_parquet(ROWS))
    with pytest.raises(DataError, match="x.txt: not a file of texts but binary data"):
        list(read_rows(str(path), "txt", ["text"]))


def test_the_format_follows_the_name_of_the_file_to_write(tmp_path):
    names = {"a.csv": "csv", "a.CSV.gz": "csv", "a.tsv": "csv", "a.jsonl": "jsonl", "a.txt": "table", "a": "table"}
    assert {name: format_of(name) for name in names} == names
    assert format_of(None) == "table"
    for name in ("a.xlsx", "a.parquet", "a.json", "a.csv.zip"):
        with pytest.raises(ConfigError, match=f"to={name} is not allowed: expected a name ending in .csv"):
            format_of(name)
    with output(str(tmp_path / "a.csv.gz")) as file:
        file.write("é\n")
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).decode() == "é\n"
