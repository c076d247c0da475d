"""One run, end to end: configuration -> data -> encoder -> training -> test -> record."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gloss.config import INTEGRATED, STANDALONE, Config
from gloss.data.checks import letters_and_digits
from gloss.data.datasets import TextDataset, load_dataset, load_test, other_set
from gloss.data.splits import Split, add_label_noise, right_class
from gloss.data.tokens import check_tokens, count_truncated, tokenize
from gloss.errors import ConfigError, DataError, RunError
from gloss.losses.geometry import sqrt_bandwidth
from gloss.models.encoder import Classifier, TokenTable
from gloss.models.pretrained import load_encoder, load_tokenizer
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
from gloss.records.schema import SCHEMA_VERSION, checked_result
from gloss.runtime.atomic import remove_half_written, write_atomic
from gloss.runtime.device import choose_device, choose_precision
from gloss.runtime.environment import environment
from gloss.runtime.locks import holder
from gloss.runtime.signals import Interrupted
from gloss.runtime.terminal import escape_control_characters, ignore_broken_pipe
from gloss.runtime.timing import reset_peak_memory
from gloss.training.callbacks import Callback, TensorBoard
from gloss.training.checkpoint import Progress
from gloss.training.collapse import no_better
from gloss.training.graph_quality import DEFAULT_GAMMA
from gloss.training.metrics import classification_metrics, grouped_accuracy, macro_silhouette
from gloss.training.neighbours import best_k, nearest_labels, vote
from gloss.training.objective import Objective, balanced_class_weights
from gloss.training.probe import adam_probe, logistic_probe
from gloss.training.progress_bar import Display, scores
from gloss.training.trainer import Fit, embed, out_of_memory

log = logging.getLogger(__name__)

SIGMA_SAMPLE = 4096  # training texts from which σ of G-Loss-SQRT is computed
TRUNCATED_NOTED = 0.01  # share of the texts
CLASSES_NAMED = 20
QUALITY_SAMPLE = 1024  # the same where only the quality of the graph needs σ: a fourth of the time, within 1 % of it
NEIGHBOURS_SAMPLE = 16_384  # training texts among which neighbours are looked for: all, but for sst2 and qnli
KEPT_SAMPLE = 200  # validation texts whose embeddings `trainer.embeddings_at` keeps


@ignore_broken_pipe()
def train(
    cfg: Config, wait: bool = True, callbacks: Sequence[Callback] = (), is_trial: bool = False, place: str = ""
) -> Record | None:
    """The record of a run: read if it is finished, else trained, or taken up where it was interrupted.

    wait: if another process works on the same run, wait for it; False returns None instead.
    callbacks: follow the training; what one raises ends the run and reaches the caller.
    is_trial: of a search, which sees no test texts.
    place: where the run stands among others, as "run 2 of 6", for the terminal.
    Raises ConfigError, DataError, RunError for what the user can mend; an error after the start is kept in error.json.
    """
    if cfg.trainer.tensorboard:
        callbacks = [*callbacks, TensorBoard()]
    with Display(cfg, place) as display:
        return _train(cfg, wait, callbacks, is_trial, display)


def _train(cfg: Config, wait: bool, callbacks: Sequence[Callback], is_trial: bool, display: Display) -> Record | None:
    device = choose_device(cfg.trainer.device)
    display.show("phase", {"name": "loading texts"})
    own_texts = cfg.dataset.has_own_texts  # their fingerprint names the folder
    dataset = load_dataset(cfg.dataset, cfg.paths.data, cfg.seed) if own_texts else None
    folder = run_folder(cfg, dataset.fingerprint if own_texts else None)
    if (record := _finished(cfg, folder)) is not None:  # without the lock: the folder may be read-only
        return record
    dataset = dataset or load_dataset(cfg.dataset, cfg.paths.data, cfg.seed)

    def tell() -> None:
        then = f"waiting for it ({holder(folder / 'lock')})" if wait else "left to it"
        log.warning("%s is being worked on by another process: %s", folder, then)

    with locked(folder, wait, patience=1.0, on_busy=tell) as mine:
        if not mine:
            return None
        if (record := _finished(cfg, folder)) is not None:
            return record
        if is_done(folder) and not cfg.rerun:
            again = _command(cfg, "trainer.save_model=true")
            log.info("%s is finished, without its weights: it is trained again to keep them\n  %s", folder, again)
        (folder / "error.json").unlink(missing_ok=True)
        remove_half_written(folder)
        try:
            _run(cfg, dataset, folder, device, callbacks, is_trial, display)
        except (ConfigError, DataError):  # of the model or another set: nothing has been trained that could be kept
            if not (folder / "checkpoint").is_dir() and not is_done(folder):
                _remove(folder, Path(cfg.paths.outputs))
            raise
        except Exception as error:
            told = out_of_memory(error, cfg, device) if isinstance(error, RuntimeError) else None
            _write_error(folder, told or error)
            if told:
                raise told from error
            raise
        return read_record(folder)


def _remove(folder: Path, outputs: Path) -> None:
    """Remove a run's folder, and those above it that are empty then, up to `outputs`."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty
        for parent in folder.parents:
            parent.rmdir()
            if parent == outputs:
                break


