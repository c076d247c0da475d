"""Convergence of the losses, and quality of the graph before and during training: figures of any runs."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from gloss.config import HYPERPARAMETERS
from gloss.errors import RunError
from gloss.paper.names import LOSS_LOOK, SYMBOLS, dataset_look, dataset_name, model_name, paper_order
from gloss.records.reading import number
from gloss.report.figure import Drawing, band, num_seeds, panels
from gloss.report.protocol import protocol_deviations
from gloss.report.seed_groups import Group, blocks, identity, setting
from gloss.report.statistics import mean, std

MODEL_DASHES = ("-", "--", ":", "-.")
MEASURES = (  # heading, key, its chance level, factor
    ("Homophily\nabove chance (points)", "homophily", "homophily_chance", 100),
    ("Propagated accuracy\nabove majority (points)", "propagated_accuracy", "majority_accuracy", 1),
)


class Panel(NamedTuple):
    """The drawn groups of a data set, model and mode, one for each loss; what of them was picked; the other groups."""

    drawn: list[Group]
    picked: list[str]
    left_out: list[Group]

    @property
    def where(self) -> str:
        return f"{self.drawn[0].place}, {self.drawn[0].mode}"

    @property
    def deviations(self) -> str:
        found = dict.fromkeys(", ".join(protocol_deviations(g.config)) for g in self.drawn)
        return "; ".join(filter(None, found))


def _notes(shown: Sequence[Panel]) -> list[str]:
    """Notes on the protocol of the drawn runs, panels of the same deviations together, and on runs left out."""
    alike: dict[str, list[str]] = defaultdict(list)
    for panel in shown:
        if panel.deviations:
            alike[panel.deviations].append(panel.where)
    notes = [f"Not the paper's protocol ({'; '.join(where)}): {found}." for found, where in alike.items()]
    for panel in shown:
        if panel.picked:
            picked = f"{panel.where}: {'; '.join(panel.picked)}"
            notes.append(f"Of several, the one with most seeds, then best on validation, {picked}.")
        if panel.left_out:
            which = Counter(g.loss_name for g in panel.left_out)
            counted = ", ".join(f"{name} ({num})" for name, num in which.items())
            notes.append(f"Configurations left out of {panel.where}, for their other settings: {counted}.")
    return notes


def convergence(groups: Sequence[Group], cells: Sequence[Group] = ()) -> list[Drawing]:
    """Validation score by epoch, a figure a model; a line a loss, the band one deviation.

    groups: all runs; cells: the tables' groups, which are drawn where there are any. Elsewhere the runs of one
    protocol and variant: the paper's if it was run, else the one with most losses, then most runs. A line ends where
    its first seed stopped.
    """
    return _a_figure_a_model("convergence", [g for g in groups if curves(g)], cells, _convergence)


def graph_quality(groups: Sequence[Group], cells: Sequence[Group] = ()) -> list[Drawing]:
    """Quality of the validation graph by epoch, and at the best epoch against test accuracy; a figure a model.

    groups and cells: as in `convergence`, by whose rules runs are chosen; those without the measure are left out.
    """
    return _a_figure_a_model("graph_quality", [g for g in groups if qualities(g)], cells, _graph_quality)


def pretrained_graph(frozen: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Quality of the graph before training against σ, a line a data set and encoder.

    frozen: records of gloss.training.baselines.measure_frozen; those without a graph are left out.
    """
    found = sorted(
        (r for r in frozen if r.get("graph")), key=lambda r: paper_order(dataset=r["dataset"], model=r["model"])
    )
    if not found:
        return None
    figure, axes = panels(1, len(MEASURES), width=3.2, height=2.8)
    models, data = list(dict.fromkeys(r["model"] for r in found)), []
    for record in found:
        look = dataset_look(record["dataset"]) | {"linestyle": MODEL_DASHES[models.index(record["model"]) % 4]}
        label = f"{dataset_name(record['dataset'])}, {model_name(record['model'])}"
        for ax, (_, key, chance, factor) in zip(axes[0], MEASURES, strict=True):
            above = [_above(row, key, chance, factor) for row in record["graph"]]
            ax.plot([row["scale"] for row in record["graph"]], above, label=label, **look)
        data += [{"dataset": record["dataset"], "model": record["model"], **row} for row in record["graph"]]
    for ax, (heading, *_) in zip(axes[0], MEASURES, strict=True):
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        ax.axhline(0, color="#000000", linewidth=0.7)
        ax.axvline(1, color="#999999", linewidth=0.7)
        ax.set(xlabel="σ ÷ σ of G-Loss-SQRT (log scale)", ylabel=heading)
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    notes = ["Validation graphs of the pretrained encoder, batches of 128, γ 0.6; 0 is the chance level of a graph."]
    return Drawing("pretrained_graph", "The graph before training", figure, data, notes)


