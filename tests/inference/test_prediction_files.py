"""Input files and output formats of predictions."""

import csv
import gzip
import io
import json
import os

import numpy as np
import pytest

from gloss.data.files import Row, read_rows
from gloss.errors import ConfigError
from gloss.inference.prediction_files import Writer, format_of, input_kind, output
from gloss.inference.predictor import Neighbour, Prediction
from gloss.runtime.terminal import escape_control_characters


def read(path, content, columns=("text",)):
    """The texts of a file by row number, and the reasons for rows that cannot be predicted."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = list(read_rows(str(path), input_kind(str(path)), columns))
    return {r.number: r.texts for r in rows if r.texts}, {
        r.number: r.problem or r.left_out for r in rows if not r.texts
    }


def test_text_files_are_read_line_by_line(tmp_path):
    good, bad = read(tmp_path / "x.txt", b"\xef\xbb\xbfone\n\ntwo\r\n\xff\xfe bad\n  \nwith \x1b\nnul \0\nlast")
    assert good == {1: ("one",), 3: ("two",), 6: ("with \x1b",), 8: ("last",)}
    assert bad.pop(4).startswith("column 'text' is not in the encoding expected (byte 0xff): save as UTF-8")
    assert bad == {2: "without 'text'", 5: "without 'text'", 7: "column 'text' holds binary data"}
    good, bad = read(tmp_path / "x.txt", "a\tb\nonly one\n", ("question", "answer"))
    assert (good, bad) == ({1: ("a", "b")}, {2: "expected question and answer with a tab between, got 1 part(s)"})


def test_csv_files_are_read_by_row(tmp_path):
    content = 'id,text\n1,"a ""b"", c"\n2,"two\nlines"\n3\n\n4,"open" x\n5,\n6,last\n'
    good, bad = read(tmp_path / "x.csv.gz", gzip.compress(content.encode()))
    assert good == {2: ('a "b", c',), 3: ("two\nlines",), 8: ("last",)}
    assert bad.keys() == {4, 5, 6, 7} and bad[5] == "blank"


def test_json_lines_are_read_by_line(tmp_path):
    lines = ['{"text": "one", "x": [1]}', '"two"', "{", "", '{"body": "x"}', '{"text": 3}', '{"text": "\\ud800"}',
             "[1]", "[" * 100_000, '{"text": "last"}']  # fmt: skip
    good, bad = read(tmp_path / "x.jsonl", "\n".join(lines))
    assert good == {1: ("one",), 2: ("two",), 10: ("last",)} and bad.keys() == set(range(3, 10))
    good, bad = read(tmp_path / "x.json", '\n [\n{"text": "one"},\n{"text": "two"}\n]')  # a list after a blank line
    assert (good, bad) == ({1: ("one",), 2: ("two",)}, {})


def test_kinds_and_formats_follow_the_name_of_the_file():
    with pytest.raises(ConfigError, match="has an unknown ending: expected .csv, .tsv.*txt.csv"):
        input_kind("notes.2024")
    names = {"a.csv": "csv", "a.CSV.gz": "csv", "a.tsv": "csv", "a.jsonl": "jsonl", "a.txt": "table", None: "table"}
    assert {name: format_of(name) for name in names} == names
    for name in ("a.json", "a.csv.zip"):
        with pytest.raises(ConfigError, match=f"to={name} is not allowed: expected a name ending in .csv"):
            format_of(name)


def test_output_supports_gzip_pipes_and_links(tmp_path):
    with output(str(tmp_path / "a.csv.gz")) as file:
        file.write("é\n")
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).decode() == "é\n"
    pipe, target, link, dangling = (tmp_path / name for name in ("pipe", "target", "link", "dangling"))
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)  # opened for reading and writing, so that it does not wait for a writer
    with output(str(pipe)) as file:
        file.write("é\n")
    assert pipe.is_fifo() and os.read(reader, 100).decode() == "é\n"
    os.close(reader)
    target.write_text("old")
    link.symlink_to("target")
    dangling.symlink_to("new")
    for path in (link, dangling):
        with output(str(path)) as file:
            file.write("text")
        assert path.is_symlink() and path.resolve().read_text() == "text"
    with pytest.raises(ZeroDivisionError), output(str(target)) as file:
        file.write("half")
        1 / 0  # noqa: B018
    assert target.read_text() == "text"


EVIL = "\x1b[2Jlabel\x9b\u202e"


def written(form, columns=("text",), near=(), p=0.75):
    file = io.StringIO()
    writer = Writer(file, form, [EVIL, "b"], columns, num_neighbours=len(near))
    writer.write(Row(7, ('a "text", of\ntwo lines',), ("b",)), Prediction(EVIL, p, {EVIL: p, "b": 0.25}, near))
    return file.getvalue()


def test_predictions_are_written_in_all_formats():
    found = json.loads(written("jsonl"))
    assert found == {"number": 7, "text": 'a "text", of\ntwo lines', "truth": "b", "label": EVIL, "probability": 0.75,
                     "probabilities": {EVIL: 0.75, "b": 0.25}}  # fmt: skip
    near = (Neighbour("b", 0.1234567, ("near",), 3),)
    assert json.loads(written("jsonl", near=near))["neighbours"][0]["weight"] == 0.1234567
    (row,) = csv.DictReader(io.StringIO(written("csv", near=near), newline=""))
    assert (row["number"], row["text"], row["label"], row["p(b)"]) == ("7", 'a "text", of\ntwo lines', EVIL, "0.25")
    assert (row["neighbour 1 weight"], row["neighbour 1 row"], row["neighbour 1 text"]) == ("0.123457", "3", "near")
    (row,) = csv.DictReader(io.StringIO(written("csv", ("label",)), newline=""))
    assert row["input label"].startswith("a") and row["label"] == EVIL
    with pytest.raises(ValueError, match="not JSON compliant"):
        written("jsonl", p=np.nan)
    table = written("table", near=near)  # without control characters
    assert all(c.isprintable() or c == "\n" for c in table) and "\\x1b[2J" in table and len(table.splitlines()) == 3
    assert escape_control_characters("naïve 文 \u202e\x07\ud800") == "naïve 文 \\u202e\\x07\\ud800"
