"""The model card of a saved model: model_card.md, filled in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import ModelCard, ModelCardData
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from gloss.losses.registry import LOSSES

NUM_RESAMPLES = 2000  # behind the interval of macro-F1


def macro_f1_interval(labels: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Percentile bootstrap 95 % interval (0 to 1) of macro-F1 over texts; labels and predicted: int [N].

    A resample of texts is a multinomial draw of the cells of the confusion matrix, so none is made text by text. Like
    the metric itself, a resample averages over the classes that occur in it.
    """
    counts = confusion_matrix(labels, predicted)  # [C, C]
    cells = np.flatnonzero(counts)
    share = counts.ravel()[cells] / counts.sum()
    draws = np.random.default_rng(0).multinomial(counts.sum(), share, NUM_RESAMPLES)  # [R, cells]
    truth, guess = np.divmod(cells, len(counts))
    one_hot = np.eye(len(counts))
    hits = draws @ (one_hot[truth] * (truth == guess)[:, None])  # [R, C]
    occurrences = draws @ (one_hot[truth] + one_hot[guess])  # true + predicted = 2 tp + fp + fn
    scores = np.divide(2 * hits, occurrences, out=np.full(hits.shape, np.nan), where=occurrences > 0)
    low, high = np.quantile(np.nanmean(scores, axis=1), (0.025, 0.975))
    return float(low), float(high)


def model_card(result: dict[str, Any], predictions: dict[str, np.ndarray], is_classifier: bool = True) -> str:
    """README.md of an exported model, from the run's record and its test predictions. Holds no path of the machine.

    is_classifier: whether the architecture's own classification head carries ours.
    """
    identity, config, metrics = result["identity"], result["config"], result["metrics"]["test"]
    predicted, truth = predictions["test_logits"].argmax(axis=1), predictions["test_labels"]
    model, labels = config["model"], [" ".join(label.replace("|", "\\|").split()) for label in result["labels"]]
    # A name of the hub or of a package may be published, a folder of this machine may not.
    name = model["name"] if re.fullmatch(r"(package:)?[\w.-]+(/[\w.-]+)?", model["name"]) else identity["model"]
    used = {key: value for key, value in result["hyperparameters"].items() if value is not None}
    data = ModelCardData(
        base_model=name if "/" in name and not Path(name).exists() else None,
        library_name="sentence-transformers",
        pipeline_tag="feature-extraction",
        tags=["sentence-transformers", "feature-extraction", "text-classification", "g-loss"],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(Path(__file__).with_suffix(".md")),
        **{"result": result, "identity": identity, "model": model, "metrics": metrics, "name": name, "labels": labels},
        hyperparameters=[f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in used.items()],
        loss=LOSSES[identity["loss"]].description,
        is_pair=len(config["dataset"]["text"]) == 2,
        is_best=config["variant"]["tested_weights"] == "best",
        num_test=len(truth),
        accuracy=[100 * end for end in binomtest((predicted == truth).sum(), len(truth)).proportion_ci(0.95, "wilson")],
        macro_f1=[100 * end for end in macro_f1_interval(truth, predicted)],
        is_classifier=is_classifier,
    )
    return str(card)
