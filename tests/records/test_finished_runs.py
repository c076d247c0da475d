"""A finished run asked for once more: the hash of its code, its weights."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

import gloss
from gloss.cli.hydra_main import main
from gloss.config import Config
from gloss.records.run_folder import code_hash
from gloss.training import run as training
from gloss.training.callbacks import Callback
from gloss.training.run import train


def composed(*words: str) -> Config:
    """The configuration that scripts/train.py would run."""
    seen: list[Config] = []
    assert main(lambda cfg, is_sweep: seen.append(cfg), list(words)) == 0
    return seen[0]


def test_code_hash_covers_the_modules_that_can_change_results(tmp_path):
    package = Path(gloss.__file__).parent
    before = code_hash(package)
    matter = ("losses/gloss.py", "config.py", "runtime/device.py")
    for changed in (*matter, "runtime/atomic.py", "report/tables/results.py", "training/progress_bar.py"):
        copy = tmp_path / changed.replace("/", "-")
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
        with (copy / changed).open("a") as file:
            file.write("\n")
        assert (code_hash(copy) != before) is (changed in matter), changed


def test_a_run_finished_with_other_code_shows_its_score(tiny_config, monkeypatch, capsys):
    cfg = tiny_config("loss=ce", "trainer.max_epochs=1")
    record = train(cfg)
    assert record.result["code"] == code_hash()
    capsys.readouterr()
    train(cfg)
    same = capsys.readouterr().out
    assert "other code" not in same and "test accuracy" in same and "validation accuracy" in same
    monkeypatch.setattr(training, "code_hash", lambda: "0123456789ab")
    assert train(cfg).result == record.result
    output = capsys.readouterr().out
    assert f"with other code than now ({record.result['code']}, now 0123456789ab)" in output
    assert f"test accuracy {record.result['metrics']['test']['accuracy']:.2f}" in output
    assert "rerun=true trains it again" in output


def test_the_recorded_code_is_that_of_the_start(tiny_config, monkeypatch):
    monkeypatch.setattr(training, "code_hash", lambda: "at the start")
    edit = Callback()
    edit.on_epoch = lambda row: monkeypatch.setattr(training, "code_hash", lambda: "later")
    assert train(tiny_config("loss=ce", "trainer.max_epochs=1"), callbacks=[edit]).result["code"] == "at the start"


@pytest.mark.parametrize(
    ("words", "is_kept"),
    [
        (["dataset=mr"], True),
        (["-m", "dataset=mr"], False),
        (["-m", "dataset=mr", "trainer.save_model=true"], True),
        (["dataset=mr", "trainer.save_model=false"], False),
        (["-m", "dataset=csv", "dataset.path=x.csv"], True),
        (["-m", "experiment=few_shot", "dataset=mr", "model=bert", "loss=ce", "dataset.train_limit=64"], False),
        (["experiment=demo", "model=minilm", "loss=ce", "seed=1"], False),
    ],
)
def test_weights_are_kept_for_single_runs_and_own_texts(words: list[str], is_kept: bool, monkeypatch):
    monkeypatch.setenv("YES", "1")
    assert (composed("loss=ce", "seed=1", *words).trainer.save_model is not False) is is_kept


def test_the_library_logs_and_prints_nothing(tiny_config, capsys, caplog):
    logger = logging.getLogger("gloss")
    logger.handlers, logger.propagate = [], True  # as in a program that uses gloss as a library
    caplog.set_level(logging.INFO, "gloss")
    record = train(tiny_config("loss=ce", "trainer.max_epochs=1"))
    assert capsys.readouterr() == ("", "")
    output = [one.getMessage() for one in caplog.records]
    assert any("epoch 1 · loss " in text for text in output) and any(str(record.folder) in text for text in output)


def test_a_finished_run_without_weights_is_trained_again_on_request(tiny_config, caplog):
    caplog.set_level(logging.INFO, "gloss")
    logging.getLogger("gloss").propagate = True
    record = train(tiny_config("loss=ce", "trainer.save_model=false"))
    assert not (record.folder / "model").exists()
    assert train(tiny_config("loss=ce", "trainer.save_model=auto")).result == record.result
    assert "its weights were not kept; trainer.save_model=true" in caplog.text
    caplog.clear()
    again = train(tiny_config("loss=ce", "trainer.save_model=true"))
    assert "is finished, without its weights: it is trained again to keep them" in caplog.text
    assert again.folder == record.folder and (again.folder / "model").is_dir()
    assert again.result["metrics"] == record.result["metrics"]
    caplog.clear()
    train(tiny_config("loss=ce", "trainer.save_embeddings=true"))
    assert "its embeddings were not kept; rerun=true trains it again" in caplog.text
