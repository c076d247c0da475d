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
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from gloss.data.cells import MAX_TEXT, fault, is_blank, label_name, listed
from gloss.errors import DataError

MAX_UNPACKED = 2**28  # bytes, which take several times that in memory; the largest of the paper's files has 20 MB


KINDS = {"txt": "line", "csv": "row", "jsonl": "line", "json": "item", "parquet": "row", "folder": "file"}  # row
ENDINGS = {
    ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
    ".parquet": "parquet", ".txt": "txt", "": "txt",
}  # fmt: skip
SEPARATORS = ",;\t|"
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test"}
_BINARY = (b"PAR1", b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"%PDF")  # parquet, Excel's and other zips, old Excel's
_NO_TEXT = "not a file of texts but binary data: save a spreadsheet as CSV; for UTF-16 set the encoding to utf-16"


class Skip(str):
    """Why a row of a file that can be used is left out."""


Cells = tuple[Any, ...] | str  # of one row; or a Skip, or why the row cannot be read
BLANK, REPEATED = Skip("blank"), Skip("repeated header")


@dataclass
class Examples:
    """Texts and labels, and where they stand in their file."""

    rows: list[list[str]] = field(default_factory=list)  # text columns, then the label
    numbers: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # which rows were left out


# -- whole files -------------------------------------------------------------------------------------------------------
def read_examples(
    path: Path, columns: Sequence[str], separator: str | None = None, encoding: str = "utf-8"
) -> Examples:
    """Read a file of texts and labels (.gz too; CSV where its name says nothing), or a folder with a folder per class.

    columns: names of the text columns, then of the label; separator: None to find it from the header. Rows without text
    or label and repeated headers are left out and noted. Raises DataError with file, row and column.
    """
    separator = checked_separator("dataset.separator", separator)
    kind = kind_of(path) or "csv"
    kind = "csv" if kind == "txt" else kind

    def check_size(num_read: int, num_unpacked: int) -> None:  # a few MB can unpack to more than the memory
        if num_read < num_unpacked > MAX_UNPACKED:
            raise DataError(f"unpacks to more than {MAX_UNPACKED >> 20} MB: unpack it, if that is right")

    advice = "set dataset.text, dataset.label or dataset.separator"
    rows = numbered_rows(str(path), kind, columns, separator, encoding, advice=advice, progress=check_size)
    return collect(rows, columns, str(path), kind)


def read_table(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """Read the named columns of a CSV file with commas, of which no row may be left out. Raises DataError."""
    examples = read_examples(path, columns, ",")
    if examples.notes:
        raise DataError(f"{path}: {examples.notes[0]}: fill them or take them out")
    return examples.rows


def collect(rows: Iterable[tuple[int, Cells]], columns: Sequence[str], where: str, kind: str) -> Examples:
    """Keep the rows that have every text and a label (the last column). Raises DataError at one that cannot be used."""
    examples = Examples()
    left_out: dict[str, list[int]] = {}
    for number, cells in rows:
        try:
            row = cells if isinstance(cells, str) else _checked(cells, columns)
            if isinstance(row, str) and not isinstance(row, Skip):
                raise DataError(row)
        except DataError as error:
            raise DataError(f"{where}: {_name_row(number, kind)}: {error}") from None
        if isinstance(row, str):
            left_out.setdefault(row, []).append(number)
        else:
            examples.rows.append(row)
            examples.numbers.append(number)
    last = max(examples.numbers, default=0)
    for reason, numbers in left_out.items():
        if reason == BLANK:
            numbers = [number for number in numbers if number < last]  # those at the end say nothing
        if numbers:
            unit = KINDS[kind] + "s" * (len(numbers) > 1)
            examples.notes.append(f"{len(numbers):,} {unit} left out, {reason} ({listed(numbers, KINDS[kind])})")
    if not examples.rows:
        raise DataError(f"{where}: " + "; ".join([f"no {KINDS[kind]} with text and label", *examples.notes]))
    return examples


def _checked(cells: Sequence[Any], columns: Sequence[str]) -> list[str] | Skip:
    """The cells of a row as strings. Raises DataError."""
    *texts, label = cells
    row = [*texts, label_name(label)]
    for column, cell in zip(columns, row, strict=True):
        if is_blank(cell):
            return Skip(f"without {column!r}")
        if reason := fault(cell):
            raise DataError(f"column {column!r} {reason}")
    return row


def _name_row(number: int, kind: str) -> str:
    return f"{KINDS[kind]} {number}{' counting the header' * (kind == 'csv')}"


# -- row by row --------------------------------------------------------------------------------------------------------
def kind_of(path: str | Path) -> str | None:
    """The kind of a file, by the ending of its name (.gz aside), or folder; None where that says nothing."""
    if Path(path).is_dir():
        return "folder"
    return ENDINGS.get(Path(str(path).lower().removesuffix(".gz")).suffix)


def checked_separator(key: str, separator: str | None) -> str | None:
    """The separator that a command line gives; raises DataError where it is none."""
    separator = "\t" if separator in ("\\t", "tab") else separator  # a shell hands over two characters
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise DataError(f"{key}={separator} is not allowed: expected one character, or tab")
    return separator


def numbered_rows(
    name: str,
    kind: str,
    columns: Sequence[str],
    separator: str | None = None,
    encoding: str = "utf-8",
    fallback: str | None = None,
    advice: str = "",
    progress: Callable[[int, int], None] = lambda num_read, num_unpacked: None,
) -> Iterator[tuple[int, Cells]]:
    """Number and cells of each row of a file (.gz too; "-": standard input), in constant memory.

    kind: one of KINDS; columns: those wanted, by the names of a header or keys; for a folder one, or also the class;
    encoding: a byte order mark comes before it; fallback: encoding of lines that are not in `encoding`; advice: what to
    do where a column is not there; progress: called with the bytes read, and unpacked. Raises DataError.
    """
    number = 0
    try:
        if kind == "folder":
            yield from _folder(Path(name), columns, encoding, fallback)
            return
        with _opened(name) as (plain, raw):
            if kind == "parquet":
                rows = _parquet(plain, columns, advice)
            else:
                text = _decoded(plain, encoding)
                if kind == "csv":
                    candidates = separator or ("\t,;|" if ".tsv" in name.lower() else SEPARATORS)
                    rows = _csv(_bounded(text, fallback), columns, candidates, advice)
                elif kind == "json":
                    rows = _json(text, columns)
                else:
                    rows = (_json_lines if kind == "jsonl" else _lines)(_bounded(text, fallback), columns)
            for number, cells in rows:
                yield number, cells
                progress(*_position(plain, raw))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield number + 1, f"a damaged or cut-off gzip file ({error}): get it again"
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error})") from None
    except UnicodeError as error:
        raise DataError(f"{name}: is not {encoding} ({error}): set the encoding it has") from None
    except DataError as error:
        raise DataError(f"{name}: {error}") from None


