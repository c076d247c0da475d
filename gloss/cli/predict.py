"""Classify texts with a trained run: one text, a file of texts, or a split of the run's own data set.

  python scripts/predict.py run=best dataset=mr text="An unforgettable film."
  python scripts/predict.py run="dataset=mr loss=gloss_sqrt mode=integrated seed=1" file=texts.csv to=predictions.csv
  python scripts/predict.py run=outputs/runs/…/seed=1 split=test format=jsonl

Files of texts: .txt (one a line; pairs with a tab between), .csv, .tsv, .jsonl, .json, each also .gz; .parquet; a
folder of texts; - is standard input. Lines that cannot be predicted are named, the others are predicted; the exit
status is then 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from gloss.cli.command import Device, Paths, Selection, names, refuse
from gloss.config import at_least
from gloss.errors import ConfigError

READ_WITH = {"text": ("pair",), "file": ("input", "separator", "encoding"), "split": ()}  # keys of a source of texts


@dataclass
class Predict(Selection):
    text: str | None = None  # one text
    pair: str | None = None  # the second text of a pair
    file: str | None = None  # texts
    split: str | None = None  # train, val or test of the run's own data set
    neighbours: int = at_least(0, 0)  # number of nearest training texts of each, with labels and edge weights
    format: str | None = None  # table, csv or jsonl; null: by the ending of to, else table
    to: str | None = None  # file to write, .gz too; null: the terminal
    input: str | None = None  # txt, csv, jsonl, json or parquet, where the file's name does not say
    columns: list[str] = names()  # of the texts; []: the run's own
    separator: str | None = None  # of a CSV file; null: found from its header
    encoding: str | None = None  # null: utf-8, and the run's own where that fails
    trainer: Device = field(default_factory=Device)
    paths: Paths = field(default_factory=Paths)


def task(cfg: Predict) -> int:
    sources = [key for key in ("text", "file", "split") if getattr(cfg, key) is not None]
    if len(sources) != 1:
        raise ConfigError(f"expected one of text=, file= and split=, got {' and '.join(sources) or 'none'}")

    refuse(cfg, [key for key in chain(*READ_WITH.values()) if key not in READ_WITH[sources[0]]], f"with {sources[0]}=")

    from gloss.data.files import KINDS
    from gloss.inference import prediction_files as files  # here: torch is loaded only once the command line is right
    from gloss.inference.predictor import load_run

    form = cfg.format or files.format_of(cfg.to)
    kind = cfg.input or files.input_kind(cfg.file or "")
    for key, value, known in (("format", form, files.FORMATS), ("input", kind, KINDS)):
        if value not in known:
            raise ConfigError(f"{key}={value} is not allowed: expected one of {', '.join(known)}")
    run = load_run(cfg.run, cfg.paths.outputs, cfg.trainer.device, cfg.paths.data or None, **cfg.selected())
    columns = cfg.columns or run.columns
    if len(columns) != len(run.columns):
        raise ConfigError(f"columns={','.join(columns)} is not allowed: the run reads {' and '.join(run.columns)}")
    rows: Any
    if cfg.file:
        rows = files.rows_of_file(run, cfg.file, kind, columns, cfg.separator, cfg.encoding)
    elif cfg.split is not None:
        rows = files.rows_of_split(run, cfg.split)
    else:
        rows = [files.row_of_texts([text for text in (cfg.text, cfg.pair) if text is not None], columns)]
    tab = "\t" if ".tsv" in (cfg.to or "").lower() else ","
    with files.output(cfg.to) as file:
        return files.predict_rows(run, rows, files.Writer(file, form, run.labels, columns, cfg.neighbours, tab))
