"""Figure 1: one step of G-Loss on a small example, computed by the code that trains."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from gloss.report.figure import Drawing, bare

COLORS = ("#0072B2", "#D55E00")  # of the two classes
MARKERS = "os"
SIGMA = 0.3
# x, y in the plane (lifted to the unit sphere, where the loss has its embeddings), class, whether it keeps its label.
# Node 13 lies among the other class.
NODES = np.array([
    (-0.62, 0.30, 0, 1), (-0.40, 0.46, 0, 0), (-0.28, 0.14, 0, 1), (-0.55, -0.02, 0, 0), (-0.16, 0.40, 0, 0),
    (-0.68, 0.05, 0, 1), (-0.36, -0.24, 0, 0), (0.12, -0.10, 0, 0), (0.58, 0.24, 1, 1), (0.34, 0.38, 1, 0),
    (0.44, -0.08, 1, 1), (0.66, -0.16, 1, 0), (0.24, 0.10, 1, 0), (-0.46, 0.20, 1, 0), (0.50, -0.38, 1, 1),
    (0.20, -0.42, 1, 0),
])  # fmt: skip


def example() -> tuple[np.ndarray, np.ndarray]:
    """The weights W [B, B] of the example's graph, and the propagated labels of its unlabeled nodes, F_U [U, 2]."""
    import torch  # here: a report without this figure does not need it

    from gloss.losses.reference import gaussian_kernel, propagate_labels, symmetric_normalize, transition_matrix

    x, y, classes, is_labeled = NODES.T
    embeddings = torch.tensor(np.stack([x, y, np.sqrt(1 - x**2 - y**2)], axis=1))
    weights = gaussian_kernel(embeddings, SIGMA)
    transition = transition_matrix(symmetric_normalize(weights))
    labels, mask = torch.tensor(classes, dtype=torch.long), torch.tensor(is_labeled, dtype=torch.bool)
    return weights.numpy(), propagate_labels(transition, labels, mask, 2).numpy()


def fig1() -> Drawing:
    """A mini-batch as a graph, its labels propagated, and the loss of each unlabeled node."""
    weights, propagated = example()
    classes, is_labeled = NODES[:, 2].astype(int), NODES[:, 3].astype(bool)
    unlabeled = np.flatnonzero(~is_labeled)
    own = propagated[np.arange(len(unlabeled)), classes[unlabeled]]
    figure = Figure(figsize=(9.0, 3.2))
    axes = figure.subplots(1, 3, width_ratios=(1.2, 1.2, 0.9))
    faces = [np.array(to_rgb(COLORS[c])) for c in classes]
    _graph(axes[0], weights, [face if known else (1, 1, 1) for face, known in zip(faces, is_labeled, strict=True)])
    kernel = "$W_{ij}=e^{-\\Vert z_i-z_j\\Vert^2/2\\sigma^2}$"
    axes[0].set_title(f"1  A mini-batch is a graph: texts are nodes,\n{kernel} of their embeddings are edges")
    for i in unlabeled:
        axes[0].annotate(str(i), NODES[i, :2], ha="center", va="center_baseline", fontsize=5.5)
    mixed = list(faces)
    for i, shares in zip(unlabeled, propagated, strict=True):
        mixed[i] = shares @ np.array([to_rgb(color) for color in COLORS])
    _graph(axes[1], weights, mixed)
    small = {"fontsize": 6, "path_effects": [withStroke(linewidth=2, foreground="#FFFFFF")]}
    for i, share in zip(unlabeled, own, strict=True):
        axes[1].annotate(f"{100 * share:.0f} %", NODES[i, :2], (0, 8), textcoords="offset points", ha="center", **small)
    axes[1].set_title("2  Labels are propagated through it:\n$F_U=(I-T_{UU})^{-1}T_{UL}Y_L$")
    order = np.argsort(own)[::-1]
    colors = [COLORS[classes[i]] for i in unlabeled[order]]
    axes[2].barh(range(len(order)), -np.log(own[order]), color=colors, height=0.7)
    axes[2].set_yticks(range(len(order)), [str(i) for i in unlabeled[order]])
    axes[2].set(ylabel="unlabeled node", xlabel=f"−log F of its own class; mean {-np.log(own).mean():.2f}")
    axes[2].grid(axis="y", visible=False)
    axes[2].set_title("3  $L_G$ is their mean, and the\nencoder learns from $\\lambda L_G+(1-\\lambda)L_{CE}$")
    marks = []
    for kind in ("labeled", "unlabeled"):
        for name, marker, color in zip("AB", MARKERS, COLORS, strict=True):
            look = {"marker": marker, "color": color if kind == "labeled" else "#FFFFFF", "edgecolor": color}
            marks.append(axes[0].scatter([], [], s=40, label=f"class {name}, {kind}", **look))
    figure.legend(handles=marks, loc="outside lower center", ncols=4)
    shares = dict(zip(unlabeled.tolist(), own.tolist(), strict=True))
    data: list[dict[str, object]] = []
    for number, (x, y, c, known) in enumerate(NODES.tolist()):
        node = {"node": number, "x": x, "y": y, "class": "AB"[int(c)], "is_labeled": bool(known)}
        data.append(node | {"propagated_own_class": shares.get(number)})
    notes = [
        f"An example of {len(NODES)} fixed points on the unit sphere, σ = {SIGMA}, γ = {is_labeled.mean():.2f}, "
        "computed by the code of the loss. The wider a line, the larger the weight. In the middle, the colour of an "
        "unlabeled node is the propagated shares of the classes; the percentage is that of its own class, which the "
        "border shows.",
    ]
    return Drawing("fig1", "Figure 1: one step of G-Loss on a mini-batch", figure, data, notes)


def _graph(ax: Any, weights: np.ndarray, faces: list[Any]) -> None:
    """Draw edges by weight and nodes in their faces; the border and the marker are the class."""
    xy, classes = NODES[:, :2], NODES[:, 2].astype(int)
    strongest = weights.max()
    for a, b in zip(*np.triu_indices(len(xy), 1), strict=True):
        share = weights[a, b] / strongest
        ax.plot(*xy[[a, b]].T, color="#555555", linewidth=2.2 * share, alpha=min(1.0, 0.15 + share), zorder=1)
    for i, face in enumerate(faces):
        look = {"marker": MARKERS[classes[i]], "edgecolor": COLORS[classes[i]], "linewidth": 1.4, "zorder": 2}
        ax.scatter(*xy[i], s=58, facecolor=[face], **look)
    ax.set_aspect("equal")
    ax.margins(0.1)
    bare(ax, has_frame=False)
