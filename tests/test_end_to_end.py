"""The command line from training to report: a few runs with a tiny encoder on real texts."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ASCII_LOCALE, TINY, run_python

from gloss.records.reading import read_records
from gloss.training.metrics import classification_metrics

FILES = set("config.yaml environment.json epochs.jsonl predictions.npz result.json DONE lock".split())
OVERRIDES = [word for word in TINY if not word.startswith(("dataset=", "trainer.save_model="))]
OVERRIDES += ["dataset=docstrings", "dataset.train_limit=64"]


def script(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = run_python(f"scripts/{name}", *arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a sweep of two losses and two seeds, in an ASCII locale."""
    folder = tmp_path_factory.mktemp("end-to-end") / "outputs"
    arguments = ["-m", *OVERRIDES, "loss=ce,gloss_sqrt", "seed=1,2", f"paths.outputs={folder}"]
    sweep = script("train.py", *arguments, **ASCII_LOCALE)
    assert sweep.stdout.count("test accuracy") == 4 and sweep.stdout.isascii()
    return folder


def test_every_run_leaves_a_complete_record(outputs: Path):
    records, problems = read_records(outputs)
    assert len(records) == 4 and not problems
    for record in records:
        assert {path.name for path in record.folder.iterdir()} == FILES
        result, arrays = record.result, record.predictions()
        for split in ("val", "test"):
            again = classification_metrics(arrays[f"{split}_logits"], arrays[f"{split}_labels"])
            assert again["accuracy"] == pytest.approx(result["metrics"][split]["accuracy"])
            assert again["macro_f1"] == pytest.approx(result["metrics"][split]["macro_f1"])
        rows = record.epochs()
        assert [row["epoch"] for row in rows] == [1, 2]
        assert result["best_epoch"] == 1 + int(np.argmax([row["score"] for row in rows]))
        assert yaml.safe_load((record.folder / "config.yaml").read_text()) == result["config"]
        assert json.loads((record.folder / "environment.json").read_text())["device"] == "cpu"
        assert 0 < result["seconds"]["training"] < result["seconds"]["total"]
        parts = {"data", "forward", "loss", "backward", "optimizer", "evaluation", "total"}
        graph = {"graph", "propagation"} if result["identity"]["loss"] == "gloss_sqrt" else set()
        assert set(rows[0]["seconds"]) == parts | graph


def test_the_report_is_made_from_the_records(outputs: Path):
    done = script("report.py", f"paths.outputs={outputs}")
    page = outputs / "report" / "index.html"
    assert str(page) in done.stdout and page.is_file()
    with (outputs / "report" / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["loss"] for row in rows] == ["ce", "gloss_sqrt"]
    for row in rows:
        records = [record for record in read_records(outputs)[0] if record.identity.loss == row["loss"]]
        found = [record.result["metrics"]["test"]["accuracy"] for record in records]
        assert float(row["accuracy"]) == pytest.approx(np.mean(found)) and len(found) == 2
