"""The user's own files with suspicious labels or texts, and data sets of the Hugging Face hub."""

import json

import pytest
import yaml
from test_files import load, write

from gloss.config import CONFIG_DIR, DatasetConfig
from gloss.data.datasets import load_dataset
from gloss.data.splits import right_class
from gloss.errors import DataError


def plain(labels, texts="number {}"):
    """Rows of a short text and a label."""
    return [[texts.format(i), label] for i, label in enumerate(labels)]


@pytest.mark.parametrize("pair", [("pos", "pos "), ("a b", "a\u00a0b"), ("pos", "pos\u200b"), ("café", "cafe\u0301")])
def test_classes_that_look_alike_are_refused(tmp_path, pair):
    with pytest.raises(DataError, match=r"the classes .* \(10 texts, first in row 2\) and .* differ only in b"):
        load(write(tmp_path / "x.csv", plain(pair * 10)))


ALIKE = "classes that differ only in case, form of letters or form of numbers: {!r} (10 texts, first in row 2) and {!r}"
MISSING = "a class is called {!r} (10 texts, first in row 2): if that means a missing label"
WHOLE = "the classes are 100 numbers, 1 to 100: if these are ratings, group them"


@pytest.mark.parametrize(("labels", "note"), [
    *(([*pair, "other"] * 10, ALIKE.format(*pair) + " (10 texts, first in row 3)") for pair in (
        ("neg", "Neg"), ("1", "1.0"), ("007", "7"), ("A", "\uff21"))),
    *(([name, "x", "y"] * 10, MISSING.format(name)) for name in ("nan", "NULL", "<NA>")),
    ([str(i) for i in range(1, 101)] * 4, WHOLE),
])  # fmt: skip
def test_suspicious_classes_give_a_note(tmp_path, labels, note):
    assert load(write(tmp_path / "x.csv", plain(labels))).notes[0].startswith(note)


@pytest.mark.parametrize("labels", [["+", "-"], ["C", "C++", "C#"], ["1", "2"], ["0.5", "1.0", "1.5"], ["a/b", "a"],
                                    ["(x)", "[y]"], ["(not rated)", "[don't know]"]])  # fmt: skip
def test_ordinary_classes_give_no_note(tmp_path, labels):
    notes = load(write(tmp_path / "x.csv", plain(labels * 10))).notes
    assert [note.partition(" is ")[0] for note in notes] == ["test", "val"]


@pytest.mark.parametrize(("labels", "message"), [
    ([f"{i / 10:.2f}" for i in range(30)] * 8, "are 30 numbers, 0.00 to 2.90, which looks like ratings: regression is"),
    ([f"id {i}" for i in range(60)], "60 values in 61 rows, as 'id 0' and 'id 1': set dataset.label"),
    (["a", "b", "a|b"] * 10, r"'a\|b' \(10 texts, first in row 4 of train\) is a list: several labels per text are no"),
    (["a", "b", "b; a"] * 10, "several labels per text are not supported"),
    (["['a']", "['a', 'b']"] * 10, "several labels per text are not supported"),
    (["[0 1]", "[0]"] * 10, "several labels per text are not supported"),
])  # fmt: skip
def test_a_label_column_without_classes_is_refused(tmp_path, labels, message):
    path = write(tmp_path / "x.csv", plain(labels))
    with pytest.raises(DataError, match=message):
        load(path, test_path=str(write(tmp_path / "test.csv", plain(labels[:1], "another {}"))))


@pytest.mark.parametrize("label_first", [False, True])
@pytest.mark.parametrize("num_swallowed", [1, 7])
def test_an_open_quote_that_spans_rows_is_refused(tmp_path, label_first, num_swallowed):
    rows = plain("xy" * 10)
    end = 3 + num_swallowed
    rows[3][0], rows[end][0] = f'"{rows[3][0]}', f'{rows[end][0]}"'
    lines = [",".join(row[::-1] if label_first else row) for row in [["text", "label"], *rows]]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=f"row 5 holds {num_swallowed + 1} lines that look like rows themselves"):
        load(tmp_path / "x.csv")


