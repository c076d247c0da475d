"""What a search leaves behind: which runs take its values, and what they say of that."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from searching import composed, finished, stand_in

from gloss.cli.hydra_main import main
from gloss.config import CONFIG_DIR
from gloss.records.run_folder import run_folder
from gloss.search import worker as tuning
from gloss.search.best_values import tuned_file
from gloss.search.worker import tune


def test_runs_pick_up_what_was_found(settings, monkeypatch, capsys):
    study = finished(settings, monkeypatch)
    best = max(study.trials, key=lambda t: t["value"])
    settings = [word for word in settings if not word.startswith("search.")]
    cfg = composed("loss=gloss_o", *settings, config_name="train")
    assert {"lr": cfg.trainer.lr, **{k: getattr(cfg.loss, k) for k in ("lam", "gamma", "sigma")}} == best["params"]
    assert cfg.tuned["study"] == study.name and cfg.tuned["file"] == "csv-tiny-integrated-gloss_o-e2.yaml"
    assert cfg.tuned["value"] == best["value"] and cfg.tuned["train_examples"] == 48 and "note" not in cfg.tuned
    # the run of the best trial and this one are the same run, but for the folder
    assert run_folder(cfg, "0" * 64).name == "seed=1"
    assert (study.folder / "runs/csv/tiny/integrated-gloss_o" / run_folder(cfg, "0" * 64).parent.name).is_dir()

    cfg = composed("loss=gloss_o", *settings, "loss.sigma=0.5", config_name="train")
    assert cfg.loss.sigma == 0.5 and cfg.tuned["applied"] == ["loss.gamma", "loss.lam", "trainer.lr"]


def test_runs_take_the_search_of_their_own_amounts_of_data_else_the_full_one(settings, monkeypatch, capsys):
    settings = [word for word in settings if not word.startswith("trainer.max_epochs")]
    plain = [word for word in settings if not word.startswith("search.")]

    def applied(*words):
        return composed("loss=gloss_o", *plain, *words, config_name="train").tuned

    full, reduced = finished(settings, monkeypatch), finished(settings, monkeypatch, "trainer.max_epochs=3")
    assert full.name != reduced.name
    assert applied()["study"] == full.name and "note" not in applied()  # the reduced one, made later, changes nothing
    assert applied("trainer.max_epochs=3")["study"] == reduced.name and "note" not in applied("trainer.max_epochs=3")
    assert "note: " not in capsys.readouterr().err
    other = applied("trainer.max_epochs=4")
    assert other["study"] == full.name and "searched for 200 epochs at most, this run for 4" in other["note"]
    assert "note: the values of csv-tiny-integrated-gloss_o.yaml" in capsys.readouterr().err
    other = applied("dataset.train_limit=20", "trainer.max_epochs=3")
    assert other["study"] == reduced.name and "searched on 48 training texts, this run is on 20" in other["note"]
    finished(settings, monkeypatch, "dataset.train_limit=20")
    assert applied("dataset.train_limit=20")["file"] == "csv-tiny-integrated-gloss_o-n20.yaml"


def test_values_of_other_texts_or_another_encoder_are_not_applied(settings, monkeypatch, tmp_path, toy, capsys):
    """csv and hf are names that any file and encoder have, unless the user gives others."""
    words = [word for word in settings if not word.startswith(("dataset.path", "trainer.max_epochs", "search."))]
    mine = [*words, f"dataset.path={toy}"]
    theirs = tmp_path / "theirs.csv"
    theirs.write_text(toy.read_text().replace("boat", "ship"))
    study = finished([*mine, "search.trials=5"], monkeypatch, "loss=ce")
    found = composed("loss=ce", *mine, config_name="train")
    assert found.tuned["study"] == study.name and found.trainer.lr == study.best["params"]["lr"]
    output = f"searched values: trainer.lr={found.trainer.lr:.6g}, from {tuned_file(found)} (tuned=false"
    assert output in capsys.readouterr().err
    others = {
        "on other texts that are called csv too": [*words, f"dataset.path={theirs}"],
        "with the encoder random, this run is with some/encoder at 0123": [
            *(word for word in mine if word != "model=tiny"),
            *("model=hf", "model.alias=tiny", "model.name=some/encoder", "model.revision=0123"),
        ],
    }
    for reason, overrides in others.items():
        cfg = composed("loss=ce", *overrides, config_name="train")
        assert cfg.trainer.lr == 2e-5 and cfg.tuned["applied"] == [] and "study" not in cfg.tuned
        assert f"were not applied: they were searched {reason}" in capsys.readouterr().err
    assert main(lambda *_: None, ["loss=gloss_o", *words, f"dataset.path={theirs}"]) == 2
    assert "needs a σ: no file " in capsys.readouterr().err
    again = finished([*words, f"dataset.path={theirs}", "search.trials=5"], monkeypatch, "loss=ce")
    assert again.name != study.name
    assert "which were searched on other texts that are called csv too" in capsys.readouterr().err


@pytest.mark.parametrize("outputs", ["outputs", "outputs/", "./outputs", str(Path.cwd() / "outputs")])
def test_default_outputs_are_that_however_they_are_written(outputs):
    cfg = composed("loss=ce", f"paths.outputs={outputs}", config_name="train")
    assert tuned_file(cfg).parent == CONFIG_DIR / "tuned"


def test_searched_values_are_told_shown_and_can_be_left_out(settings, monkeypatch, capsys):
    best = finished(settings, monkeypatch, "loss=ce").best["params"]["lr"]
    words = ["loss=ce", *(word for word in settings if not word.startswith("search."))]
    capsys.readouterr()
    assert main(lambda *_: pytest.fail("it ran"), ["--cfg", "job", *words]) == 0
    output = capsys.readouterr()
    assert yaml.safe_load(output.out)["trainer"]["lr"] == best and f"trainer.lr={best:.6g}" in output.err
    assert composed(*words, "tuned=false", config_name="train").trainer.lr == 2e-5
    assert composed(*words, "trainer.lr=1e-3", config_name="train").tuned["applied"] == []
    assert "searched values" not in capsys.readouterr().err  # none was taken
    assert main(lambda *_: None, [*words, "tuned=maybe"]) == 2
    assert "expected true or false" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (lambda cfg: 60.0, "all 5 trials tie at 60"),
        (lambda cfg: 20 + cfg.trainer.lr, "no trial beat the majority class, which has 33.3"),
    ],
)
def test_a_search_that_found_nothing_is_not_applied(settings, monkeypatch, capsys, score, reason):
    monkeypatch.setattr(tuning, "train", stand_in(score))
    assert tune(composed("loss=ce", *settings)).best is not None
    assert reason in capsys.readouterr().err
    words = [word for word in settings if not word.startswith("search.")]
    cfg = composed("loss=ce", *words, config_name="train")
    assert cfg.trainer.lr == 2e-5 and cfg.tuned["applied"] == []
    assert f"were not applied: {reason}" in capsys.readouterr().err
    tune(composed("loss=gloss_o", *settings))
    capsys.readouterr()
    if "tie" in reason:
        assert main(lambda *_: None, ["loss=gloss_o", *words]) == 2
        assert f"needs a σ: the values of csv-tiny-integrated-gloss_o-e2.yaml were not applied: {reason}" in (
            capsys.readouterr().err
        )


def test_the_majority_class_has_the_score_of_a_constant_answer():
    from sklearn.metrics import f1_score

    for labels in ([0, 0, 1], [2, 0, 1, 1, 2, 2, 2], [0, 1]):
        truth = np.array(labels)
        constant = np.full_like(truth, np.bincount(truth).argmax())
        expected = 100 * f1_score(truth, constant, average="macro", zero_division=0)
        assert tuning.majority_f1(truth) == pytest.approx(expected)


def test_what_was_set_by_hand_in_a_search_goes_with_what_it_found(settings, monkeypatch):
    finished(settings, monkeypatch, "loss.lam=0.65")
    words = [word for word in settings if not word.startswith("search.")]
    assert composed("loss=gloss_o", *words, config_name="train").loss.lam == 0.65


def test_a_search_does_not_start_from_what_an_earlier_one_found(settings, monkeypatch):
    finished(settings, monkeypatch)
    cfg = composed("loss=gloss_o", *settings)
    assert cfg.loss.sigma is None and cfg.trainer.lr == 2e-5 and cfg.tuned is True


def test_a_finished_search_is_not_written_anew_and_another_one_s_values_are_replaced(settings, monkeypatch, capsys):
    first = finished(settings, monkeypatch)
    path = Path(first.folder).parents[1] / "tuned" / "csv-tiny-integrated-gloss_o-e2.yaml"
    before = path.stat().st_mtime_ns
    finished(settings, monkeypatch)
    assert path.stat().st_mtime_ns == before
    second = finished(settings, monkeypatch, "seed=2")
    assert yaml.safe_load(path.read_text())["tuned"]["study"] == second.name
    assert f"held the values of {first.name}: replaced" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "trainer: {lr: 1.0e-5}", "trainer: {lr: fast}\ntuned: {}", "seed: {x: 1}\ntuned: {}", "{"]
)
def test_a_damaged_overlay_is_told(settings, text, capsys):
    path = Path(settings[-1].partition("=")[2]) / "tuned" / "csv-tiny-integrated-ce.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    settings = [word for word in settings if not word.startswith("search.")]
    assert main(lambda *_: None, ["loss=ce", *settings]) == 2
    assert f"{path} is no overlay of a search" in capsys.readouterr().err


def test_gloss_o_without_a_search_names_the_command(settings, capsys):
    settings = [word for word in settings if not word.startswith("search.")]
    assert main(lambda *_: None, ["loss=gloss_o", "variant=released", *settings]) == 2
    error = capsys.readouterr().err
    command = error.partition("python scripts/")[2].partition("\n")[0]
    assert command.startswith("tune.py dataset=csv model=tiny mode=integrated loss=gloss_o variant=released")
    assert set(settings) <= set(command.split())  # so that it can be copied
    assert "loss.sigma=0.5" in error
