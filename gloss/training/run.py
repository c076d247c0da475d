"""One run, end to end: configuration -> data -> encoder -> training -> test -> record."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

from gloss.config import Config
from gloss.data.datasets import TextDataset, load_dataset
from gloss.errors import ConfigError, DataError
from gloss.losses.registry import STANDALONE
from gloss.models.encoder import Classifier
from gloss.models.pretrained import load_encoder
from gloss.models.saved_model import save_model
from gloss.records.reading import Record, read_record
from gloss.records.run_folder import (
    clear,
    code_hash,
    is_done,
    locked,
    run_folder,
    write_arrays,
    write_json,
    write_lines,
)
from gloss.records.schema import check_config, checked_result
from gloss.runtime.atomic import remove_half_written, write_atomic
from gloss.runtime.device import choose_device, choose_precision
from gloss.runtime.environment import environment
from gloss.runtime.signals import Interrupted
from gloss.runtime.terminal import ignore_broken_pipe
from gloss.runtime.timing import reset_peak_memory
from gloss.training.callbacks import Callback, TensorBoard
from gloss.training.checkpoint import Progress
from gloss.training.collapse import no_better, rare_classes
from gloss.training.evaluate import evaluate, keep_embeddings, kept_embeddings
from gloss.training.failures import explain_lack_of_memory
from gloss.training.objective import Objective, balanced_class_weights
from gloss.training.progress_bar import Display, scores
from gloss.training.result import result_of
from gloss.training.sigma import choose_sigma
from gloss.training.texts import log_once, texts_on_device
from gloss.training.trainer import Fit

log = logging.getLogger(__name__)
LEFT_OVER = ("checkpoint", "embeddings")  # folders that a finished run needs no more


@ignore_broken_pipe()
def train(
    cfg: Config, wait: bool = True, callbacks: Sequence[Callback] = (), is_trial: bool = False, place: str = ""
) -> Record | None:
    """The record of a run: read if it is finished, else trained, or resumed where it was interrupted.

    wait: if another process works on the same run, wait for it; False returns None instead.
    callbacks: get the events of the training; an exception in one ends the run and reaches the caller.
    is_trial: of a search, which sees no test texts.
    place: of the run in a sweep, as "run 2 of 6", for the terminal.
    Raises ConfigError, DataError, RunError for errors that the user can fix; those after the start are in error.json.
    """
    if cfg.trainer.tensorboard:
        callbacks = [*callbacks, TensorBoard()]
    with Display(cfg, place) as display:
        return _train(cfg, wait, callbacks, is_trial, display)


def _train(cfg: Config, wait: bool, callbacks: Sequence[Callback], is_trial: bool, display: Display) -> Record | None:
    check_config(cfg)
    device = choose_device(cfg.trainer.device)
    display.show("phase", {"name": "loading texts"})
    own_texts = cfg.dataset.has_own_texts  # their fingerprint names the folder
    dataset = load_dataset(cfg.dataset, cfg.paths.data, cfg.seed) if own_texts else None
    folder = run_folder(cfg, dataset.fingerprint if own_texts else None)
    if (record := _finished(cfg, folder)) is not None:  # without the lock: the folder may be read-only
        return record
    dataset = dataset or load_dataset(cfg.dataset, cfg.paths.data, cfg.seed)

    def warn() -> None:
        then = "waiting for it" if wait else "left to it"
        log.warning("%s is being worked on by another process: %s", folder, then)

    with locked(folder, wait, on_busy=warn) as mine:
        if not mine:
            return None
        if (record := _finished(cfg, folder)) is not None:
            return record
        if is_done(folder) and not cfg.rerun:
            log.info("%s is finished, without its weights: it is trained again to keep them", folder)
        (folder / "error.json").unlink(missing_ok=True)
        remove_half_written(folder)
        try:
            try:
                _Run(cfg, dataset, folder, device, callbacks, is_trial, display).complete()
            except RuntimeError as error:
                explain_lack_of_memory(error, cfg, device)
                raise
        except (ConfigError, DataError):  # of the model or another set: nothing has been trained that could be kept
            if not (folder / "checkpoint").is_dir() and not is_done(folder):
                _remove(folder, Path(cfg.paths.outputs))
            raise
        except Exception as error:
            if not is_done(folder):  # else a callback failed after it
                _write_error(folder, error)
            raise
        return read_record(folder)


def _remove(folder: Path, outputs: Path) -> None:
    """Remove a run's folder, and those below `outputs` that are empty then."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty
        for parent in folder.parents:
            if parent == outputs:
                break
            parent.rmdir()


