"""The search: its spaces, claiming by many workers, dead workers, duplicates, failures, pruning, and what it leaves."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import yaml
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from gloss import tune as tuning
from gloss.cli import main
from gloss.config import CONFIG_DIR, INTEGRATED, LOSSES, ROOT, STANDALONE, ConfigError
from gloss.fit import Diverged
from gloss.report.studies import importances, study_figure, trials_table
from gloss.runs import RunError, read_records, run_folder
from gloss.train import train
from gloss.tune import Worker, read_studies, read_study, rounded, search_space, tune

CELLS = [(mode, loss) for mode in (INTEGRATED, STANDALONE) for loss in LOSSES]
CELLS = [c for c in CELLS if c not in ((INTEGRATED, "scl"), (STANDALONE, "ce"), (STANDALONE, "scl_ce"))]


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """60 texts of two classes, told apart by their words."""
    words = {"sea": "boat wave fish salt harbour", "sky": "cloud wind bird star plane"}
    rng = random.Random(0)
    rows = [f"{' '.join(rng.choices(words[label].split(), k=5))} {i},{label}" for i in range(30) for label in words]
    path = tmp_path_factory.mktemp("toy") / "toy.csv"
    path.write_text("\n".join(["text,label", *rows, ""]))
    return path


def composed(*overrides: str, config_name: str = "tune"):
    """The configuration that the command line gives a script."""
    found = []
    status = main(lambda cfg, is_sweep: found.append(cfg), list(overrides), config_name)
    assert status == 0
    return found[0]


@pytest.fixture
def settings(toy, tmp_path):
    """Overrides of a small search on the toy texts."""
    words = ["dataset=csv", f"dataset.path={toy}", "model=tiny", "trainer.batch_size=24", "trainer.device=cpu"]
    return [*words, "trainer.max_epochs=2", "search.trials=5", f"paths.outputs={tmp_path / 'out'}"]


def worker_of(cfg) -> Worker:
    """A worker, without the texts: for tests whose training is a stand-in."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = cfg.search
    plain = tuning.Config(**{f.name: getattr(cfg, f.name) for f in tuning.fields(tuning.Config)})
    return Worker(plain, search, search_space(plain, search), 48, "0" * 64)


def die(worker: Worker) -> None:
    """What the system does when a worker's process is killed: its locks are free, nothing is tidied up."""
    worker.store.presence.release()


def stand_in(score=lambda cfg: 50.0, epochs: int = 2):
    """A `train` that learns nothing and keeps a list of what it was asked to run."""
    asked = []

    def train(cfg, wait=True, on_epoch=None):
        asked.append(cfg)
        folder = run_folder(cfg, "0" * 64)
        (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
        rows = [{"epoch": n, "score": score(cfg) - (epochs - n)} for n in range(1, epochs + 1)]
        for row in rows:
            on_epoch(row["epoch"], row["score"])
        return SimpleNamespace(epochs=lambda: rows)

    train.asked = asked
    return train


def states(worker: Worker) -> list[str]:
    return [t.state.name.lower() for t in worker.study.get_trials(deepcopy=False)]


def work(worker: Worker) -> None:
    while (trial := worker.claim()) is not None:
        worker.run(trial)


# ------------------------------------------------------------------------------------------------------------- spaces


@pytest.mark.parametrize("search", ["fair", "authors"])
def test_every_loss_and_mode_has_a_space(search):
    seen = 0
    for mode, loss in CELLS:
        cfg = composed(f"search={search}", f"mode={mode}", f"loss={loss}")
        space = search_space(cfg, cfg.search)
        expected = {"lr", *(k for k in ("lam", "gamma", "sigma", "temperature") if getattr(cfg.loss, k) is not None)}
        expected |= {"sigma"} if loss == "gloss_o" else set()
        expected -= {"sigma"} if loss == "gloss_sqrt" else set()
        assert set(space) == expected, (mode, loss)
        assert (space["lr"].low, space["lr"].high) == (1e-5, 5e-5)
        assert space["lr"].log == (search == "fair")
        trials = cfg.search.budget.get(loss, cfg.search.budget["any"])
        assert trials == (5 if search == "authors" and loss in ("triplet", "cosine") else 15)
        if "sigma" in space:
            assert (space["sigma"].low, space["sigma"].high, space["sigma"].log) == (0.1, 10, True)
        seen += 1
    assert seen == 11


def test_the_authors_grids_are_exactly_theirs():
    cfg = composed("search=authors", "loss=scl_ce")
    space = {name: tuning._space_of(tuning.range_of(row)) for name, row in search_space(cfg, cfg.search).items()}
    assert space == {
        "lr": [1e-5, 2e-5, 3e-5, 4e-5, 5e-5],
        "lam": [0.5, 0.6, 0.7, 0.8, 0.9],
        "temperature": [0.1, 0.3, 0.5, 0.7],
    }


def test_what_is_set_by_hand_or_by_the_variant_is_not_searched():
    cfg = composed("loss=gloss_o", "loss.lam=0.7", "trainer.lr=3e-5")
    assert set(search_space(cfg, cfg.search)) == {"gamma", "sigma"}
    cfg = composed("loss=scl_ce", "variant=released")
    assert set(search_space(cfg, cfg.search)) == {"lr", "temperature"}
    cfg = composed("loss=ce", "trainer.lr=3e-5")
    with pytest.raises(ConfigError, match="nothing is left to search for loss=ce"):
        search_space(cfg, cfg.search)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"momentum": {"low": 0, "high": 1}}, "momentum is not allowed: expected one of lr, lam"),
        ({"lr": {"low": 2e-5}}, "lr=.* is not allowed: expected low, high"),
        ({"lr": {"low": 2e-5, "high": 1e-5}}, "lr=.* is not allowed"),
        ({"lr": [1e-5, 2e-5]}, "lr=.* is not allowed"),
    ],
)
def test_a_wrong_space_is_told(change, message):
    cfg = composed("loss=ce")
    cfg.search.space["integrated"]["ce"] = change
    with pytest.raises(ConfigError, match=message):
        search_space(cfg, cfg.search)


