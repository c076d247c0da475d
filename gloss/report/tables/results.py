"""Tables 2, 3, 4 and 6: ours above the paper's, each number with its verdict."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from gloss.config import STANDALONE
from gloss.paper import published as paper
from gloss.paper.names import dataset_name, model_name
from gloss.report.protocol import RELEASED, is_comparable, protocol_deviations
from gloss.report.seed_groups import CELL, Group, blocks, mixed, setting, timed, unlike
from gloss.report.statistics import mean, std, verdict, welch_half
from gloss.report.table import Entry, Part, Table, entry, number_text, rank


@dataclass(frozen=True)
class Metric:
    """A number of every record: its name in CSV files and in the paper's tables, its place in result.json, its look."""

    name: str
    heading: str
    path: tuple[str | tuple[str, ...], ...]
    digits: int = 2
    higher_is_better: bool = True

    @property
    def is_quality(self) -> bool:
        return self.path[0] == "metrics"


ACCURACY = Metric("accuracy", "Accuracy %", ("metrics", "test", "accuracy"))
MACRO_F1 = Metric("macro_f1", "Macro-F1 %", ("metrics", "test", "macro_f1"))
SILHOUETTE = Metric("macro_silhouette", "Silhouette", ("metrics", "test", "macro_silhouette"), 4)
EPOCH_SECONDS = Metric("seconds_per_epoch", "s / epoch", ("seconds", "per_epoch"), 2, False)
TABLE3 = (
    *(ACCURACY, MACRO_F1, SILHOUETTE),
    Metric("total_seconds", "Total s", ("seconds", ("training", "evaluation")), 1, False),
    EPOCH_SECONDS,
    Metric("epochs", "Epochs", ("epochs",), 0, False),
)
OURS = (
    "Ours: test split, mean ± standard deviation (n - 1), in brackets the number of seeds; a dash is not measured yet."
)
VERDICTS = (
    "Verdict on the difference to the paper's mean and its 95 % interval (Welch, with the deviation that the paper "
    "prints, taken as that of 5 runs). Bounds in points, ok and near: accuracy 0.5 and 1.5, macro-F1 1 and 3; "
    "silhouette 0.05 and 0.15. Off: the interval lies wholly outside the bound of near; ok and near: the difference "
    "lies within their bound, and half the interval is at most the bound of near; else, and with fewer than 3 seeds, "
    "unresolved. (released): the variant of the released code. Cells off the paper's protocol, and models that are "
    "not in the paper, have none."
)
RANKS = (
    "Bold is the best, underlined the second of its block, among cells of one protocol and variant. Our numbers "
    "and the paper's are ranked separately."
)
Cell = list[dict[str, Any]]  # the numbers of a group: a row a metric


def measure(groups: Sequence[Group], metrics: Sequence[Metric], experiment: str = "") -> list[Cell]:
    """Return for each group a row a metric, in this order; None where nothing was measured.

    Ranks compare only groups of one data set, model and `setting`. Times come from the runs that `timed` keeps.

    Args:
        groups: the cells.
        metrics: the numbers to read from their runs.
        experiment: "table2", "table3" or "table6": the table whose published numbers are added and compared.
    """
    rows = []
    for g, on_time in zip(groups, timed(groups)[0], strict=True):
        for m in metrics:
            found = (on_time if m.path[0] == "seconds" else g).values(*m.path)
            values = list(found.values())
            published, spread = _published(experiment, g, m.name)
            row = {**{key: getattr(g, key) for key in CELL}, **g.point, "metric": m.name, "n": len(values)}
            row |= {"mean": mean(values), "std": std(values), "seeds": " ".join(map(str, found))}
            row |= {"paper": published, "paper_std": spread}
            row |= dict.fromkeys(("difference", "low", "high"))
            if m.is_quality and published is not None and values:
                half = welch_half(values, spread) if len(values) > 1 else math.nan
                difference = mean(values) - published
                row |= {"difference": difference, "low": difference - half, "high": difference + half}
            row["verdict"] = (judge(experiment, g, m.name, values) or None) if m.is_quality else None
            row["protocol_deviations"] = ", ".join(protocol_deviations(g.config)) or None
            rows.append(row | {"setting": " ".join(setting(g))})
    if not rows:
        return []
    frame = pd.DataFrame(rows).astype({"mean": float, "paper": float})
    look: dict[str, Any] = {m.name: {"higher_is_better": m.higher_is_better, "digits": m.digits} for m in metrics}
    for place, column, by in (("rank", "mean", ["setting"]), ("paper_rank", "paper", [])):
        rivals = frame.groupby(["metric", "dataset", "model", *by], sort=False)[column]
        frame[place] = rivals.transform(lambda block: rank(block, **look[block.name[0]]))
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [rows[i : i + len(metrics)] for i in range(0, len(rows), len(metrics))]


