"""The training loop: epochs, early stopping, best weights restored.

Nearly all arithmetic of a step is the encoder's: texts are on the device as token ids, and nothing is read back from a
GPU before the end of the epoch. With trainer.grad_cache_chunk a batch is encoded in slices; loss and graph are those
of the whole batch. All randomness follows from (seed, epoch, step), so a run can be resumed at any step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gloss.config import Config, forward_passes
from gloss.data.sampler import seed_of, step_batches
from gloss.errors import RunError
from gloss.losses.registry import CE, INTEGRATED, STANDALONE, is_graph
from gloss.models.encoder import Classifier, TokenTable, embed
from gloss.models.unpadded import bucket_bounds
from gloss.runtime.device import autocast
from gloss.runtime.gpu_sharing import is_shared
from gloss.runtime.signals import Interrupted, noted
from gloss.runtime.timing import Stopwatch, peak_memory_bytes
from gloss.training import checkpoint
from gloss.training.checkpoint import Progress
from gloss.training.collapse import after_epoch, another_sigma, majority_f1, ties, wide_kernel
from gloss.training.failures import Diverged
from gloss.training.graph_quality import DEFAULT_GAMMA, graph_quality
from gloss.training.metrics import classification_metrics, macro_silhouette
from gloss.training.objective import UNKNOWN, Objective

FUSED_ON = ("cpu", "cuda")  # elsewhere (Metal) the fused Adam ignores `grad_scale` and `found_inf`
LOG = ("loss", "ce", "embedding_loss", "num_unscorable", "num_unlabeled", "is_empty", "grad_norm", "is_bad")


@dataclass
class Fit:
    """One training: its parts, and `run()`.

    tables and labels: by split, on the device; `rows` has the training texts' numbers in their file, for errors.
    An "unlabeled" table, if any, has no labels: some of its texts are in each batch, numbered after the training texts.
    on_epoch: called with the line of each epoch; an exception in it ends the run (an Optuna search prunes this way).
    """

    cfg: Config
    model: Classifier
    objective: Objective
    tables: dict[str, TokenTable]
    labels: dict[str, Tensor]
    rows: np.ndarray
    device: torch.device
    precision: str
    folder: Path
    progress: Progress
    report: Callable[[str, dict], None]  # called with each event, as gloss.training.progress_bar.Display.show
    on_epoch: Callable[[dict], None] | None

    def __post_init__(self) -> None:
        self.train_labels = self.labels["train"].cpu().numpy()
        self.step_table, self.step_labels = self.tables["train"], self.labels["train"]
        if (unlabeled := self.tables.get("unlabeled")) is not None:
            self.step_table = self.step_table.joined(unlabeled)
            self.step_labels = torch.cat([self.step_labels, self.step_labels.new_full((len(unlabeled),), UNKNOWN)])
        self.watch = Stopwatch(self.device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.is_fused = self.device.type in FUSED_ON
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.cfg.trainer.lr, fused=self.is_fused)
        self.num_passes = forward_passes(self.cfg.mode, self.cfg.loss.name, self.cfg.variant.forward_passes)
        self.is_bad = torch.zeros((), device=self.device)  # 1 from the first step that was not finite
        self.seconds_before = 0.0  # of processes before this one that worked on the run
        self.best: dict[str, Tensor] | None = None
        self.log = torch.zeros(0, len(LOG), device=self.device)
        self.last_checkpoint = time.monotonic()
        self.is_warm = False
        self.checkpoints = self.folder / "checkpoint"
        self.config_in_checkpoint = checkpoint.config_of(self.cfg, self.precision)

    # ------------------------------------------------------------------------------------------------------ the epochs

    def run(self) -> None:
        """Train to the end; the model then has the weights to be tested."""
        progress, trainer = self.progress, self.cfg.trainer
        self._restore()
        self.report("start", {})
        if progress.graph_at_start is None and progress.graph_sigma is not None:
            val = self.embed("val")
            progress.graph_at_start = self._graph_quality(val)
            if is_graph(self.cfg.loss.name):
                self.note(wide_kernel(self.cfg, val[: trainer.batch_size], progress.graph_sigma))
        with noted() as pending:
            while progress.stopped is None:
                self._epoch(pending)
                self.report("phase", {"name": "validating"})
                row = self._end_epoch()
                self.report("epoch", row)  # before the checkpoint, which resumes after this epoch
                self.note(after_epoch(self.cfg, progress.epochs, self.objective.num_classes, self.majority))
                if trainer.patience is not None and progress.num_stale >= trainer.patience:
                    progress.stopped = "patience"
                elif progress.epoch >= trainer.max_epochs:
                    progress.stopped = "max_epochs"
                progress.epoch, progress.step, progress.seconds = progress.epoch + 1, 0, {}
                waited = progress.total_seconds if progress.stopped else time.monotonic() - self.last_checkpoint
                if pending or waited >= 60 * trainer.checkpoint_minutes:
                    self.save()
                if pending:
                    raise Interrupted(pending[0])
                if self.on_epoch is not None:
                    self.on_epoch(row)
            if pending:  # since the last epoch's checkpoint
                self.save()
                raise Interrupted(pending[0])
        self.report("stopped", {})
        self.note(ties(progress.epochs, progress.best_epoch, self.cfg.variant.tested_weights))
        if self.cfg.variant.tested_weights == "best":
            self.model.load_state_dict(self.best)

    @property
    def majority(self) -> float:
        """Validation macro-F1 (%) of the largest class as the only answer."""
        return majority_f1(self.labels["val"].cpu().numpy())

    def note(self, lines: list[str]) -> None:
        """Report the new ones among `lines`, and keep them for the record."""
        for line in lines:
            if line not in self.progress.notes:
                self.progress.notes.append(line)
                self.report("note", {"text": line})

    def _epoch(self, pending: list[int]) -> None:
        """Do the remaining steps of an epoch."""
        progress, trainer = self.progress, self.cfg.trainer
        self.report("phase", {"name": "training"})
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        batches = step_batches(self.train_labels, self.step_table.host_lengths, trainer, self.cfg.seed, progress.epoch)
        on_device = torch.from_numpy(np.concatenate(batches)).to(self.device)  # one transfer an epoch
        generator = torch.Generator().manual_seed(seed_of(self.cfg.seed, progress.epoch))
        known = [torch.from_numpy(batch < len(self.train_labels)) for batch in batches]
        labeled = [self.objective.draw_labeled(len(b), generator, k) for b, k in zip(batches, known, strict=True)]
        if progress.step == 0:
            self.log = torch.zeros(len(batches), len(LOG), device=self.device)
        elif len(self.log) != len(batches):
            now = f"now there are {len(batches)}: use the texts it was made with, or rerun=true"
            raise RunError(f"{self.checkpoints} was made with {len(self.log)} batches an epoch, {now}")
        if (self.device.type == "cuda" or trainer.compile) and not self.is_warm:  # also a process that resumes a run
            self._warm_up(batches, labeled)
            self.is_warm = True
        start = np.cumsum([0, *(len(batch) for batch in batches)])
        before = time.perf_counter()
        self.watch.start()
        for step in range(progress.step, len(batches)):
            self.step(step, batches[step], on_device[start[step] : start[step + 1]], labeled[step])
            progress.step = step + 1
            values = {"epoch": progress.epoch, "step": step + 1, "steps": len(batches), "texts": len(batches[step])}
            # Reading a GPU's loss would make it wait; on the CPU it is there.
            self.report("step", values | {"loss": self.log[step, 0].item() if self.device.type == "cpu" else None})
            due = time.monotonic() - self.last_checkpoint >= 60 * trainer.checkpoint_minutes > 0
            if pending or (due and step + 1 < len(batches)):
                self._add_seconds(before)
                self._check_finite(batches)
                self.save()
                if pending:
                    raise Interrupted(pending[0])
                before = time.perf_counter()  # the checkpoint's seconds are no epoch's
                self.watch.start()
        self._add_seconds(before)
        self._check_finite(batches)

    def _warm_up(self, batches: list[np.ndarray], labeled: list[Tensor | None]) -> None:
        """Run the loss once for each size of a batch, so that no epoch's seconds include compilation.

        Changes no weight, and no random number of a step.
        """
        for size, (indices, is_labeled) in {len(b): (b, v) for b, v in zip(batches, labeled, strict=True)}.items():
            embeddings = torch.randn(size, self.model.encoder.embedding_dim, device=self.device, requires_grad=True)
            logits = torch.zeros(size, self.objective.num_classes, device=self.device, requires_grad=True)
            labels = self.step_labels[torch.from_numpy(indices).to(self.device)]
            parts = self.objective(embeddings, None if self.cfg.mode == STANDALONE else logits, labels, is_labeled)
            parts.loss.backward()
        if self.cfg.trainer.compile:
            texts = batches[0][: self.cfg.trainer.grad_cache_chunk]
            piece = texts, torch.from_numpy(texts).to(self.device), 0
            if self.cfg.trainer.grad_cache_chunk:
                torch.no_grad()(self.encode)(*piece)
            self.encode(*piece).sum().backward()
            self.optimizer.zero_grad()

    def _add_seconds(self, before: float) -> None:
        """Add the time since `before` to the epoch under way."""
        seconds = self.watch.read()  # waits for the device
        seconds["total"] = time.perf_counter() - before
        for key, value in seconds.items():
            self.progress.seconds[key] = self.progress.seconds.get(key, 0.0) + value
        self.progress.total_seconds += seconds["total"]

    def _end_epoch(self) -> dict:
        """Validate, record the epoch, keep the best weights."""
        progress = self.progress
        before = time.perf_counter()
        score, val = self._validate()
        tolerance = self.cfg.variant.early_stopping_min_delta if self.cfg.mode == STANDALONE else 0.0
        log, steps = dict(zip(LOG, self.log.sum(0).tolist(), strict=True)), len(self.log)
        improved = score > progress.best_score
        # Of epochs with equal scores the one with the lowest training loss; it does not restart patience.
        is_tie = score == progress.best_score and log["loss"] / steps < progress.epochs[progress.best_epoch - 1]["loss"]
        if improved or is_tie:
            progress.best_score, progress.best_epoch = score, progress.epoch
            earlier = sum(row["seconds"]["total"] for row in progress.epochs)
            progress.seconds_to_best = earlier + progress.seconds["total"]
            if self.cfg.variant.tested_weights == "best":
                self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        is_near = 0 < tolerance and score >= progress.best_score - tolerance
        progress.num_stale = 0 if improved or is_near else progress.num_stale + 1
        progress.seconds["evaluation"] = time.perf_counter() - before
        progress.total_seconds += progress.seconds["evaluation"]
        progress.peak_memory_bytes = max(progress.peak_memory_bytes, peak_memory_bytes(self.device))
        progress.was_shared |= is_shared(self.device)
        row = {
            "epoch": progress.epoch,
            "lr": self.lr,
            "loss": log["loss"] / steps,
            "ce": log["ce"] / steps if self.cfg.mode == INTEGRATED else None,
            "embedding_loss": log["embedding_loss"] / steps if self.cfg.loss.name != CE else None,
            "score": score,
            "val": val,
            "frac_unscorable": log["num_unscorable"] / log["num_unlabeled"] if log["num_unlabeled"] else None,
            "batches_without_signal": int(log["is_empty"]),
            "steps": steps,
            "seconds": {part: round(value, 6) for part, value in sorted(progress.seconds.items())},
        }
        progress.epochs.append(row)
        return row

    @property
    def lr(self) -> float:
        """The learning rate of the epoch under way."""
        trainer = self.cfg.trainer
        return trainer.lr * (trainer.lr_decay_factor if self.progress.epoch > trainer.lr_decay_epoch else 1.0)

    def _validate(self) -> tuple[float, dict[str, Any]]:
        """The score for early stopping, and the metrics for the record."""
        embeddings = self.embed("val")
        if self.cfg.mode == INTEGRATED:
            val = classification_metrics(self.logits(embeddings), self.labels["val"].cpu().numpy())
            return val["macro_f1"], val | {"graph_quality": self._graph_quality(embeddings)}
        silhouette = macro_silhouette(embeddings, self.labels["val"])
        if silhouette is None:
            raise RunError("the validation split has no two classes with two texts, so it has no silhouette to stop on")
        return silhouette, {"macro_silhouette": silhouette, "graph_quality": self._graph_quality(embeddings)}

    def _graph_quality(self, val: Tensor) -> dict[str, float] | None:
        """The quality of graphs of the validation embeddings [N, D], at the run's σ and γ, or at defaults."""
        if (sigma := self.progress.graph_sigma) is None:
            return None
        gamma = self.objective.gamma or DEFAULT_GAMMA
        sizes = {"num_classes": self.objective.num_classes, "batch_size": self.cfg.trainer.batch_size}
        return graph_quality(val, self.labels["val"], sigma=sigma, gamma=gamma, **sizes)

    @torch.inference_mode()
    def embed(self, split: str, indices: np.ndarray | None = None) -> Tensor:
        """Embeddings [N, D] of a split, or of its texts at some indices, in evaluation mode and float32.

        Raises Diverged where one is not finite: finite weights that a last step made huge can do that.
        """
        table = self.tables[split] if indices is None else self.tables[split].take(indices)
        embeddings = embed(self.model, table, self.device, self.precision, self.cfg.trainer.grad_cache_chunk)
        return self._finite(embeddings, f"embeddings of {split}")

    @torch.inference_mode()
    def logits(self, embeddings: Tensor) -> np.ndarray:
        """Logits [N, C] of embeddings [N, D]; raises Diverged as `embed` does."""
        return self._finite(self.model.head(embeddings), "logits").cpu().numpy()

    def _finite(self, values: Tensor, name: str) -> Tensor:
        if not values.isfinite().all():
            texts = (~values.isfinite().all(dim=1)).nonzero().flatten().tolist()  # by their places in the split
            raise self._diverged(self.progress.step - 1, {"texts": texts}, subject=f"{name} are")
        return values

    # -------------------------------------------------------------------------------------------------------- the step

    def step(self, step: int, indices: np.ndarray, device_indices: Tensor, is_labeled: Tensor | None) -> None:
        """Train on a batch, its texts' indices [B] by length, on the host and the device; is_labeled: on the host."""
        labels = self.step_labels[device_indices]
        seed = seed_of(self.cfg.seed, self.progress.epoch, step)
        self.watch.lap("data")
        parts = self.backward(indices, device_indices, labels, is_labeled, seed)
        self.watch.lap("backward")
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # A loss or gradient that is not finite blocks this update and all later ones, without asking the device.
        self.is_bad = torch.maximum(self.is_bad, (~(norm.isfinite() & parts.loss.isfinite())).to(self.is_bad))
        scale = (norm / self.cfg.trainer.max_grad_norm).clamp(min=1.0).float()  # clips the norm
        if self.is_fused:
            fused: Any = self.optimizer  # reads two attributes that its class does not declare
            fused.found_inf, fused.grad_scale = self.is_bad, scale
            self.optimizer.step()
        elif not self.is_bad:  # waits for the device
            torch._foreach_div_(gradients, scale)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        zero = torch.zeros((), device=self.device)
        num_known = int((indices < len(self.train_labels)).sum())
        num_unlabeled = 0 if is_labeled is None else num_known - int(is_labeled.sum())  # is_labeled lives on the host
        counts = parts.num_unscorable, zero + num_unlabeled, parts.is_empty
        values = parts.loss, parts.ce, parts.embedding_loss, *counts, norm, self.is_bad  # in the order of LOG
        self.log[step] = torch.stack([zero if v is None else v.detach().float() for v in values])
        self.watch.lap("optimizer")

    def encode(self, indices: np.ndarray, device_indices: Tensor, seed: int) -> Tensor:
        """Embeddings [n, D] of a slice, in float32 or wider; the same seed gives the same dropout."""
        torch.manual_seed(seed)
        with autocast(self.device, self.precision):
            num_groups = self.cfg.trainer.num_length_buckets
            embeddings = self.step_table.encode(self.model.encoder, indices, device_indices, num_groups)
        return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))

    def backward(self, indices, device_indices, labels, is_labeled, seed: int):
        """One forward pass, the loss, one backward pass; in slices with `trainer.grad_cache_chunk`."""
        if self.cfg.trainer.grad_cache_chunk:
            return self._backward_in_slices(indices, device_indices, labels, is_labeled, seed)
        embeddings = for_logits = self.encode(indices, device_indices, seed)  # [B, D]
        if self.num_passes == 2:  # released: another dropout for CE
            for_logits = self.encode(indices, device_indices, seed + 1)
        self.watch.lap("forward")
        parts = self._loss(embeddings, for_logits, labels, is_labeled)
        parts.loss.backward()
        return parts

    def _backward_in_slices(self, indices, device_indices, labels, is_labeled, seed: int):
        """The full batch's gradient at the memory of a slice: gradient caching, Gao et al. 2021.

        Encode without a graph, take the loss's gradient with respect to all B embeddings, then encode each slice again
        (same seed, same dropout) and send its part of that gradient through.
        """
        bounds = bucket_bounds(len(indices), math.ceil(len(indices) / self.cfg.trainer.grad_cache_chunk))
        slices = [(indices[a:b], device_indices[a:b], seed + i) for i, (a, b) in enumerate(bounds)]
        with torch.no_grad():
            embeddings = torch.cat([self.encode(*piece) for piece in slices])
        embeddings.requires_grad_()
        self.watch.lap("forward")
        parts = self._loss(embeddings, embeddings, labels, is_labeled)
        parts.loss.backward()
        for piece, (a, b) in zip(slices, bounds, strict=True):
            self.encode(*piece).backward(embeddings.grad[a:b])
        return parts

    def _loss(self, embeddings: Tensor, for_logits: Tensor, labels: Tensor, is_labeled: Tensor | None):
        logits = self.model.head(for_logits) if self.cfg.mode == INTEGRATED else None
        return self.objective(embeddings, logits, labels, is_labeled, self.watch.lap)

    def _check_finite(self, batches: list[np.ndarray]) -> None:
        """Raise Diverged where a step of this epoch was not finite."""
        bad = self.log[:, LOG.index("is_bad")].cpu().nonzero()
        if len(bad):
            step = int(bad[0])
            known = batches[step][batches[step] < len(self.rows)]
            raise self._diverged(step, {"rows": self.rows[known].tolist()})

    def _diverged(self, step: int, where: dict, **details: str) -> Diverged:
        """The error at a step (from 0) of the epoch under way, or of the last one; -1: the log's last step."""
        values = self.log[step].tolist() if len(self.log) else []
        parts: dict[str, object] = {key: str(value) for key, value in zip(LOG, values, strict=False)}
        parts |= {"epoch": self.progress.epoch, "step": step + 1, "lr": self.lr, "sigma": self.progress.sigma}
        if self.progress.stopped:  # no epoch is under way
            last = self.progress.epochs[-1]
            parts |= {"epoch": last["epoch"], "step": len(self.log), "lr": last["lr"]}
        hint = f" or {another_sigma(self.cfg, 'larger')}" if is_graph(self.cfg.loss.name) else ""
        return Diverged(parts | where, hint=hint, **details)

    # -------------------------------------------------------------------------------------------------- the checkpoint

    def save(self) -> None:
        """Write a checkpoint of the current state (between two steps)."""
        weights, state = self.model.state_dict(), {"state": self.optimizer.state_dict()["state"]}
        checkpoint.save(self.checkpoints, self.config_in_checkpoint, self.progress, weights, self.best, state, self.log)
        self.last_checkpoint = time.monotonic()

    def _restore(self) -> None:
        found = checkpoint.load(self.checkpoints, self.config_in_checkpoint)
        if found is None:
            return
        progress, model, best, optimizer, log = found
        self.progress.go_on_from(progress, self.checkpoints)
        self.seconds_before = progress.total_seconds
        was = self.objective  # rebuilt with the σ of the run's start: σ computed again may differ
        self.objective = Objective.of(self.cfg, was.num_classes, self.progress.sigma, was.class_weights)
        self.model.load_state_dict(model)
        self.best = None if best is None else {name: value.to(self.device) for name, value in best.items()}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": optimizer["state"], "param_groups": groups})
        self.log = log.to(self.device)
