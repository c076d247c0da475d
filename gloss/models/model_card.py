"""The model card of a saved model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from gloss.losses.registry import LOSSES

NUM_RESAMPLES = 2000  # behind the interval of macro-F1


# ------------------------------------------------------------------------------------------------------------ the card
def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (0 to 1) seen in n independent trials."""
    z2 = 1.959964**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5 / (1 + z2 / n)
    return centre - half, centre + half


def macro_f1_interval(labels: np.ndarray, predicted: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap 95 % interval (0 to 1) of macro-F1 over texts; labels and predicted: int [N].

    A resample of texts is a multinomial draw of the cells of the confusion matrix, so none is made text by text. Like
    the metric itself, a resample averages over the classes that occur in it.
    """
    counts = confusion_matrix(labels, predicted)  # [C, C]
    cells = np.flatnonzero(counts)
    share = counts.ravel()[cells] / counts.sum()
    draws = np.random.default_rng(seed).multinomial(counts.sum(), share, NUM_RESAMPLES)  # [R, cells]
    truth, guess = np.divmod(cells, len(counts))
    one_hot = np.eye(len(counts))
    hits = draws @ (one_hot[truth] * (truth == guess)[:, None])  # [R, C]
    occurrences = draws @ (one_hot[truth] + one_hot[guess])  # true + predicted = 2 tp + fp + fn
    scores = np.divide(2 * hits, occurrences, out=np.full(hits.shape, np.nan), where=occurrences > 0)
    low, high = np.quantile(np.nanmean(scores, axis=1), (0.025, 0.975))
    return float(low), float(high)


_CLASSIFIER_CODE = """\
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "."  # where this file lies
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
inputs = tokenizer(ARGUMENTS, padding=True, truncation=True, return_tensors="pt")
with torch.inference_mode():
    probabilities = model(**inputs).logits.softmax(dim=1)
print([model.config.id2label[i] for i in probabilities.argmax(dim=1).tolist()])"""
_ENCODER_CODE = """\
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

folder = "."  # where this file lies
tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
head = load_file(f"{folder}/head.safetensors")
inputs = tokenizer(ARGUMENTS, padding=True, truncation=True, return_tensors="pt")
with torch.inference_mode():
    embeddings = encoder(**inputs).last_hidden_state[:, 0]
    probabilities = torch.softmax(embeddings @ head["weight"].T + head["bias"], dim=1)
print([encoder.config.id2label[i] for i in probabilities.argmax(dim=1).tolist()])"""


def model_card(result: dict[str, Any], predictions: dict[str, np.ndarray], is_classifier: bool = True) -> str:
    """README.md of an exported model, from the run's record and its test predictions. Holds no path of the machine.

    is_classifier: whether the architecture's own classification head carries ours.
    """
    identity, config, metrics = result["identity"], result["config"], result["metrics"]["test"]
    predicted, n = predictions["test_logits"].argmax(axis=1), len(predictions["test_labels"])
    accuracy = wilson_interval(metrics["accuracy"] / 100, n)
    macro_f1 = macro_f1_interval(predictions["test_labels"], predicted)
    model, is_pair = config["model"], len(config["dataset"]["text"]) == 2
    # A name of the hub or of a package may be told, a folder of this machine may not.
    name = model["name"] if re.fullmatch(r"(package:)?[\w.-]+(/[\w.-]+)?", model["name"]) else identity["model"]
    is_on_hub = "/" in name and not Path(name).exists()
    used = {key: value for key, value in result["hyperparameters"].items() if value is not None}
    arguments = '["a question"], ["a sentence"]' if is_pair else '["a text"]'
    silhouette = metrics["macro_silhouette"]
    is_best = config["variant"]["tested_weights"] == "best"
    kept = f"epoch {result['best_epoch']}, chosen on validation" if is_best else "the last one"
    return "\n".join([
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: feature-extraction",
        *([f"base_model: {name}"] if is_on_hub else []),
        "tags: [sentence-transformers, feature-extraction, text-classification, g-loss]",
        "---",
        "",
        f"# {identity['model']} fine-tuned on {identity['dataset']} with {identity['loss']}",
        "",
        "A text encoder with a linear classifier. The embedding of a text is the last hidden state at its first token.",
        "",
        "| | |",
        "|---|---|",
        f"| encoder | {name}{' @ ' + model['revision'] if model['revision'] else ''}, "
        f"{result['num_parameters']:,} parameters with the head, {model['max_length']} tokens at most |",
        f"| data | {identity['dataset']}: " + ", ".join(f"{v:,} {k}" for k, v in result["num_rows"].items())
        + f" texts{' (pairs)' if is_pair else ''}; fingerprint {result['fingerprint']} |",
        f"| classes | {_names(result['labels'])} |",
        f"| loss | {LOSSES[identity['loss']].description}; {identity['mode']} mode; variant {identity['variant']} |",
        f"| hyperparameters | {', '.join(f'{key} {_short(value)}' for key, value in used.items())} |",
        f"| epochs | {result['epochs']}; weights of {kept} |",
        f"| made by | gloss at commit {result['commit']}, seed {identity['seed']}, {result['precision']} |",
        "",
        f"## On the {n:,} test texts",
        "",
        "| metric | value | 95 % interval |",
        "|---|---|---|",
        f"| accuracy | {metrics['accuracy']:.2f} % | {100 * accuracy[0]:.2f} – {100 * accuracy[1]:.2f} % (Wilson) |",
        f"| macro-F1 | {metrics['macro_f1']:.2f} % | {100 * macro_f1[0]:.2f} – {100 * macro_f1[1]:.2f} % (bootstrap) |",
        *([] if silhouette is None else [f"| macro-silhouette | {silhouette:.4f} | |"]),
        "",
        "The intervals are those of a finite sample of test texts. This is one run with one seed: they say nothing of "
        "how far another seed would be off.",
        "",
        "## Use",
        "",
        "Embeddings: `SentenceTransformer(folder).encode(texts)`. Classes:",
        "",
        "```python",
        *(_CLASSIFIER_CODE if is_classifier else _ENCODER_CODE).replace("ARGUMENTS", arguments).splitlines(),
        "```",
        "",
        (
            '`pipeline("text-classification", folder)(texts, truncation=True)` says the same. The classifier is '
            "one linear layer on the embedding, written as the architecture's head with weights that cancel its "
            "activation: to train on from here, take the encoder and a new head."
            if is_classifier
            else "The architecture's own classification head cannot carry this one: loading it fails."
        ),
        "",
        "## Limits",
        "",
        f"- Every text is put into one of the {len(result['labels'])} classes, also one that belongs to none of them.",
        "- Probabilities are a softmax of the logits; they have not been calibrated.",
        f"- Of a text longer than {model['max_length']} tokens the rest is not read.",
        "- Texts of another source, time or language than the training texts may fare worse than the table says.",
        "- What is wrong or one-sided in the training texts, their labels or the pretrained encoder is likely in here.",
        "",
        "## Citation",
        "",
        "The method: Sharma, Agarwal, Kumar: *G-Loss: Graph-Guided Fine-Tuning of Language Models*, LoG 2025, "
        "[arXiv:2604.25853](https://arxiv.org/abs/2604.25853).",
        "",
    ])  # fmt: skip


def _names(labels: list[str]) -> str:
    shown = ", ".join(" ".join(label.replace("|", "\\|").split()) for label in labels[:60])
    return shown if len(labels) <= 60 else f"{shown} … ({len(labels)} in all, in config.json)"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
