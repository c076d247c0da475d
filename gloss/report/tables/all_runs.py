"""What every outputs folder has, whatever was run: the table of all runs, and how the losses converge."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from gloss.errors import RunError
from gloss.paper.names import LOSS_LOOK, dataset_name, loss_name, model_name, paper_order
from gloss.records.frame import frame_of
from gloss.records.reading import number
from gloss.report.figure import Drawing, band, panels
from gloss.report.run_list import settings
from gloss.report.seed_groups import CELL, Group, protocol_deviations, setting, timed
from gloss.report.statistics import mean, std
from gloss.report.table import Entry, Table
from gloss.report.tables.results import (
    ACCURACY,
    EPOCH_SECONDS,
    MACRO_F1,
    SILHOUETTE,
    Metric,
    by_group,
    measure,
    ours,
)

MAX_NAMES = 6  # of runs in a note
METRICS = (
    *(ACCURACY, MACRO_F1, SILHOUETTE, EPOCH_SECONDS),
    Metric("epochs", "Epochs", ("epochs",), 1, False),
    Metric("seconds_to_best", "s to best", ("seconds", "to_best"), 1, False),
)


def runs_table(groups: Sequence[Group], name: str = "runs", title: str = "All finished runs") -> Table:
    """A line a configuration: test metrics as mean ± standard deviation over its seeds. Best and second of each data
    set, model and mode are marked, among runs of one protocol and variant."""
    place = {(g.dataset, g.model, g.mode): i for i, g in enumerate(reversed(groups))}
    groups = sorted(groups, key=lambda g: (-place[g.dataset, g.model, g.mode], setting(g)))  # a contest after the other
    settings_of = differences(groups)
    measured = measure(groups, METRICS)
    known = set(measured.dropna(subset="mean")["metric"])
    metrics, measured = [m for m in METRICS if m.name in known], measured[measured["metric"].isin(known)]
    rows, data = [], []
    for g, cell in zip(groups, by_group(measured, metrics), strict=True):
        shown = [ours(row if m.is_quality else row | {"rank": 0}, m) for row, m in zip(cell, metrics, strict=True)]
        numbers = [Entry((part,)) for part in shown]  # times and epochs are facts, not a contest: no rank
        keys = [
            dataset_name(g.dataset),
            model_name(g.model),
            g.mode,
            loss_name(g.loss, g.mode),
            settings_of[identity(g)],
        ]
        rows.append([*keys, len(g.runs), *numbers])
        data.append({**{key: cell[0][key] for key in CELL}, "seeds": " ".join(map(str, g.runs))})
        data[-1] |= {"protocol_deviations": cell[0]["protocol_deviations"]}
        for row, m in zip(cell, metrics, strict=True):
            data[-1] |= {str(m.path[-1]): row["mean"], f"{m.path[-1]}_std": row["std"]}
    notes, columns = [*timed(groups)[1]], ["Data set", "Model", "Mode", "Loss", "Settings", "n"]
    if off := [set(found) for g in groups if (found := protocol_deviations(g.config))]:
        which = "all rows" if len(off) == len(groups) else f"{len(off)} of {len(groups)} rows; the CSV says of which"
        shared = sorted(set.intersection(*off))
        notes.append(f"Not the paper's protocol ({which}){': ' if shared else ''}{', '.join(shared)}.")
    if any(settings_of.values()):
        notes.append("Settings: those that differ among the runs of a data set, model, mode and loss.")
    else:
        columns, rows = [c for c in columns if c != "Settings"], [[*row[:4], *row[5:]] for row in rows]
    num_keys = len(columns) - 1
    return Table(name, title, [*columns, *(m.heading for m in metrics)], rows, data, notes, num_keys=num_keys)


def differences(groups: Sequence[Group]) -> dict[tuple, str]:
    """By `identity`, what tells a configuration from the others of its data set, model, mode and loss: the variant and
    settings; the config_hash too where these are the same. Empty for one of its kind."""
    settings_of = settings(frame_of([run for g in groups for run in g.runs.values()]))
    texts = {
        identity(g): " ".join(
            x for x in ((g.variant, "")[g.variant == "paper"], settings_of[tuple(getattr(g, key) for key in CELL)]) if x
        )
        for g in groups
    }
    counts = Counter((*key[:4], text) for key, text in texts.items())
    return {
        key: text if counts[*key[:4], text] == 1 else f"{text} config_hash={key[4][:8]}".strip()
        for key, text in texts.items()
    }


def convergence(groups: Sequence[Group], cells: Sequence[Group] = ()) -> list[Drawing]:
    """Validation score by epoch and by seconds of training, a figure a model; a line a loss, the band one deviation.

    groups: all runs; cells: the tables' groups, which are drawn where there are any. Elsewhere the runs of one
    protocol and variant: the paper's if it was run, else the one with most losses, then most runs. A line goes as far
    as every seed of it ran. Seconds leave out evaluation, and what `timed` leaves out.
    """
    blocks = panels_by_model([g for g in groups if curves(g)], cells)
    names = {model: "convergence" if len(blocks) == 1 else f"convergence_{model}" for model in blocks}
    return [_convergence(names[model], model, mine) for model, mine in blocks.items()]


def panels_by_model(groups: Sequence[Group], cells: Sequence[Group]) -> dict[str, list[Panel]]:
    """By model, in the paper's order, what is drawn of each data set and mode, as `convergence` says."""
    blocks: dict[tuple[str, str, str], list[Group]] = defaultdict(list)
    for g in groups:
        blocks[g.model, g.dataset, g.mode].append(g)
    composed = {identity(g): g for g in cells if g.runs and not g.point}
    found: dict[str, list[Panel]] = {m: [] for m in sorted({m for m, *_ in blocks}, key=lambda m: paper_order(model=m))}
    for (model, dataset, mode), block in blocks.items():
        asked = [composed[identity(g)] for g in block if identity(g) in composed]
        found[model].append((dataset, mode, *_chosen(asked or block, block)))
    return found


