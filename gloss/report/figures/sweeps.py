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
from gloss.paper.names import DATASET_LOOK, LOSS_LOOK, dataset_name, loss_name, model_name, paper_order
from gloss.records.reading import number
from gloss.report.figure import Drawing, num_seeds, panels
from gloss.report.protocol import RELEASED, protocol_deviations
from gloss.report.seed_groups import Group, blocks, timed
from gloss.report.statistics import mean, std, t_interval
from gloss.report.tables.results import common_notes, missing

CHANGES = {  # of Figure 7: the value that changes nothing, symbol, how a change is written
    "ablation.sigma_scale": (1.0, "σ", "×"),
    "ablation.lam_offset": (0.0, "λ", "+"),
    "ablation.gamma_offset": (0.0, "γ", "+"),
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


def setting(g: Group, path: str) -> float | None:
    """The number at "section.key" of a cell's configuration."""
    return number(g.config, *path.split("."))


def points(groups: Iterable[Group], path: str, metric: str, *swept: str) -> pd.DataFrame:
    """A row a cell with runs, by line and x, its setting at `path`: mean, std and n of a metric; names of the line.

    swept: further swept keys that do not separate lines.
    """
    rows = []
    for g in groups:
        found, x, others = g.values(*METRICS[metric][1]).values(), setting(g, path), g.others(path, *swept)
        if found and x is not None:
            numbers = {"x": x, "mean": mean(found), "std": std(found), "n": len(found)}
            names = {"place": g.place, "row": f"{model_name(g.model)}, {g.mode}, {g.loss_name}{others}"}
            names["label"] = g.label(INTEGRATED, path)
            where = {"others": others.strip(" ()"), "setting": path, "metric": metric}
            rows.append({**g.keys, **where, **numbers, **names})
    lines = list(dict.fromkeys((row["place"], row["label"]) for row in rows))
    return pd.DataFrame(sorted(rows, key=lambda row: (lines.index((row["place"], row["label"])), row["x"])))


def _rows(frame: pd.DataFrame) -> list[dict]:
    """The rows of `points` for the CSV file."""
    idle = [] if frame["others"].any() else ["others"]
    return frame.drop(columns=["place", "row", "label", *idle]).to_dict("records")


def _bars_note(frame: pd.DataFrame) -> list[str]:
    return ["Bars: ± one standard deviation over seeds."] if (frame["n"] > 1).any() else []


def _draw(ax: Any, line: pd.DataFrame, y: str, look: dict[str, Any], label: str, scale: float = 1) -> None:
    """Draw a line, with a label that ends with the number of its seeds."""
    text = f"{label}{num_seeds(list(line['n']))})"
    ax.errorbar(scale * line["x"], line[y], yerr=line["std"], label=text, capsize=2, elinewidth=0.8, **look)


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
        (sigma, "ablation.sigma_scale", "σ as a multiple of its best value"),
    ]
    return sensitivity("fig3", "Figure 3: the labeled fraction γ and the kernel width σ", parts)


def sensitivity(name: str, title: str, parts: Sequence[tuple[Sequence[Group], str, str]]) -> Drawing | None:
    """Test macro-F1 against a setting, a line a data set, as the distance to that data set's best mean.

    parts: (groups, path of the setting, label of the axis), a panel each; a row of panels a model, mode and loss. The
    data sets lie 30 points apart, so that on one axis of absolute scores no line would be anything but flat; the
    legend gives the best mean.
    """
    frame = pd.concat([points(groups, path, "macro_f1") for groups, path, _ in parts])
    if frame.empty:
        return None
    frame["distance"] = frame["mean"] - frame.groupby(["row", "setting", "dataset"])["mean"].transform("max")
    rows = list(frame["row"].unique())
    figure, axes = panels(len(rows), len(parts), width=3.6, height=2.9)
    for ax, (row, (_, path, label)) in zip(axes.flat, product(rows, parts), strict=True):
        panel = frame[(frame["row"] == row) & (frame["setting"] == path)]
        for dataset in sorted(panel["dataset"].unique(), key=paper_order):
            line = panel[panel["dataset"] == dataset]
            text = f"{dataset_name(dataset)} (best {line['mean'].max():.1f}, "
            _draw(ax, line, "distance", DATASET_LOOK.get(dataset, {}), text)
        ylabel = METRICS["macro_f1"][0]
        ax.set(xlabel=label, ylabel=f"{row}\n{ylabel}" if len(rows) > 1 else ylabel)
        if path.endswith("sigma_scale"):
            _ticks(ax, frame.loc[frame["setting"] == path, "x"], log=True)
        if ax.lines:
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.0)
    everything = [g for groups, *_ in parts for g in groups]
    notes = [f"{'; '.join(rows)}.", *_bars_note(frame), *common_notes(everything, [path for _, path, _ in parts])]
    return Drawing(name, title, figure, _rows(frame), notes, missing(everything))


