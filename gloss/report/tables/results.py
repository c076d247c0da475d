"""Tables 2, 3, 4 and 6: ours above the paper's, each number with its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from gloss.config import STANDALONE
from gloss.paper import published as paper
from gloss.paper.names import dataset_name, loss_name, model_name
from gloss.report.seed_groups import CELL, RELEASED, Group, is_comparable, mixed, protocol_deviations, setting, timed
from gloss.report.statistics import mean, std, verdict
from gloss.report.table import MISSING, Entry, Part, Table, number_text, rank


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
    "unresolved. (released): the variant of the released code. Cells that leave the paper's protocol, and models that "
    "it has not, bear none."
)
RANKS = (
    "Bold is the best, underlined the second of its block, among cells of one protocol and variant; ours and the "
    "paper's ranked apart."
)


def measure(groups: Sequence[Group], metrics: Sequence[Metric], experiment: str = "") -> pd.DataFrame:
    """Return one row per group and metric, in this order; mean and std are NaN where nothing was measured.

    Ranks are those among groups of one data set, model and `setting`: others are no rivals. Times are those that
    `timed` keeps.

    Args:
        groups: the cells.
        metrics: what to read of their runs.
        experiment: "table2", "table3" or "table6": whose published numbers stand beside, and bear a verdict.
    """
    rows = []
    for g, on_time in zip(groups, timed(groups)[0], strict=True):
        for m in metrics:
            found = (on_time if m.path[0] == "seconds" else g).values(*m.path)
            values = list(found.values())
            published, spread = _published(experiment, g, m.name)
            row = {**{key: getattr(g, key) for key in CELL}, **g.point, "metric": m.name, "n": len(values)}
            row |= {"mean": mean(values) if values else None, "std": std(values) if len(values) > 1 else None}
            row |= {"seeds": " ".join(map(str, found)), "paper": published, "paper_std": spread}
            row["difference"] = mean(values) - published if m.is_quality and values and published is not None else None
            row["verdict"] = (judge(experiment, g, m.name, values) or None) if m.is_quality else None
            row["protocol_deviations"] = ", ".join(protocol_deviations(g.config)) or None
            rows.append(row | {"setting": " ".join(setting(g)), "is_asked": bool(g.seeds)})
    if not rows:
        return pd.DataFrame()
    frame = pd.DataFrame(rows).astype({key: float for key in ("mean", "std", "paper", "paper_std", "difference")})
    known: dict[str, dict[str, Any]] = {
        m.name: {"higher_is_better": m.higher_is_better, "digits": m.digits} for m in metrics
    }
    for place, column, by in (("rank", "mean", ["setting"]), ("paper_rank", "paper", [])):
        blocks = frame.groupby(["metric", "dataset", "model", *by], sort=False)[column]
        frame[place] = blocks.transform(lambda block: rank(block, **known[block.name[0]]))
    return frame


def verdict_note(frame: pd.DataFrame) -> list[str]:
    """What a verdict is, where there is one."""
    return [VERDICTS] if frame.filter(like="verdict").notna().any(axis=None) else []


def by_group(frame: pd.DataFrame, metrics: Sequence[Metric]) -> list[list[dict[str, Any]]]:
    """The rows of `measure`, a list a group; None where a number is missing."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [rows[i : i + len(metrics)] for i in range(0, len(rows), len(metrics))]


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """What the CSV file holds of `measure`."""
    internal = ["setting", "is_asked", "paper_std", "rank", "paper_rank"]
    return frame[frame["is_asked"]].drop(columns=internal) if len(frame) else frame


def ours(row: dict[str, Any], m: Metric) -> Part:
    return Part(number_text(row["mean"], row["std"], m.digits), row["rank"], row["verdict"] or "")


def theirs(row: dict[str, Any], m: Metric) -> Part:
    return Part(number_text(row["paper"], row["paper_std"], m.digits), row["paper_rank"])


def in_blocks(groups: Sequence[Group], *keys: str) -> list[Group]:
    """Return the groups sorted into blocks with equal `keys`, blocks in the order of their first appearance."""
    blocks = [tuple(getattr(g, key) for key in keys) for g in groups]
    order = {block: i for i, block in enumerate(dict.fromkeys(blocks))}
    return [g for _, g in sorted(zip(blocks, groups, strict=True), key=lambda pair: order[pair[0]])]


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
    datasets = list(dict.fromkeys(g.dataset for g in groups))
    lines: dict[tuple[str, ...], dict[str, Group]] = {}
    for g in in_blocks(groups, "model"):
        lines.setdefault((g.model, g.loss, g.mode, point_text(g)), {})[g.dataset] = g
    grid = [  # with empty cells where a data set was not asked for: the paper's number stands there all the same
        found.get(d) or replace(next(iter(found.values())), dataset=d, runs={}, seeds=())
        for found in lines.values()
        for d in datasets
    ]
    frame = measure(grid, metrics, name)
    cells = by_group(frame, metrics)
    mine = [
        Entry(tuple(map(ours, cell, metrics)), seeds_text(g, len(g.runs))) if g.runs else Entry()
        for g, cell in zip(grid, cells, strict=True)
    ]
    printed = [
        Entry() if any(row["paper"] is None for row in cell) else Entry(tuple(map(theirs, cell, metrics)))
        for cell in cells
    ]
    rows = []
    for i, (model, *key) in enumerate(lines):
        own = slice(i * len(datasets), (i + 1) * len(datasets))
        rows.append([model_name(model), _label(name, *key), "ours", *mine[own]])
        if any(e != Entry() for e in printed[own]):
            rows.append(["", "", "paper", *printed[own]])
    notes = [OURS, *verdict_note(frame), RANKS, *common_notes(groups), *notes]
    columns = ["Model", "Loss", "", *map(dataset_name, datasets)]
    return Table(name, title, columns, rows, tidy(frame), notes, missing(groups), num_keys=3)