def _finished(cfg: Config, folder: Path) -> Record | None:
    """The record of a finished run; None if it must be trained."""
    if not is_done(folder) or cfg.rerun:
        return None
    record = read_record(folder)
    if any((folder / name).is_dir() for name in LEFT_OVER):  # killed after DONE, or just ending, with the lock held
        with contextlib.suppress(OSError), locked(folder, wait=False) as mine:
            if mine:
                _remove_left_over(folder)
    has_weights = (folder / "model").is_dir()
    if cfg.trainer.save_model is True and not has_weights:
        return None
    finished = f"finished {record.result.get('finished_at')} at commit {str(record.result.get('commit'))[:10]}"
    if (code := record.result.get("code")) != (now := code_hash()):
        finished += f", with other code than now ({code}, now {now}), which may give other numbers"
    lines = [f"{folder}: {finished}; rerun=true trains it again", f"  {scores(record.result)}"]
    if cfg.trainer.save_model is not False and not has_weights:
        lines.append("  its weights were not kept; trainer.save_model=true trains it again to keep them")
    if cfg.trainer.save_embeddings:
        arrays = record.predictions() if (folder / "predictions.npz").is_file() else {}
        if "test_embeddings" not in arrays:
            lines.append("  its embeddings were not kept; rerun=true trains it again to keep them")
    log.info("\n".join(lines))
    return record


def _remove_left_over(folder: Path) -> None:
    for name in LEFT_OVER:
        shutil.rmtree(folder / name, ignore_errors=True)


