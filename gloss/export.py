"""A trained model as a folder that other programs load, and back.

The folder is an encoder and a sequence classifier of transformers and a model of sentence-transformers at once. The
linear head lies in it twice: inside the stock classifier (see `gloss.stock_head`), and as it is in `head.safetensors`.
"""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.metrics import confusion_matrix

from gloss.atomic import atomic_folder
from gloss.encoder import Classifier, Encoder, pretrained
from gloss.runs import Record, RunError
from gloss.stock_head import stock_classifier

NUM_RESAMPLES = 2000  # behind the interval of macro-F1
MAX_BYTES = 64 * 2**20  # of a file that is not weights; the largest tokenizer.json of known encoders has 17 MB
# Keys by which a config.json could have code fetched, other weights read, or as many label names made as it likes.
REFUSED_KEYS = (
    "auto_map",
    "quantization_config",
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "transformers_weights",
    "num_labels",
)


def save_model(
    folder: Path,
    model: Classifier,
    tokenizer: transformers.PreTrainedTokenizerBase,
    result: dict[str, Any],
    predictions: dict[str, np.ndarray],
) -> None:
    """Write encoder, tokenizer, head, label names and model card; the folder appears whole or not at all.

    result: what result.json holds; predictions: `test_labels` int [N] and `test_logits` float [N, C], for the card.
    """
    stock, is_classifier = stock_classifier(model, result["labels"])
    max_length = result["config"]["model"]["max_length"]
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = max_length
    if getattr(tokenizer, "backend_tokenizer", None) is not None:  # left over from the last call
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    with atomic_folder(folder) as temporary:
        stock.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        head = {name: value.detach().float().cpu().contiguous() for name, value in model.head.state_dict().items()}
        save_file(head, temporary / "head.safetensors", metadata={"format": "pt"})
        # The oldest spelling of each file, which every release of sentence-transformers reads.
        kind = "sentence_transformers.models"
        _write(temporary / "modules.json", [
            {"idx": 0, "name": "0", "path": "", "type": f"{kind}.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kind}.Pooling"},
        ])  # fmt: skip
        _write(temporary / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
        pooling = {"word_embedding_dimension": model.encoder.embedding_dim, "pooling_mode_cls_token": True}
        _write(temporary / "1_Pooling" / "config.json", {**pooling, "pooling_mode_mean_tokens": False})
        _write(temporary / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
        (temporary / "README.md").write_text(model_card(result, predictions, is_classifier), encoding="utf-8")


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ loading


def load_model(folder: Path) -> tuple[Classifier, transformers.PreTrainedTokenizerBase, list[str], int]:
    """What `save_model` wrote: classifier in evaluation mode on the CPU, tokenizer, label names, most tokens of a text.

    The folder may come from anywhere: weights are read from safetensors only, no remote code is run, nothing is
    fetched, links are not followed, and a model larger than its weights is not built. Raises RunError where it is not
    what `save_model` writes.
    """
    folder = Path(folder)
    config = _checked_config(folder)
    try:
        labels = [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
        max_length = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
        if not all(isinstance(label, str) for label in labels) or not isinstance(max_length, int):
            raise ValueError("label names must be text, and max_seq_length a whole number")
        head = load_file(folder / "head.safetensors")
        if len(head["weight"]) != len(labels):
            raise ValueError(f"the head has {len(head['weight'])} classes, config.json names {len(labels)}")
        _check_size(folder, config)
        transformer = pretrained(folder, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = Classifier(Encoder(transformer), len(labels))
        model.head.load_state_dict(head)
    except Exception as error:  # a damaged file raises whatever its reader thought of
        reason = " ".join(str(error).split())[:300]
        raise RunError(f"{folder} cannot be loaded ({type(error).__name__}: {reason}): export the run again") from None
    return model.eval(), tokenizer, labels, max_length


def _checked_config(folder: Path) -> dict[str, Any]:
    """config.json, after a look at what transformers would be led to do by the folder."""
    if not (folder / "config.json").is_file():
        raise RunError(f"{folder} holds no exported model: it has no config.json")
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            raise RunError(f"{path} is a link, and links are not followed: copy the file there")
        if not (path.is_file() or path.is_dir()):
            raise RunError(f"{path} is neither a file nor a folder, and reading it may never end: take it out")
        if path.is_file() and path.suffix != ".safetensors" and path.stat().st_size > MAX_BYTES:
            raise RunError(f"{path} has more than {MAX_BYTES // 2**20} MB, which no file of ours has: take it out")
    if (folder / "adapter_config.json").exists():
        raise RunError(f"{folder} has an adapter_config.json, by which other weights would be loaded: remove it")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        refused = [key for key in REFUSED_KEYS if config.get(key) is not None]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise RunError(f"{folder / 'config.json'} cannot be read: {error}") from None
    if refused:
        raise RunError(f"{folder / 'config.json'} sets {', '.join(refused)}, which our exports never do: take it out")
    return config


def _check_size(folder: Path, settings: dict[str, Any]) -> None:
    """Raise ValueError where config.json asks for more than the file of weights holds, before room is made for it."""
    with safe_open(folder / "model.safetensors", "pt") as file:  # reads the header only
        sizes = [math.prod(file.get_slice(key).get_shape()) for key in file.keys()]
    layers = max((n for key, n in settings.items() if "layer" in key and isinstance(n, int)), default=0)
    if layers > len(sizes):  # even the outline below would take long
        raise ValueError(f"config.json asks for {layers:,} layers, the weights are {len(sizes)} tensors")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):  # shapes without numbers
        outline = transformers.AutoModel.from_config(config, trust_remote_code=False)
    wanted = sum(value.numel() for value in outline.state_dict().values())
    if wanted > 2 * sum(sizes):  # not once: the pooler is not in the file
        raise ValueError(f"config.json asks for {wanted:,} numbers, the weights hold {sum(sizes):,}")


def model_folder(record: Record) -> Path:
    """Where a run's weights lie. Raises RunError, saying how to get them, where they were not kept."""
    folder = record.folder / "model"
    if folder.is_dir() and not folder.is_symlink():
        return folder
    from gloss.command import command_of  # here: it loads Hydra, which predictions do without

    try:
        again = command_of(record.result["config"], "trainer.save_model=true")
    except Exception:  # a record from anywhere, whose configuration may hold anything
        again = f"its own command line with trainer.save_model=true (its settings are in {record.folder}/config.yaml)"
    told = f"{record.folder} holds the results of its run, but not the weights. To train it again and keep them:"
    raise RunError(f"{told}\n  {again}")


def export(record: Record, to: Path) -> Path:
    """Copy a run's model to the new folder `to`, after loading it once. Raises RunError where either cannot be done."""
    source = model_folder(record)
    if to.exists():
        raise RunError(f"to={to} exists already: give the name of a folder that does not exist, or remove it")
    load_model(source)
    with atomic_folder(to) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
    return to


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


_LOSSES = {
    "ce": "cross-entropy",
    "scl_ce": "supervised contrastive loss and cross-entropy",
    "scl": "supervised contrastive loss",
    "triplet": "batch-all triplet loss",
    "cosine": "cosine similarity loss",
    "gloss_sqrt": "G-Loss, σ computed from the pretrained embeddings (G-Loss-SQRT)",
    "gloss_o": "G-Loss, σ given or found by a search (G-Loss-O)",
}


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
        f"| loss | {_LOSSES[identity['loss']]}; {identity['mode']} mode; variant {identity['variant']} |",
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