def test_a_misspelt_key_of_the_search_is_told(capsys):
    assert main(lambda *_: None, ["search.trails=3"], "tune") == 2
    assert "there is no key search.trails (did you mean search.trials?)" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- claiming


def test_two_workers_end_with_the_trials_asked_for_and_draw_what_one_would(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(tuning, "train", stand_in())
    first, second = (worker_of(composed("loss=gloss_o", *settings)) for _ in range(2))
    trials = [first.claim(), second.claim(), first.claim(), second.claim(), second.claim()]  # all at once
    with first.store.claiming():
        assert first._next() == (None, False)  # none left to start, and not finished
    assert [t.number for t in trials] == [0, 1, 2, 3, 4]
    for worker, trial in zip((first, second, first, second, second), trials, strict=True):
        worker.run(trial)
    assert first.claim() is None and second.claim() is None
    assert states(first) == ["complete"] * 5
    alone = worker_of(composed("loss=gloss_o", *settings, f"paths.outputs={tmp_path / 'alone'}"))
    work(alone)
    assert [t.params for t in alone.study.trials] == [t.params for t in trials]
    assert len({json.dumps(t.params) for t in trials}) == 5


def test_more_trials_extend_a_study_and_other_settings_make_another(settings, monkeypatch):
    monkeypatch.setattr(tuning, "train", stand_in())
    names = set()
    for change in ("search.trials=2", "search.trials=3", "search.trials=3"):
        worker = worker_of(composed("loss=ce", *settings, change))
        work(worker)
        names.add(worker.study_name)
    assert states(worker) == ["complete"] * 3 and len(names) == 1
    # Optuna's own tools, the dashboard among them, open the journal as it is
    journal = optuna.storages.JournalStorage(JournalFileBackend(str(worker.folder / "journal.log")))
    assert len(optuna.load_study(study_name=worker.study_name, storage=journal).trials) == 3
    for change in ("seed=2", "trainer.max_epochs=3", "dataset.train_limit=20", "search=authors", "trainer.patience=3"):
        names.add(worker_of(composed("loss=ce", *settings, change)).study_name)
    assert len(names) == 6


def test_a_dead_worker_s_trial_is_taken_over(settings, monkeypatch):
    monkeypatch.setattr(tuning, "train", stand_in())
    cfg = composed("loss=ce", *settings, "search.trials=2")
    first, second = worker_of(cfg), worker_of(cfg)
    killed = first.claim()
    die(first)
    work(second)
    trials = second.study.trials
    assert [(t.number, t.state, t.user_attrs["attempts"]) for t in trials] == [
        (0, TrialState.COMPLETE, 2),
        (1, TrialState.COMPLETE, 1),
    ]
    assert trials[0].params == killed.params
    assert all(t.user_attrs["worker"] == second.name for t in trials)


def test_a_worker_that_died_while_claiming_leaves_no_trial_behind(settings, monkeypatch):
    monkeypatch.setattr(tuning, "train", stand_in())
    worker = worker_of(composed("loss=scl_ce", *settings, "search.trials=2"))
    worker.study.ask()  # started, no values yet, nobody's
    work(worker)
    assert states(worker) == ["complete"] * 2


def test_a_trial_that_kills_its_workers_is_given_up(settings, monkeypatch):
    train = stand_in()
    monkeypatch.setattr(tuning, "train", train)
    cfg = composed("loss=ce", *settings, "search.trials=2")
    for _ in range(tuning.MAX_ATTEMPTS):
        worker = worker_of(cfg)
        assert worker.claim().number == 0
        die(worker)
    last = worker_of(cfg)
    work(last)
    assert states(last) == ["fail", "complete"] and len(train.asked) == 1
    assert last.study.trials[0].user_attrs["reason"] == "its worker died 3 times"


def test_a_worker_taken_for_dead_does_not_book_its_trial(settings, monkeypatch):
    monkeypatch.setattr(tuning, "train", stand_in(lambda cfg: 10.0))
    cfg = composed("loss=ce", *settings, "search.trials=1")
    slow, other = worker_of(cfg), worker_of(cfg)
    trial = slow.claim()
    die(slow)  # as it seems to the other
    taken = other.claim()
    assert taken.number == trial.number
    slow.run(trial)  # wakes up: neither its epochs nor its outcome count
    assert states(other) == ["running"] and not other.study.trials[0].intermediate_values
    silent = SimpleNamespace(epochs=lambda: [{"epoch": 1, "score": 11.0}])
    for end in (lambda *_, **__: silent, lambda *_, **__: (_ for _ in ()).throw(optuna.TrialPruned)):
        monkeypatch.setattr(tuning, "train", end)
        slow.run(trial)  # or wakes up at the very end
        assert states(other) == ["running"] and not other.study.trials[0].intermediate_values
    monkeypatch.setattr(tuning, "train", stand_in(lambda cfg: 20.0))
    other.run(taken)
    assert other.study.trials[0].value == 20.0


def test_an_error_that_is_not_the_values_fault_stops_the_worker_and_keeps_the_trial(settings, monkeypatch):
    def broken(cfg, wait=True, on_epoch=None):
        raise OSError(28, "no space left on device")

    cfg = composed("loss=ce", *settings, "search.trials=2")
    worker = worker_of(cfg)
    for _ in range(tuning.MAX_ATTEMPTS + 1):  # as often as it takes to free the disk
        monkeypatch.setattr(tuning, "train", broken)
        with pytest.raises(OSError, match="no space"):
            worker.run(worker.claim())
    monkeypatch.setattr(tuning, "train", stand_in())
    work(worker)
    assert states(worker) == ["complete"] * 2
    assert [t.user_attrs["attempts"] for t in worker.study.trials] == [1, 1]


def test_a_torn_line_at_the_journal_s_end_costs_nothing_but_itself(settings, monkeypatch):
    monkeypatch.setattr(tuning, "train", stand_in())
    cfg = composed("loss=ce", *settings, "search.trials=3")
    worker = worker_of(cfg)
    worker.run(worker.claim())
    journal = worker.folder / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":5,"worker_id":"x","trial')
    work(worker_of(cfg))
    assert journal.read_bytes().startswith(whole + b'{"op_code"')
    again = worker_of(cfg)
    assert again.claim() is None and states(again) == ["complete"] * 3


# -------------------------------------------------------------------------------------------------------- a trial's end


def test_a_duplicate_takes_over_the_value_and_is_not_trained_again(settings, monkeypatch):
    train = stand_in(lambda cfg: 1e6 * cfg.trainer.lr)
    monkeypatch.setattr(tuning, "train", train)
    worker = worker_of(composed("loss=ce", "search=authors", *settings, "search.trials=12"))
    work(worker)
    trials = worker.study.trials
    assert len(trials) == 12 and states(worker) == ["complete"] * 12
    rates = [cfg.trainer.lr for cfg in train.asked]
    assert len(rates) == len(set(rates)) <= 5
    assert [t.value for t in trials] == [1e6 * rounded(t.params["lr"]) for t in trials]
    assert sum("duplicate_of" in t.user_attrs for t in trials) == 12 - len(rates)


def test_a_duplicate_of_a_running_trial_waits_for_it(settings, monkeypatch):
    train = stand_in(lambda cfg: 33.0)
    monkeypatch.setattr(tuning, "train", train)
    overrides = ["loss=ce", *settings, "search.trials=3", "search.space.integrated.ce.lr={low:2e-5,high:2e-5}"]
    first, second = (worker_of(composed(*overrides)) for _ in range(2))
    trial = first.claim()
    with second.store.claiming():
        assert second._next() == (None, False)  # the two others repeat the first
    assert states(second) == ["running"] * 3
    first.run(trial)
    assert second.claim() is None and states(second) == ["complete"] * 3
    assert [t.value for t in second.study.trials] == [33.0] * 3 and len(train.asked) == 1


def test_duplicates_of_failed_and_pruned_trials_end_like_them(settings, monkeypatch):
    def train(cfg, wait=True, on_epoch=None):
        on_epoch(1, 12.5)
        if cfg.trainer.lr < 2e-5:
            raise Diverged({"epoch": 2, "step": 1, "loss": "nan", "grad_norm": "nan", "sigma": None, "lr": 1e-5})
        raise optuna.TrialPruned

    monkeypatch.setattr(tuning, "train", train)
    cfg = composed("loss=ce", *settings, "search.trials=9")
    cfg.search.space["integrated"]["ce"]["lr"] = {"low": 1e-5, "high": 2e-5, "step": 1e-5}
    worker = worker_of(cfg)
    work(worker)
    seen = set()
    for trial in worker.study.trials:
        is_low = rounded(trial.params["lr"]) < 2e-5
        assert trial.state == (TrialState.FAIL if is_low else TrialState.PRUNED)
        assert trial.value == (None if is_low else 12.5)
        assert ("not finite at epoch 2" in trial.user_attrs.get("reason", "")) == is_low
        seen.add((is_low, "duplicate_of" in trial.user_attrs))
    assert len(seen) == 4
    with pytest.raises(RunError, match="none of the 9 trials .* came to a value: .*not finite at epoch 2"):
        worker.conclude()


def test_a_diverged_trial_fails_with_its_reason_and_the_study_goes_on(settings, monkeypatch):
    sound = stand_in()

    def train(cfg, wait=True, on_epoch=None):
        if cfg.loss.sigma < 1:
            where = {"epoch": 1, "step": 3, "sigma": cfg.loss.sigma, "lr": cfg.trainer.lr}
            raise Diverged({"loss": "inf", "grad_norm": "nan", **where})
        return sound(cfg, wait, on_epoch)

    monkeypatch.setattr(tuning, "train", train)
    worker = worker_of(composed("loss=gloss_o", *settings, "search.trials=8"))
    work(worker)
    study = worker.conclude()
    for trial in study.trials:
        assert trial["state"] == ("fail" if trial["params"]["sigma"] < 1 else "complete")
        assert ("epoch 1, step 3" in (trial["reason"] or "")) == (trial["state"] == "fail")
    assert {t["state"] for t in study.trials} == {"fail", "complete"}
    source = yaml.safe_load(tuning.tuned_file(worker.cfg).read_text())["tuned"]
    assert source["fail"] + source["complete"] == source["trials"] == 8
    assert "failed: the loss or its gradient" in trials_table(study).markdown()


def test_a_trial_below_the_median_is_pruned_and_leaves_no_checkpoint(settings, monkeypatch):
    scores = iter([50.0, 52.0, 54.0, 56.0, 58.0, 53.9, 54.1])  # the median of the first five is 54
    by_rate = {}

    def score(cfg):
        if cfg.trainer.lr not in by_rate:
            by_rate[cfg.trainer.lr] = next(scores)
        return by_rate[cfg.trainer.lr]

    monkeypatch.setattr(tuning, "train", stand_in(score, 8))
    worker = worker_of(composed("loss=ce", *settings, "search.trials=7"))
    work(worker)
    assert states(worker) == ["complete"] * 5 + ["pruned", "complete"]
    pruned = worker.study.trials[5]
    assert max(pruned.intermediate_values) == 5 and pruned.value == pytest.approx(53.9 - 3)
    assert [path for path in worker.folder.rglob("checkpoint")] == []
    monkeypatch.setattr(tuning, "train", stand_in(lambda cfg: 1.0, 8))
    unpruned = worker_of(composed("loss=ce", *settings, "search.trials=7", "search.prune=false"))
    work(unpruned)
    assert states(unpruned) == ["complete"] * 7


# ------------------------------------------------------------------------------------------------------ what was found


def finished(settings, monkeypatch, *overrides):
    monkeypatch.setattr(tuning, "train", stand_in(lambda cfg: 60 + (cfg.loss.gamma or 1e6 * cfg.trainer.lr)))
    return tune(composed(*([] if "loss=ce" in overrides else ["loss=gloss_o"]), *settings, *overrides))


def test_runs_pick_up_what_was_found(settings, monkeypatch, capsys):
    study = finished(settings, monkeypatch)
    best = max(study.trials, key=lambda t: t["value"])
    settings = [word for word in settings if not word.startswith("search.")]
    cfg = composed("loss=gloss_o", *settings, config_name="train")
    assert {"lr": cfg.trainer.lr, **{k: getattr(cfg.loss, k) for k in ("lam", "gamma", "sigma")}} == best["params"]
    assert cfg.tuned["study"] == study.name and cfg.tuned["file"] == "csv-tiny-integrated-gloss_o-e2.yaml"
    assert cfg.tuned["value"] == best["value"] and cfg.tuned["train_texts"] == 48 and "note" not in cfg.tuned
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
    assert capsys.readouterr().err == ""
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
    assert capsys.readouterr().err == ""
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
    assert "does not exist" in capsys.readouterr().err
    again = finished([*words, f"dataset.path={theirs}", "search.trials=5"], monkeypatch, "loss=ce")
    assert again.name != study.name
    assert "which were searched on other texts that are called csv too" in capsys.readouterr().err


@pytest.mark.parametrize("outputs", ["outputs", "outputs/", "./outputs", str(Path.cwd() / "outputs")])
def test_default_outputs_are_that_however_they_are_written(outputs):
    cfg = composed("loss=ce", f"paths.outputs={outputs}", config_name="train")
    assert tuning.tuned_file(cfg).parent == CONFIG_DIR / "tuned"


def test_what_was_set_by_hand_in_a_search_goes_with_what_it_found(settings, monkeypatch):
    finished(settings, monkeypatch, "loss.lam=0.65")
    words = [word for word in settings if not word.startswith("search.")]
    assert composed("loss=gloss_o", *words, config_name="train").loss.lam == 0.65


def test_rerun_is_refused(settings):
    with pytest.raises(ConfigError, match="rerun=true has no effect on a search"):
        tune(composed("loss=ce", *settings, "rerun=true"))


def test_a_search_does_not_start_from_what_an_earlier_one_found(settings, monkeypatch):
    finished(settings, monkeypatch)
    cfg = composed("loss=gloss_o", *settings)
    assert cfg.loss.sigma is None and cfg.trainer.lr == 2e-5 and cfg.tuned == {}


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


def test_studies_are_read_back_and_damage_is_told(settings, monkeypatch, tmp_path):
    study = finished(settings, monkeypatch)
    assert read_studies(tmp_path / "out") == [study]
    assert study.space["sigma"] == (0.1, 10.0, True) and study.space["gamma"] == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert study.is_finished and len(study.trials) == 5
    assert read_studies(tmp_path / "nothing") == []
    path = study.folder / "study.json"
    good = json.loads(path.read_text())
    for change in ({"trials": [{"number": 0}]}, {"trials": None}, {"schema_version": 99}, {"surplus": 1}):
        path.write_text(json.dumps(good | change))
        with pytest.raises(RunError, match="study.json cannot be used"):
            read_studies(tmp_path / "out")
    good["trials"][0]["value"] = float("nan")
    path.write_text(json.dumps(good))
    with pytest.raises(RunError, match="trial 0 has no finite numbers"):
        read_study(study.folder)


def test_the_study_is_shown(settings, monkeypatch):
    study = finished(settings, monkeypatch, "search.trials=12")
    table = trials_table(study)
    assert len(table.rows) == 12 and table.rows[0][0].plain() == f"{study.best['number']} (best)"
    shares = importances(study)
    assert max(shares, key=shares.get) == "gamma" and sum(shares.values()) == pytest.approx(1)  # the score is 60 + γ
    drawing = study_figure(study)
    assert len(drawing.figure.axes) == 2 + 4
    values = {t["number"]: t["value"] for t in study.trials if t["duplicate_of"] is None}
    assert {row["trial"]: row["value"] for row in drawing.data if "trial" in row} == values


# ------------------------------------------------------------------------------------------------------------- for real


def test_a_real_study_chooses_on_validation_and_never_on_test(toy, settings, tmp_path):
    """The same search with the test labels turned round: same trials, same values, other test accuracy."""
    lines = toy.read_text().splitlines()
    parts = {"train": lines[1:41], "val": lines[41:51], "test": lines[51:]}
    turned = [line.rpartition(",")[0] + (",sea" if line.endswith("sky") else ",sky") for line in parts["test"]]
    studies, accuracies = [], []
    for name, test in (("straight", parts["test"]), ("turned", turned)):
        folder = tmp_path / name
        folder.mkdir()
        for part, rows in (parts | {"test": test}).items():
            (folder / f"{part}.csv").write_text("\n".join(["text,label", *rows, ""]))
        files = [f"dataset.{key}={folder}/{part}.csv" for key, part in
                 (("path", "train"), ("val_path", "val"), ("test_path", "test"))]
        words = [w for w in settings if not w.startswith(("dataset.path", "paths.outputs"))]
        study = tune(composed("loss=ce", *words, *files, "search.trials=2", f"paths.outputs={folder / 'out'}"))
        records, problems = read_records(study.folder)
        assert len(records) == 2 and not problems
        best = {r.result["hyperparameters"]["lr"]: r.result["metrics"]["val"]["macro_f1"] for r in records}
        assert {t["params"]["lr"]: t["value"] for t in study.trials} == best
        studies.append([(t["params"], t["value"]) for t in study.trials])
        accuracies.append([r.result["metrics"]["test"]["accuracy"] for r in records])
        assert read_records(folder / "out") == ([], [])  # trials are not runs of a table
    assert studies[0] == studies[1]
    assert [100 - a for a in accuracies[0]] == pytest.approx(accuracies[1])


def test_values_that_really_diverge_fail_with_the_reason(settings):
    cfg = composed("loss=ce", *settings, "search.trials=1")
    cfg.search.space["integrated"]["ce"]["lr"] = {"low": 1e30, "high": 2e30}
    with pytest.raises(RunError, match="none of the 1 trials .*: the loss or its gradient is not finite at epoch 1"):
        tune(cfg)


def start(*overrides: str, log: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "scripts" / "tune.py"), *overrides]
    with log.open("w") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)


