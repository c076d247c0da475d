"""Figures that show a score against one setting: Figures 2, 3 and 7, and our own sweeps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

import pandas as pd

from gloss.config import CE, INTEGRATED
from gloss.losses.registry import is_graph
from gloss.paper.names import LOSS_LOOK, SYMBOLS, dataset_look, dataset_name, loss_name, model_name, paper_order
from gloss.records.reading import number
from gloss.report.figure import Drawing, num_seeds, panels
from gloss.report.protocol import RELEASED, protocol_deviations
from gloss.report.seed_groups import Group, blocks, timed
from gloss.report.statistics import mean, std, t_interval
from gloss.report.tables.results import common_notes, missing

CHANGES = {  # of Figure 7: the value that changes nothing, and the hyperparameter that is changed
    "ablation.sigma_scale": (1.0, "sigma"),
    "ablation.lam_offset": (0.0, "lam"),
    "ablation.gamma_offset": (0.0, "gamma"),
}
METRICS = {  # heading, place in result.json
    "accuracy": ("Test accuracy (%)", ("metrics", "test", "accuracy")),
    "macro_f1": ("Test macro-F1, points from best", ("metrics", "test", "macro_f1")),
    "seconds_per_epoch": ("Seconds per epoch", ("seconds", "per_epoch")),
}


class Sweep(NamedTuple):
    """A figure of a setting at "section.key" of the configuration.

    with_time: also draw panels with the seconds of an epoch; across: draw a loss that the experiment runs with one
    value only as a reference line across the panel.
    """

    title: str
    path: str
    label: str
    log: bool = False
    percent: bool = False
    with_time: bool = False
    across: bool = False


SWEEPS = {
    "few_shot": Sweep("Few training texts", "dataset.train_limit", "Training texts (log scale)", log=True),
    "label_noise": Sweep("Wrong training labels", "ablation.label_noise", "Training labels changed (%)", percent=True),
    "graph_noise": Sweep(
        "A noisy graph", "ablation.graph_noise", "Noise on the graph's unit embeddings (std)", across=True
    ),
    "graph_size": Sweep(
        *("Larger graphs", "trainer.batch_size", "Texts a batch, so nodes of the graph (log scale)"),
        log=True,
        with_time=True,
    ),
}


def number_at(g: Group, path: str) -> float | None:
    """The number at "section.key" of a cell's configuration."""
    return number(g.config, *path.split("."))


def points(groups: Iterable[Group], path: str, metric: str, *swept: str) -> pd.DataFrame:
    """A row a cell, by line and x, its setting at `path`: mean, std and n of a metric, by seed too; names of the line.

    A cell without runs has a mean of NaN, which interrupts its line. No row for lines without any run.
    swept: further swept keys that do not separate lines.
    """
    rows: dict[tuple[str, str], list[dict]] = {}
    for g in groups:
        found, x, others = g.values(*METRICS[metric][1]), number_at(g, path), g.others(path, *swept)
        if x is None and path == "dataset.train_limit":  # null: all texts, whose number the runs know
            x = next(iter(g.values("num_rows", "train").values()), None)
        if x is not None:
            numbers = {"x": x, "mean": mean(found.values()), "std": std(found.values()), "n": len(found)}
            names = {"place": g.place, "row": f"{model_name(g.model)}, {g.mode}, {g.loss_name}{others}"}
            names["label"] = g.label(INTEGRATED, path)
            where = {"others": others.strip(" ()"), "setting": path, "metric": metric}
            row = {**g.keys, **where, **numbers, **names, "scores": found, "values": _values(g)}
            rows.setdefault((g.place, names["label"]), []).append(row)
    lines = [sorted(line, key=lambda row: row["x"]) for line in rows.values() if any(row["n"] for row in line)]
    return pd.DataFrame([row for line in lines for row in line])


def _values(g: Group) -> dict[str, float]:
    """The hyperparameters of G-Loss with which a cell's first run trained."""
    run = next(iter(g.runs.values()), None)
    found = {key: number(run.result, "hyperparameters", key) for key in SYMBOLS} if run else {}
    return {key: value for key, value in found.items() if value is not None}


def _changes(frame: pd.DataFrame, bases: Sequence[dict[int, float]]) -> pd.DataFrame:
    """The rows with `change`, its standard deviation and the number of pairs, from a base's scores, paired by seed."""
    pairs = zip(frame["scores"], bases, strict=True)
    found = [[mine[seed] - base[seed] for seed in mine if seed in base] for mine, base in pairs]
    return frame.assign(change=[*map(mean, found)], change_std=[*map(std, found)], pairs=[*map(len, found)])