def identity(g: Group) -> tuple:
    return g.dataset, g.model, g.mode, g.loss, g.config_hash


def _chosen(candidates: Sequence[Group], block: Sequence[Group]) -> tuple[dict[str, Group], list[Group]]:
    """By loss the group that is drawn, all of one setting, and the groups of the block that are left out.

    Of several settings of a loss, the one with most seeds, then with the best mean validation score.
    """
    by_setting: dict[tuple, list[Group]] = defaultdict(list)
    for g in candidates:
        by_setting[setting(g)].append(g)

    def preference(one: tuple) -> tuple:
        found = by_setting[one]
        num_runs = sum(len(g.runs) for g in found)
        return (
            one[1:] == ("paper",),
            len({g.loss for g in found}),
            num_runs,
            -len(one),
            one,
        )  # a control has more settings

    def score(g: Group) -> float:
        metric = "macro_f1" if g.mode == "integrated" else "macro_silhouette"
        values = list(g.values("metrics", "val", metric).values())
        return mean(values) if values else -math.inf

    chosen: dict[str, Group] = {}
    for g in by_setting[max(by_setting, key=preference)]:
        rival = chosen.get(g.loss)
        if rival is None or (len(g.runs), score(g)) > (len(rival.runs), score(rival)):
            chosen[g.loss] = g
    drawn = {identity(g) for g in chosen.values()}
    return chosen, [g for g in block if identity(g) not in drawn]


Panel = tuple[str, str, dict[str, Group], list[Group]]  # data set, mode, by loss what is drawn, what is not


def _convergence(name: str, model: str, blocks: Sequence[Panel]) -> Drawing:
    notes = ["Lines end where the first seed of a loss stopped; bands are ± one standard deviation over seeds."]
    drawn = [g for _, _, chosen, _ in blocks for g in chosen.values()]
    clocked, times = timed(drawn)
    on_time = {id(g): one for g, one in zip(drawn, clocked, strict=True)}
    columns = 2 if any(g.runs for g in clocked) else 1  # score by epoch, and by time where some compares
    in_row = min(4 // columns, len(blocks))
    figure, axes = panels(-(-len(blocks) // in_row), columns * in_row, width=3.0, height=2.4)
    axes = axes.reshape(-1, columns)
    data = []
    for (left, *by_time), (dataset, mode, chosen, left_out) in zip(axes, blocks, strict=False):
        where = f"{dataset_name(dataset)}, {model_name(model)}, {mode}"
        score = "Validation macro-F1 (%)" if mode == "integrated" else "Validation silhouette"
        for loss, g in chosen.items():
            label = f"{loss_name(loss, mode)} (n={len(g.runs)})"
            data += _line(left, g, label, "epoch")
            for right in by_time:
                data += _line(right, on_time[id(g)], label, "seconds")
                right.set(xlabel="Training time (s)")
        left.set(title=where, xlabel="Epoch", ylabel=score)
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.legend()
        notes += left_out_notes(where, mode, chosen, left_out)
    for empty in (ax for ax in axes.flat if not ax.lines):
        empty.remove()
    return Drawing(name, "How the losses converge", figure, data, [*notes, *times])


def left_out_notes(where: str, mode: str, chosen: dict[str, Group], left_out: Sequence[Group]) -> list[str]:
    """What a reader must know about the runs that a panel shows, and about those that it does not."""
    notes = []
    if said := [
        text for text in dict.fromkeys(", ".join(protocol_deviations(g.config)) for g in chosen.values()) if text
    ]:
        notes.append(f"Not the paper's protocol ({where}): {'; '.join(said)}.")
    if left_out:
        settings_of = differences([*chosen.values(), *left_out])
        names = [
            f"{loss_name(g.loss, mode)} {settings_of[identity(g)]}".rstrip() + f" (n={len(g.runs)})" for g in left_out
        ]
        which = ", ".join(names) if len(names) <= MAX_NAMES else f"{len(names)} configurations, listed among all runs"
        notes.append(f"Left out of {where}, for their other settings: {which}.")
    return notes


def curves(g: Group) -> dict[int, list[tuple[float, float]]]:
    """By seed: (seconds of training so far, validation score) of each epoch; runs with unreadable lines: left out."""
    found = {}
    for seed, run in g.runs.items():
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
    lines = list(curves(g).values())
    if x == "seconds":
        lines = [line for line in lines if not math.isnan(line[-1][0])]
    if not lines:
        return []
    num_epochs = min(len(line) for line in lines)
    scores = [[line[i][1] for line in lines] for i in range(num_epochs)]
    xs = [i + 1 if x == "epoch" else mean([line[i][0] for line in lines]) for i in range(num_epochs)]
    centre = band(ax, xs, scores, label, **LOSS_LOOK.get(g.loss, {}))
    keys = {"dataset": g.dataset, "model": g.model, "mode": g.mode, "loss": g.loss, "n": len(lines), "by": x}
    return [
        keys | {"epoch": i + 1, "x": xs[i], "score": centre[i], "std": std(scores[i]) if len(lines) > 1 else None}
        for i in range(num_epochs)
    ]
