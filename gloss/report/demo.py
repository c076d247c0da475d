"""The demo: the losses beside the frozen encoder, and the test embeddings before and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gloss.errors import RunError
from gloss.records.reading import number, shortened
from gloss.report.figure import Drawing, bare, panels
from gloss.report.figures.runs import class_points, principal_plane
from gloss.report.seed_groups import Group
from gloss.report.statistics import mean
from gloss.report.table import Table, scored
from gloss.report.tables.results import missing

FROZEN = "Frozen encoder + probe"
QUALITY = "graph_quality"
COLUMNS = (  # heading, of a finished run, of the frozen encoder: in its own record or at the start of a run; digits
    ("Accuracy %", ("metrics", "test", "accuracy"), ("test", "accuracy"), 1),
    ("Silhouette", ("metrics", "test", "macro_silhouette"), ("test", "macro_silhouette"), 3),
    ("Edge homophily", (QUALITY, "at_best", "homophily"), (QUALITY, "at_start", "homophily"), 3),
    ("Propagated %", (QUALITY, "at_best", "propagated_accuracy"), (QUALITY, "at_start", "propagated_accuracy"), 1),
    ("Nearest neighbours %", ("metrics", "test", "knn_accuracy"), ("test", "knn_accuracy"), 1),
)
SPLITS = {"train": "training", "val": "validation", "test": "test"}


def demo(groups: Sequence[Group], frozen: Sequence[Mapping[str, Any]], outputs: Path) -> list[Table | Drawing]:
    """The table and the picture of one data set and model. Raises RunError where a run kept no embeddings.

    frozen: records of gloss.training.baselines.measure_frozen; the embeddings lie beside them.
    """
    done = [g for g in groups if g.runs]
    if not done:
        return []
    before = next((x for x in frozen if (x["dataset"], x.get("model")) == (done[0].dataset, done[0].model)), None)
    start = [] if before is None else [("Before training", _frozen_embeddings(outputs, done[0]), before["test"])]
    return [_table(groups, before), _picture(done, start)]


def _table(groups: Sequence[Group], before: Mapping[str, Any] | None) -> Table:
    data: list[dict[str, Any]] = [{"loss": name} for name in (FROZEN, *(g.loss_name for g in groups))]
    columns = []
    for heading, path, at_start, digits in COLUMNS:
        first = [x for g in groups for x in g.values(*at_start).values()][:1]  # the same encoder and texts in all
        start = first if at_start[0] == QUALITY else [number(before, *at_start)]
        samples = [[x for x in start if x is not None], *(list(g.values(*path).values()) for g in groups)]
        for line, found in zip(data, samples, strict=True):
            line[heading] = mean(found)
        columns.append(scored(samples, digits=digits))
    rows = [[line["loss"], *(column[i] for column in columns)] for i, line in enumerate(data)]
    levels = [("homophily_chance", " (chance {:.3f})"), ("majority_accuracy", " (majority class {:.1f} %)")]
    chance, majority = (
        next((words.format(x) for g in groups for x in g.values(QUALITY, "at_start", key).values()), "")
        for key, words in levels
    )
    cfg = groups[0].config
    sizes: dict[str, int] = next((run.result["num_rows"] for g in groups for run in g.runs.values()), {})
    counted = ", ".join(f"{sizes[part]:,} {word}" for part, word in SPLITS.items() if part in sizes)
    notes = [
        f"{groups[0].place}: {counted} texts; at most {cfg['trainer']['max_epochs']} epochs, learning rate "
        f"{cfg['trainer']['lr']:g}, {cfg['trainer']['batch_size']} texts a batch, {cfg['model']['max_length']} tokens "
        "a text. The settings were chosen on validation texts, for a clear picture. One seed and so few texts do not "
        "say which loss is better.",
        "Accuracy, silhouette (macro) and nearest neighbours: test texts. The probe is a logistic regression on the "
        "embeddings of the encoder before training.",
        "Graph quality, on validation texts at the best epoch. Edge homophily: share of the weight of all edges that "
        f"lies within a class{chance}. Propagated: share of the nodes without a label that the propagated labels get "
        f"right{majority}.",
    ]
    heads = ["Loss", *(heading for heading, *_ in COLUMNS)]
    return Table("demo", "What training does to the embeddings", heads, rows, data, notes, missing(groups), num_keys=1)


def _frozen_embeddings(outputs: Path, g: Group) -> np.ndarray:
    path = outputs / "baselines" / f"frozen-{g.dataset}-{g.model}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = arrays["test_embeddings"]
        if found.ndim != 2 or not np.isfinite(found).all():
            raise ValueError(f"expected finite embeddings [N, D], got {found.shape}")
        return found
    except (OSError, KeyError, ValueError) as error:
        raise RunError(f"{path} cannot be used ({shortened(error)}): make demo measures it again") from None


def _picture(groups: Sequence[Group], panes: list[tuple[str, np.ndarray, Any]]) -> Drawing:
    """The test texts in the plane of the first two principal components of their embeddings, a panel each.

    panes: (title, embeddings, test metrics) of the panels before the losses' panels.
    """
    for g in groups:
        run = g.runs[min(g.runs)]
        arrays, names = run.predictions(), [str(x) for x in run.result["labels"]]
        labels = arrays["test_labels"]
        if "test_embeddings" not in arrays:
            raise RunError(
                f"{run.folder} holds no test embeddings: run it again, with rerun=true trainer.save_embeddings=true"
            )
        panes.append((g.loss_name, arrays["test_embeddings"], run.result["metrics"]["test"]))
    figure, axes = panels(1, len(panes), width=2.1, height=2.35)
    data = []
    for ax, (title, embeddings, metrics) in zip(axes[0], panes, strict=True):
        if len(embeddings) != len(labels):
            raise RunError(f"{title}: embeddings of {len(embeddings)} texts, where the runs tested {len(labels)}")
        xy = upright(principal_plane(embeddings), labels)
        handles = class_points(ax, xy, labels, names)
        bare(ax)
        silhouette = number(metrics, "macro_silhouette")
        ax.set(title=title, xlabel="" if silhouette is None else f"silhouette {silhouette:.2f}")
        data += [
            {"panel": title, "text": i, "label": int(y), "x": f"{a:.4f}", "y": f"{b:.4f}"}
            for i, (y, (a, b)) in enumerate(zip(labels, xy, strict=True))
        ]
    figure.legend(handles, [h.get_label() for h in handles], loc="outside lower center", ncols=8, markerscale=3)
    notes = [
        "Each point is a test text: the first two principal components of the embeddings at unit length, a plane of "
        "its own in each panel, turned so that the classes lie left and right.",
    ]
    return Drawing("demo_embeddings", "The test texts before and after training", figure, data, notes)


def upright(xy: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Points [N, 2], mirrored so that the last class lies right of the first, and the ends of an arch below."""
    right = xy[labels == labels.max(), 0].mean() >= xy[labels == labels.min(), 0].mean()
    down = (xy[:, 0] ** 2 * xy[:, 1]).sum() <= 0
    return xy * np.where([right, down], 1, -1)