def _held(frame: pd.DataFrame) -> list[str]:
    """A note on each line: the hyperparameters with which it trained, but for one that it shows."""
    notes = []
    for (place, row, path), mine in frame[frame["n"] > 0].groupby(["place", "row", "setting"], sort=False):
        shown = path.rpartition(".")[2].removesuffix("_scale") if mine["x"].nunique() > 1 else ""
        values = mine.iloc[0]["values"]
        held = ", ".join(f"{SYMBOLS[key]} {x:.3g}" for key, x in values.items() if key != shown)
        against = f", against {SYMBOLS[shown]}" if shown in SYMBOLS else ""
        notes.append(f"Held, {place}, {row.partition(', ')[2]}{against}: {held}.")
    return notes


def _rows(frame: pd.DataFrame) -> list[dict]:
    """The rows of `points` for the CSV file."""
    idle = [] if frame["others"].any() else ["others"]
    hidden = ["place", "row", "label", "scores", "values", *idle]
    return frame[frame["n"] > 0].drop(columns=hidden).to_dict("records")


def _seeds(counts: pd.Series) -> str:
    return num_seeds([x for x in counts if x])


def _draw(
    ax: Any, line: pd.DataFrame, y: str, spread: str, n: str, look: dict[str, Any], label: str, scale: float = 1
) -> None:
    """Draw a line; points with fewer seeds than others of it are hollow."""
    ax.errorbar(scale * line["x"], line[y], yerr=line[spread], label=label, capsize=2, elinewidth=0.8, **look)
    color, fewer = ax.lines[-1].get_color(), line[line[n] < line[n].max()]
    look = {"marker": look.get("marker", "o"), "linestyle": "none", "markerfacecolor": "#FFFFFF", "zorder": 3}
    ax.plot(scale * fewer["x"], fewer[y], color=color, **look)


def _ticks(ax: Any, values: Iterable[float], log: bool) -> None:
    ticks = sorted(set(values))
    if log:
        ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
    if log:
        ax.minorticks_off()


def fig2(groups: Sequence[Group]) -> Drawing | None:
    """The mixing weight λ."""
    return sensitivity("fig2", "Figure 2: the weight λ of G-Loss", [(groups, "loss.lam", "λ")])


def fig3(gamma: Sequence[Group], sigma: Sequence[Group]) -> Drawing | None:
    """The labeled fraction γ and the kernel width σ."""
    parts = [
        (gamma, "loss.gamma", "γ, labeled fraction"),
        (sigma, "ablation.sigma_scale", "σ as a multiple of the runs' own"),
    ]
    return sensitivity("fig3", "Figure 3: the labeled fraction γ and the kernel width σ", parts)


def sensitivity(name: str, title: str, parts: Sequence[tuple[Sequence[Group], str, str]]) -> Drawing | None:
    """Test macro-F1 against a setting, a line a data set, as the distance to that data set's best mean.

    parts: (groups, path of the setting, label of the axis), a panel each; a row of panels a model, mode and loss. The
    data sets lie 30 points apart, so that on one axis of absolute scores no line would be anything but flat; the
    legend gives the best mean. Distances are paired by seed; the best is one of the points with most seeds.
    """
    everything = [g for groups, *_ in parts for g in groups]
    parts = [part for part in parts if any(g.runs for g in part[0])]
    frames = [points(groups, path, "macro_f1") for groups, path, _ in parts]
    if all(found.empty for found in frames):
        return None
    frame = pd.concat(frames, ignore_index=True)
    full = frame["n"] == frame.groupby(lines := ["row", "setting", "dataset"])["n"].transform("max")
    best = frame["mean"].where(full).groupby([frame[key] for key in lines]).transform("idxmax")
    frame = _changes(frame, frame.loc[best, "scores"])
    frame["best"] = frame.loc[best, "mean"].to_numpy()
    rows = list(frame["row"].unique())
    figure, axes = panels(len(rows), len(parts), width=3.6, height=2.9)
    for ax, (row, (_, path, label)) in zip(axes.flat, product(rows, parts), strict=True):
        panel = frame[(frame["row"] == row) & (frame["setting"] == path)]
        for dataset in sorted(panel["dataset"].unique(), key=paper_order):
            line = panel[panel["dataset"] == dataset]
            text = f"{dataset_name(dataset)} (best {line['best'].max():.1f}, {_seeds(line['pairs'])})"
            _draw(ax, line, "change", "change_std", "pairs", dataset_look(dataset), text)
        ax.set(xlabel=f"{label}\n{row}", ylabel=METRICS["macro_f1"][0])
        _ticks(ax, frame.loc[frame["setting"] == path, "x"], log=path.endswith("sigma_scale"))
        if ax.lines:
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.0)
    notes = [
        f"{'; '.join(rows)}.",
        "Points from best: from the highest mean on the test split among points with most seeds, paired by seed. Bars: "
        "± one standard deviation of this difference; hollow: fewer seeds.",
        *_held(frame),
        *common_notes(everything, [path for _, path, _ in parts]),
    ]
    return Drawing(name, title, figure, _rows(frame), notes, missing(everything))


