"""A trained run in use: choose it, classify and embed texts, and find the training texts nearest to a text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gloss.data.datasets import dataset_config, dataset_of
from gloss.data.files import Row, fault
from gloss.data.splits import Split
from gloss.data.tokens import count_truncated, tokenize
from gloss.errors import ConfigError, DataError, RunError
from gloss.losses.geometry import unit_length
from gloss.losses.registry import name_in
from gloss.models.encoder import TokenTable, embed
from gloss.models.saved_model import load_model, model_folder
from gloss.records.reading import SELECTION, Record, read_record, read_records
from gloss.runtime.device import choose_device, has_bf16
from gloss.runtime.terminal import escape_control_characters

log = logging.getLogger(__name__)

WINDOW = 2048  # texts read, sorted by length and encoded together: bounds memory, and leaves little padding
BLOCK = 256  # texts compared with all training texts at once


# -- choosing a run ----------------------------------------------------------------------------------------------------
def find_run(run: str, outputs: str | Path = "outputs", **selection: object) -> Record:
    """The record that `run` names.

    run: a run's folder; or its keys, as in "dataset=mr loss=gloss_sqrt mode=integrated seed=1"; or "best dataset=mr",
    the run with the best macro-F1 on the validation split. `selection` adds keys (dataset="mr"). Where several fit,
    runs with weights come before runs without. Raises RunError where none or several fit.
    """
    is_folder = bool(run) and Path(run).is_dir()
    words = [] if is_folder else run.split()
    wanted = {key: str(value) for key, value in selection.items()}
    wanted |= {key: value for key, _, value in (word.partition("=") for word in words if word != "best")}
    if unknown := [key for key in wanted if key not in SELECTION]:
        keys = ", ".join(f"{key}=…" for key in SELECTION)
        raise RunError(f'run={run}: {unknown[0]!r} is no key of a run: expected a folder, "best", or {keys}')
    if is_folder:
        record = read_record(Path(run))
        if not _fits(record, wanted):
            raise RunError(f"{run} holds the run {_words(vars(record.identity))}, not {_words(wanted)}")
        return record
    if "best" in words and "dataset" not in wanted:
        raise RunError("run=best needs a data set, because scores on different sets do not compare: run=best dataset=…")
    records, _ = read_records(outputs)
    found = [record for record in records if _fits(record, wanted)]
    if not found:
        shown = _listed(records, 5) or "  (none)"
        raise RunError(f"no finished run under {outputs}/runs fits {_words(wanted)}; there are\n{shown}")
    kept = [record for record in found if (record.folder / "model").is_dir()] or found
    if "best" in words:
        if len({record.result.get("fingerprint") for record in kept}) > 1:
            what = f"{len(kept)} runs fit {_words(wanted)}, of different texts, whose scores do not compare"
            raise RunError(f"{what}: give the folder of one\n{_listed(kept, 10)}")
        best = max(kept, key=lambda record: record.result["metrics"]["val"]["macro_f1"])
        score = best.result["metrics"]["val"]["macro_f1"]
        without = f" ({len(found) - len(kept)} more without weights)" if len(kept) < len(found) else ""
        of = f"best of {len(kept)}{without} by macro-F1 on validation, {score:.2f}"
        log.info(f"{of}: {_words(vars(best.identity))}")
        return best
    if len(kept) > 1:
        raise RunError(f"{len(kept)} runs fit {_words(wanted)}: say more, or give the folder\n{_listed(kept, 10)}")
    return kept[0]


def _fits(record: Record, wanted: dict[str, str]) -> bool:
    values = {key: str(value) for key, value in record.result["identity"].items()}
    if "loss" in wanted:
        wanted = wanted | {"loss": name_in(values["mode"], wanted["loss"])}
    return all(values[key] == value for key, value in wanted.items())


def _words(identity: dict[str, Any]) -> str:
    words = [f"{key}={escape_control_characters(identity[key])}" for key in SELECTION if key in identity]
    return " ".join(words) or "this"


def _listed(records: Sequence[Record], most: int) -> str:
    lines = [f"  {_words(record.result['identity'])}" for record in records[:most]]
    return "\n".join(lines + ([f"  … {len(records) - most} more"] if len(records) > most else []))


# -- a run at work -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Neighbour:
    """A training text near to another text in the learnt space."""

    label: str
    weight: float  # of the edge between the two: Gaussian kernel with the run's σ, or cosine where the run has none
    texts: tuple[str, ...]
    row: int  # in the file of training texts, as `gloss.data.files` counts


@dataclass(frozen=True)
class Prediction:
    """A run's prediction for one text."""

    label: str
    probability: float
    probabilities: dict[str, float]  # of all labels
    neighbours: tuple[Neighbour, ...] = ()  # nearest first, where they were asked for