def tidy(cells: Iterable[Cell]) -> pd.DataFrame:
    """The rows of `measure` for the CSV file."""
    internal = ["setting", "paper_std", "rank", "paper_rank"]
    return pd.DataFrame([row for cell in cells for row in cell]).drop(columns=internal, errors="ignore")


def verdict_note(verdicts: Iterable[str | None]) -> list[str]:
    """The note that explains verdicts, if there is any verdict."""
    return [VERDICTS] if any(verdicts) else []


def ours(row: dict[str, Any], m: Metric) -> Part:
    return Part(number_text(row["mean"], row["std"], m.digits), row["rank"], row["verdict"] or "")


def theirs(row: dict[str, Any], m: Metric) -> Part:
    return Part(number_text(row["paper"], row["paper_std"], m.digits), row["paper_rank"])


def seeds_text(g: Group, num: int) -> str:
    """ "(5)", or "(3 of 5)" while runs are missing."""
    return f"({num})" if num >= len(g.seeds) else f"({num} of {len(g.seeds)})"


def table2(groups: Sequence[Group]) -> Table:
    """Integrated mode: accuracy / macro-F1 of each model and loss, a column a data set."""
    title = "Table 2: integrated mode, accuracy / macro-F1 (%)"
    return _by_model("table2", title, groups, (ACCURACY, MACRO_F1), [])


def table6(groups: Sequence[Group]) -> Table:
    """The two GLUE sets: accuracy of each model and loss."""
    notes = [
        "Test split: the official development split of SST-2 and QNLI, since GLUE's test labels are not public.",
        paper.TABLE6_NOTE,
        paper.SECTION53_NOTE,
    ]
    return _by_model("table6", "Table 6: SST-2 and QNLI, integrated mode, accuracy (%)", groups, (ACCURACY,), notes)


def _by_model(name: str, title: str, groups: Sequence[Group], metrics: Sequence[Metric], notes: list[str]) -> Table:
    datasets = list(dict.fromkeys(g.dataset for g in groups))  # in the paper's order, whatever the first model ran on
    groups = [g for mine in blocks(groups, "model").values() for g in mine]
    cells = measure(groups, metrics, name)
    lines: dict[tuple[str, str], dict[str, tuple[Group, Cell]]] = {}
    for g, cell in zip(groups, cells, strict=True):
        lines.setdefault((model_name(g.model), g.label(paper.MODES[name])), {})[g.dataset] = g, cell
    rows = []
    for key, found in lines.items():
        mine, printed = {}, {}
        for dataset, (g, cell) in found.items():
            if g.runs:
                mine[dataset] = Entry(tuple(map(ours, cell, metrics)), seeds_text(g, len(g.runs)))
            if all(row["paper"] is not None for row in cell):
                printed[dataset] = Entry(tuple(map(theirs, cell, metrics)))
        rows.append([*key, "ours", *(mine.get(d, Entry()) for d in datasets)])
        if printed:
            rows.append(["", "", "paper", *(printed.get(d, Entry()) for d in datasets)])
    verdicts = [row["verdict"] for cell in cells for row in cell]
    notes = [OURS, *verdict_note(verdicts), RANKS, *common_notes(groups), *notes]
    columns = ["Model", "Loss", "", *map(dataset_name, datasets)]
    return Table(name, title, columns, rows, tidy(cells), notes, missing(groups), num_keys=3)


