"""Texts in, predictions out: a table, CSV or JSON lines."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from gloss.data.files import (
    BLANK,
    ENDINGS,
    KINDS,
    SEPARATORS,
    Row,
    checked,
    kind_of,
    one_character,
    read_rows,
    refuse_unread,
)
from gloss.errors import ConfigError, DataError
from gloss.inference.predictor import Prediction, Run
from gloss.runtime.atomic import atomic_file
from gloss.runtime.terminal import escape_control_characters as escaped
from gloss.training.metrics import classification_metrics

log = logging.getLogger(__name__)

FORMATS = ("table", "csv", "jsonl")
_FORMAT_OF = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "table", "": "table"}
SHOWN = 80  # characters of a text in a table
_OUR_COLUMNS = ("number", "truth", "label", "probability", "probabilities", "neighbours", "weight", "row")


# -- reading -----------------------------------------------------------------------------------------------------------
def input_kind(name: str) -> str:
    """The kind of a file of texts by its name; raises ConfigError for an unknown ending."""
    if kind := kind_of(name):
        return kind
    endings = ", ".join(filter(None, ENDINGS))
    raise ConfigError(f"file={name} has an unknown ending: expected {endings} (.gz too), or input={'|'.join(KINDS)}")


def format_of(to: str | None) -> str:
    """csv, jsonl or table, by the ending of the file to write; raises ConfigError for any other ending."""
    ending = Path((to or "").lower().removesuffix(".gz")).suffix
    if ending not in _FORMAT_OF:
        expected = ", ".join(filter(None, _FORMAT_OF))
        raise ConfigError(f"to={to} is not allowed: expected a name ending in {expected} (each also .gz), or format=")
    return _FORMAT_OF[ending]


def rows_of_file(
    run: Run, name: str, kind: str, columns: Sequence[str], separator: str | None = None, encoding: str | None = None
) -> Iterator[Row]:
    """The rows of a file of texts; without separator or encoding, the values for the run's own texts are tried, too."""
    if kind == "folder" and len(columns) > 1:
        raise DataError(f"{name} is a folder: the run reads {' and '.join(columns)}, which takes a file")
    refuse_unread([kind], separator, encoding)
    own, separators = run.dataset, one_character(separator)
    if separators is None and own.separator is not None:
        separators = one_character(own.separator) + SEPARATORS
    fallback = None if encoding or own.encoding.lower() in ("utf-8", "utf8", "utf-8-sig") else own.encoding
    return read_rows(name, kind, columns, (), separators, encoding or "utf-8", fallback)


def row_of_texts(texts: Sequence[str], columns: Sequence[str]) -> Row:
    """The text, or pair, from the command line. Raises DataError where the run reads another number of texts."""
    if len(texts) != len(columns):
        expected = "text= alone" if len(columns) == 1 else "text= and pair="
        raise DataError(f"the run reads {' and '.join(columns)}: expected {expected}")
    return checked(1, texts, columns)


def rows_of_split(run: Run, name: str) -> list[Row]:
    """A split of the run's own data set with its labels, in the order of its file."""
    split = run.split(name)
    order = np.argsort(split.rows, kind="stable").tolist()
    return [Row(int(split.rows[i]), split.texts[i], (run.labels[split.labels[i]],)) for i in order]


# -- predicting and writing --------------------------------------------------------------------------------------------
def predict_rows(run: Run, rows: Iterable[Row], writer: Writer) -> int:
    """Predict and write the rows, name the bad ones, score known labels; return 1 if there were bad rows, else 0."""
    num_good = num_bad = num_blank = 0
    truths, scores = [], []

    def good() -> Iterator[Row]:
        nonlocal num_bad, num_blank
        for row in rows:
            if row.left_out == BLANK:
                num_blank += 1
            elif reason := row.problem or row.left_out:
                num_bad += 1
                tqdm.write(escaped(f"{row.place()}: {reason}"), file=sys.stderr)
            else:
                yield row

    is_hidden = True if sys.stdout.isatty() else None  # None: shown on a terminal, where no predictions scroll by
    total = len(rows) if isinstance(rows, list) else None
    with tqdm(total=total, unit=" texts", unit_scale=True, leave=False, disable=is_hidden) as bar:
        for row, prediction in run.stream(good(), writer.num_neighbours):
            writer.write(row, prediction)
            num_good += 1
            bar.update()
            if row.names:
                truths.append(run.labels.index(row.names[-1]))
                scores.append(list(prediction.probabilities.values()))
    if truths:
        found = classification_metrics(np.array(scores), np.array(truths))
        log.info(f"accuracy {found['accuracy']:.2f} %, macro-F1 {found['macro_f1']:.2f} %")
    if num_blank:
        log.info(f"blank rows skipped: {num_blank:,}")
    if run.num_truncated:
        log.info(f"{run.num_truncated:,} of {num_good:,} texts are truncated: the run reads {run.max_length} tokens")
    if num_bad or not num_good:
        log.info(f"{num_good:,} predicted, {num_bad:,} left out")
    return int(num_bad > 0)


