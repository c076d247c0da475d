"""Files of the user: every format gives the same rows, and invalid files are refused with file, row and column."""

import csv
import gzip
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gloss.config import DatasetConfig
from gloss.data.datasets import load_dataset
from gloss.data.files import SEPARATORS, Row, checked, is_blank, kind_of, read_examples, read_rows
from gloss.errors import DataError

ROWS = [(f'{adjective} "film", nr {i};\tone | two\nlines é', label)
        for i in range(12) for adjective, label in (("good", "pos"), ("bad", "neg"))]  # fmt: skip


def load(path, seed=1, **settings):
    return load_dataset(DatasetConfig(name="mine", source="csv", path=str(path), **settings), "unused", seed)


def write(path, rows, header=("text", "label"), **dialect):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, **dialect).writerows([header, *rows])
    return path


def as_csv(separator=",", encoding="utf-8", first=""):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator).writerows([("id", "text", "label"), *((7, *row) for row in ROWS)])
    return (first + text.getvalue()).encode(encoding)


FRAME = pd.DataFrame(ROWS, columns=["text", "label"])
LINES = FRAME.to_json(orient="records", lines=True).encode()
FILES = {
    "comma.csv": (as_csv(), 2),
    "semicolon.csv": (as_csv(";"), 2),
    "bar.csv": (as_csv("|"), 2),
    "tab.txt": (as_csv("\t"), 2),
    "tab.tsv": (as_csv("\t"), 2),
    "excel.csv": (as_csv(";", "utf-8-sig"), 2),
    "excel16.csv": (as_csv("\t", "utf-16"), 2),  # Excel's "Unicode text"
    "declared.csv": (as_csv("^", "utf-8-sig", "sep=^\r\n"), 2),
    "blank.csv": (as_csv(first="\r\n"), 3),
    "packed.csv.gz": (gzip.compress(as_csv(";")), 2),
    "noending": (as_csv(";"), 2),
    "lines.jsonl": (LINES, 1),
    "lines.ndjson.gz": (gzip.compress(LINES), 1),
    "list.json": (FRAME.to_json(orient="records").encode(), 1),
    "lines.json": (LINES, 1),
    "table.parquet": (FRAME.to_parquet(), 1),
}


@pytest.mark.parametrize("name", FILES)
def test_every_file_format_gives_the_same_examples(tmp_path, name):
    content, first = FILES[name]
    (tmp_path / name).write_bytes(content)
    rows, _ = read_examples(tmp_path / name, ["text"], ["label"])
    assert rows == [Row(number, (text,), (label,)) for number, (text, label) in enumerate(ROWS, first)]
    if name not in ("noending", "tab.txt"):  # predict reads these two as lines of text
        rows = [row for row in read_rows(str(tmp_path / name), kind_of(name), ["text"]) if row.texts]
        assert rows == [Row(number, (text,)) for number, (text, _) in enumerate(ROWS, first)]


def test_a_folder_per_class_is_read(tmp_path):
    for i, (text, label) in enumerate(ROWS):
        (tmp_path / "train" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / label / f"{i:02}.txt").write_text(text)
    (tmp_path / "train" / "README").write_text("about")
    (tmp_path / "train" / ".hidden").write_text("not shown")
    dataset = load(tmp_path / "train")
    for split in dataset.splits.values():
        assert all((*text, dataset.labels[y]) in ROWS for text, y in zip(split.texts, split.labels, strict=True))
    assert sum(map(len, dataset.splits.values())) == len(ROWS)
    assert dataset.notes[0] == "1 row left out, not directly in the folder of a class (README)"
    rows = list(read_rows(str(tmp_path / "train"), "folder", ["text"]))
    assert [row.texts[0] for row in rows] == ["about", *(t for label in ("neg", "pos") for t, y in ROWS if y == label)]
    names = sorted(path.relative_to(tmp_path / "train").as_posix() for path in (tmp_path / "train").glob("*/*"))
    (tmp_path / "train" / "pos" / "linked.txt").symlink_to(tmp_path / "train" / "neg" / "01.txt")
    (tmp_path / "train" / names[0]).write_text("none")
    missing, link, *_ = sorted(load(tmp_path / "train").notes)
    assert link == "1 row left out, a link, which is not followed (pos/linked.txt)"
    assert missing == f"1 of the 24 texts hold a word for a missing text, as nan or none ({names[0]})"
    with pytest.raises(DataError, match="have no effect on folders"):
        load(tmp_path / "train", label="b")
    for content, message in ((b"%PDF-1.7", "cannot be read: binary data"), (b"\xff", "column 'text' is not in")):
        (tmp_path / "train" / names[2]).write_bytes(content)
        with pytest.raises(DataError, match=f"{names[2]}: {message}"):
            load(tmp_path / "train")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="expected a folder for each class"):
        load(tmp_path / "test")
    (tmp_path / "test" / "x").write_text("x")
    with pytest.raises(DataError, match="has the folders test, train: set dataset.path"):
        load(tmp_path)
    for key, value in (("text", ["a", "b"]), ("group", "question")):
        with pytest.raises(DataError, match="pairs of texts and groups of options are not read from a folder"):
            load(tmp_path / "train", **{key: value})