def kill_one_of_two(overrides: list[str], tmp_path: Path, number: signal.Signals) -> str:
    """Start two workers, kill the first in the middle of a trial, wait for the second; both logs."""
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    first = start(*overrides, log=logs[0])
    second = start(*overrides, log=logs[1])
    try:
        while "· epoch 2 ·" not in logs[0].read_text():
            assert first.poll() is None, logs[0].read_text()
            time.sleep(0.02)
        first.send_signal(number)
        expected = -signal.SIGKILL if number == signal.SIGKILL else 128 + number
        assert first.wait(60) == expected, logs[0].read_text()
        assert second.wait(200) == 0, logs[1].read_text()
    finally:
        first.kill()
        second.kill()
    return "\n".join(log.read_text() for log in logs)


def check_after_kill(overrides: list[str], logs: str, num_trials: int, tmp_path: Path) -> None:
    """None lost, none double: each trial is there once, and trained once; the interrupted one as if it had not been."""
    [study] = read_studies(tmp_path / "out")
    assert [(t["number"], t["state"]) for t in study.trials] == [(n, "complete") for n in range(num_trials)]
    assert study.is_finished and len({json.dumps(t["params"]) for t in study.trials}) == num_trials
    [number] = re.findall(r"trial (\d+) of .* taken over from a worker that is no more", logs)
    assert logs.count(": test accuracy") == num_trials == len(read_records(study.folder)[0])
    for record in read_records(study.folder)[0]:
        assert [row["epoch"] for row in record.epochs()] == [1, 2, 3, 4, 5, 6]
    interrupted = study.trials[int(number)]
    plain = [w for w in overrides if not w.startswith("search.")]
    rate = f"trainer.lr={interrupted['params']['lr']}"
    cfg = composed(*plain, rate, f"paths.outputs={tmp_path / 'undisturbed'}", config_name="train")
    assert max(row["score"] for row in train(cfg).epochs()) == interrupted["value"]


