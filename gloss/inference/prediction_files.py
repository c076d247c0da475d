"""Texts in, predictions out: a table, CSV or JSON lines."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from tqdm import tqdm

from gloss.data.cells import fault, is_blank
from gloss.data.files import BLANK, ENDINGS, KINDS, kind_of, numbered_rows
from gloss.errors import ConfigError, DataError
from gloss.inference.predictor import Prediction, Run
from gloss.runtime.atomic import atomic_file
from gloss.runtime.terminal import escape_control_characters
from gloss.training.metrics import classification_metrics

log = logging.getLogger(__name__)

FORMATS = ("table", "csv", "jsonl")
_FORMAT_OF = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "table", "": "table"}
SHOWN = 80  # characters of a text in a table
_OUR_COLUMNS = ("number", "truth", "label", "probability", "probabilities", "neighbours", "weight", "row")


@dataclass(frozen=True)
class Row:
    """A text, or a pair, as it was read."""

    number: int  # of its row, as `gloss.data.files` counts
    texts: tuple[str, ...]
    truth: str | None = None  # its label, where it is known


@dataclass(frozen=True)
class BadRow:
    """A line that cannot be predicted, and why."""

    number: int
    reason: str
    unit: str = "line"


# -- reading -----------------------------------------------------------------------------------------------------------


def input_kind(name: str) -> str:
    """The kind of a file of texts by its name; raises ConfigError where that says nothing."""
    if kind := kind_of(name):
        return kind
    raise ConfigError(
        f"file={name} has an unknown ending: expected {', '.join(filter(None, ENDINGS))} (each also .gz), none for "
        f"lines, or input={'|'.join(KINDS)}"
    )


def format_of(to: str | None) -> str:
    """csv, jsonl or table, by the ending of the file to write; raises ConfigError where it is another."""
    ending = Path((to or "").lower().removesuffix(".gz")).suffix
    if ending not in _FORMAT_OF:
        expected = ", ".join(filter(None, _FORMAT_OF))
        raise ConfigError(f"to={to} is not allowed: expected a name ending in {expected} (each also .gz), or format=")
    return _FORMAT_OF[ending]


def read_rows(
    name: str,
    kind: str,
    columns: Sequence[str],
    separator: str | None = None,
    encoding: str = "utf-8",
    fallback: str | None = None,
) -> Iterator[Row | BadRow]:
    """The texts of a file, one by one, with a progress bar; arguments as in `files.numbered_rows`.

    A row that holds no text comes as BadRow; the next ones are read all the same, and blank ones counted. Raises
    DataError where the header does not fit.
    """
    if kind == "folder" and len(columns) > 1:
        raise DataError(f"{name} is a folder: the run reads {' and '.join(columns)}, which takes a file")
    num_blank, size = 0, os.path.getsize(name) if os.path.isfile(name) else None
    with _bar(size, "B") as bar:
        progress = lambda num_read, _: bar.update(num_read - bar.n if size is not None else 0)  # noqa: E731
        advice = "set columns=… or separator=…"
        for number, cells in numbered_rows(name, kind, columns, separator, encoding, fallback, advice, progress):
            reason = cells if isinstance(cells, str) else _reason(cells, columns)
            if reason == BLANK:
                num_blank += 1
            elif reason or isinstance(cells, str):
                yield BadRow(number, str(reason), KINDS[kind])
            else:
                yield Row(number, cells)
    if num_blank:
        log.info(f"{num_blank:,} blank {KINDS[kind]}{'s' * (num_blank > 1)} skipped")


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
            yield Row(int(split.rows[i]), split.texts[i], run.labels[split.labels[i]])
            bar.update()


def _bar(total: int | None, unit: str) -> tqdm:
    """Shown on a terminal only, and not where the predictions themselves scroll by."""
    return tqdm(total=total, unit=unit, unit_scale=True, leave=False, disable=None if not sys.stdout.isatty() else True)


def _reason(texts: Sequence[Any], columns: Sequence[str]) -> str | None:
    """Why these cannot be predicted; None where they can."""
    for column, one in zip(columns, texts, strict=True):
        if reason := "is empty" if is_blank(one) else fault(one):
            return f"{column} {reason}"
    return None


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
                tqdm.write(f"{row.unit} {row.number}: {escape_control_characters(row.reason)}", file=sys.stderr)

    num_good = 0
    for num_good, (row, prediction) in enumerate(run.stream(good(), writer.num_neighbours), 1):  # noqa: B007
        writer.write(row, prediction)
        if row.truth is not None:
            truths.append(run.labels.index(row.truth))
            scores.append(list(prediction.probabilities.values()))
    if truths:
        found = classification_metrics(np.array(scores), np.array(truths))
        log.info(f"accuracy {found['accuracy']:.2f} %, macro-F1 {found['macro_f1']:.2f} %")
    if run.num_truncated:
        log.info(f"{run.num_truncated:,} of {num_good:,} texts are truncated: the run reads {run.max_length} tokens")
    if num_bad:
        log.info(f"{num_good:,} predicted, {num_bad:,} left out")
    return int(num_bad > 0)


@contextmanager
def output(to: str | None) -> Iterator[IO[str]]:
    """Standard output, a pipe or device, or a file (.gz too) that is there only when all is written; links stay."""
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
    with atomic_file(Path(os.path.realpath(to))) as binary, contextlib.ExitStack() as stack:
        if to.lower().endswith(".gz"):
            packed = gzip.GzipFile(fileobj=binary, mode="wb", filename="", mtime=0)
            binary = stack.enter_context(cast(IO[bytes], packed))
        text = io.TextIOWrapper(binary, encoding="utf-8", newline="")
        yield text
        text.detach().flush()


class Writer:
    """Writes predictions as they come.

    Args:
        form: table, csv or jsonl.
        columns: names of the texts.
        neighbours: how many each prediction has.
        separator: of CSV.
    """

    def __init__(
        self,
        file: IO[str],
        form: str,
        labels: Sequence[str],
        columns: Sequence[str],
        neighbours: int = 0,
        separator: str = ",",
    ) -> None:
        self.file, self.form, self.num_neighbours = file, form, neighbours
        self.columns = [f"input {name}" if name in _OUR_COLUMNS else name for name in columns]
        self.csv = csv.writer(file, lineterminator="\n", delimiter=separator)
        self.width = max(len("label"), *(len(escape_control_characters(label)) for label in labels))
        self.has_header = False

    def write(self, row: Row, prediction: Prediction) -> None:
        found = {"number": row.number, **dict(zip(self.columns, row.texts, strict=True))}
        found |= {"truth": row.truth} if row.truth is not None else {}
        found |= {"label": prediction.label, "probability": prediction.probability}
        near = [
            {"label": n.label, "weight": n.weight, "row": n.row, **dict(zip(self.columns, n.texts, strict=True))}
            for n in prediction.neighbours
        ]
        if self.form == "jsonl":
            found |= {"probabilities": prediction.probabilities} | ({"neighbours": near} if self.num_neighbours else {})
            self.file.write(json.dumps(found, ensure_ascii=self.file.isatty(), allow_nan=False) + "\n")
        elif self.form == "csv":
            found |= {f"p({label})": p for label, p in prediction.probabilities.items()}
            found |= {f"neighbour {i} {key}": x for i, n in enumerate(near, 1) for key, x in n.items()}
            cells: list[Any] = [f"{x:.6g}" if isinstance(x, float) else x for x in found.values()]
            for line in [cells] if self.has_header else [list(found), cells]:
                self.csv.writerow(map(escape_control_characters, line) if self.file.isatty() else line)
        else:
            self._table(row, prediction)
        self.has_header = True

    def _table(self, row: Row, prediction: Prediction) -> None:
        width, head, truth = self.width, "", ""
        if row.truth is not None:
            head, mark = f"{'truth':{width}}    ", "  " if row.truth == prediction.label else "≠ "
            truth = f"{escape_control_characters(row.truth):{width}}  {mark}"
        if not self.has_header:
            self.file.write(f"{'number':>7}  {head}{'label':{width}}  {'p':5}  {'second':{width}}  {'p':5}  text\n")
        best = sorted(prediction.probabilities.items(), key=lambda pair: -pair[1])[:2]
        answers = "  ".join(f"{escape_control_characters(label):{width}}  {p:.3f}" for label, p in best)
        self.file.write(f"{row.number:7}  {truth}{answers}  {_short(row.texts)}\n")
        for n in prediction.neighbours:
            self.file.write(f"{'':9}{n.weight:8.4f}  {escape_control_characters(n.label):{width}}  {_short(n.texts)}\n")


def _short(texts: Sequence[str]) -> str:
    line = " | ".join(" ".join(text[: 4 * SHOWN].split()) for text in texts)
    return escape_control_characters(line if len(line) <= SHOWN else line[: SHOWN - 1] + "…")
