"""The cost of runs: measured seconds, else FLOPs and the device's speed."""

from __future__ import annotations

import csv
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from gloss.config import STANDALONE, forward_passes
from gloss.experiments.grid import RunSpec
from gloss.experiments.status import BF16, FLOAT32
from gloss.paper import published as paper
from gloss.records.reading import Record, number

ENCODERS = {  # alias -> layers, width, all parameters
    "bert": (12, 768, 109_482_240),
    "roberta_large": (24, 1024, 355_359_744),
    "distilbert": (6, 768, 66_362_880),
    "minilm": (6, 384, 22_713_216),
    "tiny": (2, 64, 2_053_440),
}
DEVICES = {  # name -> precision -> FLOP/s of its data sheet (without sparsity and TF32), share of it that we expect
    "a100": {BF16: (312e12, 0.25), FLOAT32: (19.5e12, 0.6)},
    "h100": {BF16: (989e12, 0.2), FLOAT32: (67e12, 0.5)},
    "h200": {BF16: (989e12, 0.2), FLOAT32: (67e12, 0.5)},
    "cpu": {BF16: (60e9, 1.0), FLOAT32: (60e9, 1.0)},  # two cores in float32, as measured with minilm on mr
}
LAUNCH_SECONDS = 3e-3  # a layer and step on a GPU take at least this, however short the texts: launching kernels
START_SECONDS = 15.0  # of a run: loading weights and texts, and σ of G-Loss-SQRT
EPOCHS_TO_BEST = 15  # assumed where neither runs nor the paper tell; patience comes on top


# --------------------------------------------------------------------------------------------------------- how long
@dataclass(frozen=True)
class Texts:
    """How many texts a split has, of how many classes, and how long they are in tokens."""

    rows: int
    classes: int
    mean: float
    mean_square: float


@cache
def lengths() -> dict[tuple[str, str], Texts]:
    """lengths.csv, which scripts/lengths.py measures: (data set, split) -> Texts, cut at 128 tokens."""
    with (Path(__file__).parent / "lengths.csv").open(encoding="utf-8", newline="") as file:
        return {
            (row["dataset"], row["split"]): Texts(
                int(row["rows"]), int(row["classes"]), float(row["mean_tokens"]), float(row["mean_square"])
            )
            for row in csv.DictReader(file)
        }


def epoch_flops(layers: float, width: int, passes: int, train: Texts, val: Texts) -> float:
    """Operations of an epoch: training, and the validation after it.

    A layer of width D takes 24 D² operations for a token forward, and 4 T D for its attention over T tokens; a step
    takes three times that. Of the last layer only the first token's output is needed, a sixth of its work. Tokens are
    real ones, without padding.
    """

    def forward(texts: Texts) -> float:
        return texts.rows * (layers - 5 / 6) * (24 * width**2 * texts.mean + 4 * width * texts.mean_square)

    return 3 * passes * forward(train) + forward(val)


