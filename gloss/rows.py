"""Texts in, predictions out: lines, CSV and JSON lines are read one by one; a table, CSV or JSON lines are written."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from gloss.atomic import atomic_file
from gloss.evaluate import classification_metrics
from gloss.files import MAX_TEXT, DataError
from gloss.predict import Prediction, Run
from gloss.terminal import printable

KINDS = ("txt", "csv", "jsonl")
FORMATS = ("table", "csv", "jsonl")
SHOWN = 80  # characters of a text in a table
_OUR_COLUMNS = ("number", "truth", "label", "probability", "probabilities", "neighbours", "weight", "row")


@dataclass(frozen=True)
class Row:
    """A text, or a pair, as it was read."""

    number: int  # of its line from 1; in a CSV file of its row, the header being row 1
    texts: tuple[str, ...]
    truth: str | None = None  # its label, where it is known


@dataclass(frozen=True)
class BadRow:
    """A line that cannot be predicted, and why."""

    number: int
    reason: str
    unit: str = "line"


# -- reading -----------------------------------------------------------------------------------------------------------


def format_of(to: str | None) -> str:
    """csv or jsonl, by the ending of the file to write; table where that says nothing."""
    return {"txt": "table"}.get(kind := kind_of(to or ""), kind)


def kind_of(name: str) -> str:
    """txt, csv or jsonl, by the ending of a file's name (.gz aside); txt where that says nothing."""
    ending = Path(name.removesuffix(".gz")).suffix.lower()
    return {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}.get(ending, "txt")


@contextmanager
def opened(name: str) -> Iterator[tuple[IO[str], IO[bytes]]]:
    """A file of texts (.gz too; "-": standard input) as characters, and as the bytes by which progress is measured.

    Bytes that are not UTF-8 become surrogates, so that the line they stand in can be told, and the others read.
    """
    try:
        raw = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115
    except OSError as error:
        raise DataError(f"file={name} cannot be read ({error.strerror})") from None
    with raw:
        plain = gzip.open(raw) if name.endswith(".gz") else raw
        yield io.TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogateescape", newline=""), raw


def read_rows(
    text: IO[str], raw: IO[bytes], name: str, kind: str, columns: Sequence[str], separator: str | None = None
) -> Iterator[Row | BadRow]:
    """The texts of a file, one by one, with a progress bar; text, raw: what `opened(name)` gave.

    txt: a text a line (a pair: two, with a tab between). csv: with a header that names the columns. jsonl: an object a
    line with the columns as keys, or a string. A row that holds no text comes as BadRow; the next ones are read all
    the same. Raises DataError where the header does not fit.
    """
    separator = separator or ("\t" if ".tsv" in name.lower() else ",")
    size = os.fstat(raw.fileno()).st_size if name != "-" else None
    number, unit = 0, "row" if kind == "csv" else "line"
    with _bar(size, "B") as bar:
        try:
            for number, texts in {"txt": _lines, "csv": _csv, "jsonl": _json}[kind](text, columns, separator):
                reason = texts if isinstance(texts, str) else _reason(texts, columns)
                yield BadRow(number, reason, unit) if reason else Row(number, texts)
                bar.update(raw.tell() - bar.n if size else 0)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            yield BadRow(number + 1, f"the file is damaged or cut off from here on ({error})", unit)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None


def one_row(texts: Sequence[str], columns: Sequence[str]) -> Iterator[Row | BadRow]:
    """The text, or pair, that stands on the command line. Raises DataError where the run reads another number."""
    if len(texts) != len(columns):
        expected = "text= alone" if len(columns) == 1 else "text= and pair="
        raise DataError(f"the run reads {' and '.join(columns)}: expected {expected}")
    reason = _reason(texts, columns)
    yield BadRow(1, reason) if reason else Row(1, tuple(texts))


def split_rows(run: Run, name: str) -> Iterator[Row]:
    """A split of the run's own data set, in the order of its file."""
    split = run.split(name)
    with _bar(len(split), " texts") as bar:
        for i in np.argsort(split.rows, kind="stable").tolist():
            yield Row(int(split.rows[i]) + 2, split.texts[i], run.labels[split.labels[i]])
            bar.update()


def _bar(total: int | None, unit: str) -> tqdm:
    """Shown on a terminal only, and not where the predictions themselves scroll by."""
    return tqdm(total=total, unit=unit, unit_scale=True, leave=False, disable=None if not sys.stdout.isatty() else True)


