"""The cost of runs: the measured seconds of the nearest finished runs, else the device's data sheet."""

from __future__ import annotations

import csv
import re
import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from gloss.config import STANDALONE, forward_passes
from gloss.experiments.grid import RunSpec
from gloss.paper import published as paper
from gloss.records.reading import Record, number

ENCODERS = {  # alias -> layers, width
    "bert": (12, 768),
    "roberta_large": (24, 1024),
    "distilbert": (6, 768),
    "minilm": (6, 384),
    "mpnet": (12, 768),
    "tiny": (2, 64),
}
DEVICES = {  # name -> bf16 operations a second of its data sheet (without sparsity), share of it that we expect
    "a100": (312e12, 0.25),
    "h100": (989e12, 0.2),
    "h200": (989e12, 0.2),
    "cpu": (60e9, 1.0),  # two cores, as measured in float32 with minilm on mr; bf16 counts as much
}
BF16, FLOAT32 = "bf16", "float32"
SLOWER_IN_FLOAT32 = 5.0  # on a GPU, as the data sheets have the peaks of TF32 and float32 beside bf16
LAUNCH_SECONDS = 3e-3  # a layer and step on a GPU take at least this, however short the texts: launching kernels
CUT = 128  # tokens of a text in lengths.csv
START_SECONDS = 15.0  # of a run: loading weights and texts, and σ of G-Loss-SQRT
EPOCHS_TO_BEST = 15  # assumed where neither runs nor the paper have a number; patience comes on top


@cache
def lengths() -> dict[str, tuple[int, int, float]]:
    """lengths.csv, which tests/lengths.py measures: data set -> numbers of training and validation texts, tokens.

    Tokens are the mean of the training texts, cut at 128 (of qnli its dev split's).
    """
    with (Path(__file__).parent / "lengths.csv").open(encoding="utf-8", newline="") as file:
        return {r["dataset"]: (int(r["train"]), int(r["val"]), float(r["tokens"])) for r in csv.DictReader(file)}


def epoch_flops(layers: float, width: int, passes: int, train_tokens: float, val_tokens: float) -> float:
    """Operations of an epoch: 24 D² for a token in a layer forward, three times that for a step, and the validation.

    Of the last layer only the first token's output is needed, a sixth of its work. Attention (4 T D for a token) is
    left out: 3 % at 128 tokens.
    """
    return (layers - 5 / 6) * 24 * width**2 * (3 * passes * train_tokens + val_tokens)


