"""Files of texts, read row by row: CSV with any separator, JSON lines, parquet, lines, and a folder per class.

Rows are numbered as a spreadsheet or an editor shows them: CSV from 2, the header being row 1, others from 1.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import sys
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from gloss.errors import DataError

KINDS = ("txt", "csv", "jsonl", "json", "parquet", "folder")
ENDINGS = {
    ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
    ".parquet": "parquet", ".txt": "txt", "": "txt",
}  # fmt: skip
SEPARATORS = ",;\t|\x01"  # the last is Hive's
BLANK = "blank"
_MAX_CELL = 2**20  # characters of a CSV cell; the longest of the paper's texts has 160,616, csv's own limit is 131,072
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test"}
_BINARY = (b"PAR1", b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"%PDF", b"\x1f\x8b")  # parquet, Excel new and old, PDF, gzip
_MARKS = {  # byte order mark -> encoding; UTF-32's first, since one begins as UTF-16's does
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_SET_COLUMNS = "set dataset.text=… and dataset.label=… (predict: columns=…)"
_NO_TEXT = (
    "binary data, not texts: save a spreadsheet as CSV, name gzip .gz, for UTF-16 set dataset.encoding=utf-16 "
    "(predict: encoding=utf-16)"
)
# A damaged gzip file raises EOFError or zlib.error, other damage and our own DataError are a ValueError.
_UNREADABLE = (OSError, ValueError, EOFError, zlib.error, csv.Error, RecursionError)
_INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # categories of Unicode


@dataclass(frozen=True)
class Row:
    """A row of a file, or the reason why it has no content."""

    number: int  # as a spreadsheet or an editor shows it
    texts: tuple[str, ...] = ()  # cells of the text columns
    names: tuple[str, ...] = ()  # cells of the other columns, a group or a label; numbers as strings
    left_out: str | None = None  # the reason why this row is skipped in a file that is otherwise valid
    problem: str | None = None  # the reason why this row cannot be read
    file: str | None = None  # its own file, in a folder of texts

    def place(self) -> str:
        """Its number, or its own file."""
        return self.file or f"row {self.number}"


# -- whole files -------------------------------------------------------------------------------------------------------
def read_examples(
    path: str | Path, text: Sequence[str], names: Sequence[str], separator: str | None = None, encoding: str = "utf-8"
) -> tuple[list[Row], list[str]]:
    """Read a file of texts (.txt and unknown endings are read as CSV), or a folder with a folder per class.

    Args:
        text: names of the text columns.
        names: of the other columns, such as the label.
        separator: of CSV; None to find it from the header.

    Returns the rows, and notes on those that are left out: blank, without a cell, repeated headers. Raises DataError
    with file, row and column.
    """
    path, kind = Path(path).expanduser(), examples_kind(path)
    return collect(read_rows(str(path), kind, text, names, one_character(separator), encoding), str(path))


def read_table(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """Read the text columns, and last the label, of a CSV file whose rows are all needed. Raises DataError."""
    rows, notes = read_examples(path, columns[:-1], columns[-1:], ",")
    if notes:
        raise DataError(f"{path}: {notes[0]}: fill them or take them out")
    return [[*row.texts, *row.names] for row in rows]


def collect(rows: Iterable[Row], where: str) -> tuple[list[Row], list[str]]:
    """The rows with content, and notes on those left out. Raises DataError for a row that cannot be read."""
    kept: list[Row] = []
    left_out = defaultdict(list)
    for row in rows:
        if row.problem:
            raise DataError(f"{where}: {row.place()}: {row.problem}")
        if row.left_out:
            left_out[row.left_out].append(row)
        else:
            kept.append(row)
    notes = [
        f"{len(some):,} row{'s' * (len(some) > 1)} left out, {reason} ({listed(some)})"
        for reason, some in left_out.items()
    ]
    if not kept:
        raise DataError("; ".join([f"{where}: no row with text and label", *notes]))
    return kept, notes


def listed(rows: Sequence[Row], most: int = 5) -> str:
    """Name rows by their numbers or files: the first `most`, and how many more there are."""
    shown = ", ".join(row.file or str(row.number) for row in rows[:most])
    shown += f" and {len(rows) - most:,} more" if len(rows) > most else ""
    return shown if rows[0].file else f"row{'s' * (len(rows) > 1)} {shown}"


# -- cells -------------------------------------------------------------------------------------------------------------
def checked(number: int, cells: Sequence[Any], text: Sequence[str], names: Sequence[str] = ()) -> Row:
    """Make a checked row of some cells: texts first, then names, which may be numbers."""
    cells = [*cells[: len(text)], *map(_name, cells[len(text) :])]
    for column, cell in zip([*text, *names], cells, strict=True):
        if is_blank(cell):
            return Row(number, left_out=f"without {column!r}")
        if reason := fault(cell, is_label=column in names[-1:]):
            return Row(number, problem=f"column {column!r} {reason}")
    return Row(number, tuple(cells[: len(text)]), tuple(cells[len(text) :]))


def is_blank(cell: Any) -> bool:
    """Whether a cell is missing, or a text of invisible characters only."""
    return cell is None or isinstance(cell, str) and all(unicodedata.category(c) in _INVISIBLE for c in cell)


def _name(cell: Any) -> Any:
    """A label that is a number as a string; None for NaN."""
    if isinstance(cell, bool | int | float):
        return str(cell) if cell == cell else None
    return cell


def fault(cell: Any, is_label: bool = False) -> str | None:
    """The reason why a cell is not valid text; None if it is."""
    if is_label and isinstance(cell, list | dict):
        return f"holds a {type(cell).__name__}: several labels per text are not supported, choose another column"
    if not isinstance(cell, str):
        return f"holds {type(cell).__name__}, not text"
    if "\0" in cell:
        return "holds binary data"
    if half := re.search("[\ud800-\udc7f\udd00-\udfff]", cell):
        return f"holds half a character (\\u{ord(half[0]):04x}), as where a text was cut: take it out"
    if escaped := re.search("[\udc80-\udcff]", cell):
        byte = f"byte 0x{ord(escaped[0]) & 0xFF:02x}"
        advice = "save as UTF-8, or set dataset.encoding=cp1252, as often on Windows (predict: encoding=…)"
        return f"is not in the encoding expected ({byte}): {advice}"
    return None


# -- row by row --------------------------------------------------------------------------------------------------------
def kind_of(path: str | Path) -> str | None:
    """The kind of a file, by the ending of its name (.gz aside), or folder; None for an unknown ending."""
    return "folder" if Path(path).is_dir() else ENDINGS.get(Path(str(path).lower().removesuffix(".gz")).suffix)


def examples_kind(path: str | Path) -> str:
    """The kind of a file of labeled texts: .txt and unknown endings are CSV."""
    kind = kind_of(Path(path).expanduser())
    return "csv" if kind in (None, "txt") else kind


def one_character(separator: str | None) -> str | None:
    """The separator that a command line gives, or None; raises DataError unless it is one character, or tab."""
    separator = "\t" if separator in ("\\t", "tab") else separator  # a shell hands over two characters
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise DataError(f"separator={separator} is not allowed: expected one character, or tab")
    return separator


def refuse_unread(kinds: Iterable[str], separator: str | None, encoding: str | None) -> None:
    """Raise DataError for a separator (not None) or an encoding (not utf-8) that files of these kinds do not have."""
    kinds = set(kinds)
    if separator is not None and "csv" not in kinds:
        raise DataError(f"separator={separator} has no effect: only CSV files have one. Leave it out")
    if encoding not in (None, "utf-8") and kinds == {"parquet"}:
        raise DataError(f"encoding={encoding} has no effect on parquet files: leave it out")


def read_rows(
    name: str,
    kind: str,
    text: Sequence[str],
    names: Sequence[str] = (),
    separators: str | None = None,
    encoding: str = "utf-8",
    fallback: str | None = None,
) -> Iterator[Row]:
    """The rows of a file, in constant memory unless it is parquet or one JSON list. Raises DataError.

    Args:
        name: of the file (.gz too) or folder; "-": standard input.
        kind: one of KINDS.
        text, names: columns of texts and of names, as a header or keys have them; of a folder one text, and the class.
        separators: of CSV; the header decides among them.
        encoding: a byte order mark overrides it.
        fallback: encoding of lines that are not in `encoding`; UTF-16 or 32: of the file, if it holds zero bytes.
    """
    columns = [*text, *names]
    separators = separators or ("\t,;|" if ".tsv" in name.lower() else SEPARATORS)
    try:
        if kind == "folder":
            rows = _folder(Path(name), columns, encoding)
        elif kind == "parquet":
            rows = _parquet(name, columns)
        elif kind == "csv":
            rows = _csv(_lines(name, encoding, fallback), columns, separators)
        else:
            rows = (_txt if kind == "txt" else _json)(_lines(name, encoding, fallback), columns)
        for row in rows:
            is_read = not (row.left_out or row.problem)
            yield replace(checked(row.number, row.texts, text, names), file=row.file) if is_read else row
    except _UNREADABLE as error:
        raise DataError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _lines(name: str, encoding: str, fallback: str | None = None) -> Iterator[str]:
    """The lines of a text. Bytes outside its encoding become surrogates, so that the row can be named."""
    codec = _codec(encoding)
    is_wide = fallback is not None and _codec(fallback).startswith(("utf-16", "utf-32"))
    opener = gzip.open if name.lower().endswith(".gz") else open
    opened: Any = sys.stdin.buffer if name == "-" else opener(name, "rb")
    with opened as file:
        head = file.peek(4)[:4]
        if head.startswith(_BINARY):
            raise DataError(_NO_TEXT)
        marked = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
        codec = marked or (fallback if is_wide and b"\0" in head else codec)
        for line in io.TextIOWrapper(file, encoding=codec, errors="surrogateescape", newline=""):
            if fallback and not is_wide and re.search("[\udc80-\udcff]", line):
                line = line.encode("utf-8", "surrogateescape").decode(fallback, "surrogateescape")
            yield line


def _codec(encoding: str) -> str:
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        raise DataError(f"encoding={encoding} is unknown: try utf-8, utf-16, cp1252 or latin-1") from None


def _places(columns: Sequence[str], header: Sequence[str], advice: str) -> list[int]:
    for column in columns:
        if header.count(column) != 1:
            found, shown = "two columns" if column in header else "no column", ", ".join(map(repr, header))
            raise DataError(f"{found} {column!r} in the header, which has {shown}: {advice}")
    return [header.index(column) for column in columns]


def _txt(lines: Iterator[str], columns: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        cells = line.rstrip("\r\n").split("\t") if len(columns) > 1 else [line.rstrip("\r\n")]
        expected = f"expected {' and '.join(columns)} with a tab between, got {len(cells)} part(s)"
        yield Row(number, tuple(cells)) if len(cells) == len(columns) else Row(number, problem=expected)


def _csv(lines: Iterator[str], columns: Sequence[str], separators: str) -> Iterator[Row]:
    """The rows of a CSV file; of `separators`, the one with most `columns`, then most names, in the header is taken."""
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_CELL))
    first, number = next(lines, ""), 1
    if declared := re.fullmatch(r'"?sep=(.)"?\s*', first, re.IGNORECASE):  # Excel's own line, which Excel does not show
        separators, first = declared[1], next(lines, "")
    while first and not first.strip():
        first, number = next(lines, ""), number + 1
    if "\0" in first:
        raise DataError(_NO_TEXT)

    def found(separator: str) -> tuple[int, int]:
        header = next(csv.reader([first], delimiter=separator, skipinitialspace=True), [])
        return sum(column in header for column in columns), len(header)

    separator = max(separators, key=found)
    has_spaces = f"{separator} " in first
    reader = csv.reader(chain([first], lines), delimiter=separator, strict=True, skipinitialspace=has_spaces)
    header = next(reader, [])
    if not header:
        raise DataError("it is empty")
    advice = f"{_SET_COLUMNS}, or the separator, now {separator!r}: dataset.separator=… (predict: separator=…)"
    places = _places(columns, header, advice)
    while True:
        number += 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            advice = "is a quote left open, or not doubled inside a text?"
            yield Row(number, problem=f"not CSV ({error}, line {reader.line_num} of the file): {advice}")
            continue
        if not any(row):
            yield Row(number, left_out=BLANK)
        elif [row[0].removeprefix("\ufeff"), *row[1:]] == header:
            yield Row(number, left_out="repeated header")
        elif len(row) < len(header) or any(row[len(header) :]):
            advice = f"put quotes around a text that holds the separator {separator!r} or a line end"
            yield Row(number, problem=f"{len(row)} columns, where the header has {len(header)}: {advice}")
        else:
            yield Row(number, tuple(row[place] for place in places))


def _json(lines: Iterator[str], columns: Sequence[str]) -> Iterator[Row]:
    """The rows of one list of objects, or of JSON lines."""
    head = []  # blank lines, and the first that is not
    for line in lines:
        head.append(line)
        if line.strip():
            break
    if head and head[-1].lstrip().startswith("["):
        for number, item in enumerate(json.loads("".join([*head, *lines])), 1):
            yield _of_json(number, item, columns)
        return
    for number, line in enumerate(chain(head, lines), 1):
        try:
            yield _of_json(number, json.loads(line), columns) if line.strip() else Row(number, left_out=BLANK)
        except (ValueError, RecursionError) as error:
            yield Row(number, problem=f"not JSON ({error})")


def _of_json(number: int, found: Any, columns: Sequence[str]) -> Row:
    """The row of an object with the columns as keys, or, for one column, of a string."""
    if isinstance(found, str) and len(columns) == 1:
        return Row(number, (found,))
    if not isinstance(found, dict) or not any(column in found for column in columns):
        return Row(number, problem=f"expected an object with {' and '.join(columns)}, got {found!r:.100}")
    return Row(number, tuple(found.get(column) for column in columns))


def _parquet(name: str, columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow.parquet  # here: slow to load, and only these files need it

    with open(name, "rb") as file:
        table = pyarrow.parquet.read_table(file)
    cells = [table.column(place).to_pylist() for place in _places(columns, table.column_names, _SET_COLUMNS)]
    return (Row(number, row) for number, row in enumerate(zip(*cells, strict=True), 1))


def _folder(folder: Path, columns: Sequence[str], encoding: str) -> Iterator[Row]:
    """One text per file, sorted by name; with a second column, files in folders whose names are the labels."""
    if len(columns) > 2:
        raise DataError("pairs of texts and groups of options are not read from a folder: put them into a CSV file")
    has_label = len(columns) == 2
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    paths = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    splits = sorted({path.parts[0] for path in paths if path.parts[0].lower() in _SPLITS})
    if has_label and len(splits) > 1:
        raise DataError(f"has the folders {', '.join(splits)}: set dataset.path and dataset.test_path to one each")
    if has_label and not any(len(path.parts) == 2 for path in paths):
        raise DataError("expected a folder for each class, with a text a file; to read one file give its own name")
    for number, path in enumerate(paths, 1):
        file = str(path) if str(path).isprintable() else ascii(str(path))  # notes are kept in records
        if (folder / path).is_symlink():
            yield Row(number, left_out="a link, which is not followed", file=file)
        elif has_label and len(path.parts) != 2:
            yield Row(number, left_out="not directly in the folder of a class", file=file)
        else:
            try:
                text = "".join(_lines(str(folder / path), encoding))
                yield Row(number, (text, path.parts[0])[: len(columns)], file=file)
            except _UNREADABLE as error:
                yield Row(number, problem=f"cannot be read: {error}", file=file)