@contextmanager
def _opened(name: str) -> Iterator[tuple[io.BufferedReader, IO[bytes]]]:
    """The unpacked bytes of a file, and the bytes as they are."""
    with sys.stdin.buffer if name == "-" else open(name, "rb", buffering=0) as raw:
        file: Any = io.BufferedReader(cast(Any, raw))  # of which standard input may be none
        yield io.BufferedReader(gzip.GzipFile(fileobj=file)) if file.peek(2)[:2] == b"\x1f\x8b" else file, raw


def _position(plain: io.BufferedReader, raw: IO[bytes]) -> tuple[int, int]:
    try:
        return raw.tell(), plain.tell()
    except OSError:  # of a pipe
        return 0, 0


def _decoded(plain: io.BufferedReader, encoding: str) -> IO[str]:
    """Bytes as characters. What is not in `encoding` becomes surrogates, so that its row can be named."""
    head = plain.peek(4)[:4]
    if head.startswith(_BINARY):
        raise DataError(_NO_TEXT)
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        raise DataError(f"encoding={encoding} is unknown: try utf-8, utf-16, cp1252 or latin-1") from None
    if head.startswith(codecs.BOM_UTF8):
        name = "utf-8-sig"
    elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and name in ("utf-8", "utf-16"):
        name = "utf-16"
    elif name == "utf-16":  # without a mark
        name = "utf-16-be" if head.startswith(b"\0") else "utf-16-le"
    return io.TextIOWrapper(plain, encoding=name, errors="surrogateescape", newline="")


def _bounded(text: IO[str], fallback: str | None = None) -> Iterator[str]:
    """The lines of a text; raises DataError at one that has no end in sight, before it fills the memory."""
    for number, line in enumerate(iter(lambda: text.readline(MAX_TEXT + 1), ""), 1):
        if len(line) > MAX_TEXT:
            raise DataError(f"line {number} holds more than {MAX_TEXT:,} characters: split it, or take it out")
        if fallback and re.search("[\udc80-\udcff]", line):
            line = line.encode("utf-8", "surrogateescape").decode(fallback, "surrogateescape")
        yield line


def _places(columns: Sequence[str], names: Sequence[str], what: str, advice: str) -> list[int]:
    for column in columns:
        if names.count(column) != 1:
            number = "two columns" if column in names else "no column"
            shown = ", ".join(map(repr, names)) or "nothing"
            raise DataError(f"{number} {column!r} in the {what}, which has {shown}: {advice}")
    return [names.index(column) for column in columns]


def _lines(lines: Iterator[str], columns: Sequence[str]) -> Iterator[tuple[int, Cells]]:
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r\n")
        parts = (line,) if len(columns) == 1 else tuple(line.split("\t"))
        expected = f"expected {' and '.join(columns)} with a tab between, got {len(parts)} part(s)"
        yield number, parts if len(parts) == len(columns) else expected