def test_one_of_many_texts_with_several_lines_may_look_like_a_row(tmp_path):
    rows = [[f"Review {i},\nwith a second line", "12345"[i % 5]] for i in range(50)]
    rows += [["Rating\n5, would come back", "5"]]
    path = write(tmp_path / "x.csv", rows)
    found = load(path)
    assert sum(len(split) for split in found.splits.values()) == 51
    assert f"{path}: row 52 holds 2 lines that look like rows themselves: is a quote open there?" in found.notes
    with pytest.raises(DataError, match="row 12 holds 2 lines"):  # the only text of several lines
        load(write(tmp_path / "y.csv", [[f"Review {i}", "12345"[i % 5]] for i in range(10)] + rows[-1:]))
    with pytest.raises(DataError, match="row 53 holds 3 lines"):  # two of them: no chance
        load(write(tmp_path / "z.csv", [*rows, ["a text,1\nanother,2\na third", "3"]]))


def test_texts_of_several_lines_are_accepted(tmp_path):
    rows = [[f"It was, all in all, x\nand {i},\ny", "xy"[i % 2]] for i in range(20)]
    assert len(load(write(tmp_path / "x.csv", rows)).splits["train"]) == 16
    rows = [{"text": f"Was it x?\ny, it was {i}", "label": "xy"[i % 2]} for i in range(20)]
    write_lines(tmp_path / "x.jsonl", rows)  # only in CSV a line that looks like a row is a sign of an open quote
    assert len(load(tmp_path / "x.jsonl").splits["train"]) == 16


def test_repeated_and_missing_texts_are_counted_or_refused(tmp_path):
    rows = plain("xy" * 10)
    train = write(tmp_path / "train.csv", rows)
    for test in (train, write(tmp_path / "copy.csv", rows[::-1])):
        with pytest.raises(DataError, match="train.csv: test repeats the texts of train"):
            load(train, test_path=str(test))
    test = write(tmp_path / "test.csv", [["NUMBER  3", "y"], ["new", "x"], [rows[5][0], "x"]])
    note = load(train, test_path=str(test)).notes[0]
    assert note == "2 of the 3 texts of test are also among the training texts (rows 2, 4)"
    rows = [*plain("ab" * 20, "same"), ["nan", "a"], ["None", "b"]]
    missing, torn, cut, _ = load(write(tmp_path / "all.csv", rows)).notes
    assert missing == "2 of the 42 texts hold a word for a missing text, as nan or none (rows 42, 43)"
    assert torn == "40 of the 42 texts occur with different labels (rows 2, 3, 4, 5, 6 and 35 more)"
    assert "test is 4 of the 42 training texts" in cut and "4 of them with the same words" in cut


# -- Hugging Face data sets --------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """hub(**settings): load hub.folder, which `datasets` reads like a data set of the hub."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()

    def load(**settings):
        return load_dataset(DatasetConfig(**{"name": "hub", "source": "hub"} | settings | {"path": str(folder)}), "", 1)

    folder = load.folder = tmp_path / "set"
    return load


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_hub_set_keeps_the_order_of_its_class_names(hub):
    import datasets

    label = datasets.ClassLabel(names=["positive", "negative", "none"])
    features = datasets.Features({"body": datasets.Value("string"), "label": label})
    texts = [f"text {i}" for i in range(60)]
    for part, labels in {"train": [(i % 3) - 1 for i in range(59)] + [None], "test": [-1, -1]}.items():
        table = datasets.Dataset.from_dict({"body": texts[: len(labels)], "label": labels}, features=features)
        table.to_parquet(hub.folder / f"{part}-00000.parquet")
    dataset = hub(text=["body"])
    assert dataset.labels == ["positive", "negative"]  # a class without texts is dropped
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 31, "val": 4, "test": 4}
    assert dataset.notes[0] == "test is left aside: no labels"
    assert dataset.notes[1].startswith("21 rows left out, without 'label' (rows 1, 4, 7, 10, 13")
    train = dataset.splits["train"]
    assert all(int(text[0].split()[1]) % 3 - 1 == y for text, y in zip(train.texts, train.labels, strict=True))
    with pytest.raises(DataError, match="train: no column 'text' among body, label: set dataset.text"):
        hub()


