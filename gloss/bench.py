"""How long a training step takes, what it is made of, and how it compares: `make bench`.

Contenders take turns on the same batches, in an order that changes from round to round, so that a machine that slows
down or is used by others slows all of them: a ratio is formed within a round, and its median and range are over rounds.
Cross-entropy runs twice a round; what differs between the two is noise.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from gloss.checkpoint import Progress
from gloss.config import CE, CONFIG_DIR, COSINE, GLOSS_O, SCL_CE, TRIPLET, Config, ConfigError, resolve
from gloss.data import Tokens, load_dataset, tokenize
from gloss.device import choose_device, choose_precision, environment, peak_memory_bytes, reset_peak_memory
from gloss.encoder import Classifier, Encoder, TokenTable, load_encoder, load_tokenizer
from gloss.fit import LOG, Fit
from gloss.objective import Objective
from gloss.plan import DEVICES, is_named
from gloss.rivals import PADDED_TO, ReleasedSteps, TrainerSteps, synchronize
from gloss.runs import read_record, write_json
from gloss.sampler import epoch_batches

LOSSES = (CE, SCL_CE, TRIPLET, COSINE, GLOSS_O)  # the step of gloss_sqrt is that of gloss_o
AGAIN, TRAINER, RELEASED = "ce_again", "trainer", "released"
SIGMA = 0.5  # any number takes the same time
SHAPES: dict[str, Callable[[], transformers.PretrainedConfig]] = {  # encoders with random weights, as wide and deep as
    "bert_shape": transformers.BertConfig,
    "distilbert_shape": transformers.DistilBertConfig,
    "roberta_large_shape": lambda: transformers.RobertaConfig(
        vocab_size=50265, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        max_position_embeddings=514, type_vocab_size=1,
    ),
}  # fmt: skip
GROWTH_BATCHES = (64, 128, 256, 512, 1024, 2048)
GROWTH_CLASSES = (2, 8, 32, 52, 100)
GROWTH_LENGTHS = (16, 32, 64, 128)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
LONGEST_POINT = 30.0  # seconds; a larger batch than one that took longer is left out


@dataclass(frozen=True)
class Settings:
    """What to measure.

    dataset: whose training texts; or lengths (n: all texts of n tokens; n-m: evenly spread) with random tokens and
    `classes`. steps: of a contender's turn, without a wait in between (0: 1 on a CPU, 20 elsewhere). clock: "wall", or
    "cpu" for the processor's seconds spent on this process, which others at work on the machine disturb less (one
    thread). rivals: also the Hugging Face Trainer and the released procedure. growth: also how the losses grow. run: a
    finished run's folder, whose seconds are compared with its training steps'.
    """

    dataset: str | None = "mr"
    lengths: str | None = None
    classes: int = 2
    model: str = "minilm"
    losses: tuple[str, ...] = LOSSES
    batch: int = 128
    rounds: int = 5
    steps: int = 0
    clock: str = "wall"
    rivals: bool = True
    growth: bool = False
    run: str | None = None
    threads: int | None = None
    device: str = "auto"
    precision: str = "auto"
    micro_batch: int | None = None
    num_slices: int | None = None
    seed: int = 1
    data: str | None = None
    outputs: str = "outputs"


def bench(settings: Settings, tell: Callable[[str], None] = lambda text: None) -> tuple[dict[str, Any], Path]:
    """Measure, and keep the result in <outputs>/bench/<what>.json; `tell` hears of progress.

    Raises ConfigError and DataError for settings and texts that cannot be used.
    """
    if settings.clock == "cpu" and (settings.threads != 1 or choose_device(settings.device).type != "cpu"):
        raise ConfigError("clock=cpu is not allowed here: it needs threads=1 on a CPU")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    load_before = _load()
    bench_ = Bench.build(settings)
    device, precision = bench_.device, bench_.precision
    peak, peak_from = peak_flops(device, precision, bench_.clock)
    tell(f"{bench_.name}: {bench_.texts}")
    rounds = []
    for r in range(settings.rounds):
        rounds.append(bench_.round(r))
        shown = ", ".join(f"{name} {turn['seconds']:.3f}" for name, turn in rounds[-1]["turns"].items())
        tell(f"round {r + 1} of {settings.rounds}, seconds a step: {shown}")
    peak = max(peak, peak_flops(device, precision, bench_.clock)[0])
    result = {
        "schema_version": 1,
        "name": bench_.name,
        "settings": asdict(settings),
        "machine": {
            **environment(device, precision), "cores": os.cpu_count(), "load": [load_before, _load()],
            "peak_flops": peak, "peak_from": peak_from,
        },
        "texts": bench_.texts,
        "rounds": rounds,
        "contenders": (contenders := summary(rounds, peak)),
        "ratios": ratios(rounds, bench_),
        "goals": goals(contenders, bench_),
        "same_step_twice": {x: difference_of_equal_steps(fit, next(bench_.batches)) for x, fit in bench_.fits.items()},
        "growth": growth(bench_, tell) if settings.growth else [],
        "run": run_ratio(Path(settings.run)) if settings.run else None,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    path = Path(settings.outputs) / "bench" / f"{bench_.name}.json"
    write_json(path, result)
    return result, path


# ------------------------------------------------------------------------------------------------------ the contenders


@dataclass
class Bench:
    """The texts, the encoder and everyone who trains it."""

    settings: Settings
    device: torch.device
    precision: str
    fits: dict[str, Fit]  # by loss; they share the encoder and the optimizer
    rivals: dict[str, TrainerSteps | ReleasedSteps]
    batches: Iterator[np.ndarray]  # row numbers [B], without end
    texts: dict[str, Any]
    layers: tuple[int, int, int]  # number, width, parameters of the encoder's layers

    @classmethod
    def build(cls, settings: Settings) -> Bench:
        """Raises ConfigError or DataError."""
        configs = {loss: _config(settings, loss) for loss in dict.fromkeys((CE, *settings.losses))}
        cfg = configs[CE]
        device = choose_device(cfg.trainer.device)
        precision = choose_precision(cfg.trainer, device)
        encoder = _encoder(cfg, settings)
        pad_id = encoder.transformer.config.pad_token_id or 0
        tokens, labels, num_classes = _texts(cfg, settings)
        if len(labels) < settings.batch:
            raise ConfigError(f"batch={settings.batch} is not allowed: there are only {len(labels)} texts")
        table = TokenTable.build(tokens, pad_id, device)
        model = Classifier(encoder, num_classes).to(device).train()
        fits = {
            loss: Fit(
                cfg=c, model=model, objective=Objective(c, num_classes, SIGMA), tables={"train": table},
                labels={"train": torch.from_numpy(labels).to(device)}, rows=np.arange(len(labels)), device=device,
                precision=precision, folder=Path(), progress=Progress(), report=lambda what, values: None,
                on_epoch=None, presence=None,
            )
            for loss, c in configs.items()
        }  # fmt: skip
        for fit in fits.values():
            fit.optimizer, fit.log = fits[CE].optimizer, torch.zeros(1, len(LOG), device=device)
        rivals: dict[str, TrainerSteps | ReleasedSteps] = {}
        if settings.rivals:
            everything = encoder, table, torch.from_numpy(labels), device, CLOCKS[settings.clock]
            rivals[TRAINER] = TrainerSteps(*everything, precision)
            if table.host_lengths.max() <= PADDED_TO:
                rivals[RELEASED] = ReleasedSteps(*everything)
        lengths = table.host_lengths
        texts = {
            "num": len(labels), "classes": num_classes,
            "mean_tokens": float(lengths.mean()), "max_tokens": int(lengths.max()),
        }  # fmt: skip
        found = _layers(encoder)
        layers = len(found), encoder.embedding_dim, sum(p.numel() for p in found.parameters())
        batches = _full_batches(cfg, labels)
        return cls(settings, device, precision, fits, rivals, batches, texts, layers)

    @property
    def name(self) -> str:
        s = self.settings
        texts = s.dataset if s.lengths is None else f"{s.lengths}tokens"
        where = f"cpu{torch.get_num_threads()}" if self.device.type == "cpu" else self.device.type
        sliced = "".join(f"-{key}{n}" for key, n in (("micro", s.micro_batch), ("slices", s.num_slices)) if n)
        return f"{texts}-{s.model}-{s.batch}{sliced}-{where}-{self.precision}"

    @property
    def clock(self) -> Callable[[], float]:
        return CLOCKS[self.settings.clock]

    @property
    def num_steps(self) -> int:
        return self.settings.steps or (1 if self.device.type == "cpu" else 20)

    def round(self, number: int) -> dict[str, Any]:
        """Every contender's turn on the same batches; number: from 0, turns the order."""
        batches = [next(self.batches) for _ in range(self.num_steps)]
        turns = {name: self._ours(name) for name in self.fits} | {AGAIN: self._ours(CE)}
        turns |= {name: self._rival(name) for name in self.rivals}
        if not number:  # memory, kernels and the optimizer's state: not part of a step
            for turn in turns.values():
                turn([batch[:16] for batch in batches[:1]] if self.device.type == "cpu" else batches)
        names = list(turns)
        shift = number % len(names)
        measured = {name: turns[name](batches) for name in [*names[shift:], *names[:shift]]}
        lengths = self.fits[CE].tables["train"].host_lengths[np.concatenate(batches)]
        return {
            "tokens": int(lengths.sum()) / len(batches),  # of a step, without padding
            "flops": self._flops(lengths) / len(batches),
            "turns": {name: measured[name] for name in names},
        }

    def _ours(self, loss: str) -> Callable[[Sequence[np.ndarray]], dict[str, Any]]:
        fit = self.fits[loss]
        lengths = fit.tables["train"].host_lengths

        def turn(batches: Sequence[np.ndarray]) -> dict[str, Any]:
            generator = torch.Generator().manual_seed(self.settings.seed)
            reset_peak_memory(self.device)
            of_rivals = 0
            if self.device.type == "cuda":
                of_rivals = torch.cuda.memory_allocated(self.device) - held_bytes(fit)
            synchronize(self.device)
            before = self.clock()
            fit.watch.start()
            for rows in batches:
                rows = rows[np.argsort(lengths[rows], kind="stable")]
                device_rows = torch.from_numpy(rows).to(self.device, non_blocking=True)
                fit._step(0, rows, device_rows, fit.objective.draw_visible(len(rows), generator))
            synchronize(self.device)
            seconds = (self.clock() - before) / len(batches)
            parts = {part: value / len(batches) for part, value in fit.watch.read().items()}
            return {"seconds": seconds, "parts": parts, "peak_memory_bytes": peak_memory_bytes(self.device) - of_rivals}

        return turn

    def _rival(self, name: str) -> Callable[[Sequence[np.ndarray]], dict[str, Any]]:
        def turn(batches: Sequence[np.ndarray]) -> dict[str, Any]:
            return {"seconds": self.rivals[name].run(batches), "parts": None, "peak_memory_bytes": None}

        return turn

    def _flops(self, lengths: np.ndarray) -> float:
        """Of a step, forward and backward, on real tokens: six a parameter of the layers and token, and attention.

        Attention of a text of T tokens takes 4 T² D operations a layer forward, and twice that backward.
        """
        num, width, parameters = self.layers
        return 6.0 * parameters * lengths.sum() + 12.0 * num * width * np.square(lengths.astype(float)).sum()