@contextmanager
def output(to: str | None) -> Iterator[IO[str]]:
    """Standard output, a pipe or device, or a file (.gz too) that appears only when it is complete; links are kept."""
    if to is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        sys.stdout.flush()
    elif os.path.exists(to) and not os.path.isfile(to):  # to be written to, not replaced
        with open(to, "w", encoding="utf-8", newline="") as text:
            yield text
    else:
        with atomic_file(Path(os.path.realpath(to))) as binary:
            packer: Any = (
                gzip.GzipFile(mode="wb", fileobj=binary) if to.lower().endswith(".gz") else nullcontext(binary)
            )
            with packer as raw:
                text = io.TextIOWrapper(raw, encoding="utf-8", newline="")
                yield text
                text.detach()  # flushed, and not closed


class Writer:
    """Writes predictions as they come.

    Args:
        form: table, csv or jsonl.
        columns: names of the texts.
        num_neighbours: how many each prediction has.
        separator: of CSV.
    """

    def __init__(
        self,
        file: IO[str],
        form: str,
        labels: Sequence[str],
        columns: Sequence[str],
        num_neighbours: int = 0,
        separator: str = ",",
    ) -> None:
        self.file, self.form, self.num_neighbours = file, form, num_neighbours
        self.columns = [f"input {name}" if name in _OUR_COLUMNS else name for name in columns]
        self.csv = csv.writer(file, lineterminator="\n", delimiter=separator)
        self.width = max(len("label"), *(len(escaped(label)) for label in labels))
        self.has_header = False

    def write(self, row: Row, prediction: Prediction) -> None:
        truth = row.names[-1] if row.names else None
        found: dict[str, Any] = {"number": row.number, **dict(zip(self.columns, row.texts, strict=True))}
        found |= {} if truth is None else {"truth": truth}
        found |= {"label": prediction.label, "probability": prediction.probability}
        near = [
            {"label": n.label, "weight": n.weight, "row": n.row, **dict(zip(self.columns, n.texts, strict=True))}
            for n in prediction.neighbours
        ]
        if self.form == "jsonl":
            found |= {"probabilities": prediction.probabilities} | ({"neighbours": near} if self.num_neighbours else {})
            self.file.write(json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n")
        elif self.form == "csv":
            found |= {f"p({label})": p for label, p in prediction.probabilities.items()}
            found |= {f"neighbour {i} {key}": x for i, n in enumerate(near, 1) for key, x in n.items()}
            cells = [f"{x:.6g}" if isinstance(x, float) else x for x in found.values()]
            self.csv.writerows([cells] if self.has_header else [list(found), cells])
        else:
            self._write_table(row.number, row.texts, truth, prediction)
        self.has_header = True

    def _write_table(self, number: int, texts: Sequence[str], truth: str | None, prediction: Prediction) -> None:
        width, head, cell = self.width, "", ""
        if truth is not None:
            head, mark = f"{'truth':{width}}    ", "  " if truth == prediction.label else "≠ "
            cell = f"{escaped(truth):{width}}  {mark}"
        if not self.has_header:
            self.file.write(f"{'number':>7}  {head}{'label':{width}}  {'p':5}  {'second':{width}}  {'p':5}  text\n")
        best = sorted(prediction.probabilities.items(), key=lambda pair: -pair[1])[:2]
        answers = "  ".join(f"{escaped(label):{width}}  {p:.3f}" for label, p in best)
        self.file.write(f"{number:7}  {cell}{answers}  {_short(texts)}\n")
        for n in prediction.neighbours:
            self.file.write(f"{'':9}{n.weight:8.4f}  {escaped(n.label):{width}}  {_short(n.texts)}\n")


def _short(texts: Sequence[str]) -> str:
    line = " | ".join(" ".join(text[: 4 * SHOWN].split()) for text in texts)
    return escaped(line if len(line) <= SHOWN else line[: SHOWN - 1] + "…")
