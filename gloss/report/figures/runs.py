"""Figures of single runs: 4 (the graph), 5 (embeddings), 6 (time by part)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gloss.errors import RunError
from gloss.records.reading import number, shortened
from gloss.report.figure import Drawing, bare, legend_beside, panels, plain
from gloss.report.seed_groups import Group, blocks, device_of, timed
from gloss.report.statistics import mean, std
from gloss.report.table import number_text
from gloss.report.tables.results import common_notes, missing

CLASS_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
CLASS_MARKERS = "o^sDvP*X"
SAME, OTHER = "#0072B2", "#D55E00"  # edges within a class and between classes
PARTS = {  # of an epoch's seconds: colour and hatching
    "data": ("#FFFFFF", "...."),
    "forward": ("#56B4E9", ""),
    "graph": ("#D55E00", "////"),
    "propagation": ("#F0E442", "xxxx"),
    "backward": ("#0072B2", ""),
    "optimizer": ("#999999", "\\\\\\\\"),
    "other": ("#DDDDDD", ""),
}
CLASS_LENGTH = 24  # characters of a class in a legend
MAX_PANELS = 6  # of figure 4: epochs, the last one always among them
MAX_POINTS = 600  # of a t-SNE panel: more take longer than all other figures together
GRAPH_NODES, GRAPH_NEIGHBOURS = 40, 3
SCALE = (0.02, 0.98)  # quantiles of the edge weights between which the colours of Figure 4 lie


def fig4(groups: Sequence[Group]) -> Drawing | None:
    """The graph of a fixed sample of validation texts as training goes on: weights by epoch, and before and after."""
    found = [(g, run) for g in groups for run in g.runs.values()]
    if not found:
        return None
    g, run = found[0]
    arrays = run.predictions()
    kept = {int(key.split("_")[1]): z for key, z in arrays.items() if key.startswith("epoch_")}
    sigma = number(run.result, "hyperparameters", "sigma")
    if not kept or sigma is None or "sample_labels" not in arrays:
        return None
    check_map(_unit(kept[max(kept)]))
    epochs = sorted(kept)
    epochs = epochs[: MAX_PANELS - 1] + epochs[-1:] if len(epochs) > MAX_PANELS else epochs
    order = np.argsort(arrays["sample_labels"], kind="stable")
    labels = arrays["sample_labels"][order]
    is_same, off_diagonal = labels[:, None] == labels, ~np.eye(len(labels), dtype=bool)
    figure = Figure(figsize=(max(1.45 * len(epochs), 5.6), 4.6))
    grid = figure.add_gridspec(2, 2 * len(epochs), height_ratios=(1, 1.6))
    data: list[dict[str, object]] = []
    weights = {epoch: kernel(kept[epoch][order], sigma) for epoch in epochs}
    shown = np.concatenate([w[off_diagonal] for w in weights.values()])
    low, high = np.quantile(shown, SCALE)  # a wide σ leaves all weights near 1, and a few nodes lie far from all others
    top_axes = [figure.add_subplot(grid[0, 2 * i : 2 * i + 2]) for i in range(len(epochs))]
    for ax, (epoch, w) in zip(top_axes, weights.items(), strict=True):
        image = ax.imshow(w, cmap="viridis", vmin=low, vmax=high, interpolation="nearest")
        for edge in np.flatnonzero(np.diff(labels)) + 0.5:
            ax.axhline(edge, color="#FFFFFF", linewidth=0.8)
            ax.axvline(edge, color="#FFFFFF", linewidth=0.8)
        ax.set(title="before" if epoch == 0 else f"epoch {epoch}")
        bare(ax)
        means = {"within": float(w[is_same & off_diagonal].mean()), "between": float(w[~is_same].mean())}
        data.append({"epoch": epoch, **means, "texts": len(labels), "sigma": sigma})
    figure.colorbar(image, ax=top_axes, label="edge weight", shrink=0.8, pad=0.01, extend="both")
    chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:GRAPH_NODES])
    for i, epoch in enumerate((epochs[0], epochs[-1])):
        ax = figure.add_subplot(grid[1, i * len(epochs) : (i + 1) * len(epochs)])
        share = _graph(ax, kept[epoch][order][chosen], weights[epoch][np.ix_(chosen, chosen)], labels[chosen])
        name = "before training" if epoch == 0 else f"epoch {epoch}"
        ax.set_title(f"{name}\n{100 * share:.0f} % of drawn edges within a class")
    notes = [
        f"{g.place}, {g.loss_name}, seed {run.identity.seed}; {len(labels)} validation texts sorted by class, white "
        f"lines part the classes; σ = {sigma:.3f}. Colours span the {100 * SCALE[0]:.0f} to {100 * SCALE[1]:.0f} % "
        f"quantiles of the edge weights of all epochs ({low:.3g} to {high:.3g}), without the diagonal.",
        f"Below: {len(chosen)} of them, each with its {GRAPH_NEIGHBOURS} strongest edges; blue solid within a class, "
        "orange dashed between classes; positions are the first two principal components.",
        *([f"One of {len(found)} runs is drawn."] if len(found) > 1 else []),
        *common_notes(groups, swept=["trainer.patience", "trainer.max_epochs"]),
    ]
    title = "Figure 4: the graph of a fixed sample while G-Loss trains"
    return Drawing("fig4", title, figure, data, notes, missing(groups))


def kernel(embeddings: np.ndarray, sigma: float) -> np.ndarray:
    """The weights [N, N] of the Gaussian graph, computed by the code that trains."""
    import torch  # here: no other table or figure needs it

    from gloss.losses.reference import gaussian_kernel

    return gaussian_kernel(torch.from_numpy(np.asarray(embeddings, dtype=np.float32)), sigma).numpy()


def _graph(ax: Any, embeddings: np.ndarray, weights: np.ndarray, labels: np.ndarray) -> float:
    """Draw nodes and strongest edges; returns the share of the drawn edges within a class."""
    xy = principal_plane(embeddings)
    xy = xy * np.sign(xy[np.abs(xy).argmax(axis=0), [0, 1]])
    nearest = np.argsort(-weights + np.eye(len(weights)) * 2, axis=1, kind="stable")[:, :GRAPH_NEIGHBOURS]
    edges = sorted({(min(i, int(j)), max(i, int(j))) for i, row in enumerate(nearest) for j in row})
    for i, j in edges:
        look = {"color": SAME} if labels[i] == labels[j] else {"color": OTHER, "linestyle": (0, (3, 2))}
        ax.plot(xy[[i, j], 0], xy[[i, j], 1], linewidth=0.7, alpha=0.8, zorder=1, **look)
    for k, label in enumerate(np.unique(labels)):
        mine = xy[labels == label]
        face = "#FFFFFF" if k % 2 == 0 else "#333333"
        marker = CLASS_MARKERS[k % len(CLASS_MARKERS)]
        ax.scatter(*mine.T, s=22, facecolor=face, edgecolor="#000000", linewidth=0.8, marker=marker, zorder=2)
    ax.margins(0.06)
    bare(ax)
    return sum(labels[i] == labels[j] for i, j in edges) / len(edges)


def fig5(groups: Sequence[Group]) -> Drawing | None:
    """t-SNE of test embeddings: a row a data set and model, a column a loss; the same texts in all panels of a row."""
    with_runs = [g for g in groups if g.runs]
    rows = blocks(with_runs, "dataset", "model").values()
    columns = list(dict.fromkeys((g.loss_name, g.others()) for g in with_runs))
    if not rows:
        return None
    figure, axes = panels(len(rows), len(columns), width=1.85, height=1.95)
    data: list[dict[str, object]] = []
    left_out: list[str] = []
    for row_of_axes, row in zip(axes, rows, strict=True):
        cells = {(g.loss_name, g.others()): g for g in row}
        handles: list[Any] = []
        common = set.intersection(*(set(g.runs) for g in row))  # one seed for all losses, where there is one
        for ax, key in zip(row_of_axes, columns, strict=True):
            bare(ax, has_frame=key in cells)  # titles and the legend stay beside a panel without a run
            if ax in axes[0]:
                ax.set_title("".join(key).replace(" (", "\n("))
            if key not in cells:
                continue
            g = cells[key]
            run = g.runs[seed := min(common or g.runs)]
            try:
                xy, labels, keep = _points(run)
            except RunError as error:
                left_out.append(f"{g.name}, seed {seed}: {error}.")
                ax.set_xlabel(f"no map, seed {seed}")
                continue
            handles = class_points(ax, xy, labels, [str(x) for x in run.result["labels"]])
            silhouette = number_text(number(run.result, "metrics", "test", "macro_silhouette"))
            ax.set_xlabel(f"silhouette {silhouette}, seed {seed}")
            data += [
                {**g.keys, "seed": seed, "row": int(r), "label": int(y), "x": f"{a:.3f}", "y": f"{b:.3f}"}
                for r, y, (a, b) in zip(keep, labels, xy, strict=True)
            ]
        row_of_axes[0].set_ylabel(row[0].place)
        names = [handle.get_label() for handle in handles]
        left_out += legend_beside(row_of_axes[-1], handles, names, per_column=14, markerscale=3) if handles else []
    if not data:
        raise RunError(" ".join(left_out))
    notes = [
        f"Test texts (at most {MAX_POINTS}, the same in a row); t-SNE, perplexity 30, fixed seed; axes have no unit.",
        "Silhouette: macro, of all test embeddings. Distances between clusters in a t-SNE map mean little.",
        *left_out,
        *common_notes(groups),
    ]
    return Drawing("fig5", "Figure 5: test embeddings by loss", figure, data, notes, missing(groups))


def _points(run: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates [N, 2], labels [N] and indices [N] of at most MAX_POINTS test texts. Raises RunError."""
    arrays = run.predictions()
    if "test_embeddings" not in arrays:
        advice = "run it again, with rerun=true trainer.save_embeddings=true"
        raise RunError(f"{run.folder}/predictions.npz holds no test_embeddings: {advice}")
    keep = np.sort(np.random.default_rng(0).permutation(len(arrays["test_labels"]))[:MAX_POINTS])
    return tsne(arrays["test_embeddings"][keep]), arrays["test_labels"][keep], keep


