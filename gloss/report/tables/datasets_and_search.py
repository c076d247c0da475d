"""The input of the experiments: Table 1, the texts, and Table 7, the hyperparameters searched and found."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gloss.config import TrainerConfig
from gloss.paper import published as paper
from gloss.paper.names import DATASETS, dataset_name, loss_name, model_name, paper_order
from gloss.records.reading import number, read_each, read_json
from gloss.records.study import Study
from gloss.report.table import MISSING, Entry, Table, entry, number_text

PARTS = ("train", "val", "test")
COLUMNS = ("docs", *PARTS, "classes")
SPLIT_KEYS = ("rows", "classes", "truncated")
BEST_SHARE = 5  # the best fifth of the trials
MAX_EPOCHS = TrainerConfig.max_epochs  # of the protocol
GRAPH_KEYS = {"scale", "homophily", "homophily_chance", "propagated_accuracy", "majority_accuracy"}
NAMES = {"lr": "learning rate", "lam": "λ", "gamma": "γ", "sigma": "σ", "temperature": "τ", "margin": "margin"}


def table1(measured: Sequence[Mapping[str, Any]]) -> Table:
    """Rows and classes of each split, measured from the texts, beside the paper's. measured: from `measure_texts`."""
    published = {row["dataset"]: row for row in paper.rows("table1")}
    by_name = {record["dataset"]: record for record in measured}
    rows, data, notes = [], [], []
    known = [d for d in DATASETS if d in by_name or d in published]
    for dataset in known + sorted(set(by_name) - set(known)):
        name, record, printed = dataset_name(dataset), by_name.get(dataset), published.get(dataset)
        cells = [MISSING] * 7
        if record:
            found = {key: [number(record, "splits", part, key) for part in PARTS] for key in SPLIT_KEYS}
            counts = [x or 0 for x in found["rows"]]
            duplicates = {pair: number(record, "duplicates", pair) for pair in ("train-val", "train-test", "val-test")}
            shares = [None if x is None else 100 * x for x in found["truncated"]]
            copies = " / ".join(number_text(n, digits=0) for n in duplicates.values())
            cells = [f"{x:.0f}" for x in (sum(counts), *counts)]
            cells += [_by_split(found["classes"], 0), _by_split(shares, 1), copies]
            data.append({"dataset": dataset, "docs": sum(counts), **dict(zip(PARTS, found["rows"], strict=True))})
            for key in SPLIT_KEYS[1:]:
                data[-1] |= {f"{key}_{part}": n for part, n in zip(PARTS, found[key], strict=True)}
            data[-1] |= {"tokenizer": record.get("tokenizer"), **duplicates}
            data[-1] |= {f"paper_{key}": int(printed[key]) for key in COLUMNS if printed}
            notes += [f"{name}: {record['note']}"] if record.get("note") else []
        rows.append([name, "ours", *cells])
        if printed:
            rows.append(["", "paper", *(printed[key] for key in COLUMNS), MISSING, MISSING])
    tokenizers = dict.fromkeys(model_name(str(record.get("tokenizer"))) for record in measured)
    notes = [
        "Classes: in train / validation / test, one number where they agree.",
        "Truncated: share in percent of texts with more than 128 tokens, in train / validation / test. Counted by the "
        f"tokenizer of {', '.join(tokenizers)}.",
        "Duplicates across splits: texts that occur in train and validation / train and test / validation and test.",
        *notes,
    ]
    columns = ["Data set", "", "Texts", "Train", "Validation", "Test", "Classes"]
    columns += ["Truncated (%)", "Duplicates across splits"]
    lacking = [f"dataset={d}: not measured" for d in published if d not in by_name]
    return Table("table1", "Table 1: the texts", columns, rows, data, notes, lacking, num_keys=2)


def _by_split(found: Sequence[float | None], digits: int) -> str:
    """ "52 / 51 / 52", or "8" where all splits have it."""
    shown = [number_text(x, digits=digits) for x in found]
    return shown[0] if len(set(shown)) == 1 else " / ".join(shown)


