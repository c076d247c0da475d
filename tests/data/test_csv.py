"""Your own texts: CSV files and Hugging Face data sets, how they are split, and what is said about each mistake."""

import csv
import io
import json

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gloss.config import CONFIG_DIR, DatasetConfig
from gloss.data.cells import MAX_TEXT, is_blank
from gloss.data.datasets import load_dataset
from gloss.data.files import read_examples
from gloss.data.splits import right_class
from gloss.errors import DataError


def write(path, rows, **dialect):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, **dialect).writerows(rows)
    return path


def reviews(num_good, num_bad, start=0):
    good = [[f"a good film, number {start + i}", "good"] for i in range(num_good)]
    return [["text", "label"], *good, *([f"a bad film\nnumber {start + i}", "bad"] for i in range(num_bad))]


def load(path, seed=1, **settings):
    return load_dataset(DatasetConfig(name="csv", source="csv", path=str(path), **settings), "unused", seed)


# -- splits ------------------------------------------------------------------------------------------------------------


def test_one_file_is_split_by_us_and_we_say_so(tmp_path):
    path = write(tmp_path / "reviews.csv", reviews(60, 40))
    dataset = load(path)
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 80, "val": 10, "test": 10}
    assert dataset.labels == ["bad", "good"]
    for split in dataset.splits.values():
        assert split.labels.mean() == 0.6
    assert sorted(np.concatenate([split.rows for split in dataset.splits.values()])) == list(range(2, 102))
    assert [note.partition(" (")[0] for note in dataset.notes] == [
        f"{part} is 10 of the 100 training texts" for part in ("test", "val")
    ]
    assert (
        load(path, seed=2).splits["test"].texts == dataset.splits["test"].texts
    )  # all seeds are tested on the same texts
    rows = reviews(60, 40)
    for split in dataset.splits.values():
        for text, row in zip(split.texts, split.rows, strict=True):
            assert text[0] == rows[row - 1][0]


def test_three_files_are_taken_as_they_are(tmp_path):
    sizes = [(7, 5), (3, 0), (2, 2)]
    paths = [write(tmp_path / f"{i}.csv", reviews(*size, start=9 * i)) for i, size in enumerate(sizes)]
    dataset = load(paths[0], val_path=str(paths[1]), test_path=str(paths[2]))
    assert [len(split) for split in dataset.splits.values()] == [12, 3, 4] and dataset.notes == []


def test_two_files_and_classes_of_one_text(tmp_path):
    rare = [f"rare {i}" for i in range(40)]
    train = write(tmp_path / "train.csv", [*reviews(20, 20), *([f"about {name}", name] for name in rare)])
    dataset = load(train, test_path=str(write(tmp_path / "test.csv", reviews(3, 3, start=50))))
    assert [len(split) for split in dataset.splits.values()] == [72, 8, 6]
    assert set(dataset.splits["train"].labels) == set(range(42))  # what a class has but once stays in train
    (note,) = dataset.notes
    assert "val is 8 of the 80 training texts" in note and "without a text of rare 0, rare 1, " in note


def test_texts_in_two_splits_are_counted(tmp_path):
    dataset = load(write(tmp_path / "all.csv", [["text", "label"], *(["same", "ab"[i % 2]] for i in range(40))]))
    torn, test, _ = dataset.notes
    assert torn == "40 of the 40 texts occur with different labels (rows 2, 3, 4, 5, 6 and 35 more)"
    assert "test is 4 of the 40 training texts" in test and "4 of them with the same words" in test


def test_classes_with_two_texts_are_trained_and_tested(tmp_path):
    rare = [[f"number {i} about {i // 2}", f"rare {i // 2}"] for i in range(40)]
    dataset = load(write(tmp_path / "all.csv", [*reviews(30, 30), *rare]))
    for label, name in enumerate(dataset.labels):
        if name.startswith("rare"):
            assert [int((split.labels == label).sum()) for split in dataset.splits.values()] == [1, 0, 1]
    assert sum(map(len, dataset.splits.values())) == 100


