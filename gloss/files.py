"""CSV files as strings, with errors that say where."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

MAX_TEXT = 2**20  # characters; the longest of the paper's texts has 160,616, and csv's own limit is 131,072
MAX_UNPACKED = 2**28  # bytes, which take several times that in memory; the largest of the paper's files has 20 MB
csv.field_size_limit(MAX_TEXT)
NO_CSV = "not a CSV file but binary data: save a spreadsheet as CSV; for UTF-16 set dataset.encoding=utf-16"


class DataError(ValueError):
    """Data that cannot be used; its text names the file, what is wrong and what to do."""


def read_table(path: Path, columns: Sequence[str], separator: str = ",", encoding: str = "utf-8") -> list[list[str]]:
    """The named columns of a CSV file (.gz too): a list of rows, every value the string that stands in the file.

    Raises DataError with file, row (as a spreadsheet counts: the header is row 1) and column.
    """
    if len(separator) != 1:
        raise DataError(f"dataset.separator={separator} is not allowed: expected one character, or tab")
    header, *rows = _parse(_decoded(path, encoding), path, separator) or [[]]
    places = []
    for column in columns:
        if header.count(column) != 1:
            what = "two columns" if column in header else "no column"
            raise DataError(
                f"{path}: {what} {column!r} in the header, which has {', '.join(map(repr, header)) or 'nothing'}: set "
                f"dataset.text, dataset.label or dataset.separator (now {separator!r})"
            )
        places.append(header.index(column))
    if not rows:
        raise DataError(f"{path}: a header, but no row of texts")
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise DataError(
                f"{path}: {name_row(number)}: {len(row)} columns, where the header has {len(header)}: put quotes "
                f"around a text that holds the separator {separator!r} or a line end, and take empty lines out"
            )
    table = [[row[place] for place in places] for row in rows]
    check_cells(table, columns, str(path))
    return table


def check_cells(rows: Sequence[Sequence[Any]], columns: Sequence[str], where: str) -> None:
    """Raise DataError at the first cell that is not a text or is blank; `where` names the table in the message."""
    for number, row in enumerate(rows):
        for column, value in zip(columns, row, strict=True):
            if not isinstance(value, str | None):
                raise DataError(f"{where}: column {column!r} holds {type(value).__name__}, not text: set dataset.text")
            if value is None or not value.strip():
                raise DataError(f"{where}: {name_row(number)}: column {column!r} is empty: fill it or take the row out")


def _decoded(path: Path, encoding: str) -> str:
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(content)) as file:  # a few MB can unpack to more than the memory
                parts = list(islice(iter(lambda: file.read(2**20), b""), MAX_UNPACKED // 2**20))
                if file.read(1):
                    most = MAX_UNPACKED // 2**20
                    raise DataError(f"{path}: unpacks to more than {most} MB: unpack it, if that is right")
            content = b"".join(parts)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: a damaged or cut-off gzip file ({error}): get it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        # Excel puts a mark before UTF-8, which utf-8-sig takes off.
        text = content.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except LookupError:
        raise DataError(f"dataset.encoding={encoding} is unknown: try utf-8, utf-16, cp1252 or latin-1") from None
    except UnicodeDecodeError as error:
        if b"\0" in content:
            raise DataError(f"{path}: {NO_CSV}") from None
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line} is not {encoding} (byte 0x{content[error.start]:02x}): save the file as UTF-8, or "
            "set dataset.encoding (on Windows often cp1252)"
        ) from None
    if "\0" in text:
        raise DataError(f"{path}: {NO_CSV}")
    return text


def _parse(text: str, path: Path, separator: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        line = f"{path}: line {reader.line_num}"
        raise DataError(f"{line} is not CSV ({error}): is a quote left open, or not doubled inside a text?") from None
    while rows and not rows[-1]:  # empty lines at the end
        rows.pop()
    return rows


def name_row(row: int) -> str:
    """A row as a spreadsheet numbers it."""
    return f"row {row + 2} counting the header"
