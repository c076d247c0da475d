"""The search: its spaces, several workers, the ends of trials, and a real search."""

import json
import shlex
from pathlib import Path

import optuna
import pytest
import yaml
from searching import age, composed, die, scored, stand_in, states, trial_records, work, worker_of
from test_search_authors import PRINTED

from gloss.config import INTEGRATED, STANDALONE
from gloss.errors import ConfigError
from gloss.losses.registry import LOSSES
from gloss.records.reading import read_records
from gloss.records.study import _space_of
from gloss.report.figures.search import search_command, trials_table
from gloss.report.tables.datasets_and_search import _space
from gloss.runtime.signals import Interrupted
from gloss.search import worker as tuning
from gloss.search.best_values import tuned_file
from gloss.search.space import range_of, search_space
from gloss.search.worker import tune
from gloss.training.failures import Diverged

CELLS = [(mode, loss) for mode in (INTEGRATED, STANDALONE) for loss, row in LOSSES.items() if mode in row.modes]
OURS = {"lr": "1e-05 – 5e-05, log", "sigma": "0.1 – 10, log"}  # the other ranges are the paper's


def test_every_loss_and_mode_has_a_search_space():
    seen = 0
    for mode, loss in CELLS:
        cfg = composed("search=authors", f"mode={mode}", f"loss={loss}")
        assert search_space(cfg, cfg.search)
        cfg = composed(f"mode={mode}", f"loss={loss}")
        space = search_space(cfg, cfg.search)
        expected = {"lr", *(k for k in ("lam", "gamma", "sigma", "temperature") if getattr(cfg.loss, k) is not None)}
        expected |= {"sigma"} if loss == "gloss_o" else set()
        expected -= {"sigma"} if loss == "gloss_sqrt" else set()
        assert set(space) == expected, (mode, loss)
        for name, row in space.items():
            printed = PRINTED.get((mode, loss), {}).get(name, "0.5, 0.6, 0.7, 0.8, 0.9")  # λ of the losses without
            assert _space(_space_of(range_of(row))) == OURS.get(name, printed), (mode, loss, name)
        assert cfg.search.budget == {"any": 15}
        assert cfg.search.sampler == {"n_startup_trials": 5, "multivariate": True, "constant_liar": True}
        assert cfg.search.pruner[mode] == {"n_startup_trials": 5, "n_warmup_steps": 5, "n_min_trials": 3}
        seen += 1
    assert seen == 11


def test_keys_set_by_hand_or_by_the_variant_are_not_searched():
    cfg = composed("loss=gloss_o", "loss.lam=0.7", "trainer.lr=3e-5")
    assert set(search_space(cfg, cfg.search)) == {"gamma", "sigma"}
    cfg = composed("loss=scl_ce", "variant=released")
    assert set(search_space(cfg, cfg.search)) == {"lr", "temperature"}
    cfg = composed("loss=ce", "trainer.lr=3e-5")
    with pytest.raises(ConfigError, match="nothing is left to search for loss=ce"):
        search_space(cfg, cfg.search)


def test_a_wrong_search_space_is_refused():
    cfg = composed("loss=ce")
    for key, row in (("momentum", {"low": 0, "high": 1}), ("lr", {"low": 2e-5}), ("lr", [1e-5, 2e-5])):
        cfg.search.space["integrated"]["ce"] = {key: row}
        with pytest.raises(ConfigError, match=f"{key}.* is not allowed: expected "):
            search_space(cfg, cfg.search)


# ---------------------------------------------------------------------------------------------------- several workers


