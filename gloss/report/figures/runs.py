"""Figures of single runs: 4 (the graph), 5 (embeddings), 6 (where time goes)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gloss.errors import RunError
from gloss.paper.names import dataset_name, loss_name, model_name
from gloss.records.reading import number
from gloss.report.figure import Drawing, bare, clipped, legend_beside, panels, plain
from gloss.report.figures.sweeps import others
from gloss.report.seed_groups import Group, timed
from gloss.report.statistics import mean, std
from gloss.report.tables.results import common_notes, missing

CLASS_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
CLASS_MARKERS = "o^sDvP*X"
SAME, OTHER = "#0072B2", "#D55E00"  # edges within a class and between classes
PARTS = ("data", "forward", "graph", "propagation", "backward", "optimizer")
PART_LOOK = (
    ("#FFFFFF", "...."),
    ("#56B4E9", ""),
    ("#D55E00", "////"),
    ("#F0E442", "xxxx"),
    ("#0072B2", ""),
    ("#999999", "\\\\\\\\"),
)
MAX_POINTS = 600  # of a t-SNE panel: more take longer than all other figures together
GRAPH_NODES, GRAPH_NEIGHBOURS = 40, 3
SCALE = (0.02, 0.98)  # quantiles of the edge weights between which the colours of Figure 4 lie


def fig4(groups: Sequence[Group], max_panels: int = 6) -> Drawing | None:
    """The graph of a fixed sample of validation texts as training goes on: weights by epoch, and before and after."""
    found = [(g, run) for g in groups for run in g.runs.values()]
    if not found:
        return None
    g, run = found[0]
    arrays = run.predictions()
    epochs = sorted(
        int(key.split("_")[1]) for key in arrays if key.startswith("epoch_") and key.endswith("_embeddings")
    )
    sigma = number(run.result, "hyperparameters", "sigma")
    if not epochs or sigma is None or "sample_labels" not in arrays:
        return None
    epochs = epochs[: max_panels - 1] + epochs[-1:] if len(epochs) > max_panels else epochs
    labels = arrays["sample_labels"]
    order = np.argsort(labels, kind="stable")
    labels = labels[order]
    is_same = labels[:, None] == labels
    off_diagonal = ~np.eye(len(labels), dtype=bool)
    figure = Figure(figsize=(max(1.45 * len(epochs), 5.6), 4.6))
    grid = figure.add_gridspec(2, 2 * len(epochs), height_ratios=(1, 1.6))
    data: list[dict[str, object]] = []
    image, top_axes = None, []
    weights = {epoch: kernel(arrays[f"epoch_{epoch}_embeddings"][order], sigma) for epoch in epochs}
    shown = np.concatenate([w[off_diagonal] for w in weights.values()])
    low, high = np.quantile(shown, SCALE)  # a wide σ leaves all weights near 1, and a few nodes lie far from all others
    for i, epoch in enumerate(epochs):
        ax = figure.add_subplot(grid[0, 2 * i : 2 * i + 2])
        top_axes.append(ax)
        image = ax.imshow(weights[epoch], cmap="viridis", vmin=low, vmax=high, interpolation="nearest")
        for edge in np.flatnonzero(np.diff(labels)) + 0.5:
            ax.axhline(edge, color="#FFFFFF", linewidth=0.8)
            ax.axvline(edge, color="#FFFFFF", linewidth=0.8)
        ax.set(title="before" if epoch == 0 else f"epoch {epoch}")
        bare(ax)
        within = float(weights[epoch][is_same & off_diagonal].mean())
        between = float(weights[epoch][~is_same].mean())
        data.append({"epoch": epoch, "within": within, "between": between, "texts": len(labels), "sigma": sigma})
    figure.colorbar(image, ax=top_axes, label="edge weight", shrink=0.8, pad=0.01, extend="both")
    chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:GRAPH_NODES])
    for i, epoch in enumerate((epochs[0], epochs[-1])):
        ax = figure.add_subplot(grid[1, i * len(epochs) : (i + 1) * len(epochs)])
        points = arrays[f"epoch_{epoch}_embeddings"][order][chosen]
        share = _graph(ax, points, weights[epoch][np.ix_(chosen, chosen)], labels[chosen])
        name = "before training" if epoch == 0 else f"epoch {epoch}"
        ax.set_title(f"{name}: {100 * share:.0f} % of the drawn edges within a class")
    where = f"{dataset_name(g.dataset)}, {model_name(g.model)}, {loss_name(g.loss, g.mode)}, seed {run.identity.seed}"
    notes = [
        f"{where}; {len(labels)} validation texts sorted by class, white lines part the classes; σ = {sigma:.3f}. "
        f"Colours span the {100 * SCALE[0]:.0f} to {100 * SCALE[1]:.0f} % quantiles of the edge weights of all epochs "
        f"({low:.3g} to {high:.3g}), without the diagonal.",
        f"Below: {len(chosen)} of them, each with its {GRAPH_NEIGHBOURS} strongest edges; blue solid within a class, "
        "orange dashed between classes; positions are the first two principal components.",
        *([f"One of {len(found)} runs is drawn."] if len(found) > 1 else []),
        *common_notes(groups, swept=["trainer.patience", "trainer.max_epochs"]),
    ]
    title = "Figure 4: the graph of a fixed sample while G-Loss trains"
    return Drawing("fig4", title, figure, data, notes, missing(groups))


def kernel(embeddings: np.ndarray, sigma: float) -> np.ndarray:
    """The weights [N, N] of the Gaussian graph, by the very code that trains."""
    import torch  # here: no other table or figure needs it

    from gloss.losses.reference import gaussian_kernel

    return gaussian_kernel(torch.from_numpy(np.asarray(embeddings, dtype=np.float32)), sigma).numpy()


def _graph(ax: Any, embeddings: np.ndarray, weights: np.ndarray, labels: np.ndarray) -> float:
    """Draw nodes and strongest edges; returns the share of the drawn edges within a class."""
    unit = embeddings.astype(np.float64) / np.linalg.norm(embeddings, axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    xy = left[:, :2] * scale[:2] * np.sign(left[np.abs(left).argmax(axis=0), range(left.shape[1])])[:2]
    nearest = np.argsort(-weights + np.eye(len(weights)) * 2, axis=1, kind="stable")[:, :GRAPH_NEIGHBOURS]
    edges = sorted({(min(i, int(j)), max(i, int(j))) for i, row in enumerate(nearest) for j in row})
    for i, j in edges:
        look = {"color": SAME} if labels[i] == labels[j] else {"color": OTHER, "linestyle": (0, (3, 2))}
        ax.plot(xy[[i, j], 0], xy[[i, j], 1], linewidth=0.7, alpha=0.8, zorder=1, **look)
    for k, label in enumerate(np.unique(labels)):
        mine = xy[labels == label]
        face = "#FFFFFF" if k % 2 == 0 else "#333333"
        marker = CLASS_MARKERS[k % len(CLASS_MARKERS)]
        ax.scatter(
            mine[:, 0], mine[:, 1], s=22, facecolor=face, edgecolor="#000000", linewidth=0.8, marker=marker, zorder=2
        )
    ax.margins(0.06)
    bare(ax)
    return sum(labels[i] == labels[j] for i, j in edges) / len(edges)


def fig5(groups: Sequence[Group], max_points: int = MAX_POINTS) -> Drawing | None:
    """t-SNE of test embeddings: a row a data set and model, a column a loss; the same texts in all panels of a row."""
    with_runs = [g for g in groups if g.runs]
    places = list(dict.fromkeys((g.dataset, g.model) for g in with_runs))
    losses = list(dict.fromkeys((g.loss, g.mode, others(g)) for g in with_runs))
    if not places:
        return None
    figure, axes = panels(len(places), len(losses), width=1.85, height=1.95)
    data, seeds, left_out = [], set(), []
    for i, (dataset, model) in enumerate(places):
        row = {(g.loss, g.mode, others(g)): g for g in with_runs if (g.dataset, g.model) == (dataset, model)}
        common = set.intersection(*(set(g.runs) for g in row.values()))  # one seed for all losses, where there is one
        handles: list[Any] = []
        for j, key in enumerate(losses):
            ax = axes[i, j]
            bare(ax)
            if i == 0:
                ax.set_title(loss_name(*key[:2]) + key[2].replace(" (", "\n("))
            if key not in row:
                ax.remove()
                continue
            run = row[key].runs[min(common or row[key].runs)]
            seed = run.identity.seed
            seeds.add(seed)
            arrays = run.predictions()
            if "test_embeddings" not in arrays:
                raise RunError(
                    f"{run.folder}/predictions.npz holds no test_embeddings: run with trainer.save_embeddings=true"
                )
            keep = np.sort(np.random.default_rng(0).permutation(len(arrays["test_labels"]))[:max_points])
            labels = arrays["test_labels"][keep]
            xy = tsne(arrays["test_embeddings"][keep])
            handles = class_points(ax, xy, labels, [str(x) for x in run.result["labels"]])
            silhouette = number(run.result, "metrics", "test", "macro_silhouette")
            shown = [] if silhouette is None else [f"silhouette {silhouette:.2f}"]
            ax.set_xlabel(", ".join(shown + ([] if common else [f"seed {seed}"])))
            keys = {"dataset": dataset, "model": model, "loss": key[0], "mode": key[1], "seed": seed}
            data += [
                {**keys, "row": int(r), "label": int(y), "x": f"{a:.3f}", "y": f"{b:.3f}"}
                for r, y, (a, b) in zip(keep, labels, xy, strict=True)
            ]
        where = f"{dataset_name(dataset)}, {model_name(model)}"
        axes[i, 0].set_ylabel(where + (f"\nseed {min(common)}" if common else ""))
        if handles:
            shown = [handle.get_label() for handle in handles]
            left_out += legend_beside(axes[i, -1], handles, shown, per_column=14, markerscale=3)
    models = ", ".join(dict.fromkeys(model_name(model) for _, model in places))
    notes = [
        f"{models}; test texts (at most {max_points}, the same in a row), seed {', '.join(map(str, sorted(seeds)))}; "
        "t-SNE, perplexity 30, fixed seed; axes have no unit.",
        "Silhouette: macro, of all test embeddings. Distances between clusters in a t-SNE map mean little.",
        *dict.fromkeys(left_out),
        *common_notes(groups),
    ]
    return Drawing("fig5", "Figure 5: test embeddings by loss", figure, data, notes, missing(groups))


def tsne(embeddings: np.ndarray) -> np.ndarray:
    """Two coordinates [N, 2] for embeddings [N, D] at unit length; the same for the same input."""
    from sklearn.manifold import TSNE  # here: slow to import

    z = embeddings.astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True).clip(min=1e-12)
    perplexity = min(30.0, (len(z) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0, max_iter=500, n_jobs=1).fit_transform(z)


def class_points(ax: Any, xy: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[Any]:
    """Draw points [N, 2] in the look of their classes; returns a handle a class for a legend."""
    handles = []
    for k in np.unique(labels):
        mine = xy[labels == k]
        color, marker = CLASS_COLORS[k % len(CLASS_COLORS)], CLASS_MARKERS[k % len(CLASS_MARKERS)]
        name = plain(clipped(names[k] if k < len(names) else str(k)))
        handles.append(ax.scatter(mine[:, 0], mine[:, 1], s=4, color=color, marker=marker, linewidth=0, label=name))
    return handles


def fig6(groups: Sequence[Group]) -> Drawing | None:
    """Seconds of an epoch by part: a panel a data set and model, a bar a loss.

    The first epoch and what `timed` leaves out do not count.
    """
    clocked, times = timed(groups)
    found = [(g, seconds) for g in clocked if (seconds := _seconds(g))]
    if not found:
        return None
    blocks: dict[tuple[str, str], list[tuple[Group, dict[str, Any]]]] = {}
    for g, seconds in found:
        blocks.setdefault((g.dataset, g.model), []).append((g, seconds))
    heights = [0.9 + 0.42 * len(block) for block in blocks.values()]
    look = {"height_ratios": heights}
    figure, axes = panels(len(blocks), 1, width=6.4, height=sum(heights) / len(heights), gridspec_kw=look)
    for ax, ((dataset, model), block) in zip(axes[:, 0], blocks.items(), strict=True):
        _bars(ax, block)
        ax.set_xlabel(f"Seconds per epoch: {dataset_name(dataset)}, {model_name(model)}")
    axes[0, 0].legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=7, columnspacing=0.9, handlelength=1.4)
    data = [
        {"dataset": g.dataset, "model": g.model, "mode": g.mode, "loss": g.loss, **g.point, **seconds}
        for g, seconds in found
    ]
    devices = sorted({str(run.result.get("device_name")) for g, _ in found for run in g.runs.values()})
    seeds = sorted({seed for g, _ in found for seed in g.runs})
    where = "; ".join(f"{dataset_name(d)}, {model_name(m)}" for d, m in blocks)
    notes = [
        f"{where}; seed {', '.join(map(str, seeds))}; measured on {', '.join(devices)}; mean over epochs, the first "
        "left out; without evaluation. Other: the head, and losses without a graph.",
    ]
    title = "Figure 6: where an epoch's time goes"
    notes += [*times, *common_notes(groups, swept=["trainer.max_epochs", "trainer.patience"])]
    return Drawing("fig6", title, figure, data, notes, missing(groups))


def _seconds(g: Group) -> dict[str, Any]:
    """Mean seconds of an epoch by part, the total, its spread and the number of epochs; empty where nothing counts."""
    lines = [line for run in g.runs.values() for line in run.epochs()[1:]]
    lines = [line for line in lines if number(line, "seconds", "total") is not None]
    if not lines:
        return {}
    totals = [number(line, "seconds", "total") for line in lines]
    means = {part: mean([number(line, "seconds", part) or 0.0 for line in lines]) for part in PARTS}
    means["other"] = max(0.0, mean(totals) - sum(means.values()))
    return {"epochs": len(lines), **means, "total": mean(totals), "total_std": std(totals) if len(totals) > 1 else None}


def _bars(ax: Any, block: Sequence[tuple[Group, dict[str, Any]]]) -> None:
    names = []
    for y, (g, seconds) in enumerate(block):
        left = 0.0
        for part, (color, hatch) in zip((*PARTS, "other"), [*PART_LOOK, ("#DDDDDD", "")], strict=True):
            look = {"color": color, "hatch": hatch, "edgecolor": "#333333", "linewidth": 0.5, "height": 0.62}
            ax.barh(y, seconds[part], left=left, label=part if y == 0 else None, **look)
            left += seconds[part]
        overhead, total = seconds["graph"] + seconds["propagation"], seconds["total"]
        text = f"{total:.2f} s" + (f", graph and propagation {100 * overhead / total:.1f} %" if overhead > 0 else "")
        ax.annotate(text, (left, y), (4, 0), textcoords="offset points", va="center", fontsize=7)
        names.append(f"{loss_name(g.loss, g.mode)}{others(g)}\n({g.mode}, {seconds['epochs']} epochs)")
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.75 * max(seconds["total"] for _, seconds in block))  # room for what is written beside the bars
    ax.grid(axis="y", visible=False)