def sweep(name: str, groups: Sequence[Group]) -> Drawing | None:
    """One of SWEEPS: test accuracy against a setting, a line a loss, a panel a data set and model."""
    title, path, label, log, percent, with_time, across = SWEEPS[name]
    clocked, times = timed(groups) if with_time else ([], [])
    frame = pd.concat([points(groups, path, "accuracy"), points(clocked, path, "seconds_per_epoch")])
    if frame.empty:
        return None
    metrics = ["accuracy", "seconds_per_epoch"][: 1 + with_time]
    cells = list(product(frame["place"].unique(), metrics))
    columns, scale = min(2, len(cells)), 100 if percent else 1
    figure, axes = panels(-(-len(cells) // columns), columns, width=3.6, height=2.7)
    for unused in axes.flat[len(cells) :]:
        unused.remove()
    asked = Counter((g.place, g.label(INTEGRATED, path)) for g in groups)
    for ax, (place, metric) in zip(axes.flat, cells, strict=False):
        panel = frame[frame["place"] == place]
        for own, line in panel[panel["metric"] == metric].groupby("label", sort=False):
            first = line.iloc[0]
            look = LOSS_LOOK.get(first["loss"], {})
            look = look | ({"linestyle": ":", "fillstyle": "none"} if first["others"] else {})
            look |= {"color": "#999999"} if first["mode"] != INTEGRATED and frame["mode"].nunique() > 1 else {}
            _draw(ax, line, "mean", look, f"{own} (", scale)
            if across and asked[place, own] == 1:
                ax.axhline(first["mean"], color=look.get("color"), linestyle=look.get("linestyle"), linewidth=0.7)
        _ticks(ax, scale * panel["x"], log)
        ax.set(title=place, xlabel=label, ylabel=METRICS[metric][0])
        if not across and not with_time and ax.has_data():
            ax.legend()
    if across or with_time:  # beside the panels: lines fill them, and one line may go across several
        found = [ax.get_legend_handles_labels() for ax in axes.flat[:: len(metrics)]]
        entries = {text: line for handles in found for line, text in zip(*handles, strict=True)}
        figure.set_figwidth(figure.get_figwidth() + 3.6)
        figure.legend(entries.values(), entries.keys(), loc="outside right center")
    notes = [*(shuffle_notes(groups) if name == "graph_noise" else ()), *_bars_note(frame), *times]
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
            if not setting(g, "ablation.graph_noise")
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
    """A tornado plot: change of test macro-F1 when one hyperparameter leaves its best value.

    A panel a data set, model, mode and loss, each against its own best values.
    """
    swept = ("ablation", *CHANGES)
    off = {path: unchanged for path, (unchanged, *_) in CHANGES.items()}
    base = points(
        (g for g in groups if {path: setting(g, path) for path in off} == off),
        "ablation.sigma_scale",
        "macro_f1",
        *swept,
    )
    bars = pd.concat([points((g for g in groups if setting(g, p) != off[p]), p, "macro_f1", *swept) for p in off])
    if base.empty or bars.empty:
        return None
    keys = ["dataset", "row"]
    best = base.drop_duplicates(keys)[[*keys, "mean", "n"]].rename(columns={"mean": "best", "n": "best_n"})
    bars = bars.merge(best, on=keys)  # only where the best values were run
    bars["change"] = bars["mean"] - bars["best"]
    found = [(key, mine.sort_values(["setting", "x"])) for key, mine in bars.groupby(keys, sort=False)]
    if not found:
        return None
    num_hyperparameters = max(bar["setting"].nunique() for _, bar in found)
    figure, axes = panels(len(found), 1, width=5.2, height=0.6 + 0.75 * num_hyperparameters)
    for ax, ((dataset, row), mine) in zip(axes[:, 0], found, strict=True):
        _draw_tornado(ax, mine.to_dict("records"), f"{dataset_name(dataset)}, {row}")
    notes = [
        *_bars_note(bars),
        "In the paper (macro-F1 0.8714 at the best values) σ moves it most, λ and γ less.",
        *common_notes(groups, swept=swept),
    ]
    title = "Figure 7: sensitivity to σ, λ and γ around the best values"
    return Drawing("fig7", title, figure, [row for _, mine in found for row in _rows(mine)], notes, missing(groups))


def _draw_tornado(ax: Any, bars: Sequence[dict], title: str) -> None:
    swing = {bar["setting"]: 0.0 for bar in bars}
    for bar in bars:
        swing[bar["setting"]] = max(swing[bar["setting"]], abs(bar["change"]))
    order = sorted(swing, key=swing.get)  # the widest on top, as a tornado is drawn
    for bar in bars:
        off, symbol, sign = CHANGES[bar["setting"]]
        x, change, is_lower = bar["x"], bar["change"], bar["x"] < off
        spread = bar["std"] if bar["n"] > 1 else 0.0
        y = order.index(bar["setting"]) + (-0.19 if is_lower else 0.19)
        color, hatch = ("#56B4E9", "") if is_lower else ("#E69F00", "///")
        ax.barh(y, change, height=0.34, color=color, hatch=hatch, edgecolor="#333333", linewidth=0.6, zorder=2)
        ax.errorbar(change, y, xerr=spread or None, color="#333333", capsize=2, elinewidth=0.8, zorder=3)
        value = f"× {x:g}" if sign == "×" else f"{'+' if x > 0 else '−'} {abs(x):g}"
        text = f"{symbol} {value}: {change:+.2f}".replace("-", "−") + f" (n={bar['n']})"
        at = max(change + spread, 0.0), y
        ax.annotate(text, at, (4, 0), textcoords="offset points", va="center", fontsize=7)
    ax.axvline(0, color="#000000", linewidth=1)
    ax.set_yticks(range(len(order)), [CHANGES[path][1] for path in order])
    left, right = ax.dataLim.intervalx
    ax.set_xlim(left - 0.05 * (right - left), right + 0.5 * (right - left))  # room for the text beside the bars
    ax.set(xlabel=f"Change of test macro-F1 in points, from {bars[0]['best']:.2f} (n={bars[0]['best_n']})", title=title)
    ax.grid(axis="y", visible=False)