def test_a_single_worker_is_reproducible_also_after_interruptions(settings, monkeypatch, tmp_path):
    train = stand_in(lambda cfg: 50 + cfg.loss.gamma)

    def interrupted(cfg, **about):
        if len(train.asked) in (1, 3, 6):
            train.asked.append(None)
            raise Interrupted(15)
        return train(cfg, **about)

    found = []
    for name, function in (("one", train), ("two", train), ("three", interrupted)):
        train.asked.clear()
        monkeypatch.setattr(tuning, "train", function)
        words = ["loss=gloss_o", *settings, "search.trials=7", f"paths.outputs={tmp_path / name}"]
        worker = worker_of(composed(*words))
        while True:
            try:
                work(worker)
                break
            except Interrupted:
                worker = worker_of(composed(*words))  # as if the same command ran again
        found.append([(t["params"], t["value"], t["state"]) for t in worker.conclude().trials])
    assert found[0] == found[1] == found[2] and len(found[0]) == 7
    assert len(worker.study.trials) == 10 and len({json.dumps(row[0]) for row in found[0]}) == 7


def test_concurrent_workers_make_the_requested_number_of_trials(settings, monkeypatch):
    first, second, third = (worker_of(composed("loss=gloss_o", *settings)) for _ in range(3))
    plain = stand_in()

    def nested(cfg, **about):  # while the first trains, two others start
        if len(plain.asked) < 2:
            plain.asked.append(cfg)
            assert [second, third][len(plain.asked) - 1].step()
        return plain(cfg, **about)

    monkeypatch.setattr(tuning, "train", nested)
    assert first.step() and states(first) == ["complete"] * 3
    late = worker_of(composed("loss=gloss_o", *settings, "search.trials=3"))
    late.num_trials = 4  # as if it had counted before the third trial started
    late.study.optimize = lambda objective, **more: (setattr(late, "num_trials", 3), study_optimize(objective, **more))
    study_optimize = optuna.Study.optimize.__get__(late.study)
    assert late.step() and len(late.study.trials) == 4 and len(states(late)) == 3  # the fourth trial is not trained
    assert not late.step() and len(late.conclude().trials) == 3
    work(second)
    assert states(first) == ["complete"] * 5 and len({json.dumps(t.params) for t in first.study.trials}) == 6


def test_more_trials_extend_a_study_and_other_settings_make_a_new_one(settings, monkeypatch):
    monkeypatch.setattr(tuning, "train", stand_in())
    names = set()
    for change in ("search.trials=2", "search.trials=3", "search.trials=3", "search.trials=1"):
        worker = worker_of(composed("loss=ce", *settings, change))
        work(worker)
        names.add(worker.study_name)
    assert states(worker) == ["complete"] * 3 and len(names) == 1
    # Optuna's tools, such as the dashboard, can open the file
    url = f"sqlite:///{worker.folder / 'study.db'}"
    assert len(optuna.load_study(study_name=worker.study_name, storage=url).trials) == 3
    for change in ("seed=2", "trainer.max_epochs=3", "dataset.train_limit=20", "search=authors", "trainer.patience=3"):
        names.add(worker_of(composed("loss=ce", *settings, change)).study_name)
    assert len(names) == 6
    settings_of_the_search = ("sampler.seed=99", "sampler.n_startup_trials=1", "pruner.integrated.n_warmup_steps=1")
    for change in (*settings_of_the_search, "pruned_counts=true"):
        names.add(worker_of(composed("loss=ce", *settings, f"search.{change}")).study_name)
    assert len(names) == 10
    for unread in ("ablation.test_on=sst2", "trainer.save_model=true"):  # by trials
        names.add(worker_of(composed("loss=ce", *settings, unread)).study_name)
    for more in ("trainer.device=cpu", "search.pruned_counts=true"):  # of no effect without pruning
        names.add(worker_of(composed("loss=ce", *settings, "search.prune=false", more)).study_name)
    assert len(names) == 11


def test_a_trial_without_a_heartbeat_is_removed(settings, monkeypatch):
    monkeypatch.setattr(tuning, "train", stand_in())
    monkeypatch.setattr(tuning, "POLL_SECONDS", 0)
    worker = worker_of(composed("loss=scl_ce", *settings, "search.trials=2"))
    worker.study.ask()  # a started trial without values
    assert worker.step() and worker.step() and states(worker) == ["running", "complete"]
    age(worker)
    work(worker)
    assert states(worker) == ["complete"] * 2


