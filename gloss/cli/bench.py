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
from functools import partial

from gloss.benchmark.settings import Settings
from gloss.cli.command import Paths, refuse
from gloss.errors import ConfigError
from gloss.losses.registry import LOSSES

OF_PEERS = ("threads", "rounds", "clock", "device", "peers", "paths")


@dataclass
class Benchmark(Settings):
    peers: bool = False  # only the losses alone by batch size, beside other libraries' losses
    paths: Paths = field(default_factory=Paths)


def task(cfg: Benchmark) -> None:
    if cfg.dataset and cfg.lengths:
        raise ConfigError("expected dataset= or lengths=, got both")
    if cfg.classes != Benchmark.classes and not cfg.lengths:
        raise ConfigError("classes= has no effect without lengths=: a data set has its own")
    if unknown := [loss for loss in cfg.losses if loss not in LOSSES]:
        raise ConfigError(f"losses={','.join(unknown)} is not allowed: expected some of {', '.join(LOSSES)}")
    if cfg.peers:
        refuse(cfg, [key for key in asdict(cfg) if key not in OF_PEERS], "with peers=true")
        return show_peers(cfg)
    from gloss.benchmark.steps import bench  # here: torch is loaded only once the command line is right
    from gloss.report.tables.speed import speed_table

    say = partial(print, file=sys.stderr, flush=True)
    result, path = bench(cfg, cfg.paths.outputs, cfg.paths.data or None, say)
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