@pytest.mark.parametrize(("column", "message"), [
    (lambda i: [0, 1][: i % 2 + 1], "set, train: row 1: column 'label' holds a list: several labels per text are not"),
    (lambda i: {"a": i}, "column 'label' holds a dict: several labels per text are not"),
    (lambda i: i / 7, "the labels are 40 numbers, 0.0 to 5.57.*, which looks like ratings: regression is not"),
])  # fmt: skip
def test_a_hub_set_without_class_labels_is_refused(hub, column, message):
    write_lines(hub.folder / "train.jsonl", [{"text": f"text {i}", "label": column(i)} for i in range(40)])
    with pytest.raises(DataError, match=message):
        hub()


def test_a_hub_set_of_csv_keeps_leading_zeros_and_drops_rows_without_label(hub):
    labels = ["007", "7", "NA", ""]
    write(hub.folder / "train.csv", [[str(i), labels[i % 4]] for i in range(80)], ("title", "topic"))
    dataset = hub(text="title", label="topic")
    assert dataset.labels == ["007", "7", "NA"]
    assert dataset.notes[0] == "20 rows left out, without 'topic' (rows 4, 8, 12, 16, 20 and 15 more)"
    assert "'007' (20 texts, first in row 1) and '7' (20 texts, first in row 2)" in dataset.notes[1]
    assert "a class is called 'NA' (20 texts" in dataset.notes[2]


def test_an_unreadable_hub_set_gives_an_error(hub):
    with pytest.raises(DataError, match="dataset.path=.*set .* cannot be read"):
        hub()  # the folder is empty
    (hub.folder / "train.csv").write_text('text,label\n"a,b\n')
    with pytest.raises(DataError, match="set .* cannot be read"):
        hub()


def preset(name):
    """The settings of configs/dataset/<name>.yaml without the pinned revision."""
    settings = yaml.safe_load((CONFIG_DIR / "dataset" / f"{name}.yaml").read_text())
    assert len(settings.pop("revision")) == 40
    return settings


def test_medqa_is_read_as_pairs_of_question_and_option(hub):
    """Small files in the format of MedQA, in which some questions have one option less."""

    def write_questions(part, num, wrong_name=None, without=None):
        write_lines(hub.folder / f"{part}.jsonl", [
            {
                "question": f"{part} question {i}?",
                "answer": f"option {'ABCD'[i % 3]} of {part} {i}",
                "options": None if i == without else {
                    name: f"option {name} of {part} {i}" for name in ("ABC" if i % 2 else "ABCD")
                },
                "answer_idx": wrong_name or "ABCD"[i % 3],
                "meta_info": "step1",
            }
            for i in range(num)
        ])  # fmt: skip

    write_questions("train", 20)
    write_questions("test", 4)
    dataset = hub(**preset("medqa"))
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
    with pytest.raises(DataError, match="dataset.group has no effect where options holds all options: leave it out"):
        hub(**preset("medqa"), group="meta_info")
    for wrong, message in (({"wrong_name": "D"}, "row 2: .* options A, B, C, got 'D'"),
                           ({"without": 0}, r"row 1: .* options \(none\), got 'A'")):  # fmt: skip
        write_questions("test", 4, **wrong)
        with pytest.raises(DataError, match=f"test: {message}"):
            hub(**preset("medqa"))


def test_pubmed_rct_is_read_with_its_splits_and_labels(hub):
    roles = ("background", "conclusions", "methods", "objective", "results")
    for part, num in (("train", 3), ("dev", 1), ("test", 2)):
        rows = [
            {"label": role, "text": f"{role} of {part} {i}", "sentence_id": i} for i in range(num) for role in roles
        ]
        write_lines(hub.folder / f"{part}.jsonl", rows)
    dataset = hub(**preset("pubmed_rct"))
    assert dataset.labels == list(roles)
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 15, "val": 5, "test": 10}
    test = dataset.splits["test"]
    assert all(text.startswith(roles[y]) for (text,), y in zip(test.texts, test.labels, strict=True))
