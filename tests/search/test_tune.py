"""The search: its spaces, claiming by many workers, dead workers, duplicates, failures, pruning, and what it leaves."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import yaml
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from searching import composed, die, finished, stand_in, states, trial_records, work, worker_of

from gloss.cli.hydra_main import main
from gloss.config import CONFIG_DIR, INTEGRATED, STANDALONE
from gloss.errors import ConfigError, RunError
from gloss.losses.registry import LOSSES
from gloss.records.reading import read_records
from gloss.records.run_folder import run_folder
from gloss.records.study import rounded
from gloss.report.figures.search import trials_table
from gloss.search import worker as tuning
from gloss.search.worker import search_space, tune
from gloss.training.trainer import Diverged

CELLS = [(mode, loss) for mode in (INTEGRATED, STANDALONE) for loss, row in LOSSES.items() if mode in row.modes]


# ------------------------------------------------------------------------------------------------------------- spaces


def test_every_loss_and_mode_has_a_space():
    seen = 0
    for mode, loss in CELLS:
        assert worker_of(composed("search=authors", f"mode={mode}", f"loss={loss}")).space
        cfg = composed(f"mode={mode}", f"loss={loss}")
        space = search_space(cfg, cfg.search)
        expected = {"lr", *(k for k in ("lam", "gamma", "sigma", "temperature") if getattr(cfg.loss, k) is not None)}
        expected |= {"sigma"} if loss == "gloss_o" else set()
        expected -= {"sigma"} if loss == "gloss_sqrt" else set()
        assert set(space) == expected, (mode, loss)
        assert (space["lr"].low, space["lr"].high) == (1e-5, 5e-5)
        assert space["lr"].log
        assert cfg.search.budget == {"any": 15}
        if "sigma" in space:
            assert (space["sigma"].low, space["sigma"].high, space["sigma"].log) == (0.1, 10, True)
        seen += 1
    assert seen == 11


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
    def broken(cfg, wait=True, callbacks=(), is_trial=False, place=""):
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
    def train(cfg, wait=True, callbacks=(), is_trial=False, place=""):
        callbacks[0].on_epoch({"epoch": 1, "score": 12.5})
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

    def train(cfg, wait=True, callbacks=(), is_trial=False, place=""):
        if cfg.loss.sigma < 1:
            where = {"epoch": 1, "step": 3, "sigma": cfg.loss.sigma, "lr": cfg.trainer.lr}
            raise Diverged({"loss": "inf", "grad_norm": "nan", **where})
        return sound(cfg, wait, callbacks, is_trial)

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
    told = f"searched values: trainer.lr={found.trainer.lr:.6g}, from {tuning.tuned_file(found)} (tuned=false"
    assert told in capsys.readouterr().err
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
    assert tuning.tuned_file(cfg).parent == CONFIG_DIR / "tuned"


def test_searched_values_are_told_shown_and_can_be_left_out(settings, monkeypatch, capsys):
    best = finished(settings, monkeypatch, "loss=ce").best["params"]["lr"]
    words = ["loss=ce", *(word for word in settings if not word.startswith("search."))]
    capsys.readouterr()
    assert main(lambda *_: pytest.fail("it ran"), ["--cfg", "job", *words]) == 0
    told = capsys.readouterr()
    assert yaml.safe_load(told.out)["trainer"]["lr"] == best and f"trainer.lr={best:.6g}" in told.err
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


def test_rerun_is_refused(settings):
    with pytest.raises(ConfigError, match="rerun=true has no effect on a search"):
        tune(composed("loss=ce", *settings, "rerun=true"))


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


# ------------------------------------------------------------------------------------------------------------- for real


def test_a_real_study_chooses_on_validation_and_never_sees_the_test_texts(toy, settings, tmp_path, capsys):
    """The same search with the test labels turned round: same trials, same values, and nothing of the test texts."""
    lines = toy.read_text().splitlines()
    parts = {"train": lines[1:41], "val": lines[41:51], "test": lines[51:]}
    turned = [line.rpartition(",")[0] + (",sea" if line.endswith("sky") else ",sky") for line in parts["test"]]
    studies = []
    for name, test in (("straight", parts["test"]), ("turned", turned)):
        folder = tmp_path / name
        folder.mkdir()
        for part, rows in (parts | {"test": test}).items():
            (folder / f"{part}.csv").write_text("\n".join(["text,label", *rows, ""]))
        files = [
            f"dataset.{key}={folder}/{part}.csv"
            for key, part in (("path", "train"), ("val_path", "val"), ("test_path", "test"))
        ]
        words = [w for w in settings if not w.startswith(("dataset.path", "paths.outputs"))]
        study = tune(composed("loss=ce", *words, *files, "search.trials=2", f"paths.outputs={folder / 'out'}"))
        records = trial_records(study)
        assert len(records) == 2
        best = {r.result["hyperparameters"]["lr"]: r.result["metrics"]["val"]["macro_f1"] for r in records}
        assert {t["params"]["lr"]: t["value"] for t in study.trials} == best
        studies.append([(t["params"], t["value"]) for t in study.trials])
        assert all(r.result["metrics"].keys() == r.result["num_rows"].keys() - {"train"} == {"val"} for r in records)
        assert not any(name.startswith("test") for r in records for name in r.predictions())
        assert read_records(folder / "out") == ([], [])  # trials are not runs of a table
        found, problems = read_records(study.folder)
        assert not found and ["is a trial of a search" in p.reason for p in problems] == [True] * 2
    assert studies[0] == studies[1]
    shown = capsys.readouterr()
    assert "validation accuracy" in shown.out and "test accuracy" not in shown.out + shown.err


def test_values_that_really_diverge_fail_with_the_reason(settings):
    cfg = composed("loss=ce", *settings, "search.trials=1")
    cfg.search.space["integrated"]["ce"]["lr"] = {"low": 1e30, "high": 2e30}
    with pytest.raises(RunError, match="none of the 1 trials .*: the loss or its gradient is not finite at epoch 1"):
        tune(cfg)
