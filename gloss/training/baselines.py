"""Baselines measured on a data set: TF-IDF with a linear SVM, and the frozen encoder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from gloss.config import DatasetConfig, ModelConfig, TrainerConfig, config_file
from gloss.data.datasets import load_dataset
from gloss.data.statistics import measure_texts
from gloss.data.tokens import tokenize
from gloss.errors import ConfigError, DataError
from gloss.losses.geometry import sqrt_bandwidth
from gloss.models.encoder import Classifier, TokenTable, embed
from gloss.models.pretrained import load_encoder, load_tokenizer
from gloss.records.run_folder import write_arrays, write_json
from gloss.runtime.device import choose_device, choose_precision
from gloss.training.graph_quality import DEFAULT_GAMMA, graph_quality
from gloss.training.metrics import best_k, classification_metrics, macro_silhouette, nearest_labels, vote
from gloss.training.probe import logistic_probe
from gloss.training.sigma import SIGMA_SAMPLE

log = logging.getLogger(__name__)

STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)  # C of the linear classifier: a larger one regularises less
SCALES = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0, 2.0)  # of G-Loss-SQRT's σ, at which a frozen encoder's graph is measured


def measure(
    kinds: Sequence[str],
    datasets: Sequence[str | DatasetConfig],
    tokenizer: str,
    data_dir: str | Path,
    outputs: str | Path,
    models: Sequence[str | ModelConfig] = (),
    save_embeddings: bool = False,
) -> None:
    """Measure "texts" and "tfidf" of each data set, and "frozen" with each of `models`, as `kinds` has them.

    datasets and models: names in configs, or configurations; tokenizer: a name; save_embeddings: of the test texts, by
    the frozen encoders. A set without texts is reported and skipped, so that the others are still measured. Raises
    ConfigError for an unknown name.
    """
    if unknown := sorted(set(kinds) - {"texts", "tfidf", "frozen"}):
        raise ConfigError(f"measure={','.join(unknown)} is not allowed: expected some of texts, tfidf, frozen")
    encoders = [_read("model", model, ModelConfig) for model in models if "frozen" in kinds]
    tokens = load_tokenizer(_read("model", tokenizer, ModelConfig)) if "texts" in kinds else None
    for given in datasets:
        cfg = _read("dataset", given, DatasetConfig)
        name = cfg.name
        try:
            if "texts" in kinds:
                measure_texts(cfg, data_dir, tokens, outputs, tokenizer)
            if "tfidf" in kinds:
                record = measure_tfidf(cfg, data_dir, outputs)
                log.info(f"{name}: TF-IDF with a linear classifier: test accuracy {record['test']['accuracy']:.2f} %")
            for model in encoders:
                record = measure_frozen(cfg, model, data_dir, outputs, save_embeddings)
                shown = f"{record['test']['accuracy']:.2f} %, nearest neighbours {record['test']['knn_accuracy']:.2f} %"
                log.info(f"{name}: frozen {model.alias} with a logistic probe: test accuracy {shown}")
        except DataError as error:
            log.warning("%s is not measured: %s", name, error)


def _read(group: str, name: Any, schema: type) -> Any:
    if isinstance(name, schema):
        return name
    cfg: Any = OmegaConf.merge(OmegaConf.structured(schema), config_file(group, str(name)))
    if OmegaConf.missing_keys(cfg) or cfg.get("source") in ("csv", "hub") and cfg.path is None:
        raise ConfigError(f"{group}={name} is not allowed here: its file in configs/{group} names no texts or encoder")
    return OmegaConf.to_object(cfg)


def measure_tfidf(cfg: DatasetConfig, data_dir: str | Path, outputs: str | Path) -> dict[str, Any]:
    """TF-IDF of words and word pairs with a linear SVM, for Table 5: <outputs>/baselines/tfidf-<name>.json.

    Trained on the training split; the regularisation is the one with the best validation accuracy (the strongest of
    equals); the test split is scored once. Deterministic. Raises DataError.
    """

    dataset = load_dataset(cfg, data_dir, seed=0)
    texts = {part: [" ".join(text) for text in split.texts] for part, split in dataset.splits.items()}
    labels = {part: split.labels for part, split in dataset.splits.items()}
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    features = {"train": vectorizer.fit_transform(texts["train"])}
    features |= {part: vectorizer.transform(texts[part]) for part in ("val", "test")}
    fitted = [
        LinearSVC(C=c, random_state=0, max_iter=20_000).fit(features["train"], labels["train"]) for c in STRENGTHS
    ]
    scores = [float((classifier.predict(features["val"]) == labels["val"]).mean()) for classifier in fitted]
    best = int(np.argmax(scores))  # the first of equals
    predicted = fitted[best].predict(features["test"])
    record: dict[str, Any] = {
        "dataset": cfg.name,
        "method": "TF-IDF (words and word pairs, in at least 2 texts, sublinear) + linear SVM",
        "C": STRENGTHS[best],
        "num_features": len(vectorizer.vocabulary_),
        "fingerprint": dataset.fingerprint,
        "num_rows": {part: len(split.labels) for part, split in dataset.splits.items()},
        "val": {"accuracy": 100 * scores[best]},
        "test": classification_metrics(np.eye(len(dataset.labels))[predicted], labels["test"]),
    }
    write_json(Path(outputs) / "baselines" / f"tfidf-{cfg.name}.json", record)
    return record


def measure_frozen(
    cfg: DatasetConfig, model_cfg: ModelConfig, data_dir: str | Path, outputs: str | Path, save_embeddings: bool = False
) -> dict[str, Any]:
    """The frozen pretrained encoder with standalone mode's probe and with nearest neighbours, for Tables 2 and 3:
    <outputs>/baselines/frozen-<name>-<model>.json, and with `save_embeddings` the test embeddings in .npz beside it.

    The probe's regularisation and the number of neighbours are chosen on validation; the test split is scored once.
    "graph" is the quality of the validation graph before training, in batches of 128, at SCALES of G-Loss-SQRT's σ
    (empty where all embeddings are the same, or where there is one text). `cfg.train_limit` texts are drawn with seed
    1. Raises DataError, and ConfigError for the encoder.
    """
    dataset, tokenizer = load_dataset(cfg, data_dir, seed=1), load_tokenizer(model_cfg)
    device = choose_device("auto")
    precision = choose_precision(TrainerConfig(), device)
    model = Classifier(load_encoder(model_cfg), len(dataset.labels)).to(device)
    z, y = {}, {part: split.labels for part, split in dataset.splits.items()}
    for part, split in dataset.splits.items():
        tokens = tokenize(split.texts, tokenizer, model_cfg.max_length)
        table = TokenTable.build(tokens, tokenizer.pad_token_id, device)
        z[part] = embed(model, table, device, precision).cpu().numpy()
    weight, bias, settings = logistic_probe(z["train"], y["train"], z["val"], y["val"], len(dataset.labels))
    nearest = {part: nearest_labels(z["train"], y["train"], z[part]) for part in ("val", "test")}
    k = best_k(nearest["val"], y["val"])
    record: dict[str, Any] = {
        "dataset": cfg.name,
        "model": model_cfg.alias,
        "model_name": model_cfg.name,
        "model_revision": model_cfg.revision,
        "method": "pretrained encoder, first token, + logistic regression; nearest neighbours at unit length",
        **settings,
        "num_neighbours": k,
        "precision": precision,
        "fingerprint": dataset.fingerprint,
        "num_rows": {part: len(labels) for part, labels in y.items()},
    }
    for part in ("val", "test"):
        knn_accuracy = 100 * float((vote(nearest[part], k) == y[part]).mean())
        silhouette = macro_silhouette(torch.from_numpy(z[part]), torch.from_numpy(y[part]))
        metrics = classification_metrics(z[part] @ weight.T + bias, y[part])
        record[part] = {**metrics, "knn_accuracy": knn_accuracy, "macro_silhouette": silhouette}
    sample = np.random.default_rng(1).permutation(len(z["train"]))[:SIGMA_SAMPLE]
    sigmas: list[float] = []
    with contextlib.suppress(ValueError):
        sqrt_sigma = sqrt_bandwidth(torch.from_numpy(z["train"][sample]))
        sigmas = [scale * sqrt_sigma for scale in SCALES]
    val = torch.from_numpy(z["val"]), torch.from_numpy(y["val"])
    graph: Any = {"gamma": DEFAULT_GAMMA, "num_classes": len(dataset.labels), "batch_size": 128}
    record["graph"] = [
        {"sigma": sigma, "scale": scale} | quality
        for sigma, scale in zip(sigmas, SCALES, strict=False)
        if (quality := graph_quality(*val, sigma=sigma, **graph))
    ]
    path = Path(outputs) / "baselines" / f"frozen-{cfg.name}-{model_cfg.alias}.json"
    write_json(path, record)
    if save_embeddings:
        write_arrays(path.with_suffix(".npz"), test_embeddings=z["test"].astype(np.float16))
    return record
