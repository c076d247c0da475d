"""The control ablation.graph_shuffle: the edge weights stay, the labels are permuted among the nodes."""

from __future__ import annotations

import pytest
import torch

from gloss.losses import gloss_loss
from gloss.training.objective import Objective
from gloss.training.run import train

GRAPH = ["loss=gloss_o", "loss.sigma=0.5"]


def objective(tiny_config, *options: str, sigma: float = 0.5) -> Objective:
    return Objective.of(tiny_config(*GRAPH, *options), 3, sigma)


@pytest.mark.parametrize("mode", ["integrated", "standalone"])
def test_ablation_graph_shuffle_permutes_the_nodes_and_keeps_cross_entropy(tiny_config, mode):
    z = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = torch.randn(12, 3) if mode == "integrated" else None
    labels, is_labeled = torch.arange(12) % 3, torch.arange(12) < 7
    torch.manual_seed(3)
    order = torch.randperm(12)
    torch.manual_seed(3)
    shuffled = objective(tiny_config, f"mode={mode}", "ablation.graph_shuffle=true")(z, logits, labels, is_labeled)
    plain = objective(tiny_config, f"mode={mode}")(z, logits, labels, is_labeled)
    expected = gloss_loss(z[order], labels, sigma=0.5, is_labeled=is_labeled, num_classes=3)
    assert torch.equal(shuffled.embedding_loss, expected) and shuffled.embedding_loss != plain.embedding_loss
    assert shuffled.ce is plain.ce is None if mode == "standalone" else torch.equal(shuffled.ce, plain.ce)
    (grad,) = torch.autograd.grad(shuffled.embedding_loss, z)
    assert grad.isfinite().all() and (grad.norm(dim=1) > 0).all()


def test_mean_loss_of_a_shuffled_graph_is_at_chance(tiny_config):
    labels, is_labeled = torch.arange(60) % 3, torch.arange(60) < 36
    z = torch.eye(3)[labels] + 0.01 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    losses = {}
    for options in ([], ["ablation.graph_shuffle=true"]):
        made = objective(tiny_config, "mode=standalone", *options, sigma=0.3)  # the distance between classes is 1.4
        values = [made(z, None, labels, is_labeled).loss.item() for _ in range(20)]
        losses[len(options)] = sum(values) / len(values)
    assert losses[0] < 0.05 and losses[1] > 1.0  # chance is log 3 = 1.10


def test_a_shuffled_graph_changes_the_run_folder_and_the_loss(tiny_config):
    options = [*GRAPH, "trainer.max_epochs=1"]
    plain, shuffled = train(tiny_config(*options)), train(tiny_config(*options, "ablation.graph_shuffle=true"))
    assert plain.folder != shuffled.folder and plain.epochs()[0]["loss"] != shuffled.epochs()[0]["loss"]
