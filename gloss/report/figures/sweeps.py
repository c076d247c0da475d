"""Figures that show a score against one setting: Figures 2, 3 and 7, and our own sweeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from gloss.config import INTEGRATED
from gloss.paper.names import DATASET_LOOK, LOSS_LOOK, dataset_name, loss_name, model_name, paper_order
from gloss.records.reading import number
from gloss.report.figure import Drawing, panels
from gloss.report.seed_groups import Group, timed
from gloss.report.statistics import mean, std
from gloss.report.tables.results import common_notes, missing


def bars_note(data: Sequence[dict]) -> list[str]:
    """What the bars are, where there are any."""
    return ["Bars: ± one standard deviation over seeds."] if any(row["std"] is not None for row in data) else []


def setting(g: Group, path: str) -> float | None:
    """The number at "section.key" of a cell's configuration."""
    return number(g.config, *path.split("."))


def sweep_points(groups: Sequence[Group], path: str, values: Callable[[Group], dict[int, float]]) -> list[dict]:
    """The rows of a line: setting, mean, standard deviation, number of seeds; sorted; without runs, left out."""
    rows = []
    for g in groups:
        x, found = setting(g, path), list(values(g).values())
        if x is not None and found:
            spread = std(found) if len(found) > 1 else None
            rows.append({"x": x, "mean": mean(found), "std": spread, "n": len(found)})
    return sorted(rows, key=lambda row: row["x"])


def _draw(ax: Any, rows: Sequence[dict], look: dict[str, Any], label: str, base: float = 0.0) -> None:
    xs, ys = [row["x"] for row in rows], [row["mean"] - base for row in rows]
    errors = [math.nan if row["std"] is None else row["std"] for row in rows]  # one seed: no bar
    ax.errorbar(xs, ys, yerr=errors, label=label, capsize=2, elinewidth=0.8, **look)


def _seeds(rows: Sequence[dict]) -> str:
    counts = sorted({row["n"] for row in rows})
    return f"n={counts[0]}" if len(counts) == 1 else f"n={counts[0]}–{counts[-1]}"


def _keys(g: Group) -> dict[str, object]:
    return {"dataset": g.dataset, "model": g.model, "mode": g.mode, "loss": g.loss}


WORDS = {  # settings that have a name in legends; the default has none
    ("ablation.graph_shuffle", "False"): "",
    ("ablation.graph_shuffle", "True"): "shuffled graph",
    ("dataset.unlabeled", "None"): "",
    ("dataset.unlabeled", "rest"): "with unlabeled",
}


def others(g: Group, *swept: str) -> str:
    """What else was swept beside `swept`: " (trainer.lr=1e-05)", or empty. Groups that differ in it share no line."""
    found = (WORDS.get((key, str(value)), f"{key}={value}") for key, value in g.point.items() if key not in swept)
    rest = ", ".join(text for text in found if text)
    return f" ({rest})" if rest else ""


def sensitivity(name: str, title: str, parts: Sequence[tuple[Sequence[Group], str, str]]) -> Drawing | None:
    """Test macro-F1 against a setting, a line a data set, as the distance to that data set's best mean.

    parts: (groups, path of the setting, label of the axis), a panel each; a row of panels a model, mode and loss. The
    data sets lie 30 points apart, so that on one axis of absolute scores no line would be anything but flat; the
    legend gives the best mean.
    """
    everything = [(g, path) for groups, path, _ in parts for g in groups]
    blocks = list(dict.fromkeys(_block(g, path) for g, path in everything if g.runs))
    if not blocks:
        return None
    figure, axes = panels(len(blocks), len(parts), width=3.6, height=2.9)
    data = []
    for row_of_axes, block in zip(axes, blocks, strict=True):
        for ax, (groups, path, label) in zip(row_of_axes, parts, strict=True):
            found = [g for g in groups if _block(g, path) == block]
            rows_by_set = {d: [g for g in found if g.dataset == d] for d in dict.fromkeys(g.dataset for g in found)}
            for dataset in sorted(rows_by_set, key=lambda d: paper_order(d)):
                mine = rows_by_set[dataset]
                rows = sweep_points(mine, path, lambda g: g.test("macro_f1"))
                if not rows:
                    continue
                best = max(row["mean"] for row in rows)
                text = f"{dataset_name(dataset)} (best {best:.1f}, {_seeds(rows)})"
                _draw(ax, rows, DATASET_LOOK.get(dataset, {}), text, base=best)
                keys = _keys(mine[0]) | ({"others": block[-1].strip(" ()")} if block[-1] else {})
                data += [{**keys, "setting": path, **row, "distance": row["mean"] - best} for row in rows]
            ylabel = "Test macro-F1, points from best"
            ax.set(xlabel=label, ylabel=f"{_block_name(block)}\n{ylabel}" if len(blocks) > 1 else ylabel)
            if path.endswith("sigma_scale"):
                _log_ticks(ax, sorted({row["x"] for row in data if row["setting"] == path}))
            if ax.lines:
                ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.0)
    groups = [g for g, _ in everything]
    notes = [
        f"{'; '.join(map(_block_name, blocks))}.",
        *bars_note(data),
        *common_notes(groups, swept=[path for _, path, _ in parts]),
    ]
    return Drawing(name, title, figure, data, notes, missing(groups))