def _finished(cfg: Config, folder: Path) -> Record | None:
    """The record, unless there is something to train."""
    if not is_done(folder) or cfg.rerun:
        return None
    record = read_record(folder)
    if (folder / "checkpoint").is_dir():  # killed after DONE; who ends just now removes it, and still holds the lock
        with contextlib.suppress(OSError), locked(folder, wait=False) as mine:
            if mine:
                shutil.rmtree(folder / "checkpoint")
    has_weights = (folder / "model").is_dir()
    if cfg.trainer.save_model is True and not has_weights:
        return None
    told = f"finished {record.result.get('finished_at')} at commit {str(record.result.get('commit'))[:10]}"
    lines = [f"{folder}: {told}; rerun=true trains it again", f"  {scores(record.result)}"]
    if (code := record.result.get("code")) != (now := code_hash()):
        before = f"{code}, now {now}" if code else f"not kept, now {now}"
        lines[0] = f"{folder}: {told}, with other code than now ({before}), which may give other numbers"
        lines.append(f"  to train it again: {_command(cfg, 'rerun=true')}")
    if cfg.trainer.save_model is not False and not has_weights:
        lines.append(f"  its weights were not kept; to get them: {_command(cfg, 'trainer.save_model=true')}")
    log.info("\n".join(lines))
    return record


def _command(cfg: Config, *more: str) -> str:
    from gloss.runtime.command import command_of  # here: it loads Hydra, which a run in Python does without

    return command_of(dataclasses.asdict(cfg), *more)


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