def difference_of_equal_steps(fit: Fit, rows: np.ndarray) -> float:
    """‖g − g'‖ / ‖g‖ of the gradients of two steps with the same weights, texts and seed: what a device adds in another
    order each time. rows: [B]."""
    rows = rows[np.argsort(fit.tables["train"].host_lengths[rows], kind="stable")]
    device_rows = torch.from_numpy(rows).to(fit.device)
    visible = fit.objective.draw_visible(len(rows), torch.Generator().manual_seed(fit.cfg.seed))
    gradients = []
    for _ in range(2):
        fit.model.zero_grad(set_to_none=True)
        fit._backward(rows, device_rows, fit.labels["train"][device_rows], visible, seed=fit.cfg.seed)
        gradients.append([p.grad.clone() for p in fit.parameters if p.grad is not None])
    fit.model.zero_grad(set_to_none=True)
    difference = torch.nn.utils.get_total_norm([a - b for a, b in zip(*gradients, strict=True)])
    return (difference / torch.nn.utils.get_total_norm(gradients[0])).item()


def held_bytes(fit: Fit) -> int:
    """What a run holds on the device between two steps: weights, optimizer state, texts."""
    states = (x for state in fit.optimizer.state.values() for x in state.values())
    table = fit.tables["train"]
    tensors = (*fit.model.parameters(), *fit.model.buffers(), *states, table.input_ids, table.lengths)
    return sum(x.nbytes for x in tensors if isinstance(x, torch.Tensor) and x.device == fit.device)