class Speeds:
    """Measurements of finished runs: the speed of a device with each encoder, and the epochs of a run."""

    def __init__(self, records: Sequence[Record], device: str, cores: int = 2) -> None:
        """device: a key of DEVICES, or a GPU's name as the records have it."""
        self.records, self.device, self.cores = records, device, cores
        self.data_sheet = next((name for name in DEVICES if is_named(name, device)), None)
        self.auto = FLOAT32 if device == "cpu" else BF16  # the precision that trainer.precision=auto stands for
        self.found: dict[tuple[str, str], list[float]] = {}  # (encoder, precision) -> operations a second of its runs
        for record in records:
            name, precision = str(record.result.get("device_name")), record.result["precision"]
            is_cpu = record.result["device"] == "cpu"
            if is_cpu != (device == "cpu") or not (is_cpu or is_named(device, name)):
                continue
            if record.result["config"].get("trainer", {}).get("precision", "auto") == "auto":
                self.auto = precision
            if not record.result.get("shared_device") and (speed := _speed(record)):
                self.found.setdefault((record.identity.model, precision), []).append(speed)

    def epoch_seconds(self, spec: RunSpec) -> tuple[float | None, str]:
        """Seconds of an epoch, and the source of the speed; None where encoder, texts or device are not known."""
        cfg = spec.config
        texts = self._texts(spec)
        if spec.model not in ENCODERS or texts is None:
            return None, "unknown"
        rows, val, tokens = texts
        rows = min(rows, cfg.dataset.train_limit or rows)
        steps = -(-rows // cfg.trainer.batch_size)
        if cfg.dataset.unlabeled or cfg.dataset.unlabeled_path:  # they are encoded too, in every batch
            rows += steps * (cfg.trainer.unlabeled_per_batch or cfg.trainer.batch_size)
        passes = forward_passes(cfg.mode, cfg.loss.name, cfg.variant.forward_passes)
        layers = cfg.model.num_layers or ENCODERS[spec.model][0]
        flops = epoch_flops(layers, ENCODERS[spec.model][1], passes, rows * tokens, val * tokens)
        if measured := self.found.get((spec.model, self.precision(spec))):
            return flops / statistics.median(measured), "measured"
        if self.data_sheet is None:
            return None, "unknown"
        peak, share = DEVICES[self.data_sheet]
        if self.data_sheet == "cpu":
            return flops / (peak * share * self.cores / 2), "data sheet"
        slower = SLOWER_IN_FLOAT32 if self.precision(spec) == FLOAT32 else 1.0
        return max(slower * flops / (peak * share), steps * layers * passes * LAUNCH_SECONDS), "data sheet"

    def _texts(self, spec: RunSpec) -> tuple[int, int, float] | None:
        """As in `lengths`, at the spec's own maximum length; from finished runs where it is not 128."""
        limit, cut = spec.config.dataset.train_limit, spec.config.model.max_length
        same = [r for r in self._of_set(spec) if (number(r.result, "config", "model", "max_length") or CUT) == cut]
        if (known := lengths().get(spec.dataset)) is None:
            return next(filter(None, (_own_texts(r) for r in same if _train_limit(r) in (None, limit))), None)
        rows, val, tokens = known
        measured = () if cut == CUT else filter(None, map(_own_texts, same))
        return rows, val, next((texts[-1] for texts in measured), min(tokens, cut))

    def precision(self, spec: RunSpec) -> str:
        """The encoder's precision in this spec's runs on the device."""
        wanted = spec.config.trainer.precision
        return self.auto if wanted == "auto" else wanted

    def run_hours(self, spec: RunSpec) -> float | None:
        """Hours of one run; None where nothing is known."""
        seconds = self.epoch_seconds(spec)[0]
        return None if seconds is None else (self.epochs(spec)[0] * seconds + START_SECONDS) / 3600

    def epochs(self, spec: RunSpec) -> tuple[float, str]:
        """The expected epochs of a run, and their source: ours, paper, assumed, or fixed by the settings."""
        trainer = spec.config.trainer
        if trainer.patience is None:
            return trainer.max_epochs, "fixed"
        if same := [record.result["epochs"] for record in self._of_set(spec) if _is_alike(record, spec)]:
            return statistics.mean(same), "ours"
        if spec.mode == STANDALONE and trainer.patience == 10:
            loss = "gloss_o" if spec.loss == "gloss_sqrt" else spec.loss
            if (epochs := paper.published("table3", spec.dataset, "bert", loss, "epochs")) is not None:
                return min(epochs, trainer.max_epochs), "paper"
        return min(EPOCHS_TO_BEST + trainer.patience, trainer.max_epochs), "assumed"

    def _of_set(self, spec: RunSpec) -> list[Record]:
        return [record for record in self.records if record.identity.dataset == spec.dataset]


def is_named(short: str, name: str) -> bool:
    """Whether `short` is a word of a device's name: an A100 is not an RTX A1000."""
    return re.search(rf"(?<![a-z0-9]){re.escape(short.lower())}(?![a-z0-9])", name.lower()) is not None


def _is_alike(record: Record, spec: RunSpec) -> bool:
    """Whether a run predicts a spec's epochs: it has the same loss, mode, amount of data and stopping rule."""
    trainer = record.result["config"].get("trainer", {})
    rule = ("patience", "max_epochs", "batch_size")
    return (
        (record.identity.mode, record.identity.loss) == (spec.mode, spec.loss)
        and all(trainer.get(key) == getattr(spec.config.trainer, key) for key in rule)
        and _train_limit(record) == spec.config.dataset.train_limit
    )


def _train_limit(record: Record) -> int | None:
    return record.result["config"].get("dataset", {}).get("train_limit")


def _own_texts(record: Record) -> tuple[int, int, float] | None:
    """The sizes of a run's texts, as in `lengths`; a record has the total of the training texts' tokens."""
    train, val = (number(record.result, "num_rows", key) for key in ("train", "val"))
    tokens = number(record.result, "tokens_per_epoch")
    return (int(train), int(val), tokens / train) if train and val and tokens else None


def _speed(record: Record) -> float | None:
    """Operations a second that a run reached, validation included; None where it is not known."""
    result, x, texts = record.result, record.identity, _own_texts(record)
    seconds = number(result, "seconds", ("training", "evaluation"))
    given = result["config"].get("dataset", {})
    has_unlabeled = given.get("unlabeled") or given.get("unlabeled_path")  # their tokens are not recorded
    if not (texts and seconds and x.model in ENCODERS) or has_unlabeled:
        return None
    layers = int(number(result, "config", "model", "num_layers") or ENCODERS[x.model][0])
    passes = forward_passes(x.mode, x.loss, int(number(result, "config", "variant", "forward_passes") or 1))
    train, val, tokens = texts
    flops = epoch_flops(layers, ENCODERS[x.model][1], passes, train * tokens, val * tokens)
    return result["epochs"] * flops / seconds