def test_a_key_that_no_file_of_this_kind_reads_is_refused(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(LINES)
    with pytest.raises(DataError, match="separator=; has no effect: only CSV files have one"):
        load(tmp_path / "x.jsonl", separator=";")
    assert load(tmp_path / "x.jsonl", encoding="latin-1").labels == ["neg", "pos"]
    (tmp_path / "more.csv").write_text("text;other\na, b;c\n")
    more = load(tmp_path / "x.jsonl", separator=";", unlabeled_path=str(tmp_path / "more.csv")).unlabeled
    assert more.texts == [("a, b",)]
    FRAME.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="encoding=latin-1 has no effect on parquet files"):
        load(tmp_path / "x.parquet", encoding="latin-1")


def test_columns_separators_and_encodings_are_respected(tmp_path):
    path = write(tmp_path / "x.csv", [["a, b; c, d", "x"], ["e, f", "y"]] * 6, ("text, which", "label"), delimiter=";")
    assert load(path, text="text, which").labels == ["x", "y"]
    with pytest.raises(DataError, match="no column 'label' in the header, which has 'text', 'which;label'"):
        load(path, text="text", separator=",")
    hive = write(tmp_path / "hive.csv", [["a, b", "x"], ["c; d", "y"]] * 6, delimiter="\x01")
    assert ("a, b",) in load(hive).splits["train"].texts
    spaced = tmp_path / "spaced.csv"
    spaced.write_text("text, label\n" + '"a, b", x\nc, y\n' * 6)
    dataset = load(spaced)
    assert dataset.labels == ["x", "y"] and ("a, b",) in dataset.splits["train"].texts
    lines = ["id\tfrage\tsatz\tklasse", *(f"{i}\tWer ist {i}?\tGanz schön {i}\t{i % 2}" for i in range(30))]
    pairs = tmp_path / "x.tsv"
    pairs.write_bytes("\r\n".join(lines).encode("cp1252"))
    for separator in (None, "tab", "\\t", "\t"):
        dataset = load(pairs, text=["frage", "satz"], label="klasse", separator=separator, encoding="cp1252")
        train = dataset.splits["train"]
        assert train.texts[0] == (f"Wer ist {train.rows[0] - 2}?", f"Ganz schön {train.rows[0] - 2}")
    one = tmp_path / "one.tsv"  # in a .tsv file commas do not separate columns
    one.write_text("text\nred, green\n")
    assert list(read_rows(str(one), "csv", ["text"])) == [Row(2, ("red, green",))]
    for mark, encoding in (("utf-16", "cp1252"), ("utf-16", "utf-16-le"), ("utf-32", "utf-8"), ("utf-8-sig", "utf-16")):
        one.write_bytes("text\ngrün\n".encode(mark))
        assert list(read_rows(str(one), "csv", ["text"], encoding=encoding)) == [Row(2, ("grün",))]
    for key, value in (("encoding", "utf-9"), ("separator", ";;")):
        with pytest.raises(DataError, match=f"{key}={value} is "):
            load(path, **{key: value})


