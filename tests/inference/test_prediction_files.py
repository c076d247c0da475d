"""Files of texts as they are read for predictions, and predictions as they are written."""

import csv
import gzip
import io
import json
import os

import numpy as np
import pytest

from gloss.cli.command import show_messages
from gloss.data.cells import MAX_TEXT
from gloss.data.files import _bounded
from gloss.errors import DataError
from gloss.inference.prediction_files import BadRow, Row, Writer, input_kind, output, read_rows
from gloss.inference.predictor import Neighbour, Prediction
from gloss.runtime.terminal import escape_control_characters


def rows_of(path, columns=("text",), **settings):
    return list(read_rows(str(path), input_kind(str(path)), columns, **settings))


def test_lines(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes(b"\xef\xbb\xbfone\n\ntwo\r\n\xff\xfe bad\n  \nthree, with \x1b\nnul \0\nlast")
    good = [Row(1, ("one",)), Row(3, ("two",)), Row(6, ("three, with \x1b",)), Row(8, ("last",))]
    rows = rows_of(path)
    assert [row for row in rows if isinstance(row, Row)] == good
    bad = {row.number: row.reason.removeprefix("text ") for row in rows if isinstance(row, BadRow)}
    assert bad.pop(4).startswith("is not in the encoding expected (byte 0xff): save as UTF-8")
    assert bad == {2: "is empty", 5: "is empty", 7: "holds binary data"}
    path.write_text("a\tb\nonly one\n")
    assert [type(row) for row in rows_of(path, ("question", "answer"))] == [Row, BadRow]


def test_csv(tmp_path, capsys):
    show_messages()  # as scripts/predict.py
    path = tmp_path / "texts.csv.gz"
    content = 'id,text\n1,"a ""b"", c"\n2,"two\nlines"\n3\n\n4,"open" x\n5,\n6,last\n'
    path.write_bytes(gzip.compress(content.encode()))
    rows, good = rows_of(path), [Row(2, ('a "b", c',)), Row(3, ("two\nlines",)), Row(8, ("last",))]
    assert [row for row in rows if isinstance(row, Row)] == good
    assert [(row.number, row.unit) for row in rows if isinstance(row, BadRow)] == [(n, "row") for n in (4, 6, 7)]
    assert "1 blank row skipped" in capsys.readouterr().err
    with pytest.raises(DataError, match="texts.csv.gz: no column 'body' in the header, which has 'id', 'text'"):
        rows_of(path, ("body",))
    path.write_bytes(gzip.compress((content * 1000).encode())[:-200])
    *_, last = rows_of(path)
    assert isinstance(last, BadRow) and "cut-off" in last.reason
    tabs = tmp_path / "texts.tsv"
    tabs.write_text("text\tlabel\nred, green\tx\n")
    assert rows_of(tabs) == [Row(2, ("red, green",))]


def test_json_lines(tmp_path):
    path = tmp_path / "texts.jsonl"
    lines = ['{"text": "one", "x": [1]}', '"two"', "{", "", '{"body": "x"}', '{"text": 3}', '{"text": "\\ud800"}',
             "[1]", "[" * 100_000, '{"text": "last"}']  # fmt: skip
    path.write_text("\n".join(lines))
    rows = rows_of(path)
    assert [row for row in rows if isinstance(row, Row)] == [Row(1, ("one",)), Row(2, ("two",)), Row(10, ("last",))]
    assert [row.number for row in rows if isinstance(row, BadRow)] == [3, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("name, start", [("x.txt", ""), ("x.jsonl", '"'), ("x.csv", 'text\n"')])
def test_a_line_or_quote_without_an_end_does_not_fill_the_memory(tmp_path, name, start):
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress(start.encode() + b"x" * (MAX_TEXT + 1)))
    with pytest.raises(DataError, match=rf"{name}.gz: line \d holds more than 1,048,576 characters: split it"):
        rows_of(path)
    if name == "x.csv":
        path.write_bytes(gzip.compress(b'text\n"' + b"a short line\n" * (MAX_TEXT // 12)))
        assert "field larger than field limit (1048576)" in rows_of(path)[0].reason


def test_lines_are_split_as_they_were():
    ends = ("\n", "\r", "\r\n", "\n\r", "\r\r\n", "\u2028", "\x0b", "\x1c", "")
    content = "".join("é" * length + end for length in (0, 1, 8190, 8191, 8192, 16383) for end in ends).encode()
    one, other = (io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline="") for _ in range(2))
    assert list(_bounded(one)) == list(other)


def test_a_pipe_is_written_to_and_a_link_stays(tmp_path):
    pipe, target, link, dangling = (tmp_path / name for name in ("pipe", "target", "link", "dangling"))
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)  # which waits for no writer
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
    assert target.read_text() == "text"
    with pytest.raises(IsADirectoryError), output(str(tmp_path)):
        pass


EVIL = "\x1b[2Jlabel\x9b\u202e"


def written(form, columns=("text",), near=(), p=0.75):
    file = io.StringIO()
    writer = Writer(file, form, [EVIL, "b"], columns, neighbours=len(near))
    prediction = Prediction(EVIL, p, {EVIL: p, "b": 0.25}, near)
    writer.write(Row(7, ('a "text", of\ntwo lines',), truth="b"), prediction)
    return file.getvalue()


def test_formats():
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
    table = written("table", near=near)  # and nothing steers the terminal
    assert all(c.isprintable() or c == "\n" for c in table) and "\\x1b[2J" in table and len(table.splitlines()) == 3
    assert escape_control_characters("naïve 文 \u202e\x07\ud800") == "naïve 文 \\u202e\\x07\\ud800"