def table3(groups: Sequence[Group]) -> Table:
    """Standalone mode: quality, times and epochs, a line a data set and loss."""
    groups = [g for mine in blocks(groups, "dataset", "model").values() for g in mine]
    cells, rows = measure(groups, TABLE3, "table3"), []
    for g, cell in zip(groups, cells, strict=True):
        mine = []
        for m, row in zip(TABLE3, cell, strict=True):
            suffix = seeds_text(g, row["n"]) if m is ACCURACY or row["n"] < len(g.runs) else ""
            ratio = row["mean"] / row["paper"] if row["n"] and row["paper"] else None
            row["ratio"] = ratio if m.name in ("seconds_per_epoch", "epochs") else None  # the totals count other things
            if m is EPOCH_SECONDS and ratio and is_comparable(g.config):
                suffix = f"{suffix} ×{ratio:.2f}".strip()
            mine.append(Entry((ours(row, m),), suffix) if row["n"] else Entry())
        rows.append([dataset_name(g.dataset), model_name(g.model), g.label(STANDALONE), "ours", *mine])
        if any(row["paper"] is not None for row in cell):
            printed = [theirs(row | {"paper_std": None}, m) for row, m in zip(cell, TABLE3, strict=True)]
            rows.append(["", "", "", "paper", *(Entry((part,)) for part in printed)])
    notes = [
        OURS,
        *verdict_note(row["verdict"] for cell in cells for row in cell),
        "Total s: training and validation of all epochs, in every cell; no start, test or probe. The paper's totals "
        "are another quantity: its code draws a picture each epoch and counts loading. s / epoch: of training; × is "
        "ours over the paper's (one A100 80 GB).",
        RANKS,
        *timed(groups)[1],
        *common_notes(groups),
    ]
    columns = ["Data set", "Model", "Loss", "", *(m.heading for m in TABLE3)]
    title = "Table 3: standalone mode"
    return Table("table3", title, columns, rows, tidy(cells), notes, missing(groups), num_keys=4)


def table4(groups: Sequence[Group]) -> Table:
    """G-Loss-O against SCL, from table3's runs: silhouette and seconds per epoch, with the change in percent.

    Only seeds that both ran are compared; of the times, only where both had the same device to themselves.
    """
    rows, data = [], []
    plain = [g for g in groups if not g.point and g.loss in ("gloss_o", "scl") and g.mode == STANDALONE]
    clocked, times = timed(plain)
    on_time = blocks(clocked, "dataset", "model")
    for (dataset, model), block in blocks(plain, "dataset", "model").items():
        if len({setting(g) for g in block}) > 1:
            times.append(f"{block[0].place}: the losses differ in protocol or variant, so they are not compared.")
        mine: list[Entry] = []
        printed: list[Entry] = []
        for m, source in ((SILHOUETTE, block), (EPOCH_SECONDS, on_time[dataset, model])):
            new, old = _paired(source, m)
            suffix = f"({new['n']})" if new["n"] else ""
            changes = [_change(new[key], old[key]) for key in ("mean", "paper")]
            shown = [entry(number_text(x, digits=1, sign="+"), "%" * (x is not None)) for x in changes]
            mine += [Entry((ours(new, m),), suffix), Entry((ours(old, m),), suffix), shown[0]]
            printed += [Entry((theirs(new, m),)), Entry((theirs(old, m),)), shown[1]]
            row = {"dataset": dataset, "model": model, "metric": m.name, "pairs": new["n"], "seeds": new["seeds"]}
            for loss, x in (("gloss_o", new), ("scl", old)):
                row |= {loss: x["mean"], f"{loss}_std": x["std"], f"paper_{loss}": x["paper"]}
                row |= {f"{loss}_verdict": x["verdict"]}
            data.append(row | {"change_percent": changes[0], "paper_change_percent": changes[1]})
        rows.append([dataset_name(dataset), model_name(model), "ours", *mine])
        if any(e != Entry() for e in printed):
            rows.append(["", "", "paper", *printed])
    heads = ["Silhouette G-Loss-O", "SCL", "change", "s / epoch G-Loss-O", "SCL", "change"]
    notes = [
        "Ours: mean ± standard deviation (n - 1) over the seeds that both losses ran, in brackets their number; from "
        "the runs of Table 3. Change: of the means, G-Loss-O against SCL.",
        *verdict_note(row[f"{loss}_verdict"] for row in data for loss in ("gloss_o", "scl")),
        RANKS,
        *times,
        *swept_note(groups),
        *common_notes(plain),
    ]
    title = "Table 4: G-Loss-O against SCL, standalone mode"
    return Table("table4", title, ["Data set", "Model", "", *heads], rows, data, notes, missing(plain), num_keys=3)


def swept_note(groups: Sequence[Group]) -> list[str]:
    """A note on the cells that differ in a swept setting, which tables that compare losses leave out."""
    swept = sorted({key for g in groups for key in g.point})
    return [f"Not compared here, since the request sweeps {', '.join(swept)}: select one value."] if swept else []


