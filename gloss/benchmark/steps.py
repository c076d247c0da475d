"""The candidates of the benchmark, and a round of them on the same batches."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from gloss.benchmark.baselines import PADDED_TO, ReleasedSteps, TrainerSteps, synchronize
from gloss.config import CE, CONFIG_DIR, GLOSS_O, GLOSS_SQRT, INTEGRATED, Config, resolve
from gloss.data.datasets import load_dataset
from gloss.data.sampler import epoch_batches
from gloss.data.tokens import Tokens, tokenize
from gloss.errors import ConfigError
from gloss.experiments.cost import DEVICES, is_named
from gloss.losses.registry import LOSSES
from gloss.models.encoder import Classifier, Encoder, TokenTable
from gloss.models.pretrained import load_encoder, load_tokenizer
from gloss.runtime.device import choose_device, choose_precision, device_name
from gloss.runtime.timing import peak_memory_bytes, reset_peak_memory
from gloss.training.checkpoint import Progress
from gloss.training.objective import Objective
from gloss.training.trainer import LOG, Fit

# The step of gloss_sqrt is that of gloss_o.
MEASURED = tuple(name for name, row in LOSSES.items() if INTEGRATED in row.modes and name != GLOSS_SQRT)
AGAIN, TRAINER, RELEASED = "ce_repeat", "trainer", "released"
BASELINE_ROUNDS = 6  # baselines take part in so many: their steps are long, and far from ours
SIGMA = 0.5  # any number takes the same time
SHAPES: dict[str, Callable[[], transformers.PretrainedConfig]] = {  # encoders with random weights, as wide and deep as
    "bert_shape": transformers.BertConfig,
    "distilbert_shape": transformers.DistilBertConfig,
    "roberta_large_shape": lambda: transformers.RobertaConfig(
        vocab_size=50265, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        max_position_embeddings=514, type_vocab_size=1,
    ),
}  # fmt: skip
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Settings:
    """What to measure.

    dataset: whose training texts; or lengths (n: all texts of n tokens; n-m: evenly spread) with random tokens and
    `classes`. steps: of a candidate's turn, without a wait in between (0: 1 on a CPU, 20 elsewhere). clock: "wall", or
    "cpu" for the processor's seconds spent on this process, which others at work on the machine disturb less (one
    thread). baselines: also the Hugging Face Trainer and the released procedure, in the first rounds. scaling: also how
    the losses grow. run: a finished run's folder, whose seconds are compared with its training steps'.
    """

    dataset: str | None = "mr"
    lengths: str | None = None
    classes: int = 2
    model: str = "minilm"
    losses: tuple[str, ...] = MEASURED
    batch: int = 128
    rounds: int = 12
    steps: int = 0
    clock: str = "wall"
    baselines: bool = True
    scaling: bool = False
    run: str | None = None
    threads: int | None = None
    device: str = "auto"
    precision: str = "auto"
    grad_cache_chunk: int | None = None
    num_length_buckets: int | None = None
    seed: int = 1
    data: str | None = None
    outputs: str = "outputs"


@dataclass
class Bench:
    """The texts, the encoder and everyone who trains it."""

    settings: Settings
    device: torch.device
    precision: str
    fits: dict[str, Fit]  # by loss; they share the encoder and the optimizer
    baselines: dict[str, TrainerSteps | ReleasedSteps]
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
                cfg=c, model=model, objective=Objective.of(c, num_classes, SIGMA), tables={"train": table},
                labels={"train": torch.from_numpy(labels).to(device)}, rows=np.arange(len(labels)), device=device,
                precision=precision, folder=Path(), progress=Progress(), report=lambda what, values: None,
                on_epoch=None, presence=None,
            )
            for loss, c in configs.items()
        }  # fmt: skip
        for fit in fits.values():
            fit.optimizer, fit.log = fits[CE].optimizer, torch.zeros(1, len(LOG), device=device)
        baselines: dict[str, TrainerSteps | ReleasedSteps] = {}
        if settings.baselines:
            if torch.cuda.device_count() > 1:  # the Trainer would use them all
                raise ConfigError(
                    "baselines=true needs one is_labeled GPU: set CUDA_VISIBLE_DEVICES, or baselines=false"
                )
            everything = encoder, table, torch.from_numpy(labels), device, CLOCKS[settings.clock]
            baselines[TRAINER] = TrainerSteps(*everything, precision)
            if table.host_lengths.max() <= PADDED_TO:
                baselines[RELEASED] = ReleasedSteps(*everything)
        lengths = table.host_lengths
        texts = {
            "num": len(labels), "classes": num_classes,
            "mean_tokens": float(lengths.mean()), "max_tokens": int(lengths.max()),
        }  # fmt: skip
        found = _layers(encoder)
        layers = len(found), encoder.embedding_dim, sum(p.numel() for p in found.parameters())
        batches = _full_batches(cfg, labels)
        return cls(settings, device, precision, fits, baselines, batches, texts, layers)

    @property
    def name(self) -> str:
        s = self.settings
        texts = s.dataset if s.lengths is None else f"{s.lengths}tokens"
        where = re.sub(r"\W+", "_", device_name(self.device)).lower()
        if self.device.type == "cpu":
            where = f"cpu{torch.get_num_threads()}" + "-cpuclock" * (s.clock == "cpu")
        sliced = "".join(
            f"-{key}{n}" for key, n in (("micro", s.grad_cache_chunk), ("slices", s.num_length_buckets)) if n
        )
        return f"{texts}-{s.model}-{s.batch}{sliced}-{where}-{self.precision}"

    @property
    def clock(self) -> Callable[[], float]:
        return CLOCKS[self.settings.clock]

    @property
    def num_steps(self) -> int:
        return self.settings.steps or (1 if self.device.type == "cpu" else 20)

    def round(self, number: int) -> dict[str, Any]:
        """Every candidate's turn on the same batches; number: from 0, turns the order."""
        batches = [next(self.batches) for _ in range(self.num_steps)]
        turns = {name: self._ours(name) for name in self.fits} | {AGAIN: self._ours(CE)}
        if number < BASELINE_ROUNDS:
            turns |= {name: self._baseline(name) for name in self.baselines}
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
            of_baselines = 0
            if self.device.type == "cuda":
                of_baselines = torch.cuda.memory_allocated(self.device) - held_bytes(fit)
            synchronize(self.device)
            before = self.clock()
            fit.watch.start()
            for rows in batches:
                rows = rows[np.argsort(lengths[rows], kind="stable")]
                device_rows = torch.from_numpy(rows).to(self.device, non_blocking=True)
                fit._step(0, rows, device_rows, fit.objective.draw_labeled(len(rows), generator))
            synchronize(self.device)
            seconds = (self.clock() - before) / len(batches)
            parts = {part: value / len(batches) for part, value in fit.watch.read().items()}
            return {
                "seconds": seconds,
                "parts": parts,
                "peak_memory_bytes": peak_memory_bytes(self.device) - of_baselines,
            }

        return turn

    def _baseline(self, name: str) -> Callable[[Sequence[np.ndarray]], dict[str, Any]]:
        def turn(batches: Sequence[np.ndarray]) -> dict[str, Any]:
            return {"seconds": self.baselines[name].run(batches), "parts": None, "peak_memory_bytes": None}

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
    is_labeled = fit.objective.draw_labeled(len(rows), torch.Generator().manual_seed(fit.cfg.seed))
    gradients = []
    for _ in range(2):
        fit.model.zero_grad(set_to_none=True)
        fit._backward(rows, device_rows, fit.labels["train"][device_rows], is_labeled, seed=fit.cfg.seed)
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
        "trainer.grad_cache_chunk": settings.grad_cache_chunk,
        "trainer.num_length_buckets": settings.num_length_buckets,
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


def peak_flops(device: torch.device, precision: str, clock: Callable[[], float]) -> tuple[float, str]:
    """Operations a second that the device is capable of, and where the number is from.

    bf16 on a known GPU: its data sheet. Else the best of some square matrix products in the encoder's precision.
    """
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        for known, sheet in DEVICES.items():
            if is_named(known, name):
                return sheet[precision][0], "data sheet"
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
