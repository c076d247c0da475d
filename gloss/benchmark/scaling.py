"""How the cost of the losses grows with batch, classes and length of the texts."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F

from gloss.benchmark.baselines import synchronize
from gloss.benchmark.steps import SIGMA, Bench, Settings
from gloss.config import Config
from gloss.training.objective import Objective

BATCHES = (64, 128, 256, 512, 1024, 2048)
CLASSES = (2, 8, 32, 52, 100)
LENGTHS = (16, 32, 64, 128)
LONGEST_POINT = 30.0  # seconds; a larger batch than one that took longer is left out


def measure_growth(bench_: Bench, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Seconds of each loss alone (forward and backward on random embeddings) by batch and classes, and of whole steps
    by length of the texts: a row a point."""
    rows = []
    for axis, sizes in (("batch", BATCHES), ("classes", CLASSES)):
        for loss, fit in bench_.fits.items():
            for size in sizes:
                num_examples, num_classes = (size, bench_.texts["classes"]) if axis == "batch" else (128, size)
                size_of = num_examples, num_classes, bench_.layers[1]
                seconds = objective_seconds(fit.cfg, *size_of, bench_.device, bench_.clock)
                rows.append({"axis": axis, "size": size, "loss": loss, "of": "loss", "seconds": seconds})
                if seconds > LONGEST_POINT:
                    break
        tell(f"scaling with {axis} is measured")
    num_examples = min(bench_.settings.batch, 32) if bench_.device.type == "cpu" else bench_.settings.batch
    for length in LENGTHS:
        same = {**asdict(bench_.settings), "lengths": str(length), "batch": num_examples, "baselines": False}
        there = Bench.build(Settings(**same | {"classes": bench_.texts["classes"]}))
        turns = [there.round(r)["turns"] for r in range(3)]
        for loss in bench_.fits:
            seconds = statistics.median(turn[loss]["seconds"] for turn in turns)
            point = {"axis": "length", "size": length, "loss": loss, "of": f"step of {num_examples} texts"}
            rows.append({**point, "seconds": seconds})
    tell("scaling with length is measured")
    return rows


def objective_seconds(
    cfg: Config, num_examples: int, num_classes: int, width: int, device: torch.device, clock: Callable[[], float]
) -> float:
    """The objective with its gradient on random embeddings [B, D], B texts of C classes; median of some repeats."""
    generator = torch.Generator().manual_seed(cfg.seed)
    objective = Objective.of(cfg, num_classes, SIGMA)
    embeddings = torch.randn(num_examples, width, generator=generator).to(device)
    logits = torch.randn(num_examples, num_classes, generator=generator).to(device)
    labels = torch.randint(num_classes, (num_examples,), generator=generator).to(device)
    is_labeled = objective.draw_labeled(num_examples, generator)
    times: list[float] = []
    while len(times) < 2 or (sum(times) < 0.2 and len(times) < 20):  # the first is not counted
        inputs = F.normalize(embeddings, dim=1).requires_grad_(), logits.clone().requires_grad_()
        synchronize(device)
        before = clock()
        objective(*inputs, labels, is_labeled).loss.backward()
        synchronize(device)
        times.append(clock() - before)
        if times[-1] > LONGEST_POINT:
            break
    return statistics.median(times[1:] or times)