def _run(
    cfg: Config,
    dataset: TextDataset,
    folder: Path,
    device: torch.device,
    callbacks: Sequence[Callback],
    is_trial: bool,
    display: Display,
) -> None:
    started = time.perf_counter()
    reset_peak_memory(device)
    precision = choose_precision(cfg.trainer, device)
    if cfg.trainer.precision == "auto" and precision == "bf16" and device.type == "cpu":
        told = "trainer.precision=auto is bf16 on this processor, which has the units for it; float32 turns it off"
        log.warning(told)
    machine = environment(device, precision)
    display.show("phase", {"name": "tokenising"})
    rows, tables, labels, tokenizer = _texts_on_device(cfg, dataset, device, is_trial)
    display.show("phase", {"name": "loading the encoder"})
    torch.manual_seed(cfg.seed)  # of the head's first weights
    model = Classifier(load_encoder(cfg.model), len(dataset.labels)).to(device)
    if cfg.trainer.compile:
        model.encoder.compile_layers()
    if cfg.mode == STANDALONE:
        model.head.requires_grad_(False)  # the probe's weights go there after training
    display.show("phase", {"name": "computing σ"})
    sigma = _sigma(cfg, model, tables["train"], device, precision)
    progress = display.progress = Progress(
        sigma=sigma,
        graph_sigma=_graph_sigma(cfg, sigma, model, tables["train"], device, precision),
        fingerprint=dataset.fingerprint,
        machine=machine | {key: getattr(cfg.trainer, key) for key in ("grad_cache_chunk", "num_length_buckets")},
    )
    weights = None
    if cfg.variant.class_weights == "balanced":
        weights = balanced_class_weights(labels["train"].cpu(), len(dataset.labels)).to(device)
    objective = Objective.of(cfg, len(dataset.labels), progress.sigma, weights)
    if cfg.rerun or is_done(folder):
        clear(folder)  # not before everything is there to train again
    write_atomic(folder / "config.yaml", yaml.safe_dump(dataclasses.asdict(cfg), sort_keys=False))
    write_json(folder / "environment.json", machine)
    if 0 in cfg.trainer.embeddings_at:
        _keep_embeddings(cfg, folder, 0, model, tables["val"], labels["val"], device, precision)

    followers: list[Callback] = []  # those that know of the run

    def report(what: str, values: dict) -> None:
        if what == "epoch":
            write_lines(folder / "epochs.jsonl", progress.epochs)
            if values["epoch"] in cfg.trainer.embeddings_at:
                at_epoch = values["epoch"]
                _keep_embeddings(cfg, folder, at_epoch, model, tables["val"], labels["val"], device, precision)
        elif what == "start":
            for callback in callbacks:
                callback.on_start(cfg, folder, progress.epochs)
                followers.append(callback)
        elif what == "step":
            for callback in callbacks:
                callback.on_step(values)
        display.show(what, values)

    def on_epoch(row: dict) -> None:
        for callback in callbacks:
            callback.on_epoch(row)

    fit = Fit(
        cfg=cfg,
        model=model,
        objective=objective,
        tables=tables,
        labels=labels,
        rows=rows,
        device=device,
        precision=precision,
        folder=folder,
        progress=progress,
        report=report,
        on_epoch=on_epoch,
    )
    result = None
    try:
        fit.run()
        display.show("phase", {"name": "testing"})
        metrics, arrays, probe = _test(cfg, fit, dataset)
        if cfg.mode == STANDALONE:
            probed = "the validation macro-F1 of the linear probe"
            fit.note(no_better(probed, metrics["val"]["macro_f1"], fit.majority))
        write_arrays(folder / "predictions.npz", **arrays, **_kept_embeddings(folder))
        write_lines(folder / "epochs.jsonl", progress.epochs)
        result = _result(cfg, dataset, folder, model, tables, progress, metrics, probe, machine)
        result["is_trial"] = is_trial
        if cfg.trainer.save_model is not False:
            save_model(folder / "model", model, tokenizer, result, arrays)
        result["seconds"]["total"] = round(fit.seconds_before + time.perf_counter() - started, 3)
        write_json(folder / "result.json", checked_result(result, is_new=True))
        write_atomic(folder / "DONE", "")
    except Interrupted:
        if progress.stopped and not is_done(folder):
            fit.save()  # the training is over, and need not be done again
        raise
    finally:
        for callback in followers:
            callback.on_end(result if is_done(folder) else None)
    for name in ("checkpoint", "embeddings"):
        shutil.rmtree(folder / name, ignore_errors=True)
    display.summary(result, folder)


