"""How well a batch's graph reflects the classes: edge homophily, and accuracy of propagation from γ of the labels.

Both are measured on a split in evaluation mode, in batches of the run's size that never change, so that epochs, losses
and seeds compare. Each comes with its chance level.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gloss.data.sampler import cut
from gloss.losses.checks import same_class
from gloss.losses.gloss import choose_labeled, log_class_probabilities, log_kernel

DEFAULT_GAMMA = 0.6  # for losses that have none of their own
SEED = 0  # of the batches and of the nodes that keep their labels: the same whatever the seed of a run


@torch.inference_mode()
def graph_quality(
    embeddings: Tensor, labels: Tensor, *, sigma: float, gamma: float, num_classes: int, batch_size: int
) -> dict[str, float] | None:
    """Edge homophily and propagated accuracy of the graphs of fixed batches, each with its chance level.

    Args:
        embeddings: float [N, D], any scale.
        labels: int64 [N] in [0, C), on the same device.
        sigma: σ > 0 of the Gaussian kernel.
        gamma: γ in (0, 1), the fraction of each batch whose labels are propagated to the rest.
        num_classes: C.
        batch_size: nodes of a graph, at least 2; the last batch may have fewer, but never one.

    Returns {"homophily": weight of the edges within a class over the weight of all edges, of all batches, from 0 to 1;
    "homophily_chance": the same with equal weights, so of pairs; "propagated_accuracy": percent of the nodes without a
    label whose most probable class is theirs (a class that no labeled node has is never it); "majority_accuracy":
    percent of the same nodes that belong to the most frequent class of the split}. None with fewer than 2 nodes.
    """
    if len(labels) < 2:
        return None
    order = np.random.default_rng(SEED).permutation(len(labels))
    generator = torch.Generator().manual_seed(SEED)
    majority = torch.bincount(labels, minlength=num_classes).argmax()
    log_within, log_weight, counts = [], [], []
    num_pairs = num_unlabeled = 0
    for nodes in map(torch.from_numpy, cut(order, batch_size)):
        is_labeled = choose_labeled(len(nodes), gamma, generator)
        nodes = torch.cat([nodes[is_labeled], nodes[~is_labeled]]).to(labels.device)  # labeled nodes first
        num_labeled = int(is_labeled.sum())
        num_unlabeled += len(nodes) - num_labeled
        num_pairs += len(nodes) * (len(nodes) - 1)
        z, y = embeddings[nodes], labels[nodes]
        # In log space: with a narrow kernel every weight of a graph may be 0 in floating point.
        log_weights, is_within = log_kernel(z, sigma), same_class(y)
        log_within.append(log_weights.masked_fill(~is_within, -torch.inf).flatten().logsumexp(0))
        log_weight.append(log_weights.flatten().logsumexp(0))
        found = log_class_probabilities(z, y, sigma, num_labeled, num_classes).argmax(dim=1)
        truth = y[num_labeled:]
        counts.append(torch.stack([is_within.sum(), (found == truth).sum(), (truth == majority).sum()]))
    homophily = (torch.stack(log_within).logsumexp(0) - torch.stack(log_weight).logsumexp(0)).exp().item()
    num_within, num_right, num_majority = torch.stack(counts).sum(0).tolist()
    return {
        "homophily": homophily,
        "homophily_chance": num_within / num_pairs,
        "propagated_accuracy": 100 * num_right / num_unlabeled,
        "majority_accuracy": 100 * num_majority / num_unlabeled,
    }
