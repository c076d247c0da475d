"""A map of a run's embeddings: t-SNE or PCA of a split, coloured by class, with the wrongly classified texts marked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gloss.inference.predictor import Run
from gloss.records.reading import Record, shortened
from gloss.report.figure import Drawing, bare, legend_beside, panels, plain, styled
from gloss.report.figures.runs import check_map, class_points, principal_plane, tsne

MAX_POINTS = 1500  # t-SNE of more takes minutes, and shows no more


def map_of_run(record: Record, split: str, method: str, device: str = "auto", data: str | None = None) -> Drawing:
    """The map of one split of a run (train, val or test).

    Test embeddings that the run kept (trainer.save_embeddings=true) are taken as they are; otherwise its weights encode
    the texts again. Raises RunError where it has neither, DataError where the texts are not there.
    """
    i = record.identity
    kept = record.predictions() if (record.folder / "predictions.npz").is_file() else {}
    if f"{split}_embeddings" in kept:
        embeddings, labels = kept[f"{split}_embeddings"].astype(np.float32), kept[f"{split}_labels"]
        predicted = kept[f"{split}_logits"].argmax(axis=1)
    else:
        run = Run(record, device, data)
        texts = run.split(split)
        embeddings, labels = run.embed(texts.texts), texts.labels
        predicted = run.classify(embeddings).argmax(axis=1)
    name = f"{i.dataset}-{i.model}-{i.mode}-{i.loss}-{i.config_hash}-seed{i.seed}-{split}-{method}"
    title = f"{i.dataset}, {split}: {i.model}, {i.loss}, {i.mode}, seed {i.seed}"
    return embedding_map(embeddings, labels, predicted, record.result["labels"], method, name, title)


def embedding_map(
    embeddings: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    names: Sequence[str],
    method: str,
    name: str,
    title: str,
) -> Drawing:
    """Draw embeddings float [N, D] with their labels and predictions int [N]; at most MAX_POINTS of them.

    method: tsne or pca, of the embeddings at unit length. Raises RunError for fewer than three texts, or equal ones.
    """
    keep = np.sort(np.random.default_rng(0).permutation(len(labels))[:MAX_POINTS])
    labels, predicted, z = labels[keep], predicted[keep], embeddings[keep]
    check_map(z)
    if method == "tsne":
        xy, notes = tsne(z), ["t-SNE: fixed seed; axes have no unit, and distances between clusters mean little."]
    else:
        xy, notes = principal_plane(z), ["The first two principal components."]
    with styled():
        figure, axes = panels(1, 1, width=5.2, height=4.0)
        ax = axes[0, 0]
        ax.set_title(plain(shortened(title, 70)))
        bare(ax)
        handles = class_points(ax, xy, labels, names, size=9)
        counts = np.unique(labels, return_counts=True)[1]
        entries = [f"{handle.get_label()} ({n})" for handle, n in zip(handles, counts, strict=True)]
        wrong = xy[predicted != labels]
        ring = {"facecolor": "none", "edgecolor": "black", "linewidth": 0.5}
        handles.append(ax.scatter(wrong[:, 0], wrong[:, 1], s=26, **ring))
        entries.append(f"wrong ({len(wrong)})")
        notes += legend_beside(ax, handles, entries, per_column=26)
    if len(keep) < len(embeddings):
        notes.append(f"{len(keep):,} of {len(embeddings):,} texts, drawn at random.")
    data = [
        {"index": int(i), "label": names[y], "predicted": names[p], "x": f"{a:.4f}", "y": f"{b:.4f}"}
        for i, y, p, (a, b) in zip(keep, labels, predicted, xy.tolist(), strict=True)
    ]
    return Drawing(name, title, figure, data, notes)