def _texts_on_device(
    cfg: Config, dataset: TextDataset, device: torch.device, is_trial: bool
) -> tuple[np.ndarray, dict[str, TokenTable], dict[str, Tensor], PreTrainedTokenizerBase]:
    """Row numbers of the training texts in their file; token ids and labels by split; and the tokenizer."""
    splits = dict(dataset.splits)
    if cfg.ablation.label_noise:
        splits["train"] = add_label_noise(splits["train"], cfg.ablation.label_noise, len(dataset.labels), cfg.seed)
    if is_trial:
        del splits["test"]
    else:
        splits |= {split: _shifted_test(cfg, dataset, name) for split, name in cfg.ablation.tested_on.items()}
    if dataset.unlabeled is not None:
        splits["unlabeled"] = dataset.unlabeled
    tokenizer = load_tokenizer(cfg.model)
    cache = Path(cfg.paths.outputs) / "cache" / "tokens"
    tables, labels, num_truncated = {}, {}, 0
    for name, split in splits.items():
        tokens = tokenize(split.texts, tokenizer, cfg.model.max_length, cache)
        if name == "train":
            check_tokens(split.texts, tokens, tokenizer, cfg.model.max_length)
        num_truncated += count_truncated(split.texts, tokens, tokenizer, cfg.model.max_length, cache)
        tables[name] = TokenTable.build(tokens, tokenizer.pad_token_id, device)
        labels[name] = torch.from_numpy(split.labels).to(device)
    num_examples = sum(map(len, tables.values()))
    if num_truncated >= TRUNCATED_NOTED * num_examples:
        dataset.notes.append(
            f"{num_truncated:,} of the {num_examples:,} texts ({num_truncated / num_examples:.0%}) are truncated at "
            f"model.max_length={cfg.model.max_length} tokens"
        )
    if cfg.dataset.has_own_texts:
        _log_once(f"{cfg.dataset.name}: {_summary(dataset)}")
    for note in dataset.notes:
        _log_once(f"{cfg.dataset.name}: note: {note}")
    return splits["train"].rows, tables, labels, tokenizer


def _summary(dataset: TextDataset) -> str:
    """How many texts and which classes there are."""
    sizes = ", ".join(f"{len(split):,} {part}" for part, split in dataset.splits.items())
    names = ", ".join(map(repr, dataset.labels[:CLASSES_NAMED]))
    more = f" and {len(dataset.labels) - CLASSES_NAMED} more" if len(dataset.labels) > CLASSES_NAMED else ""
    return f"{sizes} texts; {len(dataset.labels)} classes: {names}{more}"


@cache
def _log_once(line: str) -> None:
    """Log a line that many runs of one process have in common."""
    log.warning(escape_control_characters(line))


def _sigma(cfg: Config, model: Classifier, table: TokenTable, device: torch.device, precision: str) -> float | None:
    """σ of the graph: the number given, or computed once from the pretrained encoder in evaluation mode."""
    if cfg.loss.sigma is None:
        return None
    sigma = cfg.loss.sigma
    if sigma == "sqrt":
        released = cfg.variant.sqrt_rule == "sqrt(d/3)"  # the released code takes all training texts
        size = len(table) if released else SIGMA_SAMPLE
        try:
            sigma = _sqrt_rule(cfg, model, table, device, precision, size, released=released)
        except ValueError as error:
            told = f"loss=gloss_sqrt cannot compute σ with model={cfg.model.alias}: {error} (loss=gloss_o loss.sigma=1)"
            raise RunError(told) from None
    return float(sigma) * cfg.ablation.sigma_scale


def _sqrt_rule(
    cfg: Config,
    model: Classifier,
    table: TokenTable,
    device: torch.device,
    precision: str,
    size: int,
    released: bool = False,
) -> float:
    """`sqrt_bandwidth` of at most `size` training texts, drawn by the seed; raises its ValueError."""
    sample = np.sort(np.random.default_rng(cfg.seed).permutation(len(table))[:size])
    embeddings = embed(model, table.take(sample), device, precision, cfg.trainer.grad_cache_chunk)
    return sqrt_bandwidth(embeddings, released=released)


def _graph_sigma(
    cfg: Config, sigma: float | None, model: Classifier, table: TokenTable, device: torch.device, precision: str
) -> float | None:
    """σ at which the quality of the graph is measured: the run's, else that of G-Loss-SQRT, so that losses compare.

    None where the encoder gives all texts one embedding.
    """
    if sigma is None:
        with contextlib.suppress(ValueError):
            return _sqrt_rule(cfg, model, table, device, precision, QUALITY_SAMPLE)
    return sigma