def _reason(texts: Sequence[Any], columns: Sequence[str]) -> str | None:
    """Why these cannot be predicted; None where they can."""
    for column, one in zip(columns, texts, strict=True):
        if not isinstance(one, str):
            return f"{column} is no text but {type(one).__name__}"
        if not one.strip():
            return f"{column} is empty"
        if "\0" in one:
            return f"{column} holds binary data"
        try:
            one.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"{column} is not UTF-8 (byte 0x{ord(one[error.start]) & 0xFF:02x})"
    return None


def _bounded(text: IO[str]) -> Iterator[str]:
    """The lines of a text; raises DataError at one that has no end in sight, before it fills the memory."""
    for number, line in enumerate(iter(lambda: text.readline(MAX_TEXT + 1), ""), 1):
        if len(line) > MAX_TEXT:
            raise DataError(f"line {number} holds more than {MAX_TEXT:,} characters: split it, or take it out")
        yield line


def _lines(text: IO[str], columns: Sequence[str], separator: str) -> Iterator[tuple[int, tuple[str, ...] | str]]:
    for number, line in enumerate(_bounded(text), 1):
        line = line.rstrip("\r\n")
        parts = (line,) if len(columns) == 1 else tuple(line.split("\t"))
        expected = f"expected {' and '.join(columns)} with a tab between, got {len(parts)} part(s)"
        yield number, parts if len(parts) == len(columns) else expected