def _config(settings: Settings, loss: str) -> Config:
    model = "tiny" if settings.model in SHAPES else settings.model  # its tokenizer serves all shapes
    given = {
        "dataset": settings.dataset if settings.lengths is None else None, "model": model, "loss": loss,
        "mode": "integrated", "seed": settings.seed, "trainer.batch_size": settings.batch,
        "trainer.device": settings.device, "trainer.precision": settings.precision,
        "trainer.micro_batch": settings.micro_batch, "trainer.num_slices": settings.num_slices,
        "paths.data": settings.data, "paths.outputs": settings.outputs,
        "loss.sigma": SIGMA if loss == GLOSS_O else None,
    }  # fmt: skip
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base=None):
            return resolve(compose("train", [f"{key}={value}" for key, value in given.items() if value is not None]))
    except HydraException as error:
        if "Could not find" in str(error) and model not in {path.stem for path in (CONFIG_DIR / "model").iterdir()}:
            expected = f"{', '.join(SHAPES)} or one of configs/model"
            raise ConfigError(f"model={model} is not allowed: expected {expected}") from None
        raise ConfigError(str(error).splitlines()[0]) from None


def _encoder(cfg: Config, settings: Settings) -> Encoder:
    if settings.model not in SHAPES:
        return load_encoder(cfg.model)
    torch.manual_seed(settings.seed)
    transformer = transformers.AutoModel.from_config(SHAPES[settings.model]())
    transformer.pooler = None
    return Encoder(transformer)