def table7(studies: Sequence[Study]) -> Table:
    """For each hyperparameter, the range searched, and the interval that the best fifth of the trials spans.

    Only finished studies count. Those on fewer texts or epochs, and further ones of a cell, have rows of their own.
    """
    finished = sorted((s for s in studies if s.is_finished), key=study_order)
    datasets = sorted({s.dataset for s in finished}, key=lambda d: paper_order(d))
    found: dict[tuple, dict[str, Entry]] = defaultdict(dict)
    published = {(r["mode"], r["loss"], r["hyperparameter"]): r for r in paper.rows("table7")}
    data = []
    cells = Counter((s.dataset, s.model, s.mode, s.loss, _kind(s)) for s in finished)
    for study in finished:
        done = [t for t in study.trials if t["state"] == "complete" and t["duplicate_of"] is None]
        done.sort(key=lambda t: -t["value"])
        best = done[: math.ceil(len(done) / BEST_SHARE)]
        label = f"{loss_name(study.loss, study.mode)}{_kind(study)}"
        if cells[study.dataset, study.model, study.mode, study.loss, _kind(study)] > 1:
            label += f" [{study.name.rpartition('-')[2]}]"
        for key, space in study.space.items():
            values = [t["params"][key] for t in best]
            low, high = (min(values), max(values)) if values else (None, None)
            printed = published.get((study.mode, study.loss, key), {})
            theirs = tuple(printed.get(column) or MISSING for column in ("searched", "best"))
            row = found[study.mode, study.model, label, key, _space(space), *theirs]
            if values:
                shown = f"{low:.3g}" if low == high else f"{low:.3g} – {high:.3g}"
                row[study.dataset] = entry(shown, f"({len(values)} of {len(done)})")
            about = ("dataset", "model", "mode", "loss", "variant", "search", "train_limit", "max_epochs")
            data.append({name: getattr(study, name) for name in about})
            data[-1] |= {"study": study.name, "key": key, "space": _space(space), "low": low, "high": high}
            data[-1] |= {"best_trials": len(values), "trials": len(done)}
            data[-1] |= {f"paper_{column}": printed.get(column) or None for column in ("searched", "best")}
    rows = [
        [mode, model_name(model), label, NAMES.get(key, key), *ranges, *(row.get(d, MISSING) for d in datasets)]
        for (mode, model, label, key, *ranges), row in found.items()
    ]
    notes = [
        "For each data set, the smallest and largest value among the best fifth of the finished trials, by validation "
        "score; in brackets how many of how many trials. Repetitions of a trial are not counted.",
        "Paper: the ranges that it searched, as its code has them, and the intervals that it recommends after its "
        "ablations (its tables 7 and 8). γ is the labeled fraction: it recommends hiding 30 to 50 %.",
    ]
    if len(cells) < len(finished):
        notes.append("[…]: the end of the study's name, where a cell was searched more than once.")
    unfinished = []
    for s in (s for s in studies if not s.is_finished):
        num_done = sum(t["state"] not in ("running", "waiting") for t in s.trials)
        unfinished.append(f"{s.name}: {num_done} of {s.num_trials} trials")
    ranges = ["Searched", "Paper: searched", "Paper: best"]
    columns = ["Mode", "Model", "Loss", "Hyperparameter", *ranges, *map(dataset_name, datasets)]
    title = "Table 7: hyperparameters searched and found"
    return Table("table7", title, columns, rows, data, notes, unfinished, num_keys=5)


def _kind(study: Study) -> str:
    """The differences of this search from the protocol's: " (released, 500 texts, 3 epochs)", or empty."""
    words = [study.variant] * (study.variant != "paper") + [f"search={study.search}"] * (study.search != "fair")
    words += [f"{study.train_limit} texts"] * (study.train_limit is not None)
    words += [f"{study.max_epochs} epochs"] * (study.max_epochs != MAX_EPOCHS)
    return f" ({', '.join(words)})" if words else ""


def study_order(study: Study) -> tuple:
    """A sort key: by mode, then the paper's order, a reduced search after the full one."""
    kind = (*paper_order(model=study.model, loss=study.loss), *paper_order(study.dataset))
    is_reduced = study.train_limit is not None or study.max_epochs != MAX_EPOCHS
    return study.mode, *kind, is_reduced, study.name


def _space(space: Any) -> str:
    if isinstance(space, tuple):
        low, high, is_log = space
        return f"{low:.3g} – {high:.3g}" + (", log" if is_log else "")
    return ", ".join(f"{x:.3g}" for x in space)


def read_measured(outputs: str | Path, kind: str) -> tuple[list[dict[str, Any]], list[str]]:
    """All records of a kind ("texts", "tfidf", "frozen"), by data set, and messages about files that cannot be used."""

    def read(path: Path) -> dict[str, Any]:
        record = read_json(path)
        if not isinstance(record, dict) or not isinstance(record.get("dataset"), str):
            raise ValueError('expected an object with "dataset"')
        if kind == "frozen":
            found = [number(row, key) for row in record.get("graph") or () for key in GRAPH_KEYS]
            if not isinstance(record.get("model"), str) or None in found:
                raise ValueError(f'expected "model", and in each row of "graph" {", ".join(sorted(GRAPH_KEYS))}')
        return record

    return read_each(outputs, f"baselines/{kind}-*.json", read)
