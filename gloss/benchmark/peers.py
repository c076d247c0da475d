"""Time and memory of the losses alone beside other libraries' losses, forward and backward on random embeddings.

Peers take part where they are installed: pytorch-metric-learning and sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gloss.benchmark.turns import Clock, in_turn, interval
from gloss.losses import BatchAllTripletLoss, GLoss, SupConLoss

BATCHES = (128, 256, 512, 1024, 2048)
MOST_TRIPLETS = 512**3  # more, in a peer that holds all triplets of a batch, do not fit on most machines
MARGIN, TEMPERATURE = 0.5, 0.1

Loss = Callable[[Tensor, Tensor], Tensor]


def candidates() -> tuple[dict[str, Loss], dict[str, tuple[str, Loss]]]:
    """Our losses, and the peers, each with the name of our loss that computes the same."""
    ours: dict[str, Loss] = {
        "SCL": SupConLoss(TEMPERATURE), "triplet": BatchAllTripletLoss(MARGIN), "G-Loss": GLoss(0.5, num_classes=2),
    }  # fmt: skip
    peers: dict[str, tuple[str, Loss]] = {}
    with suppress(ImportError):
        from pytorch_metric_learning import distances, losses, reducers

        distance, reducer = distances.LpDistance(normalize_embeddings=False), reducers.AvgNonZeroReducer()
        triplet = losses.TripletMarginLoss(margin=MARGIN, distance=distance, reducer=reducer)
        peers["SCL, pytorch-metric-learning"] = "SCL", losses.SupConLoss(temperature=TEMPERATURE)
        peers["triplet, pytorch-metric-learning"] = "triplet", triplet
    with suppress(ImportError):
        from sentence_transformers.sentence_transformer.losses import BatchAllTripletLoss as LibraryTriplet

        library = LibraryTriplet(model=None, margin=MARGIN)
        peers["triplet, sentence-transformers"] = "triplet", lambda x, y: library.batch_all_triplet_loss(y, x)
    return ours, peers


def beside_peers(device: torch.device, clock: Clock, rounds: int, width: int = 384) -> Iterator[dict[str, Any]]:
    """A row for each batch size and loss: median seconds, peak memory in bytes, a peer's time over ours by turns."""
    ours, peers = candidates()
    for num in BATCHES:
        x = torch.randn(num, width, generator=torch.Generator().manual_seed(1)).to(device)
        labels = (torch.arange(num) % 2).to(device)
        there = {n: p for n, p in peers.items() if not (n.startswith("triplet") and num**3 > MOST_TRIPLETS)}
        everyone = ours | {name: loss for name, (_, loss) in there.items()}
        memory = {name: _peak_bytes(loss, x, labels) for name, loss in everyone.items()}  # and warms up
        turns = {name: partial(_seconds, loss, x, labels, clock) for name, loss in everyone.items()}
        seconds = [in_turn(turns, r) for r in range(rounds)]
        for name in everyone:
            row = {"batch": num, "loss": name, "seconds": interval([r[name] for r in seconds])[0]}
            row["bytes"] = memory[name]
            if name in there:
                our = there[name][0]
                row |= {"ratio": interval([r[name] / r[our] for r in seconds])}
                row["memory_ratio"] = memory[name] / memory[our]
            yield row


def _seconds(loss: Loss, x: Tensor, labels: Tensor, clock: Clock) -> float:
    leaf, before = x.clone().requires_grad_(), clock()
    loss(leaf, labels).backward()
    return clock() - before


def _peak_bytes(loss: Loss, x: Tensor, labels: Tensor) -> int:
    """The most that PyTorch holds at a time, beyond the embeddings."""
    leaf = x.clone().requires_grad_()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if x.is_cuda else [])]
    with profile(activities=activities, profile_memory=True) as profiler:
        loss(leaf, labels).backward()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes() if str(event.device_type()).lower().endswith(x.device.type) else 0
        peak = max(peak, held)
    return peak