def _texts(cfg: Config, settings: Settings) -> tuple[Tokens, np.ndarray, int]:
    """Training texts as token ids, their labels [N], and the number of classes."""
    if settings.lengths is None:
        dataset = load_dataset(cfg.dataset, cfg.paths.data, cfg.seed)
        train = dataset.splits["train"]
        cache = Path(cfg.paths.outputs) / "cache" / "tokens"
        tokens = tokenize(train.texts, load_tokenizer(cfg.model), cfg.model.max_length, cache)
        return tokens, train.labels, len(dataset.labels)
    low, _, high = settings.lengths.partition("-")
    if not low.isdecimal() or not (high or low).isdecimal() or not 3 <= int(low) <= int(high or low) <= 512:
        raise ConfigError(f"lengths={settings.lengths} is not allowed: expected n or n-m, from 3 to 512 tokens")
    rng = np.random.default_rng(settings.seed)
    num = 16 * settings.batch
    lengths = rng.integers(int(low), int(high or low) + 1, size=num)
    offsets = np.concatenate([[0], lengths.cumsum()])
    ids = rng.integers(1000, 30000, size=offsets[-1]).astype(np.int32)
    return Tokens(ids, None, offsets), rng.integers(settings.classes, size=num), settings.classes


def _full_batches(cfg: Config, labels: np.ndarray) -> Iterator[np.ndarray]:
    epoch = 0
    while True:
        epoch += 1
        yield from (b for b in epoch_batches(labels, cfg.trainer, cfg.seed, epoch) if len(b) == cfg.trainer.batch_size)


def _layers(encoder: Encoder) -> torch.nn.ModuleList:
    stack = getattr(encoder.transformer, "encoder", None) or encoder.transformer.transformer
    return stack.layer