@pytest.fixture
def to_be_killed(settings):
    """Trials of six epochs, with a checkpoint after every step."""
    words = ["trainer.max_epochs=6", "trainer.patience=null", "trainer.checkpoint_minutes=1e-9", "search.trials=3"]
    return ["loss=ce", *settings, *words]


def test_a_worker_killed_in_the_middle_of_a_trial_loses_nothing(to_be_killed, tmp_path):
    logs = kill_one_of_two(to_be_killed, tmp_path, signal.SIGKILL)
    check_after_kill(to_be_killed, logs, 3, tmp_path)


@pytest.mark.long
def test_a_worker_told_to_stop_hands_its_trial_back(to_be_killed, tmp_path):
    logs = kill_one_of_two(to_be_killed, tmp_path, signal.SIGTERM)
    check_after_kill(to_be_killed, logs, 3, tmp_path)
    assert "stopped by SIGTERM; the same command goes on" in logs


@pytest.fixture
def postgres():
    """The URL of a PostgreSQL server of our own, on loopback, gone afterwards."""
    found = [*map(Path, filter(None, [shutil.which("pg_ctl")])), *Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")]
    if not found:
        pytest.skip("there is no pg_ctl: install PostgreSQL to test a search with a database")
    programs = found[-1].resolve().parent
    user = {"user": "nobody"} if os.geteuid() == 0 else {}  # the server refuses to be root
    folder = Path(tempfile.mkdtemp(prefix="gloss-pg-"))
    if user:
        shutil.chown(folder, "nobody")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(*command: str) -> None:
        subprocess.run([str(programs / command[0]), *command[1:]], check=True, capture_output=True, cwd=folder, **user)

    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    try:
        run("initdb", "-D", f"{folder}/data", "-U", "gloss", "-A", "trust", "-E", "UTF8", "--locale=C")
        run("pg_ctl", "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w", "start")
        try:
            yield f"postgresql://gloss:secret@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
def test_a_database_lets_a_killed_worker_lose_nothing(to_be_killed, tmp_path, postgres):
    overrides = [*to_be_killed, f"search.storage={postgres}", "search.heartbeat_seconds=3"]
    logs = kill_one_of_two(overrides, tmp_path, signal.SIGKILL)
    check_after_kill(overrides, logs, 3, tmp_path)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) > 20
    assert not any(b"secret" in path.read_bytes() for path in written)  # the password stays out of every record