def _a_figure_a_model(
    name: str, groups: Sequence[Group], cells: Sequence[Group], draw: Callable[[str, list[Panel]], Drawing]
) -> list[Drawing]:
    composed = {identity(g): g for g in cells if g.runs and not g.point}
    models = sorted({g.model for g in groups}, key=lambda m: paper_order(model=m))
    drawings = []
    for model in models:
        found = []
        for block in blocks((g for g in groups if g.model == model), "dataset", "mode").values():
            asked = [composed[identity(g)] for g in block if identity(g) in composed]
            drawn = _chosen(asked or block)
            left_out = [g for g in block if identity(g) not in map(identity, drawn)]
            found.append(Panel(drawn, _picked(drawn, asked or block), left_out))
        drawings.append(draw(name if len(models) == 1 else f"{name}_{model}", found))
    return drawings


def _chosen(candidates: Sequence[Group]) -> list[Group]:
    """One group for each loss, all of one setting; of several, the one with most seeds, then best on validation."""
    by_setting: dict[tuple, list[Group]] = defaultdict(list)
    for g in candidates:
        by_setting[setting(g)].append(g)

    def preference(one: tuple) -> tuple:
        found = by_setting[one]
        losses, num_runs = {g.loss for g in found}, sum(len(g.runs) for g in found)
        return one[1:] == ("paper",), len(losses), num_runs, -len(one), one  # a control has more settings

    def quality(g: Group) -> tuple[int, float]:
        found = g.values("metrics", "val", "macro_f1" if g.mode == "integrated" else "macro_silhouette")
        return len(g.runs), mean(found.values()) if found else -math.inf

    return [max(same, key=quality) for same in blocks(by_setting[max(by_setting, key=preference)], "loss").values()]


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)  # σ may be "sqrt"


def _picked(drawn: Sequence[Group], candidates: Sequence[Group]) -> list[str]:
    """The hyperparameters in which drawn groups differ from candidates that are otherwise equal."""
    found = []
    paths = {SYMBOLS.get(name, name): path.split(".") for name, path in HYPERPARAMETERS.items()}
    for g in drawn:
        rivals = [x.config for x in candidates if (x.loss, setting(x)) == (g.loss, setting(g))]
        own = []
        for name, (group, key) in paths.items():
            sections = [x.get(group) for x in (g.config, *rivals)]
            value, *others = [_short(x.get(key)) if isinstance(x, dict) else "" for x in sections]
            if set(others) != {value}:
                own.append(f"{name} {value}")
        if own:
            found.append(f"{g.loss_name} with {', '.join(own)}")
    return found


