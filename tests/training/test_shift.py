"""Domain shift: tests on another data set, without the texts of training and validation."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import folder_of

from gloss.cli.hydra_main import main
from gloss.config import AblationConfig, Config, DatasetConfig, PathsConfig
from gloss.data.datasets import TextDataset, load_dataset
from gloss.data.splits import Split
from gloss.errors import ConfigError, DataError
from gloss.experiments.grid import expand_grid
from gloss.training.run import train
from gloss.training.texts import load_test, other_set, shifted_test


def texts(*words: str) -> Split:
    n = len(words)
    return Split([(w,) for w in words], np.arange(n) % 2, np.arange(n))


def own() -> TextDataset:
    splits = {"train": texts("A fine film .", "dull"), "val": texts("it 's ok"), "test": texts("only tested here")}
    return TextDataset("mr", ["negative", "positive"], splits, "0", None)


def kept_of(monkeypatch, *words: str) -> Split:
    other = TextDataset("sst2", ["negative", "positive"], {"test": texts(*words)}, "1", None)
    monkeypatch.setattr("gloss.training.texts.load_dataset", lambda cfg, data_dir, seed: other)
    cfg = Config(ablation=AblationConfig(test_on="sst2"), paths=PathsConfig("", ""))
    return shifted_test(cfg, own(), "sst2")


def test_training_texts_are_left_out_ignoring_case_and_punctuation(monkeypatch, capsys):
    kept = kept_of(monkeypatch, "a fine film", "new", "It's OK!", "only tested here", "dull ?", "a fine films")
    assert kept.texts == [("new",), ("only tested here",), ("a fine films",)]  # of its own test split, too
    assert kept.rows.tolist() == [1, 3, 5] and kept.labels.tolist() == [1, 1, 1]
    assert "test_on sst2: 3 of 6 texts are left out, because mr trains or validates on them" in capsys.readouterr().err


def test_an_empty_rest_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="it trains on all these texts"):
        kept_of(monkeypatch, "A fine film", "DULL")


@pytest.mark.skipif(
    not os.environ.get("GLOSS_DATA_DIR"),
    reason="the texts of mr and sst2 may not be distributed: `make data`, then set GLOSS_DATA_DIR",
)
def test_mr_and_sst2_overlap_by_the_documented_counts():
    data = os.environ["GLOSS_DATA_DIR"]
    for name, other, num_kept in (("mr", "sst2", 872 - 486), ("sst2", "mr", 3554 - 1858)):
        cfg = Config(ablation=AblationConfig(test_on=other), paths=PathsConfig(data, ""))
        assert len(shifted_test(cfg, load_dataset(DatasetConfig(name=name), data, 1), other)) == num_kept


def shift_file(path: Path, *rows: str) -> str:
    path.write_text("text,label\n" + "".join(f"{row}\n" for row in rows))
    return str(path)


def test_ablation_test_on_one_or_several_data_sets(tiny_config, toy_csv, tmp_path, capsys):
    """They are tested with the weights of the run without them, and without its training and validation texts."""
    trained_on = toy_csv.read_text().splitlines()[1:]
    one = shift_file(tmp_path / "one.csv", "a ripe plum,fruit", "storm and hail,weather", *trained_on)
    two = shift_file(tmp_path / "two.csv", "a blunt saw,tool")
    plain, single, both = (
        train(tiny_config("loss=ce", "trainer.max_epochs=1", *options))
        for options in ([], [f"ablation.test_on={two}"], [f"ablation.test_on=[{one},{two}]"])
    )
    kept = 2 + plain.result["num_rows"]["test"]  # the texts of its own test split are kept
    assert f"test_on one.csv: {152 - kept} of 152 texts are left out" in capsys.readouterr().err
    for record, names in ((single, {"test_on": 1}), (both, {f"test_on_{one}": kept, f"test_on_{two}": 1})):
        assert record.result["num_rows"] == plain.result["num_rows"] | names
        metrics, arrays = record.result["metrics"], record.predictions()
        assert metrics == plain.result["metrics"] | {name: metrics[name] for name in names}
        for name in names:
            hits = arrays[f"{name}_logits"].argmax(1) == arrays[f"{name}_labels"]
            assert len(hits) == names[name] and metrics[name]["accuracy"] == pytest.approx(100 * hits.mean())
    assert single.result["metrics"]["test_on"] == both.result["metrics"][f"test_on_{two}"]
    assert (single.predictions()["test_on_logits"] == both.predictions()[f"test_on_{two}_logits"]).all()


def test_run_folder_depends_on_the_content_of_the_other_file(tiny_config, tmp_path):
    rows = ("a,fruit", "a,fruit", "b,tool")
    one, same, other = (shift_file(tmp_path / f"{i}.csv", row) for i, row in enumerate(rows))
    first, copy, changed = (folder_of(tiny_config("loss=ce", f"ablation.test_on={x}")) for x in (one, same, other))
    assert first == copy != changed
    given = ["loss=ce", f"ablation.test_on={one}"]
    read = [tiny_config(*given, f"dataset.encoding={name}") for name in ("utf-8", "latin-1", "cp1252")]
    assert len(set(map(folder_of, read))) == 3  # the other file is read in that form, too


def test_a_file_with_another_class_is_refused(tiny_config, tmp_path):
    name = shift_file(tmp_path / "other.csv", "a ripe plum,fruit", "a shoe,clothes")
    with pytest.raises(ConfigError, match=r"cannot test dataset=csv: its classes \['clothes', 'fruit'\] are not"):
        train(tiny_config("loss=ce", f"ablation.test_on={name}"))
    for name in ("data.jsonl", "nowhere"):
        with pytest.raises(ConfigError, match=f"ablation.test_on={name} is not allowed: expected a .csv or .tsv file"):
            train(tiny_config("loss=ce", f"ablation.test_on={name}"))
    with pytest.raises(DataError, match="gone.csv: cannot be read"):
        train(tiny_config("loss=ce", "ablation.test_on=gone.csv"))


def test_other_set_parses_hub_names_with_revision():
    own = DatasetConfig(name="mine", source="csv", path="a.csv", text=["title", "body"], label="class")
    found = other_set(own, "hub:owner/name:subset@abc")
    assert (found.source, found.path, found.revision, found.text, found.label) == (
        *("hub", "owner/name:subset", "abc", ["title", "body"], "class"),
    )
    assert other_set(own, "mr") == DatasetConfig(name="mr")
    assert other_set(own, "qnli").text == ["question", "sentence"]


def test_a_folder_as_hub_set_gives_its_test_split(tmp_path):
    for part, row in (("train", "x y,a"), ("test", "z,b")):
        shift_file(tmp_path / f"{part}.csv", row)
    labels, split = load_test(other_set(DatasetConfig(name="mine"), f"hub:{tmp_path}"), ["a", "b", "c"])
    assert labels == ["a", "b", "c"] and (split.texts, split.labels.tolist()) == ([("z",)], [1])
    (tmp_path / "train.csv").unlink()
    assert load_test(other_set(DatasetConfig(name="mine"), f"hub:{tmp_path}"), ["a", "b", "c"])[1].texts == [("z",)]
    with pytest.raises(DataError, match="no split named train with labels, only test"):
        load_dataset(DatasetConfig(name="mine", source="hub", path=str(tmp_path)), "", 1)


def test_a_data_set_without_another_domain_is_refused(capsys):
    with pytest.raises(ConfigError, match="experiment=shift is not for dataset=r8"):
        expand_grid("shift", ["dataset=r8", "loss=ce", "seed=1"])
    assert main(lambda *_: None, ["experiment=shift", "dataset=r8", "loss=ce", "seed=1"]) == 2
    assert "expected snippets_movie (product, news, tweets), mr or sst2, or another test set" in capsys.readouterr().err
    assert expand_grid("shift", ["dataset=r8", "loss=ce", "ablation.test_on=r52"])[0].config.ablation.test_on == "r52"