def _test(cfg: Config, fit: Fit, dataset: TextDataset) -> tuple[dict[str, dict], dict[str, np.ndarray], dict[str, Any]]:
    """Metrics by split (all but train), arrays of predictions.npz, and settings of probe and nearest neighbours."""
    embeddings = {name: fit.embed(name) for name in fit.tables if name not in ("train", "unlabeled")}
    rows = np.arange(len(fit.tables["train"]))
    if len(rows) > NEIGHBOURS_SAMPLE:
        rows = np.sort(np.random.default_rng(cfg.seed).permutation(len(rows))[:NEIGHBOURS_SAMPLE])
    if cfg.mode == STANDALONE:
        train = fit.embed("train")
        settings, near = _fit_probe(cfg, fit, train, embeddings["val"]), train[rows]
    else:
        settings, near = {}, fit.embed("train", rows)
    vectors, near_labels = near.cpu().numpy(), fit.labels["train"].cpu().numpy()[rows]
    nearest = {name: nearest_labels(vectors, near_labels, z.cpu().numpy()) for name, z in embeddings.items()}
    k = settings["num_neighbours"] = best_k(nearest["val"], fit.labels["val"].cpu().numpy())
    metrics: dict[str, dict[str, Any]] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, embedded in embeddings.items():
        logits, truth = fit.logits(embedded), fit.labels[name].cpu().numpy()
        silhouette = macro_silhouette(embedded, fit.labels[name])
        metrics[name] = {**classification_metrics(logits, truth), "macro_silhouette": silhouette}
        groups = dataset.splits[name].groups if name in dataset.splits else None
        if groups is not None:
            right = right_class(truth, groups)
            metrics[name]["grouped_accuracy"] = grouped_accuracy(logits, truth, groups, right)
        metrics[name]["knn_accuracy"] = 100 * float((vote(nearest[name], k) == truth).mean())
        arrays |= {f"{name}_labels": truth, f"{name}_logits": logits}
        if cfg.trainer.save_embeddings:
            arrays[f"{name}_embeddings"] = embedded.cpu().numpy().astype(np.float16)
    return metrics, arrays, settings


def _fit_probe(cfg: Config, fit: Fit, train: Tensor, val: Tensor) -> dict[str, Any]:
    """Train the linear classifier of standalone mode on frozen embeddings and put it into the head; its settings."""
    x, y, val_x, val_y = (t.cpu().numpy() for t in (train, fit.labels["train"], val, fit.labels["val"]))
    num_classes = fit.objective.num_classes
    if cfg.variant.probe == "logistic":
        weight, bias, settings = logistic_probe(x, y, val_x, val_y, num_classes)
    else:
        weights = fit.objective.class_weights
        weights = None if weights is None else weights.cpu().float()
        weight, bias, settings = adam_probe(x, y, val_x, val_y, num_classes, cfg.seed, weights)
    head = fit.model.head
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
    return settings


def _shifted_test(cfg: Config, dataset: TextDataset, name: str) -> Split:
    """The test split of another set with the same classes (of `ablation.test_on`), without the texts that this set
    trains or validates on: two sets of one source share many, though not to the letter. Raises ConfigError, DataError.
    """
    other = other_set(cfg.dataset, name)
    if other.source == "prepared":
        shifted = load_dataset(other, cfg.paths.data, cfg.seed)
        classes, test = shifted.labels, shifted.splits["test"]
    else:
        classes, test = load_test(other, dataset.labels)
    if classes != dataset.labels:
        raise ConfigError(
            f"ablation.test_on={name} cannot test dataset={dataset.name}: its classes {classes} are "
            f"not {dataset.labels}"
        )
    known = {letters_and_digits(text) for part in ("train", "val") for text in dataset.splits[part].texts}
    kept = np.flatnonzero([letters_and_digits(text) not in known for text in test.texts])
    if not len(kept):
        told = f"ablation.test_on={name} cannot test {dataset.name}: it trains on all these texts"
        raise ConfigError(told)
    log.warning(
        f"test_on {other.name}: {len(test) - len(kept)} of {len(test)} texts are left out, because {dataset.name} "
        "trains or validates on them (compared by letters and digits, in lower case)"
    )
    return test.take(kept)