def _write_error(folder: Path, error: Exception) -> None:
    content = {
        "error": type(error).__name__,
        "message": str(error),
        "traceback": traceback.format_exc(),
        "details": getattr(error, "details", None),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with contextlib.suppress(OSError):  # a full disk must not hide the error itself
        write_json(folder / "error.json", content)


def build_fit(
    cfg: Config,
    dataset: TextDataset,
    device: torch.device,
    folder: Path,
    report: Callable[[str, dict], None],
    on_epoch: Callable[[dict], None] | None = None,
    is_trial: bool = False,
) -> tuple[Fit, transformers.PreTrainedTokenizerBase]:
    """The training of a configuration, ready to run, and its tokenizer.

    folder: of the run; report: called with each event, as here with the phases; is_trial: of a search, which reads no
    test texts. Raises ConfigError, DataError.
    """
    precision = choose_precision(cfg.trainer, device)
    if cfg.trainer.precision == "auto" and precision == "bf16" and device.type == "cpu":
        log_once("trainer.precision=auto is bf16 on this processor, which has units for it; float32 turns it off")
    report("phase", {"name": "tokenising"})
    texts = texts_on_device(cfg, dataset, device, is_trial)
    report("phase", {"name": "loading the encoder"})
    torch.manual_seed(cfg.seed)  # of the head's first weights
    model = Classifier(load_encoder(cfg.model), len(dataset.labels)).to(device)
    if cfg.trainer.compile:
        model.encoder.compile_layers()
    if cfg.mode == STANDALONE:
        model.head.requires_grad_(False)  # the probe's weights go there after training
    report("phase", {"name": "computing σ"})
    sigma, graph_sigma = choose_sigma(cfg, model, texts.tables["train"], device, precision)
    weights = None
    if cfg.variant.class_weights == "balanced":
        weights = balanced_class_weights(texts.labels["train"].cpu(), len(dataset.labels))
        weights = weights.to(device, getattr(torch, cfg.variant.loss_dtype))  # Apple's GPUs have no float64
    fit = Fit(
        cfg=cfg,
        model=model,
        objective=Objective.of(cfg, len(dataset.labels), sigma, weights),
        tables=texts.tables,
        labels=texts.labels,
        rows=texts.rows,
        device=device,
        precision=precision,
        folder=folder,
        progress=Progress(sigma=sigma, graph_sigma=graph_sigma, fingerprint=dataset.fingerprint),
        report=report,
        on_epoch=on_epoch,
    )
    return fit, texts.tokenizer


@dataclass
class _Run:
    """A run that holds the lock of its folder: start, run, finish."""

    cfg: Config
    dataset: TextDataset
    folder: Path
    device: torch.device
    callbacks: Sequence[Callback]
    is_trial: bool
    display: Display
    followers: list[Callback] = field(default_factory=list)  # callbacks that know of the run
    result: dict[str, Any] | None = None

    def complete(self) -> None:
        """Train, or resume training, then test and write the record."""
        self.start()
        try:
            self.fit.run()
            self.finish()
        except Interrupted:
            if self.fit.progress.stopped and not is_done(self.folder):
                self.fit.save()  # the training is over, and need not be done again
            raise
        finally:
            del self.fit  # it refers back to this run, and the next one of a sweep needs its memory at once
            if is_done(self.folder):
                _remove_left_over(self.folder)
            with contextlib.ExitStack() as ends:  # each is called, whatever another raises
                for callback in reversed(self.followers):
                    ends.callback(callback.on_end, self.result if is_done(self.folder) else None)
        self.display.summary(self.result, self.folder)

    def start(self) -> None:
        """Load texts and encoder, build the training, and prepare the run's folder."""
        self.began = time.perf_counter()
        cfg, display = self.cfg, self.display
        reset_peak_memory(self.device)
        machine = environment(self.device, choose_precision(cfg.trainer, self.device))
        code = code_hash()  # before the minutes of loading, in which files may change
        fit, self.tokenizer = build_fit(
            cfg, self.dataset, self.device, self.folder, self._report, self._on_epoch, self.is_trial
        )
        self.fit, display.progress = fit, fit.progress
        chunks = {key: getattr(cfg.trainer, key) for key in ("grad_cache_chunk", "num_length_buckets")}
        fit.progress.machine = machine | {"code": code} | chunks
        if fit.objective.gamma is not None and not self.is_trial:
            counts = torch.bincount(fit.labels["train"].cpu(), minlength=len(self.dataset.labels)).tolist()
            for line in rare_classes(cfg, fit.objective.lam, fit.objective.gamma, counts):
                self.dataset.notes.append(line)
                log_once(f"{cfg.dataset.name}: note: {line}")
        if cfg.rerun or is_done(self.folder):
            clear(self.folder)  # only now that everything for the new training is loaded
        write_atomic(self.folder / "config.yaml", yaml.safe_dump(asdict(cfg), sort_keys=False))
        write_json(self.folder / "environment.json", machine)
        if 0 in cfg.trainer.embeddings_at:
            keep_embeddings(fit, 0)

    def _report(self, event: str, values: dict) -> None:
        if event == "epoch":
            write_lines(self.folder / "epochs.jsonl", self.fit.progress.epochs)
            if values["epoch"] in self.cfg.trainer.embeddings_at:
                keep_embeddings(self.fit, values["epoch"])
        elif event == "start":
            for callback in self.callbacks:
                callback.on_start(self.cfg, self.folder, self.fit.progress.epochs)
                self.followers.append(callback)
        elif event == "step":
            for callback in self.callbacks:
                callback.on_step(values)
        self.display.show(event, values)

    def _on_epoch(self, row: dict) -> None:
        for callback in self.callbacks:
            callback.on_epoch(row)

    def finish(self) -> None:
        """Test, and write the record; DONE comes last."""
        fit, cfg, folder = self.fit, self.cfg, self.folder
        self.display.show("phase", {"name": "testing"})
        metrics, arrays, settings = evaluate(fit, self.dataset)
        if cfg.mode == STANDALONE:
            probed = "the validation macro-F1 of the linear probe"
            fit.note(no_better(probed, metrics["val"]["macro_f1"], fit.majority))
        write_arrays(folder / "predictions.npz", **arrays, **kept_embeddings(folder))
        write_lines(folder / "epochs.jsonl", fit.progress.epochs)
        self.result = result = result_of(fit, self.dataset, metrics, settings, self.is_trial)
        if cfg.trainer.save_model is not False:
            save_model(folder / "model", fit.model, self.tokenizer, result, arrays)
        result["seconds"]["total"] = round(fit.seconds_before + time.perf_counter() - self.began, 3)
        write_json(folder / "result.json", checked_result(result, is_new=True))
        write_atomic(folder / "DONE", "")