def test_too_few_texts_to_validate_on(tmp_path):
    rows = [["text", "label"], *([f"number {i}", str(i // 2)] for i in range(10))]
    with pytest.raises(DataError, match=r"too few texts to cut val from its 5 training texts.*\(dataset.val_path\)"):
        load(write(tmp_path / "all.csv", rows))


def test_fingerprint_follows_the_texts_and_not_their_order(tmp_path):
    header, *rows = reviews(10, 10)
    prints = {
        load(write(tmp_path / "x.csv", [header, *some])).fingerprint for some in (rows, rows[::-1], rows[5:] + rows[:5])
    }
    assert len(prints) == 1
    changed = [["a good film, number zero", "good"], *rows[1:]]
    assert load(write(tmp_path / "x.csv", [header, *changed])).fingerprint not in prints


# -- what a file may look like -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["10", "9", "-1"], ["-1", "9", "10"]),
        (["b", "10", "9"], ["10", "9", "b"]),
        (["1.5", "1", "10"], ["1", "1.5", "10"]),
    ],
)
def test_labels_are_sorted_as_numbers_if_all_are_whole(tmp_path, labels, order):
    rows = [["text", "label"], *([f"{label} {i}", label] for label in labels for i in range(5))]
    dataset = load(write(tmp_path / "x.csv", rows))
    assert dataset.labels == order
    for split in dataset.splits.values():
        assert all(text[0].split()[0] == order[label] for text, label in zip(split.texts, split.labels, strict=True))


def test_columns_separator_encoding_and_pairs(tmp_path):
    path = tmp_path / "x.tsv"
    lines = ["id\tfrage\tsatz\tklasse", *(f"{i}\tWer ist {i}?\tGanz schön {i}\t{i % 2}" for i in range(30))]
    path.write_bytes("\r\n".join(lines).encode("cp1252"))
    dataset = load(path, text=["frage", "satz"], label="klasse", separator="\\t", encoding="cp1252")
    train = dataset.splits["train"]
    assert train.texts[0] == (f"Wer ist {train.rows[0] - 2}?", f"Ganz schön {train.rows[0] - 2}")


def test_texts_stay_as_they_are(tmp_path):
    texts = [
        "NA",
        "null",
        "nan",
        "None",
        "1.0",
        "007",
        " blanks ",
        'a "quote"',
        "two\nlines",
        "a,b",
        "ünïcode 🎬",
        "TRUE",
    ]
    path = write(tmp_path / "x.csv", [["text", "label"], *([text, str(i % 2)] for i, text in enumerate(texts))])
    splits = load(path).splits.values()
    assert sorted(text for split in splits for (text,) in split.texts) == sorted(texts)


def test_a_mark_of_excel_and_empty_lines_at_the_end_do_no_harm(tmp_path):
    path = tmp_path / "x.csv"
    text = io.StringIO(newline="")
    csv.writer(text).writerows(reviews(5, 5))
    path.write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode() + b"\r\n\r\n")
    assert sum(map(len, load(path).splits.values())) == 10


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8), st.sampled_from(",;\t|"))
def test_what_a_csv_writer_wrote_is_read_back(tmp_path_factory, rows, separator):
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    write(path, [["text", "label"], *rows], delimiter=separator)
    try:
        found = read_examples(path, ["text", "label"], separator)
    except DataError:
        assert all(any(map(is_blank, row)) or row == ("text", "label") for row in rows) or ("label", "text") in rows
        return
    kept = [(n, list(row)) for n, row in enumerate(rows, 2) if not any(map(is_blank, row)) and row != ("text", "label")]
    assert list(zip(found.numbers, found.rows, strict=True)) == kept


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("body,label\na,x\nb,y\n", "no column 'text' in the header, which has 'body', 'label': set dataset.text"),
        ("text/label\na/x\nb/y\n", r"no column 'text' in the header, which has 'text/label'.*separator \(now ','\)"),
        ("text,label,text\na,x,b\n", "two columns 'text' in the header"),
        ("text,label\na,x\nb,y,z\n", "row 3 counting the header: 3 columns, where the header has 2"),
        ('text,label\na,x\n"b,y\n', r"row 3 counting the header: not CSV \(.*line 3.*\): is a quote left open"),
        ("text,label\na,x\nb,x\n", "csv has one class, 'x': a classifier needs at least two"),
        (
            "text,label\na,x\nb,x\nc,y\n",
            r"the label 'y' has one text \(row 4\), but train and test need",
        ),
        ("text,label\n", "no row with text and label"),
        ("", "no column 'text' in the header, which has nothing"),
        (b"text,label\ngut,x\nsch\xf6n,y\n", r"row 3 .* column 'text' is not in the .*\(byte 0xf6\).*cp1252"),
        (b"PK\x03\x04\x14\x00\x06\x00\x08\x00\xff\xfe", "not a file of texts but .*: save a spreadsheet as CSV"),
        ("text,label\na,x\nb,y\n".encode("utf-16-le"), "for UTF-16 set the encoding to utf-16"),
        (b"\x1f\x8b\x08\x00broken", "a damaged or cut-off gzip file"),
        (None, "cannot be read .No such file or directory"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path, content, message):
    path = tmp_path / "mine.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as error:
        load(path)
    assert "mine.csv" in str(error.value) or "csv" in str(error.value).split()[0]


