"""Run folders with known results, written as plain files without the tested code."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml

from gloss.config import CONFIG_DIR, Config

SECONDS = {"data": 0.1, "forward": 1.0, "graph": 0.2, "propagation": 0.1, "backward": 2.0, "optimizer": 0.3}


def result(
    dataset: str = "mr",
    model: str = "bert",
    mode: str = "integrated",
    loss: str = "ce",
    seed: int = 1,
    config_hash: str = "0123abcd",
    accuracy: float = 85.0,
    macro_f1: float | None = None,
    silhouette: float | None = None,
    val: float | None = None,
    epochs: int = 5,
    seconds: float = 60.0,
    per_epoch: float = 10.0,
    config: dict[str, Any] | None = None,
    variant: str = "paper",
    **changes: Any,
) -> dict[str, Any]:
    """The content of a result.json of schema_version 1; changes replace top-level keys."""
    macro_f1 = accuracy if macro_f1 is None else macro_f1
    metrics = {"accuracy": accuracy, "macro_f1": macro_f1, "macro_silhouette": silhouette}
    val = accuracy if val is None else val
    identity = {"dataset": dataset, "model": model, "mode": mode, "loss": loss, "variant": variant}
    identity |= {"config_hash": config_hash, "seed": seed}
    best_epoch = max(1, epochs - 1)
    times = {"total": seconds, "training": per_epoch * epochs, "evaluation": 1.0}
    times |= {"per_epoch": per_epoch, "to_best": per_epoch * best_epoch}
    filled = {
        **{"schema_version": 1, "identity": identity, "config": config or {"trainer": {"max_epochs": 200}}},
        **{"labels": ["negative", "positive"], "num_rows": {"train": 100, "val": 10, "test": 50}},
        "fingerprint": "f" * 64,
        "hyperparameters": {"lr": 2e-5, "batch_size": 128, "max_epochs": 200, "lam": 0.8, "sigma": 0.6, "gamma": 0.6},
        "metrics": {"val": {**metrics, "accuracy": val, "macro_f1": val}, "test": metrics},
        **{"best_epoch": best_epoch, "epochs": epochs, "stopped": "patience", "seconds": times},
        **{"num_parameters": 110_000_000, "tokens_per_epoch": 10_000, "peak_memory_bytes": 2**30},
        **{"device": "cpu", "device_name": "a processor", "precision": "float32", "shared_device": False},
        "counts": {"steps": 10, "batches_without_signal": 0, "frac_unscorable": 0.0},
        **{"tuned": None, "commit": "c" * 40, "commit_clean": True, "finished_at": "2026-01-01T00:00:00+00:00"},
    }
    return filled | changes


def write_run(
    root: Path, record: dict[str, Any] | None = None, arrays: dict[str, Any] | None = None, **identity: Any
) -> Path:
    """Write a finished run under root/runs and return its folder. record: by default `result(**identity)`."""
    record = record or result(**identity)
    i = record["identity"]
    folder = (
        root / "runs" / i["dataset"] / i["model"] / f"{i['mode']}-{i['loss']}" / i["config_hash"] / f"seed={i['seed']}"
    )
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(record))
    top, step = record["metrics"]["val"]["macro_f1"], record["seconds"]["per_epoch"]
    lines = []
    for n in range(1, record["epochs"] + 1):
        score = top - (record["best_epoch"] - n) ** 2 / 10
        parts = {key: value * step / 3.7 for key, value in SECONDS.items()}  # 3.7: the sum of SECONDS
        lines.append(
            {"epoch": n, "score": score, "loss": 1 / n, "seconds": {**parts, "evaluation": 1.0, "total": step}}
        )
    (folder / "epochs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    np.savez(folder / "predictions.npz", **(arrays or {"test_labels": np.array([0, 1])}))
    (folder / "DONE").touch()
    return folder


def cell(
    dataset: str = "mr",
    model: str = "bert",
    mode: str = "integrated",
    loss: str = "ce",
    config_hash: str = "0123abcd",
    seeds: tuple[int, ...] = (1,),
    point: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    experiment: str = "table2",
) -> SimpleNamespace:
    """A cell as expand_grid makes it, with searched values; config: changes of the default configuration."""
    changes = dict(config or {})
    full = Config(tuned=changes.pop("tuned", {"trials": 15}), mode=mode)
    full.loss.name, full.variant.name = loss, "paper"
    full.trainer.max_grad_norm = {"integrated": 1.0, "standalone": 5.0}[mode]
    full.loss.margin = 5.0 if loss == "triplet" else None
    known = CONFIG_DIR / "model" / f"{model}.yaml"
    for key, value in (yaml.safe_load(known.read_text()) if known.is_file() else {"alias": model}).items():
        setattr(full.model, key, value)
    for section, values in changes.items():
        for key, value in values.items():
            setattr(getattr(full, section), key, value)
    identity = {"dataset": dataset, "model": model, "mode": mode, "loss": loss, "config_hash": config_hash}
    identity["variant"] = full.variant.name
    return SimpleNamespace(**identity, experiment=experiment, seeds=seeds, point=point or {}, config=full)


def write_study(root: Path, folder: str = "mr-bert-integrated-ce-paper-fair-0123abcd", **changes: Any) -> Path:
    """Write a finished search of six trials of a minute each, the last a repetition; return its study.json."""
    values = [(1e-5, 70.0), (2e-5, 80.0), (3e-5, 75.0), (4e-5, 72.0), (5e-5, 60.0), (2e-5, 80.0)]
    trials = [
        {"number": i, "state": "complete", "params": {"lr": lr}, "value": value, "epochs": 5, "seconds": 60.0}
        | {"reason": None, "duplicate_of": None}
        for i, (lr, value) in enumerate(values)
    ]
    trials[5] |= {"seconds": None, "duplicate_of": 1}
    content = {
        **{"schema_version": 1, "name": folder, "dataset": "mr", "model": "bert", "mode": "integrated", "loss": "ce"},
        **{"variant": "paper", "search": "fair", "seed": 1, "train_examples": 6397, "train_limit": None},
        **{"max_epochs": 200, "num_trials": 6, "trials": trials},
        "space": {"lr": {"low": 1e-5, "high": 5e-5, "log": True, "step": None}},
    }
    path = root / "studies" / folder / "study.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content | changes))
    return path
