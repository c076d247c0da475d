"""A trained run as a model folder."""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from pathlib import Path

import torch
import transformers

from gloss.errors import RunError
from gloss.models.saved_model import load_model, model_folder
from gloss.records.reading import Record
from gloss.runtime.atomic import atomic_folder


def export(record: Record, to: Path) -> Path:
    """Copy a run's model to the new folder `to`, after loading it once; also write ONNX if onnxscript is installed.

    Raises RunError where the model cannot be loaded or `to` exists.
    """
    source = model_folder(record)
    if to.exists():
        raise RunError(f"to={to} exists already: give the name of a folder that does not exist, or remove it")
    load_model(source)
    with atomic_folder(to) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
        if importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxscript"):
            _write_onnx(temporary)
    return to


def _write_onnx(folder: Path) -> None:
    """Write onnx/model.onnx, if the stock classifier contains our head.

    Inputs: the tokenizer's, int64 [batch, length]; output: logits [batch, C]; batch and length are free.
    """
    options = {"local_files_only": True, "trust_remote_code": False}
    config = transformers.AutoConfig.from_pretrained(folder, **options)
    if not any(name.endswith("ForSequenceClassification") for name in config.architectures or ()):
        return
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, **options).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    inputs = dict(tokenizer(["one text", "another, longer text"], padding=True, return_tensors="pt"))
    (folder / "onnx").mkdir()
    with warnings.catch_warnings(action="ignore"):  # of the exporter, on its own code
        shapes = {name: {0: "batch", 1: "length"} for name in inputs}
        torch.onnx.export(
            model, (), folder / "onnx" / "model.onnx", kwargs=inputs, dynamic_shapes=shapes,
            output_names=["logits"], external_data=False, verbose=False,
        )  # fmt: skip