def test_a_text_that_has_no_end_in_sight_is_refused(tmp_path):
    path = write(tmp_path / "x.csv", [["text", "label"], ["a" * (MAX_TEXT - 9), "x"], ["b" * (MAX_TEXT + 1), "y"]])
    with pytest.raises(DataError, match="line 3 holds more than 1,048,576 characters"):
        load(path)


def test_a_label_that_only_test_has_is_refused(tmp_path):
    train = write(tmp_path / "train.csv", reviews(5, 5))
    test = write(tmp_path / "test.csv", [*reviews(1, 1), ["so so", "fair"], ["oh well", "fair"]])
    with pytest.raises(DataError, match=r"'fair' \(test, row 4\) does not occur in train"):
        load(train, test_path=str(test))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"encoding": "utf-9"}, "encoding=utf-9 is unknown"),
        ({"separator": ";;"}, "dataset.separator=;; is not allowed"),
    ],
)
def test_an_impossible_setting_is_refused(tmp_path, setting, message):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / "x.csv", reviews(5, 5)), **setting)


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected a folder for each class"):
        load(tmp_path)


# -- Hugging Face data sets --------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Writes a folder that `datasets` reads as it reads a set of the hub, and loads it."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def write_and_load(splits, names=None, **settings):
        label = datasets.ClassLabel(names=names) if names else datasets.Value("string")
        features = datasets.Features({"body": datasets.Value("string"), "label": label})
        folder = tmp_path / "set"
        folder.mkdir()
        for part, (texts, labels) in splits.items():
            table = datasets.Dataset.from_dict({"body": texts, "label": labels}, features=features)
            table.to_parquet(folder / f"{part}-00000.parquet")
        cfg = DatasetConfig(name="hub", source="hub", path=str(folder), **({"text": ["body"]} | settings))
        return load_dataset(cfg, "unused", 1)

    return write_and_load