def load_run(
    run: str, outputs: str | Path = "outputs", device: str = "auto", data: str | Path | None = None, **selection: object
) -> Run:
    """A finished run with its weights, ready to classify texts.

    run, outputs, selection: see `find_run`; device: auto, cpu, cuda, cuda:N or mps; data: folder of the prepared sets,
    or of files that have moved, needed for `split` and `neighbours` only (default: the folder that the run used).

    >>> from gloss.predict import load_run
    >>> run = load_run("best dataset=modules", device="cpu")
    >>> [prediction] = run.predict(["Return the square root of x."])
    >>> prediction.label in run.labels, 0 < prediction.probability <= 1
    (True, True)
    >>> run.embed(["Return the square root of x.", "Remove a file."]).shape
    (2, 384)
    """
    return Run(find_run(run, outputs, **selection), device, data)


class Run:
    """A run's classifier; `labels` are its classes, `dataset` is the configuration of its data set. Its folder may come
    from anywhere (see `saved_model.load_model`)."""

    def __init__(self, record: Record, device: str = "auto", data: str | Path | None = None) -> None:
        self.record, self.data, self.dataset = record, data, dataset_config(record)
        self.device = choose_device(device)
        # float32 on a CPU, as in every other program that loads the exported model.
        can_bf16 = self.device.type == "cuda" and has_bf16(self.device)
        self.precision = record.result["precision"] if can_bf16 else "float32"
        model, self.tokenizer, self.labels, self.max_length = load_model(model_folder(record))
        self.model = model.to(self.device)
        self.num_truncated = 0  # the number of predicted texts with more than max_length tokens
        if self.labels != record.result["labels"]:
            raise RunError(f"{record.folder}: the labels of model/ differ from result.json: train the run again")

    @property
    def columns(self) -> list[str]:
        """The names of the text columns: one, or two for pairs."""
        return self.dataset.text

    @property
    def sigma(self) -> float | None:
        """σ of the run's graph; None where its loss builds none."""
        sigma = self.record.result["hyperparameters"].get("sigma")
        return float(sigma) if isinstance(sigma, int | float) and sigma > 0 else None

    def predict(self, texts: Sequence[str | tuple[str, str]], neighbours: int = 0) -> list[Prediction]:
        """Predictions of texts (of pairs, for a run on pairs), in order, with that number of nearest training texts."""
        rows = (Row(number, row) for number, row in enumerate(self._checked(texts), 1))
        return [prediction for _, prediction in self.stream(rows, neighbours)]

    def embed(self, texts: Sequence[str | tuple[str, ...]]) -> np.ndarray:
        """Embeddings float32 [N, D], not normalised: the encoder's last hidden state at the first token."""
        return self._embed(self._checked(texts)).cpu().numpy()

    @torch.inference_mode()
    def classify(self, embeddings: np.ndarray | Tensor) -> np.ndarray:
        """Class probabilities [N, C] of embeddings [N, D]: softmax of the head's logits."""
        head = self.model.head
        logits = head(torch.as_tensor(embeddings, device=self.device, dtype=head.weight.dtype))
        return self._finite(F.softmax(logits, dim=1), "probabilities").cpu().numpy()

    def stream(self, rows: Iterable[Row], neighbours: int = 0) -> Iterator[tuple[Row, Prediction]]:
        """Predictions of any number of rows in constant memory, in their order; read a window at a time."""
        if neighbours < 0:
            raise ConfigError(f"neighbours={neighbours} is not allowed: expected a whole number of at least 0")
        rows = iter(rows)
        while window := list(islice(rows, WINDOW)):
            embeddings = self._embed([row.texts for row in window], count=True)
            probabilities = self.classify(embeddings)
            near = self._neighbours(embeddings, neighbours) if neighbours else [()] * len(window)
            for row, of_row, found in zip(window, probabilities.tolist(), near, strict=True):
                of_all = dict(zip(self.labels, of_row, strict=True))
                label = max(of_all, key=of_all.__getitem__)
                yield row, Prediction(label, of_all[label], of_all, tuple(found))

    def split(self, name: str) -> Split:
        """The train, val or test texts of the run, from its own data set.

        Raises DataError where the data set cannot be read, RunError where its texts differ from the run's.
        """
        dataset = dataset_of(self.record, self.data)
        if name not in dataset.splits:
            raise RunError(f"split={name} is not allowed: expected one of {', '.join(dataset.splits)}")
        return dataset.splits[name]

    def _checked(self, texts: Sequence[str | tuple[str, ...]]) -> list[tuple[str, ...]]:
        if isinstance(texts, str):
            raise TypeError('expected a list of texts, got one string: write ["…"]')
        rows = [tuple(one) if isinstance(one, Iterable) and not isinstance(one, str) else (one,) for one in texts]
        for number, row in enumerate(rows):
            if len(row) != len(self.columns) or not all(isinstance(one, str) for one in row):
                raise DataError(f"texts[{number}] must hold {' and '.join(self.columns)}, got {row!r:.200}")
            if problem := next(filter(None, map(fault, row)), None):
                raise DataError(f"texts[{number}] {problem}")
        return rows

    def _embed(self, texts: list[tuple[str, ...]], count: bool = False) -> Tensor:
        """Embeddings [N, D], a window at a time; count: whether to count truncated texts."""
        found = [torch.empty(0, self.model.encoder.embedding_dim, device=self.device)]
        for start in range(0, len(texts), WINDOW):
            window = texts[start : start + WINDOW]
            tokens = tokenize(window, self.tokenizer, self.max_length)
            if count:
                self.num_truncated += count_truncated(window, tokens, self.tokenizer, self.max_length)
            table = TokenTable.build(tokens, self.tokenizer.pad_token_id or 0, self.device)
            found.append(self._finite(embed(self.model, table, self.device, self.precision), "embeddings"))
        return torch.cat(found)

    def _finite(self, values: Tensor, name: str) -> Tensor:
        """`values`; raises RunError where one is NaN or infinite, since the largest of NaNs would pass for a label."""
        if not values.isfinite().all():
            advice = "model/ is damaged: get it again, or train the run again (rerun=true trainer.save_model=true)"
            raise RunError(f"{self.record.folder}: expected finite {name}, got NaN or infinity; {advice}")
        return values

    @cached_property
    def _training(self) -> tuple[Split, Tensor]:
        """The training texts, and their embeddings [M, D] at unit length."""
        split = self.split("train")
        if len(split) > WINDOW:
            log.info(f"encoding {len(split):,} training texts")
        return split, unit_length(self._embed(split.texts))

    @torch.inference_mode()
    def _neighbours(self, embeddings: Tensor, k: int) -> list[list[Neighbour]]:
        """The k nearest training texts of each row of embeddings [N, D], by the weight of their edge in the graph."""
        split, train = self._training
        z, found = unit_length(embeddings), []
        for block in z.split(BLOCK):
            near = (block @ train.T).topk(min(k, len(train)), dim=1).indices  # [n, k]
            # From the differences: 2 − 2·cosine would lose near neighbours to cancellation.
            squares = (block[:, None] - train[near]).square().sum(dim=2)
            weights = 1 - squares / 2 if self.sigma is None else torch.exp(-squares / (2 * self.sigma**2))
            for rows, edges in zip(near.tolist(), weights.tolist(), strict=True):
                nearest = sorted(zip(edges, rows, strict=True), key=lambda pair: -pair[0])
                texts = [(split.labels[i], weight, split.texts[i], int(split.rows[i])) for weight, i in nearest]
                found.append([Neighbour(self.labels[label], *of_text) for label, *of_text in texts])
        return found