def _json(text: IO[str], columns: Sequence[str], separator: str) -> Iterator[tuple[int, tuple[str, ...] | str]]:
    for number, line in enumerate(_bounded(text), 1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, "empty line" if not line.strip() else f"not JSON ({error})"
            continue
        if isinstance(found, str) and len(columns) == 1:
            yield number, (found,)
        elif isinstance(found, dict) and (missing := [column for column in columns if column not in found]):
            yield number, f"has no {missing[0]!r}: set columns=…"
        elif isinstance(found, dict):
            yield number, tuple(found[column] for column in columns)
        else:
            yield number, f"expected an object with {' and '.join(columns)}"


def _csv(text: IO[str], columns: Sequence[str], separator: str) -> Iterator[tuple[int, tuple[str, ...] | str]]:
    if len(separator) != 1:
        raise DataError(f"separator={separator} is not allowed: expected one character, or tab")
    reader = csv.reader(_bounded(text), delimiter=separator, strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise DataError(f"the header is not CSV ({error})") from None
    for column in columns:
        if header.count(column) != 1:
            what = "two columns" if column in header else "no column"
            names = ", ".join(map(repr, header)) or "nothing"
            raise DataError(f"{what} {column!r} in the header, which has {names}: set columns=… or separator=…")
    places = [header.index(column) for column in columns]
    number = 1
    while True:
        number += 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, f"not CSV ({error}; line {reader.line_num} of the file)"
            continue
        if len(row) == len(header):
            yield number, tuple(row[place] for place in places)
        else:
            yield number, f"{len(row)} columns, where the header has {len(header)}" if row else "empty line"


# -- predicting and writing ------------------------------------------------------------------------------------------


def predict_rows(run: Run, rows: Iterable[Row | BadRow], writer: Writer) -> int:
    """Predict and write the rows, and name the bad ones; 0, or 1 where there were any. Known labels are scored."""
    num_bad, truths, scores = 0, [], []

    def good() -> Iterator[tuple[Row, tuple[str, ...]]]:
        nonlocal num_bad
        for row in rows:
            if isinstance(row, Row):
                yield row, row.texts
            else:
                num_bad += 1
                tqdm.write(f"{row.unit} {row.number}: {printable(row.reason)}", file=sys.stderr)

    num_good = 0
    for num_good, (row, prediction) in enumerate(run.stream(good(), writer.num_neighbours), 1):  # noqa: B007
        writer.write(row, prediction)
        if row.truth is not None:
            truths.append(run.labels.index(row.truth))
            scores.append(list(prediction.probabilities.values()))
    if truths:
        found = classification_metrics(np.array(scores), np.array(truths))
        print(f"accuracy {found['accuracy']:.2f} %, macro-F1 {found['macro_f1']:.2f} %", file=sys.stderr)
    if num_bad:
        print(f"{num_good:,} predicted, {num_bad:,} left out", file=sys.stderr)
    return int(num_bad > 0)


@contextmanager
def output(to: str | None) -> Iterator[IO[str]]:
    """Standard output, a pipe or device, or a file that is there only when all is written; a link to it stays."""
    if to is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        sys.stdout.flush()
        return
    if os.path.exists(to) and not os.path.isfile(to):  # to be written to, not replaced
        with open(to, "w", encoding="utf-8", newline="") as text:
            yield text
        return
    with atomic_file(Path(os.path.realpath(to))) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8", newline="")
        yield text
        text.detach().flush()


class Writer:
    """Writes predictions as they come."""

    def __init__(
        self, file: IO[str], form: str, labels: Sequence[str], columns: Sequence[str], neighbours: int = 0
    ) -> None:
        """form: table, csv or jsonl; columns: names of the texts; neighbours: how many each prediction has."""
        self.file, self.form, self.num_neighbours = file, form, neighbours
        self.columns = [f"input {name}" if name in _OUR_COLUMNS else name for name in columns]
        self.csv = csv.writer(file, lineterminator="\n")
        self.width = max(len("label"), *(len(printable(label)) for label in labels))
        self.has_header = False

    def write(self, row: Row, prediction: Prediction) -> None:
        if self.form == "jsonl":
            found = self._object(row, prediction)
            self.file.write(json.dumps(found, ensure_ascii=self.file.isatty(), allow_nan=False) + "\n")
        elif self.form == "csv":
            cells = self._cells(row, prediction)
            if not self.has_header:
                self.csv.writerow(map(printable, cells) if self.file.isatty() else cells)
            self.csv.writerow(map(printable, cells.values()) if self.file.isatty() else cells.values())
        else:
            self._table(row, prediction)
        self.has_header = True

    def _object(self, row: Row, prediction: Prediction) -> dict[str, Any]:
        found: dict[str, Any] = {"number": row.number} | dict(zip(self.columns, row.texts, strict=True))
        if row.truth is not None:
            found["truth"] = row.truth
        found |= {"label": prediction.label, "probability": prediction.probability}
        found["probabilities"] = prediction.probabilities
        if self.num_neighbours:
            found["neighbours"] = [
                {"label": n.label, "weight": n.weight, "row": n.row + 2} | dict(zip(self.columns, n.texts, strict=True))
                for n in prediction.neighbours
            ]
        return found

    def _cells(self, row: Row, prediction: Prediction) -> dict[str, Any]:
        cells: dict[str, Any] = {"number": row.number} | dict(zip(self.columns, row.texts, strict=True))
        if row.truth is not None:
            cells["truth"] = row.truth
        cells |= {"label": prediction.label, "probability": f"{prediction.probability:.6g}"}
        cells |= {f"p({label})": f"{p:.6g}" for label, p in prediction.probabilities.items()}
        for i, n in enumerate(prediction.neighbours, 1):
            near = {"label": n.label, "weight": f"{n.weight:.6g}", "row": n.row + 2}
            near |= dict(zip(self.columns, n.texts, strict=True))
            cells |= {f"neighbour {i} {key}": value for key, value in near.items()}
        return cells

    def _table(self, row: Row, prediction: Prediction) -> None:
        width, label = self.width, printable(prediction.label)
        second = sorted(prediction.probabilities.items(), key=lambda pair: -pair[1])[1]
        truth = "" if row.truth is None else f"{printable(row.truth):{width}}  "
        mark = "" if row.truth is None else "  " if row.truth == prediction.label else "≠ "
        if not self.has_header:
            head = "" if row.truth is None else f"{'truth':{width}}    "
            self.file.write(f"{'number':>7}  {head}{'label':{width}}  {'p':5}  {'second':{width}}  {'p':5}  text\n")
        self.file.write(
            f"{row.number:7}  {truth}{mark}{label:{width}}  {prediction.probability:.3f}  "
            f"{printable(second[0]):{width}}  {second[1]:.3f}  {_short(row.texts)}\n"
        )
        for n in prediction.neighbours:
            self.file.write(f"{'':9}{n.weight:8.4f}  {printable(n.label):{width}}  {_short(n.texts)}\n")


def _short(texts: Sequence[str]) -> str:
    line = " | ".join(" ".join(text[: 4 * SHOWN].split()) for text in texts)
    return printable(line if len(line) <= SHOWN else line[: SHOWN - 1] + "…")
