"""Time training steps: every loss, the Hugging Face Trainer and the released procedure, in alternating rounds.

  python scripts/bench.py dataset=mr model=minilm batch=128 rounds=12
  python scripts/bench.py lengths=128 model=bert_shape
  python scripts/bench.py peers=true threads=1 clock=cpu
  python scripts/bench.py lengths=128 model=roberta_large_shape grad_cache_chunk=16 baselines=false rounds=2

Prints a table, and keeps everything in <outputs>/bench/<name>.json for the report.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from gloss.cli.command import Paths, names
from gloss.config import at_least, choice
from gloss.errors import ConfigError
from gloss.losses.registry import GLOSS_SQRT, INTEGRATED, LOSSES

MEASURED = [name for name, row in LOSSES.items() if INTEGRATED in row.modes and name != GLOSS_SQRT]
OF_PEERS = ("threads", "rounds", "clock", "device", "peers", "paths")


@dataclass
class Benchmark:
    dataset: str | None = None  # the set with the training texts; null: mr, or none with lengths
    lengths: str | None = None  # n or n-m: so many random tokens a text instead
    classes: int = at_least(1, 2)  # of random texts
    model: str = "minilm"  # in configs/model, or random weights: bert_shape distilbert_shape roberta_large_shape
    losses: list[str] = names(*MEASURED)  # which to time; gloss_sqrt has the same step as gloss_o
    batch: int = at_least(1, 128)  # texts
    rounds: int = at_least(1, 12)  # in which candidates take turns
    steps: int = at_least(0, 0)  # of one candidate's turn; 0: 1 on a CPU, 20 elsewhere
    seed: int = at_least(0, 1)  # of the batches
    baselines: bool = True  # also the Trainer and the released procedure
    peers: bool = False  # only the losses alone by batch size, beside other libraries' losses
    clock: str = choice("wall", "wall", "cpu")  # cpu: the processor's seconds, for a machine that others use
    threads: int | None = at_least(1, None)  # of PyTorch
    device: str = "auto"  # auto, cpu, cuda, cuda:N or mps
    precision: str = choice("auto", "auto", "float32", "bf16")  # as in training
    grad_cache_chunk: int | None = at_least(1, None)  # as in training
    num_length_buckets: int | None = at_least(1, None)  # as in training
    compile: bool = False  # as in training
    paths: Paths = field(default_factory=Paths)


def task(cfg: Benchmark) -> None:
    if cfg.dataset and cfg.lengths:
        raise ConfigError("expected dataset= or lengths=, got both")
    if cfg.classes != Benchmark.classes and not cfg.lengths:
        raise ConfigError("classes= has no effect without lengths=: a data set has its own")
    if unknown := [loss for loss in cfg.losses if loss not in LOSSES]:
        raise ConfigError(f"losses={','.join(unknown)} is not allowed: expected some of {', '.join(LOSSES)}")
    values: dict[str, Any] = asdict(cfg)
    if cfg.peers:
        if unused := [k for k, default in asdict(Benchmark()).items() if k not in OF_PEERS and values[k] != default]:
            raise ConfigError(f"{unused[0]}= has no effect with peers=true")
        return show_peers(cfg)
    from gloss.benchmark.steps import Settings, bench  # here: torch is loaded only once the command line is right
    from gloss.report.tables.speed import speed_table

    values |= {"dataset": cfg.dataset or (None if cfg.lengths else "mr"), "losses": tuple(cfg.losses)}
    del values["peers"], values["paths"]
    settings = Settings(**values, outputs=cfg.paths.outputs, data=cfg.paths.data or None)
    result, path = bench(settings, lambda text: print(text, file=sys.stderr, flush=True))
    print(speed_table([result]).markdown())
    print(f"Kept in {path}; make report shows it")


def show_peers(cfg: Benchmark) -> None:
    import torch

    from gloss.benchmark.peers import beside_peers
    from gloss.benchmark.turns import CLOCKS
    from gloss.runtime.device import choose_device

    torch.set_num_threads(cfg.threads or torch.get_num_threads())
    print("| batch | loss | ms | peak MB | peer ÷ ours: time (95 %) | memory |\n|--:|---|--:|--:|--:|--:|")
    for row in beside_peers(choose_device(cfg.device), CLOCKS[cfg.clock], cfg.rounds):
        ratio = " | "
        if r := row.get("ratio"):
            ratio = "{:.2f} ({:.2f} – {:.2f}) | {:.2f}".format(*r, row["memory_ratio"])
        print(
            f"| {row['batch']:,} | {row['loss']} | {1e3 * row['seconds']:.1f} | {row['bytes'] / 1e6:.1f} | {ratio} |",
            flush=True,
        )
