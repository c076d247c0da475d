"""The time of a training step, beside other programs' steps: `make bench`.

Candidates take turns on the same batches, in an order that changes from round to round, so that a machine that slows
down or is used by others slows all of them: a ratio is formed within a round, and judged by the median over rounds.
Cross-entropy runs twice a round; the difference between the two is noise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers

from gloss.benchmark.baselines import PADDED_TO, ReleasedSteps, TrainerSteps
from gloss.benchmark.settings import Settings
from gloss.benchmark.turns import CLOCKS, Clock, in_turn, interval, repeated
from gloss.config import Config, known_options
from gloss.data.datasets import load_dataset
from gloss.data.sampler import epoch_batches
from gloss.data.tokens import Tokens, tokenize
from gloss.errors import ConfigError
from gloss.experiments.cost import DEVICES, is_named
from gloss.losses.registry import CE, GLOSS_O
from gloss.models.encoder import Classifier, Encoder, TokenTable
from gloss.models.pretrained import load_encoder, load_tokenizer
from gloss.records.run_folder import write_json
from gloss.resolve import resolve
from gloss.runtime.compose import composed
from gloss.runtime.device import choose_device, choose_precision, device_name
from gloss.runtime.environment import environment
from gloss.runtime.overrides import prepared
from gloss.runtime.timing import peak_memory_bytes, reset_peak_memory
from gloss.training.checkpoint import Progress
from gloss.training.objective import Objective
from gloss.training.trainer import LOG, Fit

SCHEMA_VERSION = 4
AGAIN, TRAINER, RELEASED = "ce_repeat", "trainer", "released"
BASELINE_ROUNDS = 6  # rounds with baselines: their steps are long, and their times far from ours
SIGMA = 0.5  # any number from 0.06 on takes the same time
SHAPES: dict[str, Callable[[], transformers.PretrainedConfig]] = {  # encoders with random weights, by their shape
    "bert_shape": transformers.BertConfig,
    "distilbert_shape": transformers.DistilBertConfig,
    "roberta_large_shape": lambda: transformers.RobertaConfig(
        vocab_size=50265, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        max_position_embeddings=514, type_vocab_size=1,
    ),
}  # fmt: skip


@dataclass
class Bench:
    """The texts, the encoder, and every candidate that trains it."""

    settings: Settings
    device: torch.device
    precision: str
    clock: Clock
    fits: dict[str, Fit]  # by loss; they share the encoder and the optimizer
    batches: Iterator[np.ndarray]  # indices [B], without end
    texts: dict[str, Any]
    baselines: dict[str, TrainerSteps | ReleasedSteps] = field(default_factory=dict)

    @classmethod
    def build(cls, settings: Settings, outputs: str = "outputs", data: str | None = None) -> Bench:
        """Load the texts and the encoder, and prepare every candidate. Raises ConfigError or DataError."""
        if settings.lengths is None:
            settings = replace(settings, dataset=settings.dataset or "mr")
        configs = {loss: _config(settings, loss, outputs, data) for loss in dict.fromkeys((CE, *settings.losses))}
        cfg, clock = configs[CE], CLOCKS[settings.clock]
        device = choose_device(cfg.trainer.device)
        precision = choose_precision(cfg.trainer, device)
        encoder = _encoder(cfg, settings)
        if settings.compile:
            encoder.compile_layers()
        tokens, labels, num_classes = _texts(cfg, settings)
        if len(labels) < settings.batch:
            raise ConfigError(f"batch={settings.batch} is not allowed: there are only {len(labels)} texts")
        table = TokenTable.build(tokens, encoder.transformer.config.pad_token_id or 0, device)
        lengths, device_labels = table.host_lengths, torch.from_numpy(labels).to(device)
        model = Classifier(encoder, num_classes).to(device).train()
        fits = {
            loss: Fit(
                cfg=c, model=model, objective=Objective.of(c, num_classes, SIGMA), tables={"train": table},
                labels={"train": device_labels}, rows=np.arange(len(labels)), device=device,
                precision=precision, folder=Path(), progress=Progress(), report=lambda kind, values: None,
                on_epoch=None,
            )
            for loss, c in configs.items()
        }  # fmt: skip
        for fit in fits.values():
            fit.optimizer, fit.log = fits[CE].optimizer, torch.zeros(1, len(LOG), device=device)
        texts = {
            "num": len(labels), "classes": num_classes,
            "mean_tokens": float(lengths.mean()), "max_tokens": int(lengths.max()),
        }  # fmt: skip
        found = cls(settings, device, precision, clock, fits, _full_batches(cfg, labels), texts)
        if settings.baselines:
            if torch.cuda.device_count() > 1:  # the Trainer would use them all
                raise ConfigError("baselines=true needs one visible GPU: set CUDA_VISIBLE_DEVICES, or baselines=false")
            everything = encoder, table, device_labels, device, clock
            found.baselines[TRAINER] = TrainerSteps(*everything, precision)
            if lengths.max() <= PADDED_TO:
                found.baselines[RELEASED] = ReleasedSteps(*everything)
        return found

    @property
    def name(self) -> str:
        """The name of the result's file."""
        s = self.settings
        where = re.sub(r"\W+", "_", device_name(self.device)).lower()
        if self.device.type == "cpu":
            where = f"cpu{torch.get_num_threads()}" + "-cpuclock" * (s.clock == "cpu")
        sliced = [f"{key}{n}" for key, n in (("chunk", s.grad_cache_chunk), ("slices", s.num_length_buckets)) if n]
        texts = s.dataset if s.lengths is None else f"{s.lengths}tokens"
        return "-".join([texts, s.model, str(s.batch), *sliced, *["compiled"] * s.compile, where, self.precision])

    def round(self, number: int) -> dict[str, Any]:
        """Measure every candidate on the same batches; number: of the round, from 0, which shifts the order."""
        is_cpu = self.device.type == "cpu"
        batches = [next(self.batches) for _ in range(self.settings.steps or (1 if is_cpu else 20))]
        turns: dict[str, Callable[..., dict[str, Any]]]
        turns = {name: partial(self._ours, fit) for name, fit in (self.fits | {AGAIN: self.fits[CE]}).items()}
        if number < BASELINE_ROUNDS:
            turns |= {name: lambda indices, b=b: {"seconds": b.run(indices)} for name, b in self.baselines.items()}
        if not number:  # memory, kernels and the optimizer's state: not part of a step
            for turn in turns.values():
                turn([batch[:16] for batch in batches[:1]] if is_cpu else batches)
        lengths = self.fits[CE].tables["train"].host_lengths[np.concatenate(batches)]
        return {
            "tokens": int(lengths.sum()) / len(batches),  # of a step, without padding
            "flops": step_flops(self.fits[CE].model.encoder, lengths) / len(batches),
            "turns": in_turn({name: partial(turn, batches) for name, turn in turns.items()}, number),
        }

    def _ours(self, fit: Fit, batches: Sequence[np.ndarray]) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(self.settings.seed)
        reset_peak_memory(self.device)
        before = self.clock()
        for indices in batches:
            fit.step(0, *step_arguments(fit, indices, generator))
        seconds = (self.clock() - before) / len(batches)
        return {"seconds": seconds, "peak_memory_bytes": peak_memory_bytes(self.device)}