def _keep_embeddings(
    cfg: Config,
    folder: Path,
    epoch: int,
    model: Classifier,
    table: TokenTable,
    labels: Tensor,
    device: torch.device,
    precision: str,
) -> None:
    """Keep the embeddings of the first validation texts after an epoch (0: the pretrained encoder)."""
    sample = np.arange(min(len(table), KEPT_SAMPLE))
    embeddings = embed(model, table.take(sample), device, precision, cfg.trainer.grad_cache_chunk).cpu().numpy()
    kept = {f"epoch_{epoch}_embeddings": embeddings, "sample_labels": labels[: len(sample)].cpu().numpy()}
    write_arrays(folder / "embeddings" / f"{epoch}.npz", **kept)


def _kept_embeddings(folder: Path) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for path in sorted((folder / "embeddings").glob("*.npz")):
        with np.load(path, allow_pickle=False) as kept:
            arrays |= dict(kept)
    return arrays


def _graph_quality(progress: Progress, gamma: float | None) -> dict[str, Any] | None:
    """For the record: σ and γ of the measured graphs, their quality before training and at the best epoch."""
    if progress.graph_at_start is None:
        return None
    best = progress.epochs[progress.best_epoch - 1]["val"]["graph_quality"]
    settings = {"sigma": progress.graph_sigma, "gamma": gamma or DEFAULT_GAMMA}
    return {**settings, "at_start": progress.graph_at_start, "at_best": best}


def _result(
    cfg: Config,
    dataset: TextDataset,
    folder: Path,
    model: Classifier,
    tables: dict[str, TokenTable],
    progress: Progress,
    metrics: dict[str, dict],
    probe: dict[str, Any],
    machine: dict[str, Any],
) -> dict[str, Any]:
    """The content of result.json (DESIGN, the run record)."""
    epochs = progress.epochs
    training = [row["seconds"]["total"] for row in epochs]
    left_out = [row["frac_unscorable"] for row in epochs if row["frac_unscorable"] is not None]
    objective = Objective.of(cfg, len(dataset.labels), progress.sigma)
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": {
            "dataset": cfg.dataset.name,
            "model": cfg.model.alias,
            "mode": cfg.mode,
            "loss": cfg.loss.name,
            "variant": cfg.variant.name,
            "config_hash": folder.parent.name,
            "seed": cfg.seed,
        },
        "config": dataclasses.asdict(cfg),
        "labels": dataset.labels,
        "num_rows": {name: len(table) for name, table in tables.items()},
        "fingerprint": dataset.fingerprint,
        "notes": list(map(escape_control_characters, [*dataset.notes, *progress.notes])),
        "hyperparameters": {
            "lr": cfg.trainer.lr,
            "batch_size": cfg.trainer.batch_size,
            "max_epochs": cfg.trainer.max_epochs,
            "lam": objective.lam if cfg.mode == INTEGRATED and cfg.loss.lam is not None else None,
            "sigma": progress.sigma,
            "gamma": objective.gamma,
            "temperature": cfg.loss.temperature,
            "margin": cfg.loss.margin,
            **probe,
        },
        "metrics": metrics,
        "graph_quality": _graph_quality(progress, objective.gamma),
        "best_epoch": progress.best_epoch,
        "epochs": len(epochs),
        "stopped": progress.stopped,
        "seconds": {
            "training": round(sum(training), 3),
            "evaluation": round(sum(row["seconds"]["evaluation"] for row in epochs), 3),
            "per_epoch": round(sum(training) / len(training), 4),
            "to_best": round(progress.seconds_to_best, 3),
        },
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_epoch": int(tables["train"].host_lengths.sum()),
        "peak_memory_bytes": progress.peak_memory_bytes,
        "device": machine["device"],
        "device_name": machine["device_name"],
        "precision": machine["precision"],
        "shared_device": progress.was_shared,
        "counts": {
            "steps": sum(row["steps"] for row in epochs),
            "batches_without_signal": sum(row["batches_without_signal"] for row in epochs),
            "frac_unscorable": sum(left_out) / len(left_out) if left_out else None,
        },
        "tuned": cfg.tuned if isinstance(cfg.tuned, dict) else None,
        "code": code_hash(),
        "commit": machine["commit"],
        "commit_clean": machine["commit_clean"],
        **({"resumed_on": progress.resumed_on} if progress.resumed_on else {}),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