def test_a_hub_set_keeps_the_order_of_its_class_names(hub):
    texts = [f"text {i}" for i in range(40)]
    dataset = hub(
        {"train": (texts, [i % 2 for i in range(40)]), "test": (["x", "y"], [-1, -1])},
        names=["positive", "negative", "none"],
    )
    assert dataset.labels == ["positive", "negative"]  # a class without texts is none
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 32, "val": 4, "test": 4}
    assert "test is left aside: no labels" in str(dataset.notes)
    train = dataset.splits["train"]
    assert all(int(text[0].split()[1]) % 2 == label for text, label in zip(train.texts, train.labels, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": ["text"]}, "train: no column 'text' among body, label: set dataset.text"),
    ],
)
def test_a_hub_set_with_a_mistake_is_refused(hub, settings, message):
    with pytest.raises(DataError, match=message):
        hub({"train": (["a", "", "c", "d"], ["x", "y", "x", "y"])}, **settings)


def test_a_hub_set_that_is_not_there_is_refused(tmp_path):
    cfg = DatasetConfig(name="hub", source="hub", path=str(tmp_path / "nothing"))
    with pytest.raises(DataError, match="dataset.path=.*nothing .* cannot be read"):
        load_dataset(cfg, "unused", 1)


def test_medqa_is_read_as_pairs_of_question_and_option(tmp_path, monkeypatch):
    """Small files of its form, in which some questions have an option less."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    preset = yaml.safe_load((CONFIG_DIR / "dataset" / "medqa.yaml").read_text())
    assert len(preset.pop("revision")) == 40  # of the hub: pinned
    (tmp_path / "set").mkdir()

    def write(part, num, wrong_name=None):
        rows = [
            {
                "question": f"{part} question {i}?",
                "answer": f"option {'ABCD'[i % 3]} of {part} {i}",
                "options": {name: f"option {name} of {part} {i}" for name in ("ABC" if i % 2 else "ABCD")},
                "answer_idx": wrong_name or "ABCD"[i % 3],
                "meta_info": "step1",
            }
            for i in range(num)
        ]
        (tmp_path / "set" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("train", 20)
    write("test", 4)
    cfg = DatasetConfig(**preset | {"path": str(tmp_path / "set")})
    dataset = load_dataset(cfg, tmp_path, seed=1)
    assert dataset.labels == ["wrong", "right"]
    sizes = {part: len(split) for part, split in dataset.splits.items()}
    assert sizes["test"] == 14 and sizes["train"] + sizes["val"] == 70
    assert not set(dataset.splits["train"].groups) & set(dataset.splits["val"].groups)
    test = dataset.splits["test"]
    for (question, option), label, group in zip(test.texts, test.labels, test.groups, strict=True):
        number = int(group) - 1
        assert question == f"test question {number}?" and option.endswith(f"of test {number}")
        assert (option[7] == "ABCD"[number % 3]) == (dataset.labels[label] == "right")
    assert right_class(test.labels, test.groups) == 1
    write("test", 4, wrong_name="D")
    with pytest.raises(DataError, match="test: row 2: answer_idx must name one of the options A, B, C, got 'D'"):
        load_dataset(cfg, tmp_path, seed=1)


def test_pubmed_rct_is_read_from_files_of_its_form(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    roles = ("background", "objective", "methods", "results", "conclusions")
    (tmp_path / "set").mkdir()
    for part, num_abstracts in (("train", 3), ("dev", 1), ("test", 2)):
        rows = [
            {"abstract_id": f"{part}{a}", "label": role, "text": f"{role} of {part} {a}", "sentence_id": i}
            for a in range(num_abstracts)
            for i, role in enumerate(roles)
        ]
        (tmp_path / "set" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    preset = yaml.safe_load((CONFIG_DIR / "dataset" / "pubmed_rct.yaml").read_text())
    assert len(preset.pop("revision")) == 40  # of the hub: pinned
    dataset = load_dataset(DatasetConfig(**preset | {"path": str(tmp_path / "set")}), tmp_path, seed=1)
    assert dataset.labels == sorted(roles)
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 15, "val": 5, "test": 10}
    split = dataset.splits["test"]
    assert all(text[0].startswith(dataset.labels[label]) for text, label in zip(split.texts, split.labels, strict=True))