# --------------------------------------------------------------------------------------------------------- the numbers


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def summary(rounds: Sequence[dict[str, Any]], peak: float) -> dict[str, dict[str, Any]]:
    """By contender: seconds of a step and its parts, real tokens a second, share of the peak, memory; over rounds."""
    found = {}
    for name in rounds[0]["turns"]:
        turns = [r["turns"][name] for r in rounds]
        seconds = [turn["seconds"] for turn in turns]
        parts = None
        if turns[0]["parts"] is not None:
            parts = {part: statistics.median(turn["parts"][part] for turn in turns) for part in turns[0]["parts"]}
        found[name] = {
            "seconds": spread(seconds),
            "parts": parts,
            "tokens_per_second": spread([r["tokens"] / s for r, s in zip(rounds, seconds, strict=True)]),
            "share_of_peak": spread([r["flops"] / s / peak for r, s in zip(rounds, seconds, strict=True)]),
            "peak_memory_bytes": max((x for turn in turns if (x := turn["peak_memory_bytes"])), default=None),
        }
    return found


def ratios(rounds: Sequence[dict[str, Any]], bench_: Bench) -> list[dict[str, Any]]:
    """Step against step within each round, with the goal where there is one: ("at most" or "at least", number)."""
    is_cpu, dataset = bench_.device.type == "cpu", bench_.settings.dataset if bench_.settings.lengths is None else None
    goals = {
        (GLOSS_O, CE): ("at most", 1.02 if is_cpu else 1.03),
        (TRIPLET, CE): ("at most", 1.05) if bench_.settings.batch == 128 else None,
        (TRAINER, CE): ("at least", 1.5 if is_cpu else 1.2) if dataset in ("mr", "r8") or not is_cpu else None,
        (RELEASED, GLOSS_O): ("at least", {"mr": 14, "r8": 4}[dataset]) if is_cpu and dataset in ("mr", "r8") else None,
    }
    pairs = [(name, CE) for name in (AGAIN, *LOSSES, TRAINER) if name != CE] + [(RELEASED, GLOSS_O)]
    found = []
    for over, under in pairs:
        if over in rounds[0]["turns"] and under in rounds[0]["turns"]:
            both = (CE, AGAIN) if under == CE and over != AGAIN and AGAIN in rounds[0]["turns"] else (under,)
            step = [statistics.mean(r["turns"][name]["seconds"] for name in both) for r in rounds]  # both turns of CE
            values = spread([r["turns"][over]["seconds"] / x for r, x in zip(rounds, step, strict=True)])
            goal = goals.get((over, under))
            reached = is_reached(values["low"], values["high"], goal)
            found.append({"over": over, "under": under, **values, "goal": goal, "reached": reached})
    return found


def goals(contenders: dict[str, dict[str, Any]], bench_: Bench) -> list[dict[str, Any]]:
    """The goals that are no ratio of two steps, where this benchmark can judge them: the same keys, and `what`."""
    s, found = bench_.settings, []
    for name in (CE, GLOSS_O):
        if s.lengths != "128" or name not in contenders:
            continue
        if s.model == "bert_shape" and bench_.device.type == "cuda":
            found.append((name, "share of peak", contenders[name]["share_of_peak"], ("at least", 0.35)))
        if s.model == "roberta_large_shape" and s.batch == 128 and s.micro_batch:
            gigabytes = contenders[name]["peak_memory_bytes"] / 1e9
            found.append((name, "memory (GB)", dict.fromkeys(("median", "low", "high"), gigabytes), ("at most", 16)))
    return [
        {"step": name, "what": what, **values, "goal": goal, "reached": is_reached(values["low"], values["high"], goal)}
        for name, what, values, goal in found
    ]


def is_reached(low: float, high: float, goal: tuple[str, float] | None) -> str:
    """Whether measurements from low to high meet a goal: yes, no, unclear (some do); "" where nothing is asked."""
    if goal is None:
        return ""
    is_met = [value <= goal[1] if goal[0] == "at most" else value >= goal[1] for value in (low, high)]
    return "yes" if all(is_met) else "unclear" if any(is_met) else "no"


