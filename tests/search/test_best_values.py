"""Values of a search: which runs use them, and the messages about them."""

import hashlib
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from searching import composed, finished, stand_in, without_search

from gloss.cli.hydra_main import main
from gloss.records.run_folder import run_folder
from gloss.report.protocol import protocol_deviations
from gloss.search import worker as tuning
from gloss.search.best_values import read_tuned, settings_of, tuned_file
from gloss.search.worker import tune


def test_runs_use_the_values_of_a_search(settings, monkeypatch, capsys):
    study = finished(settings, monkeypatch)
    best = max(study.trials, key=lambda t: t["value"])
    search = composed("loss=gloss_o", *settings)  # another search does not use the values
    assert search.loss.sigma is None and search.trainer.lr == 2e-5 and search.tuned is True
    settings = without_search(settings)
    cfg = composed("loss=gloss_o", *settings, config_name="train")
    assert {"lr": cfg.trainer.lr, **{k: getattr(cfg.loss, k) for k in ("lam", "gamma", "sigma")}} == best["params"]
    assert cfg.tuned["study"] == study.name and cfg.tuned["file"] == "csv-tiny-integrated-gloss_o-e2.yaml"
    assert cfg.tuned["value"] == best["value"] and cfg.tuned["train_examples"] == 48 and "note" not in cfg.tuned
    # the best trial has the same configuration in another folder
    assert run_folder(cfg, "0" * 64).name == "seed=1"
    assert (study.folder / "runs/csv/tiny/integrated-gloss_o" / run_folder(cfg, "0" * 64).parent.name).is_dir()

    cfg = composed("loss=gloss_o", *settings, "loss.sigma=0.5", config_name="train")
    assert cfg.loss.sigma == 0.5 and cfg.tuned["applied"] == ["loss.gamma", "loss.lam", "trainer.lr"]


def test_runs_use_the_search_of_their_amount_of_data_or_else_the_full_one(settings, monkeypatch, capsys):
    settings = [word for word in settings if not word.startswith("trainer.max_epochs")]
    plain = without_search(settings)

    def applied(*words):
        return composed("loss=gloss_o", *plain, *words, config_name="train").tuned

    full, reduced = finished(settings, monkeypatch), finished(settings, monkeypatch, "trainer.max_epochs=3")
    assert full.name != reduced.name
    assert applied()["study"] == full.name and "note" not in applied()  # the later reduced search has no effect
    assert applied("trainer.max_epochs=3")["study"] == reduced.name and "note" not in applied("trainer.max_epochs=3")
    assert "note: " not in capsys.readouterr().err
    other = applied("trainer.max_epochs=4")
    assert other["study"] == full.name and "searched for 200 epochs at most, this run for 4" in other["note"]
    assert "note: the values of csv-tiny-integrated-gloss_o.yaml" in capsys.readouterr().err
    other = applied("dataset.train_limit=20", "trainer.max_epochs=3")
    assert other["study"] == reduced.name and "searched on 48 training texts, this run is on 20" in other["note"]
    finished(settings, monkeypatch, "dataset.train_limit=20")
    assert applied("dataset.train_limit=20")["file"] == "csv-tiny-integrated-gloss_o-n20.yaml"


def test_a_search_with_other_settings_is_noted_and_deviates(settings, monkeypatch, capsys):
    plain = without_search(settings)
    others = "trainer.patience=7", "ablation.graph_noise=0.5"
    study = finished(settings, monkeypatch, *others)
    capsys.readouterr()
    cfg = composed("loss=gloss_o", *plain, config_name="train")
    assert cfg.tuned["study"] == study.name and cfg.trainer.lr == study.best["params"]["lr"]
    text = "with trainer.patience=7, ablation.graph_noise=0.5, this run is not"
    assert cfg.tuned["note"].endswith(text) and text in capsys.readouterr().err
    found = [x for x in protocol_deviations(asdict(cfg)) if x.startswith("searched with")]
    assert found == [f"searched with {word}" for word in others]
    same = composed("loss=gloss_o", *plain, *others, config_name="train")
    assert "note" not in same.tuned and not [x for x in protocol_deviations(asdict(same)) if "searched with" in x]