def test_lines_in_another_encoding_use_the_fallback(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes("größe\nschön\n".encode("cp1252") + "schön\n".encode())
    rows = read_rows(str(path), "csv", ["größe"], fallback="cp1252")
    assert [row.texts for row in rows] == [("schön",), ("schön",)]
    assert "save as UTF-8, or set dataset.encoding=cp1252" in next(read_rows(str(path), "txt", ["größe"])).problem


def test_typed_files_with_numbers_and_missing_labels_are_read(tmp_path):
    frame = pd.DataFrame({"text": [f"text {i}" for i in range(20)], "label": pd.Categorical(["x", "y"] * 10)})
    frame.to_parquet(tmp_path / "category.parquet")
    assert load(tmp_path / "category.parquet").labels == ["x", "y"]
    frame["label"] = [10, 9] * 10
    frame.to_parquet(tmp_path / "whole.parquet")
    assert load(tmp_path / "whole.parquet").labels == ["9", "10"]
    frame["label"] = [True, False] * 9 + [None, True]
    frame.to_json(tmp_path / "lines.jsonl", orient="records", lines=True)
    dataset = load(tmp_path / "lines.jsonl")
    assert dataset.labels == ["False", "True"] and dataset.notes[0] == "1 row left out, without 'label' (row 19)"
    assert checked(1, ["a", float("nan")], ["text"], ["label"]).left_out == "without 'label'"


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@settings(max_examples=150, deadline=None)
@example([("NA", "null"), ("007", "1.0"), (" blanks ", "TRUE"), ('a "quote"', "two\nlines"), ("🎬", "nan")], ",")
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8), st.sampled_from(SEPARATORS))
def test_csv_rows_are_read_back_unchanged(tmp_path_factory, rows, separator):
    path = write(tmp_path_factory.mktemp("csv") / "x.csv", rows, delimiter=separator)
    kept = [(n, row) for n, row in enumerate(rows, 2) if not any(map(is_blank, row)) and row != ("text", "label")]
    if kept:
        found, _ = read_examples(path, ["text"], ["label"], separator)
        assert [(row.number, (*row.texts, *row.names)) for row in found] == kept


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "content", "message"), [
    ("x.csv", "body,label\na,x\nb,y\n", "no column 'text' in the header, which has 'body', 'label': set dataset.text="),
    ("x.csv", "text/label\na/x\nb/y\n", r"no column 'text' .*'text/label'.* separator, now ',': dataset.separator="),
    ("x.csv", "text,label,text\na,x,b\n", "two columns 'text' in the header"),
    ("x.csv", "text,label\na,x\nb,y,z\n", "row 3: 3 columns, where the header has 2"),
    ("x.csv", 'text,label\na,x\n"b,y\n', r"row 3: not CSV \(.*line 3.*\): is a quote left open"),
    ("x.csv", "text,label\na,x\nb,x\n", "has one class, 'x': a classifier needs at least two"),
    ("x.csv", "text,label\na,x\nb,x\nc,y\n", r"'y' has one text \(row 4\), but train and test need one each"),
    ("x.csv", "text,label\n", "no row with text and label"),
    ("x.csv", "\n \n", "it is empty"),
    ("x.csv", b"text,label\ngut,x\nsch\xf6n,y\n", r"row 3: column 'text' is .*\(byte 0xf6\).*dataset.encoding=cp1252"),
    ("x.csv", b"PK\x03\x04\x14\x00\x06\x00\x08\x00\xff\xfe", "binary data, not texts: save a spreadsheet as CSV"),
    ("x.csv", "text,label\na,x\nb,y\n".encode("utf-16-le"), "for UTF-16 set dataset.encoding=utf-16"),
    ("x.csv", None, "cannot be read: No such file or directory"),
    ("x.csv.gz", b"text,label\na,x\n", "cannot be read: Not a gzipped file"),
    ("x.csv.gz", gzip.compress(as_csv())[:-20], "cannot be read: Compressed file ended before the end"),
    ("x.jsonl", '{"text": "a", "label": "x"}\n{"text": ', r"row 2: not JSON \("),
    ("x.jsonl", '{"body": "a"}', "row 1: expected an object with text and label, got {'body': 'a'}"),
    ("x.jsonl", '{"text": "a\\ud83d", "label": "x"}', r"row 1: column 'text' holds half a character \(\\ud83d\), as"),
    ("x.jsonl", '{"text": 3, "label": "x"}', "row 1: column 'text' holds int, not text"),
    ("x.jsonl", '{"text": ["a"], "label": "x"}', "row 1: column 'text' holds list, not text"),
    ("x.jsonl", '{"text": "a", "label": ["x"]}', "row 1: column 'label' holds a list: several labels per text are no"),
    ("x.json", '[{"text": "a"', "cannot be read: Expecting"),
    ("x.parquet", b"PAR1 no more", "cannot be read: .*[pP]arquet"),
    ("x.parquet", pd.DataFrame({"body": ["a"]}).to_parquet(), "no column 'text' in the header, which has 'body': set"),
])  # fmt: skip
def test_invalid_files_are_refused_with_their_position(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=rf"{name}\b.*{message}"):
        load(path)


def test_blank_rows_repeated_headers_and_missing_cells_are_dropped_and_counted(tmp_path):
    path = tmp_path / "x.csv"
    good = [f"text {i},{'xy'[i % 2]}" for i in range(20)]
    lines = ["text,label", *good[:5], "", ",", "\ufefftext,label", " \u200b ,x", "a,", *good[5:], "text,label", "", ""]
    path.write_text("\n".join(lines))
    dataset = load(path)
    assert dataset.notes[:4] == [
        "3 rows left out, blank (rows 7, 8, 28)",
        "2 rows left out, repeated header (rows 9, 27)",
        "1 row left out, without 'text' (row 10)",
        "1 row left out, without 'label' (row 11)",
    ]
    assert sum(map(len, dataset.splits.values())) == 20
    for split in dataset.splits.values():
        assert all(lines[row - 1].startswith(f"{text},") for (text,), row in zip(split.texts, split.rows, strict=True))