def bench(
    settings: Settings,
    outputs: str = "outputs",
    data: str | None = None,
    on_progress: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Any], Path]:
    """Measure, and write the result to <outputs>/bench/<name>.json; `on_progress` is called with lines of progress.

    data: folder of the prepared sets; None: the usual one. Raises ConfigError and DataError for settings and texts that
    cannot be used.
    """
    if settings.clock == "cpu" and (settings.threads != 1 or choose_device(settings.device).type != "cpu"):
        raise ConfigError("clock=cpu is not allowed here: it needs threads=1 on a CPU")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    load, measured, rounds = [os.getloadavg()[0]], Bench.build(settings, outputs, data), []
    on_progress(f"{measured.name}: {measured.texts}")
    for number in range(settings.rounds):
        rounds.append(measured.round(number))
        shown = ", ".join(f"{name} {turn['seconds']:.3f}" for name, turn in rounds[-1]["turns"].items())
        on_progress(f"round {number + 1} of {settings.rounds}, seconds a step: {shown}")
    peak, peak_from = peak_flops(measured.device, measured.precision, measured.clock)
    size = settings.batch, measured.texts["classes"], measured.fits[CE].model.encoder.embedding_dim
    alone = {name: loss_seconds(f.cfg, *size, measured.device, measured.clock) for name, f in measured.fits.items()}
    load += [os.getloadavg()[0]]
    machine = environment(measured.device, measured.precision) | {"cores": os.cpu_count(), "load": load}
    result = {
        "schema_version": SCHEMA_VERSION,
        "name": measured.name,
        "settings": {key.name: getattr(measured.settings, key.name) for key in fields(Settings)},
        "machine": machine | {"peak_flops": peak, "peak_from": peak_from},
        "texts": measured.texts,
        "rounds": rounds,
        "candidates": summary(rounds, peak, alone),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path = Path(outputs) / "bench" / f"{measured.name}.json"
    write_json(path, result)
    return result, path


def summary(rounds: Sequence[dict[str, Any]], peak: float, alone: dict[str, float]) -> dict[str, dict[str, Any]]:
    """By candidate: [median, low, high] over its rounds of a step's seconds, tokens a second and share of the peak.

    ratio: its step over the step of `under`, within the rounds that have both; overhead, for a loss that was also timed
    `alone`: CE's step with this loss in place of CE, over CE's step.
    """
    found = {}
    for name in rounds[0]["turns"]:
        there = [r for r in rounds if name in r["turns"]]
        seconds = [r["turns"][name]["seconds"] for r in there]
        row = found[name] = {
            "rounds": len(there),
            "seconds": interval(seconds),
            "tokens_per_second": interval([r["tokens"] / s for r, s in zip(there, seconds, strict=True)]),
            "mfu": interval([r["flops"] / s / peak for r, s in zip(there, seconds, strict=True)]),
            "peak_memory_bytes": max(r["turns"][name].get("peak_memory_bytes", 0) for r in there) or None,
        }
        # CE's two turns are the denominator by turns: their mean or minimum would shift the ratio's median.
        under = (CE, CE) if name == AGAIN else (CE, AGAIN)
        if name == RELEASED:
            under = (GLOSS_O, GLOSS_O)
        if name != CE and under[0] in there[0]["turns"]:
            values = [r["turns"][name]["seconds"] / r["turns"][under[i % 2]]["seconds"] for i, r in enumerate(there)]
            row |= {"under": under[0], "ratio": interval(values)}
        if name in alone and name != CE:
            median, low, high = found[CE]["seconds"]
            row["overhead"] = [1 + (alone[name] - alone[CE]) / step for step in (median, high, low)]
    return found


def step_flops(encoder: Encoder, lengths: np.ndarray) -> float:
    """Operations of a step, forward and backward, on real tokens: six per layer parameter and token, plus attention.

    Attention of a text of T tokens takes 4 T² D operations a layer forward, and twice that backward.
    """
    stack = (getattr(encoder.transformer, "encoder", None) or encoder.transformer.transformer).layer
    squares = 12.0 * len(stack) * encoder.embedding_dim * np.square(lengths.astype(float)).sum()
    return float(6.0 * sum(p.numel() for p in stack.parameters()) * lengths.sum() + squares)


def loss_seconds(
    cfg: Config, num_examples: int, num_classes: int, width: int, device: torch.device, clock: Clock
) -> float:
    """Median seconds of the objective and its gradient on random embeddings [B, D] of B texts with C classes."""
    generator = torch.Generator().manual_seed(cfg.seed)
    objective = Objective.of(cfg, num_classes, SIGMA)
    embeddings = F.normalize(torch.randn(num_examples, width, generator=generator), dim=1).to(device).requires_grad_()
    logits = torch.randn(num_examples, num_classes, generator=generator).to(device).requires_grad_()
    labels = torch.randint(num_classes, (num_examples,), generator=generator).to(device)
    is_labeled = objective.draw_labeled(num_examples, generator)
    both_ways = lambda: objective(embeddings, logits, labels, is_labeled).loss.backward()  # noqa: E731
    return interval(repeated(both_ways, clock))[0]


def peak_flops(device: torch.device, precision: str, clock: Clock) -> tuple[float, str]:
    """The peak operations a second of the device, and the source of the number.

    bf16 on a known GPU: its data sheet. Else the best of some square matrix products in the encoder's precision.
    """
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        for known, (peak, _) in DEVICES.items():
            if is_named(known, name):
                return peak, "data sheet"
    size = 2048 if device.type == "cpu" else 8192
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    return 2 * size**3 / min(repeated(lambda: a @ a, clock, seconds=4.0)), "matrix product measured here"


def step_arguments(
    fit: Fit, indices: np.ndarray, generator: torch.Generator
) -> tuple[np.ndarray, torch.Tensor, torch.Tensor | None]:
    """The arguments of `Fit.step` after the step's number, for a batch of indices [B] in any order."""
    indices = indices[np.argsort(fit.tables["train"].host_lengths[indices], kind="stable")]
    device_indices = torch.from_numpy(indices).to(fit.device, non_blocking=True)
    return indices, device_indices, fit.objective.draw_labeled(len(indices), generator)


def gradient(
    fit: Fit, indices: np.ndarray, device_indices: torch.Tensor, is_labeled: torch.Tensor | None, seed: int = 5
) -> list[torch.Tensor]:
    """The gradient of a step on these indices, by parameter; the model's own gradients are cleared."""
    fit.model.zero_grad(set_to_none=True)
    fit.backward(indices, device_indices, fit.labels["train"][device_indices], is_labeled, seed=seed)
    found = [p.grad.clone() for p in fit.parameters if p.grad is not None]
    fit.model.zero_grad(set_to_none=True)
    return found


def distance(got: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """‖got − expected‖ / ‖expected‖."""
    difference = torch.nn.utils.get_total_norm([a - b for a, b in zip(got, expected, strict=True)])
    return (difference / torch.nn.utils.get_total_norm(expected)).item()


def _config(settings: Settings, loss: str, outputs: str, data: str | None) -> Config:
    model = "tiny" if settings.model in SHAPES else settings.model  # its tokenizer serves all shapes
    given = {
        "dataset": settings.dataset if settings.lengths is None else None, "model": model, "loss": loss,
        "mode": "integrated", "seed": settings.seed, "trainer.batch_size": settings.batch,
        "trainer.device": settings.device, "trainer.precision": settings.precision,
        "trainer.grad_cache_chunk": settings.grad_cache_chunk,
        "trainer.num_length_buckets": settings.num_length_buckets,
        "paths.data": data, "paths.outputs": outputs,
        "loss.sigma": SIGMA if loss == GLOSS_O else None,
    }  # fmt: skip
    words = [f"{key}={value}" for key, value in given.items() if value is not None]
    return resolve(composed(prepared(words, known_options(Config))))


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
        tokens = tokenize(train.texts, load_tokenizer(cfg.model), cfg.model.max_length)
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
    size = cfg.trainer.batch_size
    for epoch in count(1):
        yield from (b[:size] for b in epoch_batches(labels, cfg.trainer, cfg.seed, epoch) if len(b) >= size)