def test_settings_of_a_search_include_unlabeled_texts_and_the_margin_but_no_test_set():
    graph = composed("loss=gloss_o", "loss.sigma=0.5", "dataset=mr", "dataset.unlabeled_path=x.csv")
    assert settings_of(graph)["dataset.unlabeled_path"] == "x.csv"
    triplet = composed("loss=triplet", "mode=standalone", "dataset=mr", "loss.margin=1", "ablation.test_on=y.csv")
    found = settings_of(triplet)
    assert found["loss.margin"] == 1 and not [key for key in found if "test_on" in key or "unlabeled" in key]


def test_the_weights_in_a_folder_identify_a_run_and_a_search(settings, monkeypatch, tmp_path, capsys):
    weights = tmp_path / "encoder" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"some")
    encoder = "model=hf", "model.alias=tiny", f"model.name={weights.parent}"
    settings = [*(word for word in settings if word != "model=tiny"), *encoder]
    study = finished(settings, monkeypatch)
    words = "loss=gloss_o", *without_search(settings)
    before = composed(*words, config_name="train")
    assert before.tuned["study"] == study.name
    weights.write_bytes(b"others")
    os.utime(weights, (0, 0))
    capsys.readouterr()
    assert main(lambda *_: None, list(words)) == 2
    assert f"with other weights of {weights.parent}" in capsys.readouterr().err
    after = composed(*words, "loss.sigma=0.5", "tuned=false", config_name="train")
    assert len({run_folder(cfg, "0" * 64) for cfg in (before, after)}) == 2
    assert after.model.sha256 == hashlib.sha256(b"others").hexdigest()


def test_values_of_other_texts_or_another_encoder_are_not_applied(settings, monkeypatch, tmp_path, toy, capsys):
    """csv and hf are the default names of all files and encoders of the user."""
    words = [word for word in settings if not word.startswith(("dataset.path", "trainer.max_epochs", "search."))]
    same = [*words, f"dataset.path={toy}"]
    other_file = tmp_path / "other.csv"
    other_file.write_text(toy.read_text().replace("boat", "ship"))
    study = finished([*same, "search.trials=5"], monkeypatch, "loss=ce")
    found = composed("loss=ce", *same, config_name="train")
    assert found.tuned["study"] == study.name and found.trainer.lr == study.best["params"]["lr"]
    output = f"searched values: trainer.lr={found.trainer.lr:.6g}, from {tuned_file(found)} (tuned=false"
    assert output in capsys.readouterr().err
    others = {
        "on other texts that are called csv too": [*words, f"dataset.path={other_file}"],
        "with the encoder random, this run is with some/encoder at 0123": [
            *(word for word in same if word != "model=tiny"),
            *("model=hf", "model.alias=tiny", "model.name=some/encoder", "model.revision=0123"),
        ],
    }
    for reason, overrides in others.items():
        cfg = composed("loss=ce", *overrides, config_name="train")
        assert cfg.trainer.lr == 2e-5 and cfg.tuned["applied"] == [] and "study" not in cfg.tuned
        assert f"were not applied: they were searched {reason}" in capsys.readouterr().err
    assert main(lambda *_: None, ["loss=gloss_o", *words, f"dataset.path={other_file}"]) == 2
    assert "needs a σ: no file " in capsys.readouterr().err
    again = finished([*words, f"dataset.path={other_file}", "search.trials=5"], monkeypatch, "loss=ce")
    assert again.name != study.name
    assert "which were searched on other texts that are called csv too" in capsys.readouterr().err