def _unit(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(min=1e-12)


def check_map(embeddings: np.ndarray) -> None:
    """Raise RunError for embeddings [N, D] at unit length without a map: t-SNE of equal ones ends the process."""
    if len(embeddings) < 3:
        raise RunError(f"a map of embeddings needs at least 3 texts, got {len(embeddings)}")
    if (embeddings == embeddings[0]).all():
        raise RunError(f"the embeddings of all {len(embeddings)} texts are the same (collapsed): they have no map")


def tsne(embeddings: np.ndarray) -> np.ndarray:
    """Two coordinates [N, 2] for embeddings [N, D] at unit length; the same for the same input. Raises RunError."""
    from sklearn.manifold import TSNE  # here: slow to import

    z = _unit(embeddings.astype(np.float32))
    check_map(z)
    perplexity = min(30.0, (len(z) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0, max_iter=500, n_jobs=1).fit_transform(z)


def principal_plane(embeddings: np.ndarray) -> np.ndarray:
    """The first two principal components [N, 2] of embeddings [N, D] at unit length."""
    z = _unit(embeddings.astype(np.float64))
    left, scale, _ = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
    return left[:, :2] * scale[:2]


def class_points(ax: Any, xy: np.ndarray, labels: np.ndarray, names: Sequence[str], size: float = 4) -> list[Any]:
    """Draw points [N, 2] in the look of their classes; returns a handle a class for a legend, in their order."""
    handles = []
    for k in np.unique(labels):
        mine = xy[labels == k]
        turn, hue = divmod(k, len(CLASS_COLORS))  # 64 looks: each round of colours shifts the markers
        color, marker = CLASS_COLORS[hue], CLASS_MARKERS[(hue + turn) % len(CLASS_MARKERS)]
        name = plain(shortened(names[k], CLASS_LENGTH))
        handles.append(ax.scatter(mine[:, 0], mine[:, 1], s=size, color=color, marker=marker, linewidth=0, label=name))
    return handles


def fig6(groups: Sequence[Group]) -> Drawing | None:
    """Seconds of an epoch by part: a panel a data set and model, a bar a loss.

    The first epoch, and runs that `timed` leaves out, do not count.
    """
    clocked, times = timed(groups)
    found = [(g, seconds) for g in clocked if (seconds := _seconds(g))]
    if not found:
        if times:
            raise RunError(" ".join(times))
        return None
    rows = [[x for x in found if x[0].place == place] for place in dict.fromkeys(g.place for g, _ in found)]
    heights = [0.9 + 0.42 * len(row) for row in rows]
    look = {"height_ratios": heights}
    figure, axes = panels(len(rows), 1, width=6.4, height=sum(heights) / len(heights), gridspec_kw=look)
    for ax, row in zip(axes[:, 0], rows, strict=True):
        _bars(ax, row)
        ax.set_xlabel(f"Seconds per epoch: {row[0][0].place}")
    axes[0, 0].legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=7, columnspacing=0.9, handlelength=1.4)
    data = [{**g.keys, **g.point, **seconds} for g, seconds in found]
    device = next(device_of(run) for g, _ in found for run in g.runs.values())
    notes = [
        f"Measured on {device}; mean over epochs, the first left out; without evaluation. Other: the head, and losses "
        "without a graph.",
        *times,
        *common_notes(groups, swept=["trainer.max_epochs", "trainer.patience"]),
    ]
    return Drawing("fig6", "Figure 6: where an epoch's time goes", figure, data, notes, missing(groups))


def _seconds(g: Group) -> dict[str, Any]:
    """Mean seconds of an epoch by part, the total, its spread and the number of epochs; empty where nothing counts."""
    lines = [line for run in g.runs.values() for line in run.epochs()[1:]]
    lines = [line for line in lines if number(line, "seconds", "total") is not None]
    if not lines:
        return {}
    totals = [number(line, "seconds", "total") for line in lines]
    means = {part: mean([number(line, "seconds", part) or 0.0 for line in lines]) for part in PARTS if part != "other"}
    means["other"] = max(0.0, mean(totals) - sum(means.values()))
    return {"epochs": len(lines), **means, "total": mean(totals), "total_std": std(totals)}


def _bars(ax: Any, block: Sequence[tuple[Group, dict[str, Any]]]) -> None:
    for y, (_, seconds) in enumerate(block):
        left = 0.0
        for part, (color, hatch) in PARTS.items():
            look = {"color": color, "hatch": hatch, "edgecolor": "#333333", "linewidth": 0.5, "height": 0.62}
            ax.barh(y, seconds[part], left=left, label=part if y == 0 else None, **look)
            left += seconds[part]
        overhead, total = seconds["graph"] + seconds["propagation"], seconds["total"]
        text = f"{total:.2f} s" + (f", graph and propagation {100 * overhead / total:.1f} %" if overhead > 0 else "")
        ax.annotate(text, (left, y), (4, 0), textcoords="offset points", va="center", fontsize=7)
    names = [
        f"{g.loss_name}{g.others()}\n({g.mode}, n={len(g.runs)}, {seconds['epochs']} epochs)" for g, seconds in block
    ]
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.75 * max(seconds["total"] for _, seconds in block))  # room for the text beside the bars
    ax.grid(axis="y", visible=False)
