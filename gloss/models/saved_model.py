"""A trained model as Hugging Face files (safetensors), written and read."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gloss.errors import RunError
from gloss.models.encoder import Classifier, Encoder
from gloss.models.model_card import model_card
from gloss.models.pretrained import pretrained, without_advice
from gloss.models.stock_head import stock_classifier
from gloss.records.reading import Record
from gloss.runtime.atomic import atomic_folder

MAX_BYTES = 64 * 2**20  # of a file that is not weights; the largest tokenizer.json of known encoders has 17 MB
REFUSED_KEYS = (  # they would fetch code, read other weights, or make any number of label names
    *("auto_map", "quantization_config", "attn_implementation", "_attn_implementation", "experts_implementation"),
    *("transformers_weights", "num_labels"),
)


def save_model(
    folder: Path,
    model: Classifier,
    tokenizer: transformers.PreTrainedTokenizerBase,
    result: dict[str, Any],
    predictions: dict[str, np.ndarray],
) -> None:
    """Write encoder, tokenizer, head, label names and model card; the folder appears whole or not at all.

    result: content of result.json; predictions: `test_labels` int [N] and `test_logits` float [N, C], for the card.
    """
    stock, is_classifier = stock_classifier(model, result["labels"])
    max_length = result["config"]["model"]["max_length"]
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = max_length
    if getattr(tokenizer, "backend_tokenizer", None) is not None:  # left over from the last call
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    # The oldest spelling of each file, which every release of sentence-transformers reads.
    kind = "sentence_transformers.models"
    pooling = {"word_embedding_dimension": model.encoder.embedding_dim, "pooling_mode_cls_token": True}
    content: dict[str, Any] = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": f"{kind}.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kind}.Pooling"},
        ],
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "1_Pooling/config.json": {**pooling, "pooling_mode_mean_tokens": False},
        "config_sentence_transformers.json": {"similarity_fn_name": "cosine"},
    }
    with atomic_folder(folder) as temporary:
        with without_advice():
            stock.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        head = {name: value.detach().float().cpu().contiguous() for name, value in model.head.state_dict().items()}
        save_file(head, temporary / "head.safetensors", metadata={"format": "pt"})
        (temporary / "1_Pooling").mkdir()
        for name, settings in content.items():
            (temporary / name).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(model_card(result, predictions, is_classifier), encoding="utf-8")
        for weights in temporary.glob("*.safetensors"):  # which its library makes readable to this user alone
            shutil.copymode(temporary / "README.md", weights)


# ------------------------------------------------------------------------------------------------------------ loading
def load_model(folder: Path) -> tuple[Classifier, transformers.PreTrainedTokenizerBase, list[str], int]:
    """Read the files of `save_model`: classifier in evaluation mode on the CPU, tokenizer, label names, maximum length.

    The folder may come from anywhere: weights are read from safetensors only, no remote code is run, nothing is
    fetched, links are not followed, and a model larger than its weights is not built. Raises RunError for any content
    that `save_model` does not write.
    """
    folder = Path(folder)
    try:
        _check_files(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if refused := [key for key in REFUSED_KEYS if config.get(key) is not None]:
            raise ValueError(f"config.json sets {', '.join(refused)}, which our exports never do")
        names = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # transformers leaves out its defaults
        labels = [names[str(i)] for i in range(len(names))]
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
    except Exception as error:  # a damaged file can raise anything
        reason = " ".join(str(error).split())[:300]
        raise RunError(f"{folder} cannot be loaded ({type(error).__name__}: {reason}): export the run again") from None
    return model.eval(), tokenizer, labels, max_length


def _check_files(folder: Path) -> None:
    """Raise ValueError for links, special files, adapters and files that are too large."""
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path.name} is a link, or neither a file nor a folder")  # a pipe would never end
        if path.name == "adapter_config.json":
            raise ValueError("by its adapter_config.json other weights would be loaded")
        if path.suffix not in (".safetensors", ".onnx") and path.is_file() and path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.name} has more than {MAX_BYTES // 2**20} MB, which no file of ours has")


def _check_size(folder: Path, settings: dict[str, Any]) -> None:
    """Raise ValueError where config.json asks for more than the file of weights holds, before memory is allocated."""
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
    """The folder of a run's weights. Raises RunError where they were not kept."""
    folder = record.folder / "model"
    if folder.is_dir() and not folder.is_symlink():
        return folder
    raise RunError(
        f"{record.folder} holds the results of its run, but not the weights: its command with trainer.save_model=true "
        "trains it again and keeps them (its settings are in config.yaml)"
    )