@pytest.mark.long
def test_a_database_gives_two_workers_what_a_file_gives_one(settings, monkeypatch, tmp_path, postgres):
    monkeypatch.setattr(tuning, "train", stand_in(lambda cfg: cfg.loss.gamma))
    with_database = [*settings, f"search.storage={postgres}"]
    first, second = (worker_of(composed("loss=gloss_o", *with_database)) for _ in range(2))
    trials = [first.claim(), second.claim(), first.claim(), second.claim(), second.claim()]
    for worker, trial in zip((first, second, first, second, second), trials, strict=True):
        worker.run(trial)
    assert first.claim() is None and states(second) == ["complete"] * 5
    alone = worker_of(composed("loss=gloss_o", *settings, f"paths.outputs={tmp_path / 'alone'}"))
    work(alone)
    assert [(t.params, t.value) for t in alone.study.trials] == [(t.params, t.value) for t in first.study.trials]
    assert read_study(first.folder).trials == [
        {**row, "seconds": mine["seconds"]}
        for row, mine in zip(read_study(alone.folder).trials, read_study(first.folder).trials, strict=True)
    ]


def test_a_database_that_is_not_there_is_told_without_its_password(settings):
    cfg = composed("loss=ce", *settings, "search.storage=postgresql://me:secret@127.0.0.1:1/search")
    with pytest.raises(ConfigError, match=r"search.storage=postgresql://me:\*\*\*@127.0.0.1:1/search cannot be used"):
        worker_of(cfg)
    cfg = composed("loss=ce", *settings, "search.storage=sqlite:///x.db")
    with pytest.raises(ConfigError, match="expected null .a file. or postgresql://"):
        worker_of(cfg)