def _label(experiment: str, loss: str, mode: str, point: str) -> str:
    """ "G-Loss-O + CE", with the mode where it is not the table's own, and what else was swept."""
    other = "" if mode == paper.MODES[experiment] else f"({mode})"
    return " ".join(x for x in (loss_name(loss, mode), other, point) if x)


def point_text(g: Group) -> str:
    return " ".join(f"{key}={value}" for key, value in g.point.items())


def seeds_text(g: Group, num: int) -> str:
    """ "(5)", or "(3 of 5)" while runs are missing."""
    return f"({num})" if num >= len(g.seeds) else f"({num} of {len(g.seeds)})"


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
    """What a reader must know about these cells: deviations from the protocol, mixtures, values not searched for.

    swept: settings such as "loss.lam" that the experiment itself changes.
    """
    notes = []
    for what, kinds in (("Not the paper's protocol", False), ("The released code's variant", True)):
        own = [
            ", ".join(
                x
                for x in protocol_deviations(g.config)
                if (x == RELEASED) == kinds and x.partition("=")[0] not in swept
            )
            for g in groups
        ]
        for text in dict.fromkeys(own):
            if text:
                which = "all cells" if set(own) == {text} else f"{own.count(text)} of {len(groups)} cells"
                notes.append(f"{what} ({which}): {text}.")
    unknown = sorted({model_name(g.model) for g in groups} - {model_name(r["model"]) for r in paper.rows("table2")})
    if unknown:
        notes.append(f"Not in the paper: {', '.join(unknown)}.")
    notes += [f"Attention: {text}." for g in groups for text in mixed(g)]
    if with_runs := [g for g in groups if g.runs]:
        unsaid = [g for g in with_runs if "search.trials=0" not in protocol_deviations(g.config)]
        default = [g for g in unsaid if any(not run.result.get("tuned") for run in g.runs.values())]
        if default:
            names = sorted({loss_name(g.loss, g.mode) for g in default})
            which = "all" if len(default) == len(with_runs) else f"{len(default)} of {len(with_runs)}"
            notes.append(f"Hyperparameters were not searched for in {which} measured cells ({', '.join(names)}).")
        notes += _search_notes(with_runs)
    return notes


def _search_notes(groups: Sequence[Group]) -> list[str]:
    """Which cells run with values that were searched for on other amounts of data, as their records say."""
    said: dict[str, dict[str, None]] = {}
    for g in groups:
        for tuned in [run.result.get("tuned") or {} for run in g.runs.values()]:
            if note := tuned.get("note"):
                text = str(note).replace(f"the values of {tuned.get('file')} were ", "")
                cell = f"{dataset_name(g.dataset)}, {model_name(g.model)}, {loss_name(g.loss, g.mode)}"
                said.setdefault(text, {})[cell] = None
    return [f"Values of the search ({'; '.join(cells)}): {text}." for text, cells in said.items()]


def missing(groups: Sequence[Group]) -> list[str]:
    """The runs that the cells still lack."""
    lines = []
    for g in groups:
        if g.missing_seeds:
            first = " (σ has to be searched for first)" if g.config_hash is None else ""
            lines.append(f"{g.name} seed={','.join(map(str, g.missing_seeds))}{first}")
    return lines