def sweep(name: str, groups: Sequence[Group]) -> Drawing | None:
    """One of SWEEPS: test accuracy against a setting, a line a loss, a panel a data set and model."""
    title, path, label, log, percent, with_time, across = SWEEPS[name]
    clocked, times = timed(groups) if with_time else ([], [])
    frame = pd.concat([points(groups, path, "accuracy"), points(clocked, path, "seconds_per_epoch")])
    if frame.empty:
        return None
    metrics = list(frame["metric"].unique())
    cells = list(product(frame["place"].unique(), metrics))
    columns, scale = min(2, len(cells)), 100 if percent else 1
    figure, axes = panels(-(-len(cells) // columns), columns, width=3.6, height=2.7)
    for unused in axes.flat[len(cells) :]:
        unused.remove()
    is_shared = across or with_time  # one legend beside all panels: lines fill them, or go across several
    asked = Counter((g.place, g.label(INTEGRATED, path)) for g in groups)
    for ax, (place, metric) in zip(axes.flat, cells, strict=False):
        panel = frame[frame["place"] == place]
        for own, line in panel[panel["metric"] == metric].groupby("label", sort=False):
            first = line.iloc[0]
            look = LOSS_LOOK.get(first["loss"], {})
            look = look | ({"linestyle": ":"} if first["others"] else {})
            look |= {"color": "#999999"} if first["mode"] != INTEGRATED and frame["mode"].nunique() > 1 else {}
            alike = frame[(frame["label"] == own) & (frame["metric"] == metric)] if is_shared else line
            _draw(ax, line, "mean", "std", "n", look, f"{own} ({_seeds(alike['n'])})", scale)
            if across and asked[place, own] == 1:
                ax.axhline(first["mean"], color=look.get("color"), linestyle=look.get("linestyle"), linewidth=0.7)
        _ticks(ax, scale * panel["x"], log)
        ax.set(title=place, xlabel=label, ylabel=METRICS[metric][0])
        if metric == "seconds_per_epoch":
            ax.set_ylim(bottom=0)
        if not is_shared and ax.has_data():
            ax.legend()
    if is_shared:
        found = [ax.get_legend_handles_labels() for ax in axes.flat[:: len(metrics)]]
        entries = {text: line for handles in found for line, text in zip(*handles, strict=True)}
        figure.set_figwidth(figure.get_figwidth() + 3.6)
        figure.legend(entries.values(), entries.keys(), loc="outside right center")
    notes = shuffle_notes(groups) if name == "graph_noise" else []
    notes += ["Bars: ± one standard deviation over seeds."] if (frame["n"] > 1).any() else []
    most = frame.groupby(["place", "metric", "label"])["n"].transform("max")
    notes += ["Hollow: fewer seeds than other points of the line."] if (frame["n"] < most).any() else []
    notes += times
    notes += ["Seconds include the first epoch. A larger batch also means fewer updates an epoch."] if with_time else []
    notes += common_notes(groups, swept=[path])
    return Drawing(name, title, figure, _rows(frame), notes, missing(groups))


def shuffle_notes(groups: Sequence[Group]) -> list[str]:
    """A sentence a data set, model, mode and graph loss: the share of its gain over cross-entropy that remains with a
    shuffled graph, paired by seed. No share where the gain itself is not resolved: it would divide by noise."""
    notes = []
    for block in blocks(groups, "dataset", "model").values():
        cells = {  # without noise
            (g.loss, g.mode, bool((g.config.get("ablation") or {}).get("graph_shuffle"))): g.test("accuracy")
            for g in block
            if not number_at(g, "ablation.graph_noise")
        }
        ce = cells.get((CE, INTEGRATED, False), {})
        off = {x for g in block if g.runs for x in protocol_deviations(g.config) if not x.startswith("ablation.graph")}
        for loss, mode in dict.fromkeys((g.loss, g.mode) for g in block if is_graph(g.loss)):
            own, shuffled = (cells.get((loss, mode, x), {}) for x in (False, True))
            seeds = [seed for seed in own if seed in shuffled and seed in ce]
            if not seeds:
                continue
            gains, left = ([found[s] - ce[s] for s in seeds] for found in (own, shuffled))
            low, high = t_interval(gains) or (-math.inf, math.inf)
            gain = f"{mean(gains):+.2f} points" + (f", 95 % {low:+.2f} to {high:+.2f}" if len(gains) > 1 else "")
            if off - {RELEASED}:
                survives = f"gain over CE {gain}; runs off the paper's protocol bear no verdict"
            elif low > 0:
                survives = f"{100 * mean(left) / mean(gains):.0f} % of its gain over CE ({gain}) survives the shuffle"
            else:
                survives = f"its gain over CE ({gain}) is not above 0 beyond doubt, so no share of it can be named"
            where = f"{block[0].place}, {loss_name(loss, mode)} ({mode}, n={len(seeds)})"
            notes.append(f"{where}: {survives}; shuffled it is {mean(left):+.2f} from CE.")
    return notes


def fig7(groups: Sequence[Group]) -> Drawing | None:
    """A tornado plot: change of test macro-F1, paired by seed, when one hyperparameter changes.

    A panel a data set, model, mode and loss, each against its own unchanged runs.
    """
    swept = ("ablation", *CHANGES)
    off = {path: unchanged for path, (unchanged, _) in CHANGES.items()}
    is_base = [{path: number_at(g, path) for path in off} == off for g in groups]
    own = [g for g, is_it in zip(groups, is_base, strict=True) if is_it]
    base = points(own, "ablation.sigma_scale", "macro_f1", *swept)
    bars = pd.concat([points([g for g in groups if number_at(g, p) != off[p]], p, "macro_f1", *swept) for p in off])
    if base.empty or bars.empty:
        return None
    keys = ["dataset", "row"]
    columns = {"mean": "best", "n": "best_n", "scores": "best_scores"}
    bars = bars.merge(base.drop_duplicates(keys)[[*keys, *columns]].rename(columns=columns), on=keys)
    if bars.empty:  # the unchanged runs are missing
        return None
    bars = _changes(bars, bars["best_scores"]).drop(columns="best_scores")
    found = [(key, mine.sort_values(["setting", "x"])) for key, mine in bars.groupby(keys, sort=False)]
    num_hyperparameters = max(bar["setting"].nunique() for _, bar in found)
    figure, axes = panels(len(found), 1, width=5.2, height=0.6 + 0.75 * num_hyperparameters)
    for ax, ((dataset, row), mine) in zip(axes[:, 0], found, strict=True):
        _draw_tornado(ax, mine.to_dict("records"), f"{dataset_name(dataset)}, {row}")
    notes = [
        "Changes are paired by seed. Bars: ± one standard deviation of the change.",
        *_held(base),
        "In the paper (macro-F1 0.8714 at the best values) σ moves it most, λ and γ less.",
        *common_notes(groups, swept=swept),
    ]
    title = "Figure 7: sensitivity to σ, λ and γ"
    return Drawing("fig7", title, figure, [row for _, mine in found for row in _rows(mine)], notes, missing(groups))


def _draw_tornado(ax: Any, bars: Sequence[dict], title: str) -> None:
    swing = {bar["setting"]: 0.0 for bar in bars}
    for bar in (bar for bar in bars if bar["pairs"]):
        swing[bar["setting"]] = max(swing[bar["setting"]], abs(bar["change"]))
    order = sorted(swing, key=swing.get)  # the widest on top, as a tornado is drawn
    for bar in bars:
        off, key = CHANGES[bar["setting"]]
        is_lower = bar["x"] < off
        y = order.index(bar["setting"]) + (-0.19 if is_lower else 0.19)
        change, spread, text = 0.0, 0.0, f"{SYMBOLS[key]} {'lower' if is_lower else 'higher'}: no pair of runs"
        if bar["pairs"]:
            change, spread = bar["change"], bar["change_std"] if bar["pairs"] > 1 else 0.0
            value = f"{SYMBOLS[key]} {bar['values'].get(key, math.nan):.3g}"
            text = f"{value}: {change:+.2f} (n={bar['pairs']})".replace("-", "−")
        color, hatch = ("#56B4E9", "") if is_lower else ("#E69F00", "///")
        ax.barh(y, change, height=0.34, color=color, hatch=hatch, edgecolor="#333333", linewidth=0.6, zorder=2)
        ax.errorbar(change, y, xerr=spread or None, color="#333333", capsize=2, elinewidth=0.8, zorder=3)
        at = max(change + spread, 0.0), y
        ax.annotate(text, at, (4, 0), textcoords="offset points", va="center", fontsize=7)
    ax.axvline(0, color="#000000", linewidth=1)
    ax.set_yticks(range(len(order)), [SYMBOLS[CHANGES[path][1]] for path in order])
    left, right = ax.dataLim.intervalx
    ax.set_xlim(left - 0.05 * (right - left), right + 0.5 * (right - left))  # room for the text beside the bars
    ax.set(xlabel=f"Change of test macro-F1 in points, from {bars[0]['best']:.2f} (n={bars[0]['best_n']})", title=title)
    ax.grid(axis="y", visible=False)
