"""Domain shift: the other set's test split, without what the run has seen in training or validation."""

from __future__ import annotations

import os

import numpy as np
import pytest

from gloss import train
from gloss.cli import main
from gloss.config import AblationConfig, Config, ConfigError, DatasetConfig, PathsConfig
from gloss.data import Split, TextDataset, load_dataset
from gloss.experiments import compose_cells


def texts(*words: str) -> Split:
    n = len(words)
    return Split([(w,) for w in words], np.arange(n) % 2, np.arange(n))


def own() -> TextDataset:
    splits = {"train": texts("A fine film .", "dull"), "val": texts("it 's ok"), "test": texts("only tested here")}
    return TextDataset("mr", ["negative", "positive"], splits, "0", None)


def shifted_test(monkeypatch, *words: str, labels: tuple[str, ...] = ("negative", "positive")) -> Split:
    other = TextDataset("sst2", list(labels), {"test": texts(*words)}, "1", None)
    monkeypatch.setattr(train, "load_dataset", lambda cfg, data_dir, seed: other)
    return train._shifted_test(Config(ablation=AblationConfig(test_on="sst2"), paths=PathsConfig("", "")), own())


def test_texts_that_the_run_has_seen_are_left_out_whatever_their_case_and_punctuation(monkeypatch, capsys):
    kept = shifted_test(monkeypatch, "a fine film", "new", "It's OK!", "only tested here", "dull ?", "a fine films")
    assert kept.texts == [("new",), ("only tested here",), ("a fine films",)]  # its own test texts it has not seen
    assert kept.rows.tolist() == [1, 3, 5] and kept.labels.tolist() == [1, 1, 1]
    assert "test_on sst2: 3 of 6 texts are left out, because mr trains or validates on them" in capsys.readouterr().err


def test_nothing_left_and_other_classes_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="it trains on all these texts"):
        shifted_test(monkeypatch, "A fine film", "DULL")
    with pytest.raises(ConfigError, match="its classes"):
        shifted_test(monkeypatch, "new", labels=("bad", "good"))


@pytest.mark.skipif("GLOSS_DATA_DIR" not in os.environ, reason="needs the benchmark texts (GLOSS_DATA_DIR)")
def test_the_reviews_of_mr_and_sst2_overlap_as_the_experiment_says():
    data = os.environ["GLOSS_DATA_DIR"]
    for name, other, num_kept in (("mr", "sst2", 872 - 486), ("sst2", "mr", 3554 - 1858)):
        cfg = Config(ablation=AblationConfig(test_on=other), paths=PathsConfig(data, ""))
        assert len(train._shifted_test(cfg, load_dataset(DatasetConfig(name=name), data, 1))) == num_kept


def test_a_set_without_another_domain_is_refused(capsys):
    with pytest.raises(ConfigError, match="experiment=shift is not for dataset=r8"):
        compose_cells("shift", ["dataset=r8", "loss=ce", "seed=1"])
    assert main(lambda *_: None, ["experiment=shift", "dataset=r8", "loss=ce"]) == 2
    assert "expected mr, sst2, or another test set in ablation.test_on" in capsys.readouterr().err
    assert compose_cells("shift", ["dataset=r8", "loss=ce", "ablation.test_on=r52"])[0].config.ablation.test_on == "r52"