def _convergence(name: str, shown: Sequence[Panel]) -> Drawing:
    columns = min(3, len(shown))
    figure, axes = panels(-(-len(shown) // columns), columns, width=3.0, height=2.4)
    data: list[dict[str, object]] = []
    entries: dict[str, Any] = {}
    for ax, block in zip(axes.flat, shown, strict=False):
        for g in block.drawn:
            lines = curves(g)
            scores = list(zip(*lines.values(), strict=False))  # by epoch, as far as every seed ran
            centre = band(ax, range(1, len(scores) + 1), scores, g.loss_name, **LOSS_LOOK.get(g.loss, {}))
            for epoch, (score, found) in enumerate(zip(centre, scores, strict=True), start=1):
                data.append({**g.keys, "n": len(lines), "epoch": epoch, "score": score, "std": std(found)})
        measure = "Validation macro-F1 (%)" if block.drawn[0].mode == "integrated" else "Validation silhouette"
        n = num_seeds([len(curves(g)) for g in block.drawn])
        ax.set(title=f"{block.where}\n{n}", xlabel="Epoch", ylabel=measure)
        ax.xaxis.get_major_locator().set_params(integer=True)
        entries |= {text: line for line, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    for unused in axes.flat[len(shown) :]:
        unused.remove()
    figure.set_figwidth(figure.get_figwidth() + 1.4)
    figure.legend(list(entries.values()), list(entries), loc="outside right center")
    notes = [
        "Lines end where the first seed of a loss stopped; bands are ± one standard deviation over seeds.",
        *_notes(shown),
    ]
    return Drawing(name, "How the losses converge", figure, data, notes)


def curves(g: Group) -> dict[int, list[float]]:
    """By seed the validation score of each epoch; runs with unreadable lines are left out."""
    found = {seed: [number(line, "score") for line in lines] for seed, lines in _epochs(g).items()}
    return {seed: scores for seed, scores in found.items() if scores and None not in scores}


def qualities(g: Group) -> dict[int, list[dict[str, Any]]]:
    """By seed the quality before training and after each epoch; runs that lack it or cannot be read: left out."""
    found = {}
    for seed, lines in _epochs(g).items():
        start = (g.runs[seed].result.get("graph_quality") or {}).get("at_start")
        after = [(line.get("val") or {}).get("graph_quality") for line in lines]
        if start and after and all(after):
            found[seed] = [start, *after]
    return found


def _epochs(g: Group) -> dict[int, list[dict[str, Any]]]:
    found = {}
    for seed, run in g.runs.items():
        with suppress(RunError):
            found[seed] = run.epochs()
    return found


def _graph_quality(name: str, shown: Sequence[Panel]) -> Drawing:
    figure, axes = panels(len(shown), len(MEASURES) + 1, width=2.7, height=2.3)
    notes = [
        "Left and middle: validation graphs of fixed batches, before training (epoch 0) and after each epoch, up to "
        "where the first seed of a loss stopped; 0 is the chance level of a graph. Losses without a graph "
        "are measured at the σ of G-Loss-SQRT and γ 0.6, the others at their own. Lines are means, bands one standard "
        "deviation over the seeds. Right: at the best epoch, a point a seed.",
    ]
    data: list[dict[str, Any]] = []
    for row, block in zip(axes, shown, strict=True):
        for g in block.drawn:
            data += _quality_lines(row, g, f"{g.loss_name} (n={len(qualities(g))})")
        for ax, (heading, *_) in zip(row, MEASURES, strict=False):
            ax.axhline(0, color="#000000", linewidth=0.7)
            ax.set(xlabel="Epoch", ylabel=heading)
            ax.xaxis.get_major_locator().set_params(integer=True)
        row[0].set_title(block.where)
        row[-1].set(xlabel=MEASURES[-1][0], ylabel="Test accuracy (%)")
        row[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return Drawing(name, "Quality of the graph", figure, data, notes + _notes(shown))


def _above(quality: dict[str, Any], key: str, chance: str, factor: float) -> float:
    return factor * (quality[key] - quality[chance])


def _quality_lines(row: Sequence[Any], g: Group, label: str) -> list[dict[str, Any]]:
    """Draw a loss into the panels of its row; return the numbers behind it."""
    found, look, data = qualities(g), LOSS_LOOK.get(g.loss, {}), []
    by_epoch = list(zip(*found.values(), strict=False))
    for ax, (_, key, chance, factor) in zip(row, MEASURES, strict=False):
        above = [[_above(quality, key, chance, factor) for quality in same] for same in by_epoch]
        band(ax, range(len(above)), above, label, **look)
        for epoch, same in enumerate(by_epoch):
            means = {"mean": mean([x[key] for x in same]), "chance": mean([x[chance] for x in same])}
            data.append({**g.keys, "measure": key, "epoch": epoch, **means, "n": len(same)})
    points = []
    for seed in found:
        best = (g.runs[seed].result.get("graph_quality") or {}).get("at_best")
        accuracy = number(g.runs[seed].result, "metrics", "test", "accuracy")
        if best and accuracy is not None:
            points.append((_above(best, *MEASURES[-1][1:]), accuracy))
            data.append({**g.keys, "measure": "at_best", "seed": seed, "test_accuracy": accuracy, **best})
    row[-1].plot(*zip(*points, strict=True), label=label, **(look | {"linestyle": ""}))
    return data
