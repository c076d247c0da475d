"""Multiple-choice questions with one option per row: splits by question, and the accuracy by question."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from gloss.config import DatasetConfig
from gloss.data.datasets import load_dataset
from gloss.data.splits import right_class
from gloss.errors import DataError
from gloss.training.metrics import grouped_accuracy
from gloss.training.run import train

WORDS = ["apple", "pear", "plum", "saw", "drill", "rain", "wind"]


def options(path: Path, num_questions: int = 40, num_options: int = 4, right: str = "1") -> Path:
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["question", "option", "id", "label"])
        for q in range(num_questions):
            for o in range(num_options):
                label = right if o == q % num_options else "0"
                option = f"{WORDS[o]} {'good' if label == right else 'bad'}"
                out.writerow([f"{WORDS[q % 7]} {WORDS[q % 5]} {q}", option, f"q{q}", label])
    return path


def config(path: Path) -> DatasetConfig:
    return DatasetConfig(name="mcq", source="csv", path=str(path), text=["question", "option"], group="id")


def test_grouped_accuracy_equals_a_loop_over_questions():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(300), 4)
    labels = np.eye(4, dtype=int)[rng.integers(0, 4, 300)].ravel()
    order = rng.permutation(len(groups))
    groups, labels = groups[order], labels[order]
    logits = rng.normal(size=(len(groups), 2)) + 0.5 * np.stack([1 - labels, labels], axis=1)
    hits = []
    for q in range(300):
        rows = [i for i in range(len(groups)) if groups[i] == q]
        hits.append(labels[max(rows, key=lambda i: logits[i, 1] - logits[i, 0])])
    assert grouped_accuracy(logits, labels, groups, 1) == pytest.approx(100 * np.mean(hits))
    assert 25 < grouped_accuracy(logits, labels, groups, 1) < 100
    assert grouped_accuracy(np.zeros_like(logits), labels, groups, 1) == 0  # equal logits are right for no question
    flipped = grouped_accuracy(logits[:, ::-1], 1 - labels, groups, 0)
    assert flipped == grouped_accuracy(logits, labels, groups, 1)


def test_right_class_occurs_once_in_each_question():
    groups = np.array(["a", "a", "a", "b", "b"])
    assert right_class(np.array([0, 1, 0, 1, 0]), groups) == 1
    assert right_class(np.array([1, 0, 1, 0, 1]), groups) == 0
    assert right_class(np.array([0, 1, 1, 1, 0]), groups) == 0
    assert right_class(np.array([0, 0, 0, 1, 0]), groups) is None
    assert right_class(np.array([0, 1, 2, 1, 0]), groups) is None


def test_no_question_is_in_two_splits(tmp_path):
    dataset = load_dataset(config(options(tmp_path / "a.csv")), tmp_path, seed=1)
    parts = {part: set(split.groups) for part, split in dataset.splits.items()}
    assert sum(map(len, parts.values())) == 40 == len(set.union(*parts.values())) and len(parts["test"]) == 4
    assert "test is 16 of the 160 training texts (whole groups, the same whatever the seed)" in dataset.notes[0]
    assert all(len(text) == 2 for split in dataset.splits.values() for text in split.texts)
    other = load_dataset(DatasetConfig(**{**vars(config(tmp_path / "a.csv")), "group": None}), tmp_path, seed=1)
    assert other.fingerprint != dataset.fingerprint  # the fingerprint includes the groups


def test_questions_without_one_right_option_are_refused(tmp_path):
    cfg, test = config(options(tmp_path / "a.csv")), options(tmp_path / "b.csv", num_questions=3)
    test.write_text(test.read_text().replace(",q1,1", ",q1,0"))
    cfg.test_path = str(test)
    with pytest.raises(DataError, match="exactly once in each group: the right option"):
        load_dataset(cfg, tmp_path, seed=1)


def test_a_run_reports_grouped_accuracy(tiny_config, tmp_path):
    path = options(tmp_path / "a.csv")
    columns = "dataset.text=[question,option]", "dataset.group=id", f"dataset.path={path}"
    cfg = tiny_config("loss=ce", "trainer.max_epochs=1", *columns)
    record = train(cfg)
    for part in ("val", "test"):
        arrays, split = record.predictions(), load_dataset(cfg.dataset, "", 1).splits[part]
        expected = grouped_accuracy(arrays[f"{part}_logits"], arrays[f"{part}_labels"], split.groups, 1)
        assert record.result["metrics"][part]["grouped_accuracy"] == expected
