"""The test of a trained model: metrics and predictions of each split, the probe, the embeddings that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gloss.data.datasets import TextDataset
from gloss.data.splits import right_class
from gloss.losses.registry import STANDALONE
from gloss.records.run_folder import write_arrays
from gloss.training.metrics import (
    best_k,
    classification_metrics,
    grouped_accuracy,
    macro_silhouette,
    nearest_labels,
    vote,
)
from gloss.training.probe import adam_probe, logistic_probe
from gloss.training.trainer import Fit

NEIGHBOURS_SAMPLE = 16_384  # training texts among which neighbours are looked for: all, but for sst2 and qnli
KEPT_SAMPLE = 200  # validation texts whose embeddings `trainer.embeddings_at` keeps


def evaluate(fit: Fit, dataset: TextDataset) -> tuple[dict[str, dict], dict[str, np.ndarray], dict[str, Any]]:
    """Metrics by split (all but train), arrays of predictions.npz, and settings of probe and nearest neighbours.

    In standalone mode the probe is trained here, and put into the model's head.
    """
    embeddings = {name: fit.embed(name) for name in fit.tables if name not in ("train", "unlabeled")}
    rows = np.arange(len(fit.tables["train"]))
    if len(rows) > NEIGHBOURS_SAMPLE:
        rng = np.random.default_rng([fit.cfg.seed, 2])  # not the stream of label noise, which takes the same first rows
        rows = np.sort(rng.permutation(len(rows))[:NEIGHBOURS_SAMPLE])
    if fit.cfg.mode == STANDALONE:
        train = fit.embed("train")
        settings, near = _fit_probe(fit, train, embeddings["val"]), train[rows]
    else:
        settings, near = {}, fit.embed("train", rows)
    vectors, near_labels = near.cpu().numpy(), fit.labels["train"].cpu().numpy()[rows]
    nearest = {name: nearest_labels(vectors, near_labels, z.cpu().numpy()) for name, z in embeddings.items()}
    k = settings["num_neighbours"] = best_k(nearest["val"], fit.labels["val"].cpu().numpy())
    metrics: dict[str, dict[str, Any]] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, embedded in embeddings.items():
        logits, truth = fit.logits(embedded), fit.labels[name].cpu().numpy()
        silhouette = macro_silhouette(embedded, fit.labels[name])
        metrics[name] = {**classification_metrics(logits, truth), "macro_silhouette": silhouette}
        groups = dataset.splits[name].groups if name in dataset.splits else None
        if groups is not None:
            right = right_class(truth, groups)
            metrics[name]["grouped_accuracy"] = grouped_accuracy(logits, truth, groups, right)
        metrics[name]["knn_accuracy"] = 100 * float((vote(nearest[name], k) == truth).mean())
        arrays |= {f"{name}_labels": truth, f"{name}_logits": logits}
        if fit.cfg.trainer.save_embeddings:
            arrays[f"{name}_embeddings"] = embedded.cpu().numpy().astype(np.float16)
    return metrics, arrays, settings


def _fit_probe(fit: Fit, train: Tensor, val: Tensor) -> dict[str, Any]:
    """Train standalone mode's linear classifier on frozen embeddings, put it into the head, return its settings."""
    x, y, val_x, val_y = (t.cpu().numpy() for t in (train, fit.labels["train"], val, fit.labels["val"]))
    num_classes = fit.objective.num_classes
    if fit.cfg.variant.probe == "logistic":
        weight, bias, settings = logistic_probe(x, y, val_x, val_y, num_classes)
    else:
        weights = fit.objective.class_weights
        weights = None if weights is None else weights.cpu().float()
        weight, bias, settings = adam_probe(x, y, val_x, val_y, num_classes, fit.cfg.seed, weights)
    head = fit.model.head
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
    return settings


def keep_embeddings(fit: Fit, epoch: int) -> None:
    """Keep the embeddings of the first validation texts after an epoch (0: the pretrained encoder)."""
    sample = np.arange(min(len(fit.tables["val"]), KEPT_SAMPLE))
    embeddings = fit.embed("val", sample).cpu().numpy().astype(np.float16)  # as the test texts' embeddings are
    labels = fit.labels["val"][: len(sample)].cpu().numpy()
    kept = {f"epoch_{epoch}_embeddings": embeddings, "sample_labels": labels}
    write_arrays(fit.folder / "embeddings" / f"{epoch}.npz", **kept)


def kept_embeddings(folder: Path) -> dict[str, np.ndarray]:
    """The arrays that `keep_embeddings` has written in a run's folder."""
    arrays: dict[str, np.ndarray] = {}
    for path in sorted((folder / "embeddings").glob("*.npz")):
        with np.load(path, allow_pickle=False) as kept:
            arrays |= dict(kept)
    return arrays