def run_ratio(folder: Path) -> dict[str, Any]:
    """A whole run over its training steps. Raises RunError where there is no finished run."""
    result = read_record(folder).result
    seconds = result["seconds"]
    goal = ("at most", 1.15)
    ratio = seconds["total"] / seconds["training"]
    return {
        "folder": str(folder), "identity": result["identity"], "epochs": result["epochs"], "seconds": seconds,
        "ratio": ratio, "goal": goal, "reached": is_reached(ratio, ratio, goal if result["epochs"] >= 5 else None),
        "shared_device": result["shared_device"],
    }  # fmt: skip


def peak_flops(device: torch.device, precision: str, clock: Callable[[], float]) -> tuple[float, str]:
    """Operations a second that the device is capable of, and where the number is from.

    bf16 on a known GPU: its data sheet. Else the best of some square matrix products in the encoder's precision.
    """
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        for known, (flops, _) in DEVICES.items():
            if is_named(known, name):
                return flops, "data sheet"
    size = 2048 if device.type == "cpu" else 8192
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    best = math.inf
    for _ in range(20):  # others may be at work on the machine
        synchronize(device)
        before = clock()
        a @ a
        synchronize(device)
        best = min(best, clock() - before)
    return 2 * size**3 / best, "matrix product measured here"


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


# ----------------------------------------------------------------------------------------------------------- the growth


def growth(bench_: Bench, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Seconds of each loss alone (forward and backward on random embeddings) by batch and classes, and of whole steps
    by length of the texts: a row a point."""
    rows = []
    for axis, sizes in (("batch", GROWTH_BATCHES), ("classes", GROWTH_CLASSES)):
        for loss, fit in bench_.fits.items():
            for size in sizes:
                num_texts, num_classes = (size, bench_.texts["classes"]) if axis == "batch" else (128, size)
                size_of = num_texts, num_classes, bench_.layers[1]
                seconds = objective_seconds(fit.cfg, *size_of, bench_.device, bench_.clock)
                rows.append({"axis": axis, "size": size, "loss": loss, "of": "loss", "seconds": seconds})
                if seconds > LONGEST_POINT:
                    break
        tell(f"growth with {axis} is measured")
    num_texts = min(bench_.settings.batch, 32) if bench_.device.type == "cpu" else bench_.settings.batch
    for length in GROWTH_LENGTHS:
        same = {**asdict(bench_.settings), "lengths": str(length), "batch": num_texts, "rivals": False}
        there = Bench.build(Settings(**same | {"classes": bench_.texts["classes"]}))
        turns = [there.round(r)["turns"] for r in range(3)]
        for loss in bench_.fits:
            seconds = statistics.median(turn[loss]["seconds"] for turn in turns)
            point = {"axis": "length", "size": length, "loss": loss, "of": f"step of {num_texts} texts"}
            rows.append({**point, "seconds": seconds})
    tell("growth with length is measured")
    return rows


def objective_seconds(
    cfg: Config, num_texts: int, num_classes: int, width: int, device: torch.device, clock: Callable[[], float]
) -> float:
    """The objective with its gradient on random embeddings [B, D], B texts of C classes; median of some repeats."""
    generator = torch.Generator().manual_seed(cfg.seed)
    objective = Objective(cfg, num_classes, SIGMA)
    embeddings = torch.randn(num_texts, width, generator=generator).to(device)
    logits = torch.randn(num_texts, num_classes, generator=generator).to(device)
    labels = torch.randint(num_classes, (num_texts,), generator=generator).to(device)
    is_visible = objective.draw_visible(num_texts, generator)
    times: list[float] = []
    while len(times) < 2 or (sum(times) < 0.2 and len(times) < 20):  # the first is not counted
        inputs = F.normalize(embeddings, dim=1).requires_grad_(), logits.clone().requires_grad_()
        synchronize(device)
        before = clock()
        objective(*inputs, labels, is_visible).loss.backward()
        synchronize(device)
        times.append(clock() - before)
        if times[-1] > LONGEST_POINT:
            break
    return statistics.median(times[1:] or times)
