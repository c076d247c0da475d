"""The settings of the benchmark, which are keys of `scripts/bench.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from gloss.config import at_least, choice
from gloss.losses.registry import GLOSS_SQRT, INTEGRATED, LOSSES

MEASURED = [name for name, row in LOSSES.items() if INTEGRATED in row.modes and name != GLOSS_SQRT]


@dataclass
class Settings:
    dataset: str | None = None  # the set with the training texts; null: mr, or none with lengths
    lengths: str | None = None  # n or n-m: so many random tokens a text instead
    classes: int = at_least(1, 2)  # of random texts
    model: str = "minilm"  # in configs/model, or random weights: bert_shape distilbert_shape roberta_large_shape
    losses: list[str] = field(default_factory=lambda: [*MEASURED])  # which to time; gloss_sqrt has gloss_o's step
    batch: int = at_least(2, 128)  # texts
    rounds: int = at_least(1, 12)  # in which candidates take turns
    steps: int = at_least(0, 0)  # of one candidate's turn, without a wait in between; 0: 1 on a CPU, 20 elsewhere
    seed: int = at_least(0, 1)  # of the batches
    baselines: bool = True  # also the Hugging Face Trainer and the released procedure, in the first rounds
    clock: str = choice("wall", "wall", "cpu")  # cpu: the processor's seconds, for a machine that others use
    threads: int | None = at_least(1, None)  # of PyTorch
    device: str = "auto"  # auto, cpu, cuda, cuda:N or mps
    precision: str = choice("auto", "auto", "float32", "bf16")  # as in training
    grad_cache_chunk: int | None = at_least(1, None)  # as in training
    num_length_buckets: int | None = at_least(1, None)  # as in training
    compile: bool = False  # as in training
