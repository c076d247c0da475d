"""Checkpoints: all that an interrupted run needs to go on as if it had never stopped.

A checkpoint is a folder `checkpoint/<epoch>-<step>/`, written completely or not at all, so that the newest is always
complete. Weights are safetensors; the optimizer's tensors are read with weights-only loading.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gloss.config import Config
from gloss.errors import RunError
from gloss.records.run_folder import hashed_config
from gloss.runtime.atomic import atomic_folder

State = dict[str, Tensor]


@dataclass
class Progress:
    """The state of a training run, without its tensors."""

    epoch: int = 1  # the epoch under way, from 1
    step: int = 0  # its steps that are done
    sigma: float | None = None
    graph_sigma: float | None = None  # of the graph whose quality is measured; None: it is not
    graph_at_start: dict[str, float] | None = None  # its quality before training
    fingerprint: str | None = None  # of the texts; None in older checkpoints, as `machine`
    machine: dict[str, Any] | None = None  # environment.json of the last process, and keys that change its arithmetic
    resumed_on: list[str] = field(default_factory=list)  # differences at each resumption on another machine or code
    best_epoch: int = 0
    best_score: float = -float("inf")
    num_stale: int = 0  # epochs since the last improvement
    stopped: str | None = None  # "patience" or "max_epochs" once training is over
    seconds: dict[str, float] = field(default_factory=dict)  # of the epoch under way, by part
    total_seconds: float = 0.0  # of all processes that worked on the run
    seconds_to_best: float = 0.0
    peak_memory_bytes: int = 0
    was_shared: bool = False
    epochs: list[dict[str, Any]] = field(default_factory=list)  # lines of epochs.jsonl
    notes: list[str] = field(default_factory=list)  # signs of a collapse (gloss.training.collapse)

    def go_on_from(self, other: Progress, folder: Path) -> None:
        """Take over the state of `other`, read from `folder`, and note where this machine differs from its machine.

        Raises RunError where `other` was made with other texts.
        """
        if other.fingerprint not in (None, self.fingerprint):
            fingerprints = f"their fingerprint was {other.fingerprint}, is {self.fingerprint}"
            raise RunError(f"{folder} was made with other texts: {fingerprints}. Use those texts, or rerun=true")
        machine = self.machine
        vars(self).update(vars(other))
        if other.machine and (changes := differences(other.machine, machine)):
            self.resumed_on.append(f"epoch {self.epoch}, step {self.step}: {changes}")
        self.machine = machine


def config_of(cfg: Config, precision: str) -> dict:
    """The settings in which a checkpoint and the run that resumes it must agree; a run never mixes two precisions."""
    rest = {"mode": cfg.mode, "loss_name": cfg.loss.name, "seed": cfg.seed, "precision": precision}
    return {**hashed_config(cfg), **rest}


def save(
    folder: Path, config: dict, progress: Progress, model: State, best: State | None, optimizer: dict, log: Tensor
) -> None:
    """Write a checkpoint beside the last one, then remove the last one. `log`: the numbers of the epoch's steps."""
    folder.mkdir(exist_ok=True)
    target = folder / f"{progress.epoch:05d}-{progress.step:07d}"
    if target.is_dir():  # a checkpoint of this step exists: keep it
        return
    with atomic_folder(target) as temporary:
        (temporary / "state.json").write_text(json.dumps({"config": config, "progress": asdict(progress)}))
        _write_tensors(temporary / "model.safetensors", model)
        if best is not None:
            _write_tensors(temporary / "best.safetensors", best)
        with (temporary / "optimizer.pt").open("wb") as file:
            torch.save({"optimizer": optimizer, "log": log}, file)
    for old in folder.iterdir():
        if old != target:
            shutil.rmtree(old, ignore_errors=True)


def _write_tensors(path: Path, tensors: State) -> None:
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)


def load(folder: Path, config: dict) -> tuple[Progress, State, State | None, dict, Tensor] | None:
    """The newest checkpoint, on the CPU; None where there is none.

    Raises RunError where it belongs to another configuration (naming the differences) or cannot be read.
    """
    path = max((path for path in folder.glob("[0-9]*-[0-9]*") if path.is_dir()), default=None)
    if path is None:
        return None
    try:
        state = json.loads((path / "state.json").read_text())
        difference, progress = differences(state["config"], config), Progress(**state["progress"])
        model, best_file = load_file(path / "model.safetensors"), path / "best.safetensors"
        best = load_file(best_file) if best_file.is_file() else None
        tensors = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
        found = progress, model, best, tensors["optimizer"], tensors["log"]
    except Exception as error:  # a damaged file can raise anything
        reason = f"{type(error).__name__}: {error}"
        raise RunError(f"{path} cannot be read ({reason}): remove it, or use rerun=true") from None
    if difference:
        raise RunError(f"{path} is the checkpoint of another configuration: {difference}. Remove it, or use rerun=true")
    return found


def differences(theirs: Any, ours: Any, key: str = "") -> str:
    """Keys whose values differ, with both values; empty where none differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        parts = [differences(theirs.get(k), ours.get(k), f"{key}.{k}" if key else k) for k in sorted({*theirs, *ours})]
        return ", ".join(part for part in parts if part)
    return "" if theirs == ours else f"{key} was {theirs}, is {ours}"