def test_a_trial_fails_after_three_dead_workers(settings, monkeypatch):
    train = stand_in()
    monkeypatch.setattr(tuning, "train", train)
    cfg = composed("loss=ce", *settings, "search.trials=2")
    for _ in range(3):
        worker = worker_of(cfg)
        optuna.storages.fail_stale_trials(worker.study)
        die(worker)
    work(worker)
    assert states(worker) == ["fail", "complete"] and len(train.asked) == 1
    assert [t["reason"] for t in worker.conclude().trials] == ["its worker died 3 times", None]


@pytest.mark.parametrize("end", ["epoch", "complete", "pruned"])
def test_a_worker_taken_for_dead_does_not_record_its_trial(settings, monkeypatch, end, capsys):
    slow, other = (worker_of(composed("loss=ce", *settings, "search.trials=1")) for _ in range(2))

    def train(cfg, callbacks, **about):
        monkeypatch.setattr(tuning, "train", stand_in(lambda cfg: 20.0))
        age(slow)  # the other worker takes it for dead
        work(other)
        if end == "pruned":
            raise optuna.TrialPruned
        return (stand_in(epochs=2 if end == "epoch" else 0))(cfg, callbacks=callbacks, **about)

    monkeypatch.setattr(tuning, "train", train)
    work(slow)
    assert "taken over by another worker" in capsys.readouterr().out
    [trial] = slow.conclude().trials
    assert (trial["value"], trial["state"]) == (20.0, "complete")
    assert len(slow.study.trials) == 2 and not slow.study.trials[0].intermediate_values


def test_a_system_error_stops_the_worker_and_keeps_the_trial(settings, monkeypatch):
    asked = []

    def broken(cfg, **about):
        asked.append(cfg.trainer.lr)
        raise OSError(28, "no space left on device")

    worker = worker_of(composed("loss=ce", *settings, "search.trials=2"))
    for _ in range(5):  # repeated until the disk has space
        monkeypatch.setattr(tuning, "train", broken)
        with pytest.raises(OSError, match="no space"):
            worker.step()
    monkeypatch.setattr(tuning, "train", stand_in())
    work(worker)
    assert states(worker) == ["complete"] * 2 and len(set(asked)) == 1
    assert worker.conclude().trials[0]["params"]["lr"] == asked[0]


# ------------------------------------------------------------------------------------------------------ ends of trials


@pytest.mark.parametrize("further", [[], ["experiment=few_shot"]])  # whose settings differ: batches of 32
def test_the_shown_command_of_a_search_makes_the_same_search(settings, monkeypatch, further):
    monkeypatch.setattr(tuning, "train", stand_in())
    given = [*settings, "loss=ce", "trainer.patience=2", "search.space.integrated.ce.lr={low:4e-5,high:1e-3,log:true}"]
    given += ["search.trials=2", *further]
    worker = worker_of(composed(*given))
    work(worker)
    study = worker.conclude()
    assert "paths.outputs=its here" in shlex.split(search_command(study, Path("its here")))
    shown = shlex.split(search_command(study, Path("outputs")))[2:]
    assert {"dataset=csv", "trainer.patience=2", "search.trials=2"} <= set(shown)
    places = [word for word in given if word.startswith("paths.")]
    assert worker_of(composed(*places, *shown)).study_name == worker.study_name


def test_repeated_values_are_not_trained_twice(settings):
    cfg = composed("loss=ce", *settings, "search.trials=4")
    cfg.search.space["integrated"]["ce"]["lr"] = {"choices": [1e-3, 2e-3]}
    study = tune(cfg)
    assert len(trial_records(study)) == 2 and [t["state"] for t in study.trials] == ["complete"] * 4
    assert sorted(t["duplicate_of"] is None for t in study.trials) == [False, False, True, True]
    for trial in study.trials:
        twin = study.trials[trial["duplicate_of"] or trial["number"]]
        assert (trial["params"], trial["value"], trial["epochs"]) == (twin["params"], twin["value"], 2)


