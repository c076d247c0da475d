"""Classify texts with a trained run.

  python scripts/predict.py run=best dataset=mr text="An unforgettable film."
  python scripts/predict.py run="dataset=mr loss=gloss_sqrt mode=integrated seed=1" file=texts.csv to=predictions.csv
  python scripts/predict.py run=outputs/runs/…/seed=1 split=test format=jsonl

run=        a run's folder; some of dataset= model= loss= mode= variant= config_hash=; or best, by its validation score
text=       one text (pair= for the second text of a pair), or
file=       texts: .txt (one a line; pairs with a tab between), .csv, .tsv, .jsonl, .json, each also .gz; .parquet; a
            folder of texts; - is standard input, or
split=      train, val or test of the run's own data set
neighbours= so many nearest training texts each, with their labels and the weights of the graph (default 0)
format=     table, csv or jsonl (default: by the ending of to=, else table);  to= file to write, .gz too (default: the
            terminal)
input=      txt, csv, jsonl, json or parquet, where the file's name does not say;  columns= of the texts
separator=  of a CSV file (default: found from its header);  encoding= (default: utf-8, and the run's own where that
            fails)
trainer.device= auto, cpu, cuda, cuda:N, mps;  paths.outputs=, paths.data= as in training

Lines that cannot be predicted are named, the others are predicted; the exit status is then 1.
"""

import contextlib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed

from gloss.cli.arguments import choice, main, whole_number
from gloss.errors import ConfigError
from gloss.records.reading import SELECTION

KEYS = (
    "run", *SELECTION, "text", "pair", "file", "split", "neighbours", "format", "to", "input", "columns", "separator",
    "encoding", "trainer.device", "paths.outputs", "paths.data",
)  # fmt: skip


def task(given: dict[str, str]) -> int:
    sources = [key for key in ("text", "file", "split") if key in given]
    if len(sources) != 1:
        raise ConfigError(f"expected one of text=, file= and split=, got {' and '.join(sources) or 'none'}")

    from gloss import load_run  # here, so that a mistake on the command line is told before torch is loaded
    from gloss.data.files import KINDS, checked_separator
    from gloss.inference import prediction_files as rows

    name, to = given.get("file", ""), given.get("to")
    form = choice("format", given.get("format") or rows.format_of(to), rows.FORMATS)
    kind = choice("input", given.get("input") or rows.input_kind(name), list(KINDS))
    separator = checked_separator("separator", given.get("separator"))
    neighbours = whole_number("neighbours", given.get("neighbours", "0"))
    run = load_run(
        given.get("run", ""),
        given.get("paths.outputs", "outputs"),
        given.get("trainer.device", "auto"),
        given.get("paths.data") or os.environ.get("GLOSS_DATA_DIR"),
        **{key: given[key] for key in SELECTION if key in given},
    )
    columns = given["columns"].split(",") if "columns" in given else run.columns
    if len(columns) != len(run.columns):
        raise ConfigError(f"columns={','.join(columns)} is not allowed: the run reads {' and '.join(run.columns)}")
    fallback = None if "encoding" in given else run.fallback_encoding
    with contextlib.ExitStack() as stack:
        if name:
            encoding = given.get("encoding", "utf-8")
            found = rows.read_rows(name, kind, columns, separator or run.separators, encoding, fallback)
        elif "split" in given:
            found = rows.split_rows(run, given["split"])
        else:
            found = rows.one_row([given[key] for key in ("text", "pair") if key in given], columns)
        file, tab = stack.enter_context(rows.output(to)), "\t" if ".tsv" in (to or "").lower() else ","
        writer = rows.Writer(file, form, run.labels, columns, neighbours, tab)
        return rows.predict_rows(run, found, writer)


if __name__ == "__main__":
    sys.exit(main(task, KEYS, __doc__))