@pytest.mark.parametrize("text", ["", " \t\n", "\u00a0", "\u200b\ufeff", None])
def test_invisible_texts_count_as_blank(text):
    assert is_blank(text) and not is_blank((text or "") + ".")


# -- splits ------------------------------------------------------------------------------------------------------------


def reviews(num_good, num_bad, start=0):
    return [
        *([f"a good film, number {start + i}", "good"] for i in range(num_good)),
        *([f"a bad film\nnumber {start + i}", "bad"] for i in range(num_bad)),
    ]


def test_a_single_file_is_split_with_a_note(tmp_path):
    rows = reviews(60, 40)
    path = write(tmp_path / "reviews.csv", rows)
    dataset = load(path)
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 80, "val": 10, "test": 10}
    assert dataset.labels == ["bad", "good"] and all(split.labels.mean() == 0.6 for split in dataset.splits.values())
    assert sorted(np.concatenate([split.rows for split in dataset.splits.values()])) == list(range(2, 102))
    assert [note[:8] for note in dataset.notes] == ["test is ", "val is 1"]
    assert load(path, seed=2).splits["test"].texts == dataset.splits["test"].texts  # whatever the seed
    for split in dataset.splits.values():
        assert all(text == rows[row - 2][0] for (text,), row in zip(split.texts, split.rows, strict=True))


def test_given_split_files_are_used_unchanged(tmp_path):
    train, val, test = (write(tmp_path / f"{i}.csv", reviews(n, n, start=9 * i)) for i, n in enumerate((7, 3, 2)))
    dataset = load(train, val_path=str(val), test_path=str(test))
    assert [len(split) for split in dataset.splits.values()] == [14, 6, 4] and dataset.notes == []
    write(test, reviews(2, 0, start=50))
    (note,) = load(train, val_path=str(val), test_path=str(test)).notes
    assert note == "test is without a text of bad: its macro-F1 counts such a class only if predicted, as 0"
    write(test, [*reviews(1, 1, start=50), ["so so", "fair"], ["oh well", "fair"]])
    with pytest.raises(DataError, match=r"'fair' \(test, row 4\) does not occur in train"):
        load(train, test_path=str(test))


def test_classes_with_one_or_two_texts_are_split(tmp_path):
    """A class of two texts has one in train and one in test; a class of one text stays in train, with a test file."""
    twice = [[f"number {i} about {i // 2}", f"rare {i // 2}"] for i in range(40)]
    dataset = load(write(tmp_path / "all.csv", [*reviews(30, 30), *twice]))
    for label, name in enumerate(dataset.labels):
        if name.startswith("rare"):
            assert [int((split.labels == label).sum()) for split in dataset.splits.values()] == [1, 0, 1]
    once = [[f"about {i}", f"rare {i}"] for i in range(40)]
    train = write(tmp_path / "train.csv", [*reviews(20, 20), *once])
    dataset = load(train, test_path=str(write(tmp_path / "test.csv", reviews(3, 3, start=50))))
    assert [len(split) for split in dataset.splits.values()] == [72, 8, 6]
    assert set(dataset.splits["train"].labels) == set(range(42))
    note, *lacking = dataset.notes
    assert note.startswith("val is 8 of the 80 training texts")
    assert [
        f"{part} is without a text of rare 0, rare 1, rare 10, rare 11, rare 12 … (40 classes): its"
        for part in ("val", "test")
    ] == [x.split(" macro")[0] for x in lacking]
    with pytest.raises(DataError, match=r"5 training texts are too few to cut val .*\(dataset.val_path\)"):
        load(write(tmp_path / "all.csv", [[f"number {i}", str(i // 2)] for i in range(10)]))


@pytest.mark.parametrize(("labels", "order"), [
    (["10", "9", "-1"], ["-1", "9", "10"]),
    (["b", "10", "9"], ["10", "9", "b"]),
    (["1.5", "1", "10"], ["1", "1.5", "10"]),
])  # fmt: skip
def test_labels_are_sorted_as_numbers_if_all_are_whole_numbers(tmp_path, labels, order):
    dataset = load(write(tmp_path / "x.csv", [[f"{label} {i}", label] for label in labels for i in range(5)]))
    assert dataset.labels == order
    for split in dataset.splits.values():
        assert all(text[0].split()[0] == order[label] for text, label in zip(split.texts, split.labels, strict=True))
