"""The graph's quality while the losses train, and against the test accuracy that they reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from gloss.errors import RunError
from gloss.paper.names import LOSS_LOOK, dataset_name, loss_name, model_name
from gloss.records.reading import number
from gloss.report.figure import Drawing, band, panels
from gloss.report.seed_groups import Group
from gloss.report.statistics import mean
from gloss.report.tables.all_runs import Panel, left_out_notes, panels_by_model

MEASURES = (  # heading, key, its chance level, factor
    ("Homophily\nabove chance (points)", "homophily", "homophily_chance", 100),
    ("Propagated accuracy\nabove majority (points)", "propagated_accuracy", "majority_accuracy", 1),
)


def graph_quality(groups: Sequence[Group], cells: Sequence[Group] = ()) -> list[Drawing]:
    """Quality of the validation graph by epoch, and at the best epoch against test accuracy; a figure a model.

    groups and cells: as in `convergence`, by whose rules runs are chosen; those without the measure are left out.
    """
    measured = [g for g in groups if qualities(g)]
    blocks = panels_by_model(measured, cells)
    names = {model: "graph_quality" if len(blocks) == 1 else f"graph_quality_{model}" for model in blocks}
    return [_drawing(names[model], model, mine) for model, mine in blocks.items()]


def qualities(g: Group) -> dict[int, list[dict[str, Any]]]:
    """By seed the quality before training and after each epoch; runs that lack it or cannot be read: left out."""
    found = {}
    for seed, run in g.runs.items():
        try:
            lines = [(line.get("val") or {}).get("graph_quality") for line in run.epochs()]
        except (RunError, AttributeError):
            continue
        start = (run.result.get("graph_quality") or {}).get("at_start")
        if start and lines and all(lines):
            found[seed] = [start, *lines]
    return found


def _above(quality: dict[str, Any], key: str, chance: str, factor: float) -> float:
    return factor * (quality[key] - quality[chance])


def _drawing(name: str, model: str, blocks: Sequence[Panel]) -> Drawing:
    figure, axes = panels(len(blocks), len(MEASURES) + 1, width=2.7, height=2.3)
    notes = [
        "Left and middle: validation graphs of fixed batches, before training (epoch 0) and after each epoch, up to "
        "where the first seed of a loss stopped; 0 is what a graph that knows nothing reaches. Losses without a graph "
        "are measured at the σ of G-Loss-SQRT and γ 0.6, the others at their own. Right: at the best epoch, a point a "
        "seed.",
    ]
    data: list[dict[str, Any]] = []
    for row, (dataset, mode, chosen, left_out) in zip(axes, blocks, strict=True):
        where = f"{dataset_name(dataset)}, {model_name(model)}, {mode}"
        for loss, g in chosen.items():
            data += _loss(row, g, f"{loss_name(loss, mode)} (n={len(qualities(g))})")
        for ax, (heading, *_) in zip(row, MEASURES, strict=False):
            ax.axhline(0, color="#000000", linewidth=0.7)
            ax.set(xlabel="Epoch", ylabel=heading)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        row[0].set_title(where)
        row[-1].set(xlabel=MEASURES[-1][0], ylabel="Test accuracy (%)")
        row[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        notes += left_out_notes(where, mode, chosen, left_out)
    return Drawing(name, "What the graph knows", figure, data, notes)


def _loss(row: Sequence[Any], g: Group, label: str) -> list[dict[str, Any]]:
    """Draw a loss into the panels of its row; the numbers behind it."""
    found, look = qualities(g), LOSS_LOOK.get(g.loss, {})
    keys = {"dataset": g.dataset, "model": g.model, "mode": g.mode, "loss": g.loss}
    num_epochs = min(len(lines) for lines in found.values())
    data = []
    for ax, (_, key, chance, factor) in zip(row, MEASURES, strict=False):
        above = [[_above(lines[e], key, chance, factor) for lines in found.values()] for e in range(num_epochs)]
        band(ax, range(num_epochs), above, label, **look)
        for epoch in range(num_epochs):
            values = [lines[epoch][key] for lines in found.values()]
            levels = {"chance": mean([lines[epoch][chance] for lines in found.values()]), "n": len(values)}
            data.append(keys | {"measure": key, "epoch": epoch, "mean": mean(values), **levels})
    points = []
    for seed in found:
        best = (g.runs[seed].result.get("graph_quality") or {}).get("at_best")
        accuracy = number(g.runs[seed].result, "metrics", "test", "accuracy")
        if best and accuracy is not None:
            points.append((_above(best, *MEASURES[-1][1:]), accuracy))
            data.append(keys | {"measure": "at_best", "seed": seed, "test_accuracy": accuracy, **best})
    row[-1].plot(*zip(*points, strict=True), label=label, **(look | {"linestyle": ""}))
    return data