def table3(groups: Sequence[Group]) -> Table:
    """Standalone mode: quality, times and epochs, a line a data set and loss."""
    groups = in_blocks(groups, "dataset", "model")
    frame = measure(groups, TABLE3, "table3")
    rows = []
    for g, cell in zip(groups, by_group(frame, TABLE3), strict=True):
        mine = []
        for m, row in zip(TABLE3, cell, strict=True):
            suffix = seeds_text(g, row["n"]) if m is ACCURACY or row["n"] < len(g.runs) else ""
            if m is EPOCH_SECONDS and row["n"] and row["paper"] and is_comparable(g.config):
                suffix = f"{suffix} ×{row['mean'] / row['paper']:.2f}".strip()
            mine.append(Entry((ours(row, m),), suffix) if row["n"] else Entry())
        label = _label("table3", g.loss, g.mode, point_text(g))
        rows.append([dataset_name(g.dataset), model_name(g.model), label, "ours", *mine])
        if any(row["paper"] is not None for row in cell):
            printed = [theirs(row | {"paper_std": None}, m) for row, m in zip(cell, TABLE3, strict=True)]
            rows.append(["", "", "", "paper", *(Entry((part,)) for part in printed)])
    if rows:  # not of the total, which is another quantity in the paper
        frame["ratio"] = (frame["mean"] / frame["paper"]).where(frame["metric"].isin(["seconds_per_epoch", "epochs"]))
    notes = [
        OURS,
        *verdict_note(frame),
        "Total s: training and validation of all epochs, in every cell; no start, test or probe. The paper's totals "
        "are another quantity: its code draws a picture each epoch and counts loading. s / epoch: of training; × is "
        "ours over the paper's (one A100 80 GB).",
        RANKS,
        *timed(groups)[1],
        *common_notes(groups),
    ]
    columns = ["Data set", "Model", "Loss", "", *(m.heading for m in TABLE3)]
    title = "Table 3: standalone mode"
    return Table("table3", title, columns, rows, tidy(frame), notes, missing(groups), num_keys=4)


def table4(groups: Sequence[Group]) -> Table:
    """G-Loss-O against SCL, from table3's runs: silhouette and seconds per epoch, with the change in percent.

    Only seeds that both ran are compared; of the times, only where both had the same device to themselves.
    """
    rows, data, apart = [], [], []
    plain = [g for g in groups if not g.point and g.loss in ("gloss_o", "scl") and g.mode == STANDALONE]
    clocked, times = timed(plain)
    for dataset, model in dict.fromkeys((g.dataset, g.model) for g in plain):
        where = {"dataset": dataset, "model": model}
        is_alike = len({setting(g) for g in plain if (g.dataset, g.model) == (dataset, model)}) == 1
        if not is_alike:
            place = f"{dataset_name(dataset)}, {model_name(model)}"
            apart.append(f"{place}: the two losses differ in protocol or variant, so they are not compared.")
        mine: list[Entry | str] = []
        printed: list[Entry | str] = []
        for m in (SILHOUETTE, EPOCH_SECONDS):
            source = plain if m.is_quality else clocked
            new, old = _paired([g for g in source if (g.dataset, g.model) == (dataset, model)], m, is_alike)
            for cells, make, key in ((mine, ours, "mean"), (printed, theirs, "paper")):
                suffix = f"({new['n']})" if new["n"] and make is ours else ""
                change = _change(new[key], old[key])
                cells += [Entry((make(new, m),), suffix), Entry((make(old, m),), suffix)]
                cells.append(MISSING if change is None else f"{change:+.1f} %")
            data.append({**where, "metric": m.name, "pairs": new["n"], "seeds": new["seeds"]})
            for loss, row in (("gloss_o", new), ("scl", old)):
                data[-1] |= {loss: row["mean"], f"{loss}_std": row["std"], f"paper_{loss}": row["paper"]}
                data[-1] |= {f"{loss}_verdict": row["verdict"] or None}
            data[-1] |= {"change_percent": _change(new["mean"], old["mean"])}
            data[-1] |= {"paper_change_percent": _change(new["paper"], old["paper"])}
        rows.append([dataset_name(dataset), model_name(model), "ours", *mine])
        if any(isinstance(e, Entry) and e != Entry() for e in printed):
            rows.append(["", "", "paper", *printed])
    heads = ["Silhouette G-Loss-O", "SCL", "change", "s / epoch G-Loss-O", "SCL", "change"]
    notes = [
        "Ours: mean ± standard deviation (n - 1) over the seeds that both losses ran, in brackets their number; from "
        "the runs of Table 3. Change: of the means, G-Loss-O against SCL.",
        *verdict_note(pd.DataFrame(data, columns=["gloss_o_verdict", "scl_verdict"])),
        *apart,
        *times,
        *common_notes(plain),
    ]
    title = "Table 4: G-Loss-O against SCL, standalone mode"
    return Table("table4", title, ["Data set", "Model", "", *heads], rows, data, notes, missing(plain), num_keys=3)


def _paired(block: Sequence[Group], m: Metric, is_alike: bool) -> list[dict[str, Any]]:
    """Return the rows of `measure` for G-Loss-O and SCL over the seeds that both ran (none unless is_alike)."""
    by_loss = {loss: replace(block[0], loss=loss, runs={}) for loss in ("gloss_o", "scl")} | {g.loss: g for g in block}
    both = set.intersection(*(set(g.values(*m.path)) for g in by_loss.values())) if is_alike else set()
    kept = [replace(g, runs={s: run for s, run in g.runs.items() if s in both}) for g in by_loss.values()]
    return [row for (row,) in by_group(measure(kept, [m], "table3"), [m])]


def _change(new: float | None, old: float | None) -> float | None:
    # A negative or zero silhouette has no meaningful percentage.
    return None if new is None or old is None or old <= 0 else 100 * (new - old) / old
