"""What every outputs folder has, whatever was run: the table of all runs, and how the losses converge."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from gloss.report.cells import Group, departures, is_shared, mean_std, number
from gloss.report.draw import Drawing, panels
from gloss.report.names import LOSS_LOOK, dataset_name, loss_name, model_name, paper_order
from gloss.report.stats import mean, std
from gloss.report.table import MISSING, Entry, Part, Table, mark, rank
from gloss.runs import RunError

METRICS = (  # heading, where it stands in result.json, digits, larger is better
    ("Accuracy %", ("metrics", "test", "accuracy"), 2, True),
    ("Macro-F1 %", ("metrics", "test", "macro_f1"), 2, True),
    ("Silhouette", ("metrics", "test", "macro_silhouette"), 4, True),
    ("s / epoch", ("seconds", "per_epoch"), 2, False),
    ("Epochs", ("epochs",), 1, False),
    ("s to best", ("seconds", "to_best"), 1, False),
)


def runs_table(groups: Sequence[Group], name: str = "runs", title: str = "All finished runs") -> Table:
    """A line a configuration: test metrics as mean ± standard deviation over its seeds. Best and second of each data
    set, model and mode are marked."""
    settings = defaultdict(set)
    for g in groups:
        settings[g.dataset, g.model, g.mode, g.loss].add(g.digits)
    blocks = defaultdict(list)
    for g in groups:
        blocks[g.dataset, g.model, g.mode].append(g)
    rows, data, notes = [], [], []
    for block in blocks.values():
        columns = []
        for _, path, digits, higher in METRICS:
            values = [list(g.values(*path).values()) for g in block]
            entries = [Entry((Part(mean_std(v, digits) if v else MISSING),)) for v in values]
            means = [mean(v) if v else None for v in values]
            is_quality = path[0] == "metrics"  # times and epochs are facts, not a contest
            columns.append(
                mark(entries, rank(means, higher_is_better=higher, digits=digits)) if is_quality else entries
            )
        for i, g in enumerate(block):
            label = loss_name(g.loss, g.mode)
            if len(settings[g.dataset, g.model, g.mode, g.loss]) > 1:
                label += f" [{g.digits[:8]}]"
            names = (dataset_name(g.dataset), model_name(g.model), g.mode, label)
            keys = [Entry((Part(text),)) for text in names]
            rows.append([*keys, Entry((Part(str(len(g.runs))),)), *(column[i] for column in columns)])
            data.append(_row(g))
    for text in dict.fromkeys(_departures(g) for g in groups):
        if text:
            who = sorted({f"{g.dataset}/{g.model}" for g in groups if _departures(g) == text})
            notes.append(f"Not the paper's protocol ({', '.join(who)}): {text}.")
    notes.append(
        "Test split; mean ± standard deviation (n - 1) over n seeds; bold is best, underlined second of its block. "
        "Times are of training alone, the last until the best epoch."
    )
    if any(len(x) > 1 for x in settings.values()):
        notes.append("[…]: the digits of the run's folder, where one loss was run with several settings.")
    columns = ["Data set", "Model", "Mode", "Loss", "n", *(heading for heading, *_ in METRICS)]
    return Table(name, title, columns, rows, data, notes, num_keys=4)


def _departures(g: Group) -> str:
    return ", ".join(departures(g.config))


def _row(g: Group) -> dict[str, object]:
    row: dict[str, object] = {key: getattr(g, key) for key in ("dataset", "model", "mode", "loss", "variant", "digits")}
    row |= {"seeds": " ".join(map(str, g.runs)), "departures": _departures(g)}
    for _, path, *_ in METRICS:
        values = list(g.values(*path).values())
        row[path[-1]] = mean(values) if values else None
        row[path[-1] + "_std"] = std(values) if len(values) > 1 else None
    return row


def convergence(groups: Sequence[Group]) -> list[Drawing]:
    """Validation score by epoch and by seconds of training, a figure a model; a line a loss, the band one deviation.

    A line goes as far as every seed of it ran. Seconds leave out evaluation, and runs that shared their device.
    """
    blocks: dict[tuple, dict[str, Group]] = defaultdict(dict)
    left_out: Counter[str] = Counter()
    for g in groups:
        block = blocks[g.model, g.dataset, g.mode]
        rival = block.get(g.loss)
        left_out[g.model] += rival is not None
        if rival is None or len(g.runs) > len(rival.runs):
            block[g.loss] = g
    drawn = {key: block for key, block in blocks.items() if any(curves(g) for g in block.values())}
    models = sorted({model for model, *_ in drawn}, key=lambda m: paper_order(model=m))
    drawings = []
    for model in models:
        mine = [(dataset, mode, block) for (m, dataset, mode), block in drawn.items() if m == model]
        name = "convergence" if len(models) == 1 else f"convergence_{model}"
        drawings.append(_convergence(name, model, mine, left_out[model]))
    return drawings


def _convergence(name: str, model: str, blocks: Sequence[tuple[str, str, dict[str, Group]]], left_out: int) -> Drawing:
    notes = ["Lines end where the first seed of a loss stopped; bands are ± one standard deviation over seeds."]
    if left_out:
        notes.append(
            f"{model_name(model)}: {left_out} further settings of the same losses are left out: the one with most "
            "seeds is drawn."
        )
    pairs_in_row = min(2, len(blocks))
    figure, axes = panels(-(-len(blocks) // pairs_in_row), 2 * pairs_in_row, width=3.0, height=2.4)
    axes = axes.reshape(-1, 2)
    for unused in axes[len(blocks) :].flat:
        unused.remove()
    data = []
    for (left, right), (dataset, mode, block) in zip(axes, blocks, strict=False):
        score = "Validation macro-F1 (%)" if mode == "integrated" else "Validation silhouette"
        for loss, g in block.items():
            label = f"{loss_name(loss, mode)} (n={len(g.runs)})"
            data += _line(left, g, label, "epoch")
            data += _line(right, g, label, "seconds")
        left.set(title=f"{dataset_name(dataset)}, {model_name(model)}, {mode}", xlabel="Epoch", ylabel=score)
        right.set(xlabel="Training time (s)")
        left.legend()
    return Drawing(name, "How the losses converge", figure, data, notes)


def curves(g: Group, *, drop_shared: bool = False) -> dict[int, list[tuple[float, float]]]:
    """By seed: (seconds of training so far, validation score) of each epoch; runs with unreadable lines: left out."""
    found = {}
    for seed, run in g.runs.items():
        if drop_shared and is_shared(run):
            continue
        points, seconds = [], 0.0
        try:
            lines = run.epochs()
        except RunError:
            continue
        for line in lines:
            step = number(line, "seconds", "total")  # without evaluation, which the record keeps apart
            seconds = seconds + step if step is not None else math.nan
            points.append((seconds, number(line, "score")))
        if points and all(score is not None for _, score in points):
            found[seed] = points
    return found


def _line(ax: Any, g: Group, label: str, x: str) -> list[dict[str, object]]:
    lines = list(curves(g, drop_shared=x == "seconds").values())
    if x == "seconds":
        lines = [line for line in lines if not math.isnan(line[-1][0])]
    if not lines:
        return []
    num_epochs = min(len(line) for line in lines)
    scores = [[line[i][1] for line in lines] for i in range(num_epochs)]
    xs = [i + 1 if x == "epoch" else mean([line[i][0] for line in lines]) for i in range(num_epochs)]
    centre = [mean(s) for s in scores]
    spread = [std(s) if len(s) > 1 else 0.0 for s in scores]
    look = LOSS_LOOK.get(g.loss, {})
    ax.plot(xs, centre, label=label, markevery=max(1, num_epochs // 8), **look)
    low, high = ([c + sign * s for c, s in zip(centre, spread, strict=True)] for sign in (-1, 1))
    ax.fill_between(xs, low, high, color=look.get("color"), alpha=0.15, linewidth=0)
    keys = {"dataset": g.dataset, "model": g.model, "mode": g.mode, "loss": g.loss, "n": len(lines), "by": x}
    return [
        keys | {"epoch": i + 1, "x": xs[i], "score": centre[i], "std": spread[i] if len(lines) > 1 else None}
        for i in range(num_epochs)
    ]