def _paired(block: Sequence[Group], m: Metric) -> list[dict[str, Any]]:
    """The rows of `measure` for G-Loss-O and SCL over the seeds that both ran; over none where settings differ."""
    by_loss = {loss: replace(block[0], loss=loss, runs={}) for loss in ("gloss_o", "scl")} | {g.loss: g for g in block}
    is_alike = len({setting(g) for g in block}) == 1
    both = set.intersection(*(set(g.values(*m.path)) for g in by_loss.values())) if is_alike else set()
    kept = [replace(g, runs={s: run for s, run in g.runs.items() if s in both}) for g in by_loss.values()]
    return [row for (row,) in measure(kept, [m], "table3")]


def _change(new: float | None, old: float | None) -> float | None:
    """The change in percent; none from a silhouette that is not positive."""
    return None if new is None or old is None or old <= 0 else 100 * (new - old) / old


def _published(experiment: str, g: Group, metric: str) -> list[float | None]:
    """The paper's mean and standard deviation for a cell."""
    return [paper.published(experiment, g.dataset, g.model, g.loss, metric + end, g.mode) for end in ("", "_std")]


def judge(experiment: str, g: Group, metric: str, values: Sequence[float]) -> str:
    """The verdict on a cell's values; none where it leaves the paper's protocol or mode, or the paper has no such cell.

    A cell of the released code's variant is marked: "ok (released)".
    """
    if g.point or not is_comparable(g.config):
        return ""
    published, spread = _published(experiment, g, metric)
    judged = verdict(values, published, metric, spread)
    return f"{judged} (released)" if judged and protocol_deviations(g.config) else judged


def common_notes(groups: Sequence[Group], swept: Sequence[str] = ()) -> list[str]:
    """Notes on these cells: deviations from the protocol, mixtures, values not searched for.

    swept: settings such as "loss.lam" that the experiment itself changes.
    """
    groups = [g for g in groups if g.runs] or groups
    deviations: dict[str, list[str]] = defaultdict(list)  # the places of the cells with each
    searches: dict[str, dict[str, None]] = defaultdict(dict)  # the cells with values that were searched for elsewhere
    for g in groups:
        left_out = swept if g.runs else (*swept, "search.trials")  # that search may still be made
        found = [x for x in protocol_deviations(g.config) if x.partition("=")[0] not in left_out]
        if found:
            deviations[", ".join(found)].append(g.place)
        for run in g.runs.values():
            tuned = run.result.get("tuned") or {}
            if tuned.get("note"):
                text = str(tuned["note"]).replace(f"the values of {tuned.get('file')} were ", "")
                searches[text][f"{g.place}, {g.loss_name}"] = None
    notes = []
    for text, places in deviations.items():
        what = "The released code's variant" if text == RELEASED else "Not the paper's protocol"
        some = f"{len(places)} of {len(groups)} cells, on {'; '.join(dict.fromkeys(places))}"
        notes.append(f"{what} ({'all cells' if len(places) == len(groups) else some}): {text}.")
    unknown = sorted({model_name(g.model) for g in groups} - {model_name(r["model"]) for r in paper.rows("table2")})
    notes += [f"Not in the paper: {', '.join(unknown)}."] if unknown else []
    notes += [f"Attention: {text}." for g in groups for text in mixed(g)]
    notes += [f"Attention: {text}." for text in unlike(groups)]
    notes += [f"Values of the search ({'; '.join(cells)}): {text}." for text, cells in searches.items()]
    return notes + run_notes(groups)


def run_notes(groups: Sequence[Group]) -> list[str]:
    """The runs' own notes, such as signs of collapse: the first of each kind and place, with the cells."""
    found: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for g in groups:
        for run in g.runs.values():
            for text in run.result.get("notes") or []:
                kind = re.sub(r"\d[\d.,]*", "#", text)  # the same note with other numbers
                found.setdefault((g.place, kind), (text, []))[1].append(f"{g.place}, {g.loss_name}")
    return [
        f"Noted by {'a run' if len(cells) == 1 else f'{len(cells)} runs'} ({'; '.join(dict.fromkeys(cells))}): {text}"
        for text, cells in found.values()
    ]


def missing(groups: Sequence[Group]) -> list[str]:
    """The runs that the cells still lack: failed, or not made."""
    lines = []
    for g in groups:
        lines += [f"{g.name} seed={seed}: {reason}" for seed, reason in g.failed.items()]
        if seeds := [str(seed) for seed in g.seeds if seed not in g.runs and seed not in g.failed]:
            first = " (σ has to be searched for first)" if g.config_hash is None else ""
            lines.append(f"{g.name} seed={','.join(seeds)}{first}")
    return lines