@dataclass
class Speeds:
    """What finished runs tell: how fast a device is, how long a user's own texts are, how many epochs a run takes."""

    records: Sequence[Record]
    device: str  # a key of DEVICES, or a GPU's name as the records have it
    cores: int = 2
    found: dict[tuple, list[float]] = field(default_factory=dict)  # operations a second: of a precision, and a model, …

    def __post_init__(self) -> None:
        self.auto = FLOAT32 if self.device == "cpu" else BF16  # what trainer.precision=auto becomes there
        for record in self.records:
            name, is_cpu = str(record.result.get("device_name")), record.result["device"] == "cpu"
            same = is_cpu if self.device == "cpu" else not is_cpu and is_named(self.device, name)
            precision = str(record.result.get("precision"))
            if same and ((record.result["config"].get("trainer") or {}).get("precision") or "auto") == "auto":
                self.auto = precision
            if same and not record.result.get("shared_device") and (speed := _speed(record)):
                x = record.identity
                for key in ((), (x.model,), (x.model, x.dataset)):
                    self.found.setdefault((precision, *key), []).append(speed)

    @property
    def data_sheet(self) -> str | None:
        """The key of DEVICES; None for a device that is not there."""
        return next((name for name in DEVICES if is_named(name, self.device)), None)

    def epoch_seconds(self, cell: RunSpec) -> tuple[float | None, str]:
        """Seconds of an epoch, and where the speed is from; None where encoder, texts or device are not known."""
        cfg = cell.config
        train, val = self._texts(cell, "train"), self._texts(cell, "val")
        if cfg.model.alias not in ENCODERS or train is None or val is None:
            return None, "unknown"
        layers, width, _ = ENCODERS[cfg.model.alias]
        layers, precision = cfg.model.num_layers or layers, self.precision(cell)
        passes = forward_passes(cfg.mode, cfg.loss.name, cfg.variant.forward_passes)
        rows = min(train.rows, cfg.dataset.train_limit or train.rows)
        steps = -(-rows // cfg.trainer.batch_size)
        if cfg.dataset.unlabeled or cfg.dataset.unlabeled_path:  # they are encoded too, in every batch
            rows += steps * (cfg.trainer.unlabeled_per_batch or cfg.trainer.batch_size)
        train = replace(train, rows=rows)
        flops = epoch_flops(layers, width, passes, train, val)
        closest = {(cell.model, cell.dataset): "same set", (cell.model,): "same model", (): "other model"}
        for key, source in closest.items():
            if (precision, *key) in self.found:
                return flops / statistics.median(self.found[precision, *key]), f"measured ({source})"
        if self.data_sheet is None:
            return None, "unknown"
        peak, share = DEVICES[self.data_sheet][precision]
        if self.data_sheet == "cpu":
            return flops / (peak * self.cores / 2), "data sheet"
        return max(flops / (peak * share), steps * layers * passes * LAUNCH_SECONDS), "data sheet"

    def precision(self, cell: RunSpec) -> str:
        """Of the encoder in this cell's runs on the device."""
        wanted = cell.config.trainer.precision
        return self.auto if wanted == "auto" else wanted

    def run_hours(self, cell: RunSpec) -> float | None:
        """Hours of one run; None where nothing is known."""
        return _hours(self.epochs(cell)[0], self.epoch_seconds(cell)[0])

    def _texts(self, cell: RunSpec, part: str) -> Texts | None:
        """From lengths.csv; of a user's own set, from a run on it."""
        own = (_texts_of(r, part) for r in self.records if r.identity.dataset == cell.dataset)
        return lengths().get((cell.dataset, part)) or next(own, None)

    def epochs(self, cell: RunSpec) -> tuple[float, str]:
        """How many epochs a run will take, and where from: ours, paper, assumed, or fixed by the settings."""
        trainer = cell.config.trainer
        if trainer.patience is None:
            return trainer.max_epochs, "fixed"
        for keys in (("model", "config_hash"), ("model",), ()):
            found = [r.result["epochs"] for r in self.records if _is_alike(r, cell, ("dataset", "mode", "loss", *keys))]
            if found:
                return statistics.mean(found), "ours"
        if cell.mode == STANDALONE and trainer.patience == 10:
            loss = "gloss_o" if cell.loss == "gloss_sqrt" else cell.loss
            if (epochs := paper.published("table3", cell.dataset, "bert", loss, "epochs")) is not None:
                return min(epochs, trainer.max_epochs), "paper"
        return min(EPOCHS_TO_BEST + trainer.patience, trainer.max_epochs), "assumed"


def is_named(short: str, name: str) -> bool:
    """Whether `short` is a word of a device's name: an A100 is not an RTX A1000."""
    return re.search(rf"(?<![a-z0-9]){re.escape(short.lower())}(?![a-z0-9])", name.lower()) is not None


def _hours(epochs: float, epoch_seconds: float | None) -> float | None:
    return None if epoch_seconds is None else (epochs * epoch_seconds + START_SECONDS) / 3600


def _is_alike(record: Record, cell: RunSpec, keys: Sequence[str]) -> bool:
    """Whether a run says something about a cell's epochs: the same of `keys`, amount of data and stopping rule."""
    config, trainer = record.result["config"], cell.config.trainer
    same = all(getattr(record.identity, key) == getattr(cell, key) for key in keys)
    rule = ("patience", "max_epochs", "batch_size")
    same = same and all((config.get("trainer") or {}).get(key) == getattr(trainer, key) for key in rule)
    return same and (config.get("dataset") or {}).get("train_limit") == cell.config.dataset.train_limit


def _texts_of(record: Record, part: str) -> Texts | None:
    """A record keeps only how many tokens the training texts have together."""
    rows, all_rows = (number(record.result, "num_rows", key) for key in (part, "train"))
    tokens = number(record.result, "tokens_per_epoch")
    if not (rows and all_rows and tokens):
        return None
    mean = tokens / all_rows
    return Texts(int(rows), len(record.result["labels"]), mean, mean**2)


def _speed(record: Record) -> float | None:
    """Operations a second that a run reached, validation included; None where it cannot be told."""
    result = record.result
    train, val = _texts_of(record, "train"), _texts_of(record, "val")
    seconds = sum(number(result, "seconds", key) or 0.0 for key in ("training", "evaluation"))
    if not (train and val and seconds and record.identity.model in ENCODERS):
        return None
    layers, width, _ = ENCODERS[record.identity.model]
    layers = int(number(result, "config", "model", "num_layers") or layers)
    x, wanted = record.identity, int(number(result, "config", "variant", "forward_passes") or 1)
    passes = forward_passes(x.mode, x.loss, wanted)
    return result["epochs"] * epoch_flops(layers, width, passes, train, val) / seconds
