"""Time training steps: every loss, the Hugging Face Trainer and the released procedure, in alternating rounds.

  python scripts/bench.py dataset=mr model=minilm batch=128 rounds=12
  python scripts/bench.py lengths=128 model=bert_shape
  python scripts/bench.py peers=true threads=1 clock=cpu
  python scripts/bench.py lengths=128 model=roberta_large_shape grad_cache_chunk=16 baselines=false rounds=2

dataset=    whose training texts (default mr), or lengths= n or n-m: so many random tokens a text (classes=, default 2)
model=      a name in configs/model (default minilm), or random weights: bert_shape distilbert_shape roberta_large_shape
losses=     default ce,scl_ce,triplet,cosine,gloss_o;  batch= texts (128);  rounds= (12);  seed= (1)
steps=      of one candidate's turn (default: 1 on a CPU, 20 elsewhere)
baselines=     false leaves the Trainer and the released procedure out
scaling=     true also measures how the cost grows with batch, classes and length
peers=      true measures only the losses alone, beside those of other libraries that are installed (threads=, rounds=,
            clock=, device=)
run=        folder of a finished run, whose time is compared with that of its training steps
clock=      wall, or cpu: the processor's seconds, for a machine that others use (needs threads=1)
threads=, device=, precision=, grad_cache_chunk=, num_length_buckets=, paths.data=, paths.outputs= as in training

Prints tables, and keeps everything in <outputs>/bench/<what>.json for the report.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed

from gloss.cli.arguments import choice, main, whole_number
from gloss.errors import ConfigError
from gloss.losses.registry import LOSSES

NUMBERS = ("batch", "rounds", "steps", "classes", "threads", "grad_cache_chunk", "num_length_buckets", "seed")
KEYS = (
    "dataset", "lengths", "model", "losses", "baselines", "scaling", "peers", "run", "clock", "device", "precision",
    *NUMBERS, "paths.data", "paths.outputs",
)  # fmt: skip


def task(given: dict[str, str]) -> None:
    if {"dataset", "lengths"} <= given.keys():
        raise ConfigError("expected dataset= or lengths=, got both")
    if "classes" in given and "lengths" not in given:
        raise ConfigError("classes= has no effect without lengths=: a data set has its own")
    values: dict[str, object] = {key.removeprefix("paths."): value for key, value in given.items()}
    for key in NUMBERS:
        if key in given:
            values[key] = whole_number(key, given[key])
            if not values[key] and key not in ("steps", "seed"):
                raise ConfigError(f"{key}=0 is not allowed: expected a whole number of at least 1")
    for key in ("baselines", "scaling", "peers"):
        if key in given:
            values[key] = choice(key, given[key], ("true", "false")) == "true"
    choice("clock", given.get("clock", "wall"), ("wall", "cpu"))
    if "losses" in given:
        values["losses"] = tuple(choice("losses", name, LOSSES) for name in given["losses"].split(","))

    if values.pop("peers", False):
        return show_peers(values)
    from gloss.benchmark.run import bench
    from gloss.benchmark.steps import Settings  # here: torch is loaded only once the command line is right
    from gloss.report.figures.speed import tables

    result, path = bench(Settings(**values), lambda text: print(text, file=sys.stderr, flush=True))
    print("\n".join(table.markdown() for table in tables([result])))
    print(f"Kept in {path}; make report shows it")


def show_peers(values: dict[str, object]) -> None:
    if unused := values.keys() - {"threads", "rounds", "clock", "device"}:
        raise ConfigError(f"{min(unused)}= has no effect with peers=true")
    import torch

    from gloss.benchmark.peers import beside_peers
    from gloss.benchmark.steps import CLOCKS
    from gloss.runtime.device import choose_device

    torch.set_num_threads(values.get("threads") or torch.get_num_threads())
    device, clock = choose_device(values.get("device", "auto")), CLOCKS[values.get("clock", "wall")]
    print("| batch | loss | ms | peak MB | peer ÷ ours: time (95 %) | memory |\n|--:|---|--:|--:|--:|--:|")
    for row in beside_peers(device, clock, values.get("rounds", 12)):
        ratio = " | "
        if r := row.get("ratio"):
            ratio = f"{r['median']:.2f} ({r['low']:.2f} – {r['high']:.2f}) | {row['memory_ratio']:.2f}"
        print(
            f"| {row['batch']:,} | {row['loss']} | {1e3 * row['seconds']:.1f} | {row['bytes'] / 1e6:.1f} | {ratio} |",
            flush=True,
        )


if __name__ == "__main__":
    sys.argv[1:] = sys.argv[1:] or ["dataset=mr"]
    sys.exit(main(task, KEYS, __doc__))
