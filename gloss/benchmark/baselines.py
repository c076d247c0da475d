"""Other programs' training steps, for the benchmark: the Hugging Face Trainer's, and the released procedure's.

Each has run(batches) -> seconds per step, for batches of indices [B] of the same tokenised texts that we train on.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gloss.benchmark.turns import Clock
from gloss.losses.reference import gaussian_kernel, propagate_labels, symmetric_normalize, transition_matrix
from gloss.models.encoder import Encoder, TokenTable
from gloss.training.objective import balanced_class_weights

PADDED_TO = 128  # tokens, in the released procedure


class TrainerSteps:
    """Cross-entropy with transformers.Trainer: its defaults, dynamic padding, our clipping, a fused optimizer."""

    def __init__(
        self, encoder: Encoder, table: TokenTable, labels: Tensor, device: torch.device, clock: Clock, precision: str
    ) -> None:
        config = copy.deepcopy(encoder.transformer.config)
        config.num_labels = int(labels.max()) + 1
        self.model = transformers.AutoModelForSequenceClassification.from_config(config)
        ids, lengths = table.input_ids.cpu(), table.host_lengths
        self.texts = [(row[:n].long(), y) for row, n, y in zip(ids, lengths, labels.tolist(), strict=True)]
        self.pad_id = int(config.pad_token_id or 0)
        self.device, self.clock, self.precision = device, clock, precision

    def run(self, batches: Sequence[np.ndarray]) -> float:
        """Seconds per step; all batches have the same B. An extra first step, to build the optimizer, is not timed."""
        indices = np.concatenate([batches[0], *batches])
        stops = _Stops(self.clock)
        with tempfile.TemporaryDirectory() as folder:
            options = transformers.TrainingArguments(
                per_device_train_batch_size=len(batches[0]), max_steps=len(batches) + 1, max_grad_norm=1.0,
                optim="adamw_torch_fused", train_sampling_strategy="sequential", remove_unused_columns=False,
                bf16=self.precision == "bf16", use_cpu=self.device.type == "cpu",
                dataloader_pin_memory=self.device.type == "cuda", output_dir=folder,
                logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True,
            )  # fmt: skip
            trainer = transformers.Trainer(
                self.model, options, self._join, train_dataset=[self.texts[i] for i in indices], callbacks=[stops]
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        return (stops.times[-1] - stops.times[0]) / len(batches)

    def _join(self, texts: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
        """Pad to the longest text of the batch."""
        ids, labels = zip(*texts, strict=True)
        mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        padded = pad_sequence(list(ids), batch_first=True, padding_value=self.pad_id)
        return {"input_ids": padded, "attention_mask": mask, "labels": torch.tensor(labels)}


class _Stops(transformers.TrainerCallback):
    """Records when the first and the last step ended."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.times: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (1, state.max_steps):
            self.times.append(self.clock())


class ReleasedSteps:
    """G-Loss + CE by the released code's procedure (docs/FIDELITY.md), reimplemented.

    Two forward passes in float32, one for each loss, every text padded to 128 tokens; the loss in float64, by ordinary
    linear algebra, on class-weighted terms; an optimizer that is not fused; the loss read back at each step.
    """

    def __init__(self, encoder: Encoder, table: TokenTable, labels: Tensor, device: torch.device, clock: Clock) -> None:
        self.num_classes = int(labels.max()) + 1
        self.encoder = copy.deepcopy(encoder.transformer).to(device).train()
        self.head = nn.Linear(encoder.embedding_dim, self.num_classes).to(device)
        self.parameters = [*self.encoder.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=2e-5)
        self.class_weights = balanced_class_weights(labels.cpu(), self.num_classes).to(device)
        self.ids = F.pad(table.input_ids, (0, PADDED_TO - table.input_ids.shape[1])).cpu()
        self.is_token = (torch.arange(PADDED_TO) < table.lengths[:, None].cpu()).long()
        self.labels, self.device, self.clock = labels.cpu(), device, clock

    def run(self, batches: Sequence[np.ndarray]) -> float:
        before = self.clock()
        for indices in batches:
            self._step(torch.from_numpy(indices))
        return (self.clock() - before) / len(batches)

    def _embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]

    def _step(self, indices: Tensor) -> float:
        sigma, gamma, lam = 0.5, 0.6, 0.8
        ids, mask, labels = (x[indices].to(self.device) for x in (self.ids, self.is_token, self.labels))
        logits = self.head(self._embed(ids, mask)).double()
        ce = F.cross_entropy(logits, labels, weight=self.class_weights)
        is_labeled = torch.zeros(len(indices), dtype=torch.bool, device=self.device)
        is_labeled[torch.randperm(len(indices), device=self.device)[: math.ceil(round(gamma * len(indices), 9))]] = True
        weights = gaussian_kernel(self._embed(ids, mask).double(), sigma)
        transition = transition_matrix(symmetric_normalize(weights))
        scores = propagate_labels(transition, labels, is_labeled, self.num_classes)
        graph_loss = F.cross_entropy(scores, labels[~is_labeled], weight=self.class_weights) / len(scores)
        loss = lam * graph_loss + (1 - lam) * ce
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss.item()