def _csv(lines: Iterator[str], columns: Sequence[str], separators: str, advice: str) -> Iterator[tuple[int, Cells]]:
    """separators: the one that gives the header most of the columns, then most names, is taken."""
    first, number = next(lines, ""), 1
    if declared := re.fullmatch(r'"?sep=(.)"?\s*', first, re.IGNORECASE):  # Excel's own, which it shows to nobody
        separators, first = declared[1], next(lines, "")
    while first and not first.strip():
        yield number, BLANK
        first, number = next(lines, ""), number + 1
    if "\0" in first:
        raise DataError(_NO_TEXT)

    def found(separator: str) -> tuple[int, int]:
        names = _row(csv.reader([first], delimiter=separator, skipinitialspace=True)) or []
        return sum(column in names for column in columns), len(names)

    separator = max(separators, key=found)
    reader = csv.reader(
        chain([first], lines), delimiter=separator, strict=True, skipinitialspace=f"{separator} " in first
    )
    try:
        header = _row(reader) or []
    except csv.Error as error:
        raise DataError(f"the header is not CSV ({error})") from None
    places = _places(columns, header, "header", f"{advice} (now {separator!r})")
    while True:
        number += 1
        try:
            row = _row(reader)
        except csv.Error as error:
            where = f"{error}, line {reader.line_num} of the file"
            yield number, f"not CSV ({where}): is a quote left open, or not doubled inside a text?"
            continue
        if row is None:
            return
        if not any(row):
            yield number, BLANK
        elif (names := [row[0].removeprefix("\ufeff"), *row[1:]]) == header:
            yield number, REPEATED
        elif len(header) > 1 and sorted(names) == sorted(header):
            raise DataError(f"row {number} is a second header with another order of columns: split the file there")
        elif len(row) < len(header) or any(row[len(header) :]):
            yield (
                number,
                (
                    f"{len(row)} columns, where the header has {len(header)}: put quotes around a text that holds the "
                    f"separator {separator!r} or a line end"
                ),
            )
        else:
            yield number, tuple(row[place] for place in places)


def _row(reader: Iterator[list[str]]) -> list[str] | None:
    """The next row, whose cells may be longer than csv allows by itself; None at the end."""
    before = csv.field_size_limit(MAX_TEXT)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(before)


def _json_lines(lines: Iterator[str], columns: Sequence[str]) -> Iterator[tuple[int, Cells]]:
    """An object a line with the columns as keys; for one column, a string will do."""
    for number, line in enumerate(lines, 1):
        try:
            yield number, _cells(json.loads(line), columns) if line.strip() else BLANK
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON ({error})"


def _json(text: IO[str], columns: Sequence[str]) -> Iterator[tuple[int, Cells]]:
    """One list of such objects; else JSON lines."""
    content = text.read(MAX_UNPACKED + 1)
    if len(content) > MAX_UNPACKED:
        raise DataError(f"holds more than {MAX_UNPACKED:,} characters: write JSON lines (.jsonl)")
    if not content.lstrip().startswith("["):
        return _json_lines(io.StringIO(content, newline=""), columns)
    try:
        return enumerate([_cells(item, columns) for item in json.loads(content)], 1)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})") from None


def _cells(found: Any, columns: Sequence[str]) -> Cells:
    if isinstance(found, str) and len(columns) == 1:
        return (found,)
    if not isinstance(found, dict):
        return f"expected an object with {' and '.join(columns)}"
    if not any(column in found for column in columns):
        return f"has no {columns[0]!r}, only {', '.join(map(repr, list(found)[:10])) or 'nothing'}"
    return tuple(found.get(column) for column in columns)


def _parquet(file: IO[bytes], columns: Sequence[str], advice: str) -> Iterator[tuple[int, Cells]]:
    import pyarrow.parquet  # here: slow to load, and only these files need it

    try:
        table = pyarrow.parquet.ParquetFile(file)
        _places(columns, table.schema_arrow.names, "file", advice)
        number = 0
        for batch in table.iter_batches(1000, columns=list(columns)):
            for cells in zip(*(batch.column(column).to_pylist() for column in columns), strict=True):
                number += 1
                yield number, cells
    except pyarrow.ArrowException as error:
        raise DataError(f"not a parquet file, or a damaged one ({str(error).splitlines()[0]}): get it again") from None


def _folder(folder: Path, columns: Sequence[str], encoding: str, fallback: str | None) -> Iterator[tuple[int, Cells]]:
    """A text a file, by name; with a second column the files in folders, whose names are the labels."""
    if len(columns) > 2:
        raise DataError("pairs of texts cannot be read from a folder: put them into a CSV file")
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    classes = {path.parts[0] for path in paths if len(path.parts) == 2}
    if len(columns) == 2:
        if len(parts := {path.parts[0] for path in paths if path.parts[0].lower() in _SPLITS}) > 1:
            raise DataError(
                f"has the folders {', '.join(sorted(parts))}: expected one for each class; set dataset.path to the "
                "one of training, dataset.test_path to the one of testing"
            )
        if not classes:
            raise DataError("expected a folder for each class, with a text a file; to read one file give its own name")
    for number, path in enumerate(paths, 1):
        if len(columns) == 2 and len(path.parts) != 2:
            yield number, Skip("not directly in the folder of a class")
            continue
        with _opened(str(folder / path)) as (plain, _):
            yield number, ("".join(_bounded(_decoded(plain, encoding), fallback)), path.parts[0])[: len(columns)]
