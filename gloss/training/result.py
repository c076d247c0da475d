"""The content of result.json, the record of a run."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from gloss.data.datasets import TextDataset
from gloss.losses.registry import INTEGRATED
from gloss.records.schema import SCHEMA_VERSION
from gloss.runtime.terminal import escape_control_characters
from gloss.training.checkpoint import Progress
from gloss.training.graph_quality import DEFAULT_GAMMA
from gloss.training.trainer import Fit


def result_of(
    fit: Fit, dataset: TextDataset, metrics: dict[str, dict], settings: dict[str, Any], is_trial: bool
) -> dict[str, Any]:
    """The record of a training that has ended, but for the seconds of the whole run.

    metrics, settings: as `gloss.training.evaluate.evaluate` returns them. is_trial: of a search.
    """
    cfg, progress, objective = fit.cfg, fit.progress, fit.objective
    machine, epochs = progress.machine, progress.epochs
    training = [row["seconds"]["total"] for row in epochs]
    left_out = [row["frac_unscorable"] for row in epochs if row["frac_unscorable"] is not None]
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": {
            "dataset": cfg.dataset.name,
            "model": cfg.model.alias,
            "mode": cfg.mode,
            "loss": cfg.loss.name,
            "variant": cfg.variant.name,
            "config_hash": fit.folder.parent.name,
            "seed": cfg.seed,
        },
        "config": asdict(cfg),
        "labels": dataset.labels,
        "num_rows": {name: len(table) for name, table in fit.tables.items()},
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
            **settings,
        },
        "metrics": metrics,
        "graph_quality": _graph_quality(progress, objective.gamma, cfg.variant.tested_weights),
        "best_epoch": progress.best_epoch,
        "epochs": len(epochs),
        "stopped": progress.stopped,
        "seconds": {
            "training": round(sum(training), 3),
            "evaluation": round(sum(row["seconds"]["evaluation"] for row in epochs), 3),
            "per_epoch": round(sum(training) / len(training), 4),
            "to_best": round(progress.seconds_to_best, 3),
        },
        "num_parameters": sum(p.numel() for p in fit.model.parameters()),
        "tokens_per_epoch": int(fit.tables["train"].host_lengths.sum()),
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
        "code": machine["code"],
        "commit": machine["commit"],
        "commit_clean": machine["commit_clean"],
        **({"resumed_on": progress.resumed_on} if progress.resumed_on else {}),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "is_trial": is_trial,
    }


def _graph_quality(progress: Progress, gamma: float | None, tested: str) -> dict[str, Any] | None:
    """σ and γ of the measured graphs, their quality before training and, as `at_best`, at the tested epoch."""
    if progress.graph_at_start is None:
        return None
    row = progress.epochs[progress.best_epoch - 1 if tested == "best" else -1]
    settings = {"sigma": progress.graph_sigma, "gamma": gamma or DEFAULT_GAMMA}
    return {**settings, "at_start": progress.graph_at_start, "at_best": row["val"]["graph_quality"]}