def test_a_diverged_trial_fails_with_its_reason_and_the_study_continues(settings, monkeypatch):
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
    source = yaml.safe_load(tuned_file(worker.cfg).read_text())["tuned"]
    assert source["fail"] + source["complete"] == source["trials"] == 8
    assert source["space"]["sigma"] == {"low": 0.1, "high": 10.0, "log": True, "step": None}
    assert "trial" not in source  # numbered from 1 on the terminal, from 0 in study.json
    assert "failed: the loss or its gradient" in trials_table(study).markdown()


def test_a_trial_below_the_median_is_pruned_and_leaves_no_checkpoint(settings, monkeypatch):
    score = scored(50.0, 52.0, 54.0, 56.0, 58.0, 53.9, 54.1)  # the median of the first five is 54
    monkeypatch.setattr(tuning, "train", stand_in(score, 8))
    worker = worker_of(composed("loss=ce", *settings, "search.trials=7"))
    work(worker)
    assert states(worker) == ["complete"] * 5 + ["pruned", "complete"]
    pruned = worker.study.trials[5]
    assert max(pruned.intermediate_values) == 5 and pruned.value == pytest.approx(53.9 - 3)
    assert [path for path in worker.folder.rglob("checkpoint")] == []
    monkeypatch.setattr(tuning, "train", stand_in(lambda cfg: 1.0, 8))
    trial = worker.study.ask(worker.space)
    rows = [{"epoch": n, "score": 1.0} for n in range(1, 8)]
    tuning._Reporter(trial).on_start(None, None, [])  # a trial that begins
    with pytest.raises(optuna.TrialPruned):  # one that goes on: the interruption came before the question
        tuning._Reporter(trial).on_start(None, None, rows)
    unpruned = worker_of(composed("loss=ce", *settings, "search.trials=7", "search.prune=false"))
    work(unpruned)
    assert states(unpruned) == ["complete"] * 7


def test_a_search_is_compared_with_the_majority_of_validation(settings, monkeypatch, tmp_path, capsys):
    val = tmp_path / "val.csv"
    val.write_text("text,label\na boat,sea\na wave,sea\na fish,sea\na cloud,sky\n")
    monkeypatch.setattr(tuning, "train", stand_in(lambda cfg: 20 + cfg.trainer.lr))
    tune(composed("loss=ce", *settings, "search.trials=2", f"dataset.val_path={val}"))
    assert "no trial beat the majority class, which has 42.86" in capsys.readouterr().err  # 2 · 0.75 / 1.75 / 2


@pytest.mark.parametrize("word", ["sampler.n_startups=3", "sampler.n_startup_trials=abc",
                                  "pruner.integrated.n_warmup=3", "pruner.integrated.n_min_trials=0"])  # fmt: skip
def test_settings_that_optuna_does_not_know_are_refused_before_a_study_begins(word, settings):
    cfg = composed("loss=ce", *settings, f"++search.{word}")
    with pytest.raises(ConfigError, match="the settings under search.sampler or search.pruner are not allowed: .*n_"):
        tune(cfg)
    assert not Path(cfg.paths.outputs).exists()


def test_rerun_is_refused(settings):
    with pytest.raises(ConfigError, match="rerun=true has no effect on a search"):
        tune(composed("loss=ce", *settings, "rerun=true"))


def test_a_real_study_selects_on_validation_and_does_not_use_test_texts(toy, settings, tmp_path, capsys):
    """With swapped test labels the search has the same trials and values, and no results on test texts."""
    lines = toy.read_text().splitlines()
    parts = {"train": lines[1:41], "val": lines[41:51], "test": lines[51:]}
    swapped = [line.rpartition(",")[0] + (",sea" if line.endswith("sky") else ",sky") for line in parts["test"]]
    studies = []
    for name, test in (("original", parts["test"]), ("swapped", swapped)):
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
        assert read_records(folder / "out") == ([], [])  # trials do not count as runs
        found, problems = read_records(study.folder)
        assert not found and ["is a trial of a search" in p.reason for p in problems] == [True] * 2
    assert studies[0] == studies[1]
    shown = capsys.readouterr()
    assert "validation accuracy" in shown.out and "test accuracy" not in shown.out + shown.err