def test_searched_values_are_printed_and_can_be_disabled(settings, monkeypatch, capsys):
    best = finished(settings, monkeypatch, "loss=ce").best["params"]["lr"]
    words = ["loss=ce", *(word for word in settings if not word.startswith("search."))]
    capsys.readouterr()
    assert main(lambda *_: pytest.fail("it ran"), ["--cfg", "job", *words]) == 0
    output = capsys.readouterr()
    assert yaml.safe_load(output.out)["trainer"]["lr"] == best and f"trainer.lr={best:.6g}" in output.err
    assert composed(*words, "tuned=false", config_name="train").trainer.lr == 2e-5
    assert composed(*words, "trainer.lr=1e-3", config_name="train").tuned["applied"] == []
    assert "searched values" not in capsys.readouterr().err  # no values were applied
    for word in ("tuned=maybe", "tuned={applied:[trainer.lr],trials:15,search:fair,file:x}"):  # no run forges a search
        assert main(lambda *_: None, [*words, word]) == 2
        assert "expected true or false" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (lambda cfg: 60.0, "all 5 trials tie at 60"),
        (lambda cfg: 20 + cfg.trainer.lr, "no trial beat the majority class, which has 33.3"),
    ],
)
def test_a_search_without_a_useful_result_is_not_applied(settings, monkeypatch, capsys, score, reason):
    monkeypatch.setattr(tuning, "train", stand_in(score))
    assert tune(composed("loss=ce", *settings)).best is not None
    assert reason in capsys.readouterr().err
    words = without_search(settings)
    cfg = composed("loss=ce", *words, config_name="train")
    assert cfg.trainer.lr == 2e-5 and cfg.tuned["applied"] == []
    assert f"were not applied: {reason}" in capsys.readouterr().err


def test_a_standalone_search_is_applied_whatever_the_sign_of_its_silhouettes(settings, monkeypatch, capsys):
    monkeypatch.setattr(tuning, "train", stand_in(lambda cfg: -0.5 - cfg.trainer.lr))
    words = ["loss=scl", "mode=standalone"]
    best = tune(composed(*words, *settings)).best
    assert best["value"] < 0 and "no trial beat" not in capsys.readouterr().err
    assert composed(*words, *without_search(settings), config_name="train").trainer.lr == best["params"]["lr"]


def test_majority_f1_equals_sklearn():
    from sklearn.metrics import f1_score

    for labels in ([0, 0, 1], [2, 0, 1, 1, 2, 2, 2], [0, 1]):
        truth = np.array(labels)
        constant = np.full_like(truth, np.bincount(truth).argmax())
        expected = 100 * f1_score(truth, constant, average="macro", zero_division=0)
        assert tuning.majority_f1(truth) == pytest.approx(expected)


def test_values_set_by_hand_in_a_search_are_applied_with_its_result(settings, monkeypatch):
    finished(settings, monkeypatch, "loss.lam=0.65")
    words = without_search(settings)
    assert composed("loss=gloss_o", *words, config_name="train").loss.lam == 0.65


def test_a_finished_search_is_written_once_and_replaces_other_values(settings, monkeypatch, capsys):
    first = finished(settings, monkeypatch)
    path = Path(first.folder).parents[1] / "tuned" / "csv-tiny-integrated-gloss_o-e2.yaml"
    before = path.stat().st_mtime_ns
    finished(settings, monkeypatch)
    assert path.stat().st_mtime_ns == before
    shutil.rmtree(first.folder)  # and the study is made again, with other values
    monkeypatch.setattr(tuning, "train", stand_in(lambda cfg: 60 - cfg.loss.gamma))
    again = tune(composed("loss=gloss_o", *settings))
    assert again.name == first.name and read_tuned(path)[0]["loss.gamma"] == again.best["params"]["gamma"]
    assert again.best["params"]["gamma"] != first.best["params"]["gamma"]
    second = finished(settings, monkeypatch, "seed=2")
    assert second.trials[0]["params"] != first.trials[0]["params"]
    assert yaml.safe_load(path.read_text())["tuned"]["study"] == second.name
    assert f"held the values of {first.name}: replaced" in capsys.readouterr().err


def test_gloss_o_without_a_search_names_the_search_command(settings, capsys):
    settings = without_search(settings)
    assert main(lambda *_: None, ["loss=gloss_o", "variant=released", *settings]) == 2
    error = capsys.readouterr().err
    command = error.partition("python scripts/")[2].partition("\n")[0]
    assert command.startswith("tune.py dataset=csv model=tiny mode=integrated loss=gloss_o variant=released")
    assert set(settings) <= set(command.split())  # the command has all settings
    assert "loss.sigma=0.5" in error
