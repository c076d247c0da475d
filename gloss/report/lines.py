"""Figures that show a score against one setting: Figures 2, 3 and 7, and our own sweeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gloss.report.cells import Group, number
from gloss.report.draw import Drawing, panels
from gloss.report.names import DATASET_LOOK, LOSS_LOOK, dataset_name, loss_name, model_name, paper_order
from gloss.report.stats import mean, std
from gloss.report.tables import common_notes, missing

BARS = "Bars: ± one standard deviation over seeds."


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
    errors = [row["std"] or 0.0 for row in rows]
    ax.errorbar(xs, ys, yerr=errors, label=label, capsize=2, elinewidth=0.8, **look)


def _seeds(rows: Sequence[dict]) -> str:
    counts = sorted({row["n"] for row in rows})
    return f"n={counts[0]}" if len(counts) == 1 else f"n={counts[0]}–{counts[-1]}"


def _keys(g: Group) -> dict[str, object]:
    return {"dataset": g.dataset, "model": g.model, "mode": g.mode, "loss": g.loss}


def sensitivity(name: str, title: str, parts: Sequence[tuple[Sequence[Group], str, str]]) -> Drawing | None:
    """Test macro-F1 against a setting, a line a data set, as the distance to that data set's best mean.

    parts: (groups, path of the setting, label of the axis), a panel each. The data sets lie 30 points apart, so that on
    one axis of absolute scores no line would be anything but flat; the legend gives the best mean.
    """
    everything = [g for groups, _, _ in parts for g in groups]
    if not any(g.runs for g in everything):
        return None
    figure, axes = panels(1, len(parts), width=3.6, height=2.9)
    data = []
    for ax, (groups, path, label) in zip(axes[0], parts, strict=True):
        for dataset in sorted({g.dataset for g in groups}, key=lambda d: paper_order(d)):
            mine = [g for g in groups if g.dataset == dataset]
            rows = sweep_points(mine, path, lambda g: g.test("macro_f1"))
            if not rows:
                continue
            best = max(row["mean"] for row in rows)
            text = f"{dataset_name(dataset)} (best {best:.1f}, {_seeds(rows)})"
            _draw(ax, rows, DATASET_LOOK.get(dataset, {}), text, base=best)
            data += [{**_keys(mine[0]), "setting": path, **row, "distance": row["mean"] - best} for row in rows]
        ax.set(xlabel=label, ylabel="Test macro-F1, points from best")
        if path.endswith("sigma_scale"):
            _log_ticks(ax, sorted({row["x"] for row in data if row["setting"] == path}))
        if ax.lines:
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.0)
    models = ", ".join(dict.fromkeys(model_name(g.model) for g in everything))
    notes = [
        f"{models}, integrated mode, G-Loss-O. {BARS}",
        *common_notes(everything, swept=[path for _, path, _ in parts]),
    ]
    return Drawing(name, title, figure, data, notes, missing(everything))


def _log_ticks(ax: Any, ticks: Sequence[float]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(ticks), [f"{x:g}" for x in ticks])
    ax.minorticks_off()


def fig2(groups: Sequence[Group]) -> Drawing | None:
    """The mixing weight λ."""
    return sensitivity("fig2", "Figure 2: the weight λ of G-Loss", [(groups, "loss.lam", "λ")])


def fig3(gamma: Sequence[Group], sigma: Sequence[Group]) -> Drawing | None:
    """The visible fraction γ and the kernel width σ."""
    parts = [
        (gamma, "loss.gamma", "γ, fraction of labels that stay visible"),
        (sigma, "ablation.sigma_scale", "σ as a multiple of its best value"),
    ]
    return sensitivity("fig3", "Figure 3: the visible fraction γ and the kernel width σ", parts)


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
) -> Drawing | None:
    """Test accuracy against a setting: a line a loss, a panel a data set and model; with_time: and seconds an epoch."""
    blocks = list(dict.fromkeys((g.dataset, g.model) for g in groups if g.runs))
    if not blocks:
        return None
    columns = 1 if len(blocks) == 1 and not with_time else 2
    num_panels = len(blocks) * (2 if with_time else 1)
    figure, axes = panels(-(-num_panels // columns), columns, width=3.6, height=2.7)
    for unused in axes.flat[num_panels:]:
        unused.remove()
    data = []
    rows_of_axes = axes if with_time else [[ax] for ax in axes.flat[:num_panels]]
    for row_of_axes, (dataset, model) in zip(rows_of_axes, blocks, strict=True):
        mine = [g for g in groups if (g.dataset, g.model) == (dataset, model)]
        measures = [("accuracy", "Test accuracy (%)", lambda g: g.test("accuracy"))]
        if with_time:
            seconds = (
                "seconds_per_epoch",
                "Seconds per epoch",
                lambda g: g.values("seconds", "per_epoch", drop_shared=True),
            )
            measures.append(seconds)
        for ax, (metric, ylabel, values) in zip(row_of_axes, measures, strict=True):
            for mode, loss in dict.fromkeys((g.mode, g.loss) for g in mine):
                rows = sweep_points([g for g in mine if (g.mode, g.loss) == (mode, loss)], path, values)
                if not rows:
                    continue
                keys = {"dataset": dataset, "model": model, "mode": mode, "loss": loss}
                data += [{**keys, "setting": path, "metric": metric, **row} for row in rows]
                shown = [row | {"x": 100 * row["x"]} for row in rows] if percent else rows
                _draw(ax, shown, LOSS_LOOK.get(loss, {}), f"{loss_name(loss, mode)} ({_seeds(rows)})")
            ticks = sorted({row["x"] * (100 if percent else 1) for row in data if row["dataset"] == dataset})
            if log:
                _log_ticks(ax, ticks)
            else:
                ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
            ax.set(title=f"{dataset_name(dataset)}, {model_name(model)}", xlabel=label, ylabel=ylabel)
        if row_of_axes[0].has_data():
            row_of_axes[0].legend()
    return Drawing(name, title, figure, data, [BARS, *common_notes(groups, swept=[path])], missing(groups))


CHANGES = (
    ("ablation.sigma_scale", 1.0, "σ", "×"),
    ("ablation.lam_offset", 0.0, "λ", "+"),
    ("ablation.gamma_offset", 0.0, "γ", "+"),
)


def fig7(groups: Sequence[Group]) -> Drawing | None:
    """A tornado plot: test macro-F1 when one hyperparameter leaves its best value, as the distance to the best's."""
    base = [g for g in groups if all(setting(g, path) == off for path, off, *_ in CHANGES)]
    base_values = list(base[0].test("macro_f1").values()) if base else []
    if not base_values:
        return None
    centre, bars, data = mean(base_values), [], []
    for path, off, symbol, sign in CHANGES:
        rows = sweep_points([g for g in groups if setting(g, path) != off], path, lambda g: g.test("macro_f1"))
        for row in rows:
            text = (
                f"{symbol} × {row['x']:g}"
                if sign == "×"
                else f"{symbol} {'+' if row['x'] > 0 else '−'} {abs(row['x']):g}"
            )
            data.append({**_keys(base[0]), "setting": path, **row, "change": row["mean"] - centre})
            bars.append((symbol, text, row["mean"] - centre, row["std"] or 0.0, row["x"] < off))
    if not bars:
        return None
    swing = {s: max(abs(change) for symbol, _, change, *_ in bars if symbol == s) for s, *_ in bars}
    order = sorted(swing, key=lambda s: swing[s])  # the widest on top, as a tornado is drawn
    figure, axes = panels(1, 1, width=5.2, height=0.6 + 0.75 * len(order))
    ax = axes[0, 0]
    for symbol, text, change, spread, is_lower in bars:
        y = order.index(symbol) + (-0.19 if is_lower else 0.19)
        color, hatch = ("#56B4E9", "") if is_lower else ("#E69F00", "///")
        ax.barh(y, change, height=0.34, color=color, hatch=hatch, edgecolor="#333333", linewidth=0.6, zorder=2)
        ax.errorbar(change, y, xerr=spread, color="#333333", capsize=2, elinewidth=0.8, zorder=3)
        edge = max(change + spread, 0.0)
        ax.annotate(
            f"{text}: {change:+.2f}".replace("-", "−"),
            (edge, y),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    ax.axvline(0, color="#000000", linewidth=1)
    ax.set_yticks(range(len(order)), order)
    ax.margins(x=0.3)
    where = f"{dataset_name(base[0].dataset)}, {model_name(base[0].model)}"
    ax.set(xlabel=f"Change of test macro-F1 in points, from {centre:.2f} (n={len(base_values)})", title=where)
    ax.grid(axis="y", visible=False)
    notes = [
        f"{BARS} In the paper (macro-F1 0.8714 at the best values) σ moves it most, λ and γ less.",
        *common_notes(base[:1]),
    ]
    title = "Figure 7: sensitivity to σ, λ and γ around the best values"
    return Drawing("fig7", title, figure, sorted(data, key=lambda r: (r["setting"], r["x"])), notes, missing(groups))