def _block(g: Group, path: str) -> tuple[str, str, str, str]:
    return g.model, g.mode, g.loss, others(g, path)


def _block_name(block: tuple[str, str, str, str]) -> str:
    model, mode, loss, rest = block
    return f"{model_name(model)}, {mode}, {loss_name(loss, mode)}{rest}"


def _log_ticks(ax: Any, ticks: Sequence[float]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(ticks), [f"{x:g}" for x in ticks])
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


def by_loss(
    name: str,
    title: str,
    groups: Sequence[Group],
    path: str,
    label: str,
    *,
    log: bool = False,
    percent: bool = False,
    with_time: bool = False,
    across: bool = False,
) -> Drawing | None:
    """Test accuracy against a setting: a line a loss, a panel a data set and model; with_time: and seconds an epoch.

    across: a loss that the experiment runs with one setting only is a reference, drawn across the panel.
    """
    blocks = list(dict.fromkeys((g.dataset, g.model) for g in groups if g.runs))
    if not blocks:
        return None
    columns = 1 if len(blocks) == 1 and not with_time else 2
    num_panels = len(blocks) * (2 if with_time else 1)
    figure, axes = panels(-(-num_panels // columns), columns, width=3.6, height=2.7)
    for unused in axes.flat[num_panels:]:
        unused.remove()
    data, has_modes = [], len({g.mode for g in groups}) > 1
    clocked, times = timed(groups) if with_time else ([], [])
    measures: list[Any] = [("accuracy", "Test accuracy (%)", groups, ("metrics", "test", "accuracy"))]
    measures += [("seconds_per_epoch", "Seconds per epoch", clocked, ("seconds", "per_epoch"))] if with_time else []
    rows_of_axes = axes if with_time else [[ax] for ax in axes.flat[:num_panels]]
    for row_of_axes, (dataset, model) in zip(rows_of_axes, blocks, strict=True):
        for ax, (metric, ylabel, source, where) in zip(row_of_axes, measures, strict=True):
            mine = [g for g in source if (g.dataset, g.model) == (dataset, model)]
            for mode, loss, rest in dict.fromkeys((g.mode, g.loss, others(g, path)) for g in mine):
                line = [g for g in mine if (g.mode, g.loss, others(g, path)) == (mode, loss, rest)]
                rows = sweep_points(line, path, lambda g: g.values(*where))  # noqa: B023
                if not rows:
                    continue
                keys = _keys(line[0]) | ({"others": rest.strip(" ()")} if rest else {})
                data += [{**keys, "setting": path, "metric": metric, **row} for row in rows]
                shown = [row | {"x": 100 * row["x"]} for row in rows] if percent else rows
                look = LOSS_LOOK.get(loss, {}) | ({"linestyle": ":", "fillstyle": "none"} if rest else {})
                look |= {"color": "#999999"} if has_modes and mode != INTEGRATED else {}
                own_name = loss_name(loss, mode) + (f" ({mode})" if has_modes and mode != INTEGRATED else "")
                _draw(ax, shown, look, f"{own_name}{rest} ({_seeds(rows)})")
                if across and len(line) == 1:
                    ax.axhline(rows[0]["mean"], color=look.get("color"), linestyle=look.get("linestyle"), linewidth=0.7)
            ticks = sorted({row["x"] * (100 if percent else 1) for row in data if row["dataset"] == dataset})
            if log:
                _log_ticks(ax, ticks)
            else:
                ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
            ax.set(title=f"{dataset_name(dataset)}, {model_name(model)}", xlabel=label, ylabel=ylabel)
        if with_time:
            look = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}  # beside the panels: lines fill them
            row_of_axes[-1].legend(*row_of_axes[0].get_legend_handles_labels(), **look)
        elif row_of_axes[0].has_data() and not across:
            row_of_axes[0].legend()
    if across:  # lines go across the panels
        entries = {name: line for ax in axes.flat for line, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.set_figwidth(figure.get_figwidth() + 3.6)
        figure.legend(entries.values(), entries.keys(), loc="outside right center")
    return Drawing(
        name, title, figure, data, [*bars_note(data), *times, *common_notes(groups, swept=[path])], missing(groups)
    )


CHANGES = (
    ("ablation.sigma_scale", 1.0, "σ", "×"),
    ("ablation.lam_offset", 0.0, "λ", "+"),
    ("ablation.gamma_offset", 0.0, "γ", "+"),
)


def fig7(groups: Sequence[Group]) -> Drawing | None:
    """A tornado plot: test macro-F1 when one hyperparameter leaves its best value, as the distance to the best's.

    A panel a data set, model, mode and loss, each against its own best values.
    """
    swept = ("ablation", *(path for path, *_ in CHANGES))
    blocks: dict[tuple[str, ...], list[Group]] = {}
    for g in groups:
        blocks.setdefault((g.dataset, g.model, g.mode, g.loss, others(g, *swept)), []).append(g)
    found = {key: bars for key, block in blocks.items() if (bars := _tornado(block))}
    if not found:
        return None
    num_hyperparameters = max(len({bar["setting"] for bar in bars}) for bars in found.values())
    figure, axes = panels(len(found), 1, width=5.2, height=0.6 + 0.75 * num_hyperparameters)
    data = []
    for ax, (key, bars) in zip(axes[:, 0], found.items(), strict=True):
        dataset, model, mode, loss, rest = key
        _draw_tornado(ax, bars, f"{dataset_name(dataset)}, {_block_name((model, mode, loss, rest))}")
        data += sorted(({**_keys(blocks[key][0]), **bar} for bar in bars), key=lambda r: (r["setting"], r["x"]))
    notes = [
        *bars_note(data),
        "In the paper (macro-F1 0.8714 at the best values) σ moves it most, λ and γ less.",
        *common_notes(groups, swept=swept),
    ]
    title = "Figure 7: sensitivity to σ, λ and γ around the best values"
    return Drawing("fig7", title, figure, data, notes, missing(groups))


def _tornado(block: Sequence[Group]) -> list[dict]:
    """A bar a changed value, with the change from the mean at the best values; none where these were not run."""
    base = [g for g in block if all(setting(g, path) == off for path, off, *_ in CHANGES)]
    base_values = list(base[0].test("macro_f1").values()) if base else []
    if not base_values:
        return []
    best = {"best": mean(base_values), "best_n": len(base_values)}
    bars = []
    for path, off, *_ in CHANGES:
        rows = sweep_points([g for g in block if setting(g, path) != off], path, lambda g: g.test("macro_f1"))
        bars += [{"setting": path, **row, "change": row["mean"] - best["best"], **best} for row in rows]
    return bars


def _draw_tornado(ax: Any, bars: Sequence[dict], title: str) -> None:
    swing: dict[str, float] = {}
    for bar in bars:
        swing[bar["setting"]] = max(swing.get(bar["setting"], 0.0), abs(bar["change"]))
    order = sorted(swing, key=lambda path: swing[path])  # the widest on top, as a tornado is drawn
    signs = {path: (off, symbol, sign) for path, off, symbol, sign in CHANGES}
    for bar in bars:
        off, symbol, sign = signs[bar["setting"]]
        x, change, spread, is_lower = bar["x"], bar["change"], bar["std"] or 0.0, bar["x"] < off
        y = order.index(bar["setting"]) + (-0.19 if is_lower else 0.19)
        color, hatch = ("#56B4E9", "") if is_lower else ("#E69F00", "///")
        ax.barh(y, change, height=0.34, color=color, hatch=hatch, edgecolor="#333333", linewidth=0.6, zorder=2)
        if bar["n"] > 1:
            ax.errorbar(change, y, xerr=spread, color="#333333", capsize=2, elinewidth=0.8, zorder=3)
        value = f"× {x:g}" if sign == "×" else f"{'+' if x > 0 else '−'} {abs(x):g}"
        text = f"{symbol} {value}: {change:+.2f}".replace("-", "−") + f" (n={bar['n']})"
        at = max(change + spread, 0.0), y
        ax.annotate(text, at, (4, 0), textcoords="offset points", va="center", fontsize=7)
    ax.axvline(0, color="#000000", linewidth=1)
    ax.set_yticks(range(len(order)), [signs[path][1] for path in order])
    left, right = ax.dataLim.intervalx
    ax.set_xlim(left - 0.05 * (right - left), right + 0.5 * (right - left))  # room for what is written beside the bars
    ax.set(xlabel=f"Change of test macro-F1 in points, from {bars[0]['best']:.2f} (n={bars[0]['best_n']})", title=title)
    ax.grid(axis="y", visible=False)
