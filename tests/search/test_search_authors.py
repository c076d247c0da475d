"""search=authors, the search of the released code: spaces, fixed values, sampler, pruning, values passed to runs."""

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from searching import composed, scored, stand_in, states, without_search, work, worker_of

from gloss.paper.published import rows
from gloss.records.study import _space_of, read_study
from gloss.report.protocol import protocol_deviations
from gloss.report.tables.datasets_and_search import _space
from gloss.search import worker as tuning
from gloss.search.space import range_of, search_space
from gloss.search.worker import tune

PRINTED: dict[tuple[str, str], dict[str, str]] = {}  # the paper's, as in saditya13/G-Loss-LoG
for line in rows("table7"):
    PRINTED.setdefault((line["mode"], line["loss"]), {})[line["hyperparameter"]] = line["searched"]


def authors(*overrides):
    return worker_of(composed("search=authors", *overrides))


@pytest.mark.parametrize(("mode", "loss"), PRINTED)
def test_search_spaces_and_numbers_of_trials(mode, loss):
    cfg = composed("search=authors", f"mode={mode}", f"loss={loss}")
    found = search_space(cfg, cfg.search)
    assert {name: _space(_space_of(range_of(row))) for name, row in found.items()} == PRINTED[mode, loss]
    assert isinstance(found["lr"], optuna.distributions.CategoricalDistribution)
    worker = worker_of(cfg)
    assert worker.num_trials == (5 if loss in ("triplet", "cosine") else 15)
    assert isinstance(worker.study.pruner, optuna.pruners.NopPruner) == (mode == "integrated")


def test_scl_ce_has_fixed_lam_and_its_searched_tau_is_not_applied(settings, monkeypatch):
    train = stand_in(lambda cfg: 60 + 10 * cfg.loss.temperature + 1e5 * cfg.trainer.lr)  # the score rises with τ
    monkeypatch.setattr(tuning, "train", train)
    words = without_search(settings)
    for change, lam in (("seed=1", 0.9), ("loss.lam=0.6", 0.6), ("variant=released", 0.9)):
        train.asked.clear()
        study = tune(composed("loss=scl_ce", "search=authors", *words, change))
        assert len(train.asked) > 5 and {cfg.loss.lam for cfg in train.asked} == {lam}
        assert study.best["params"]["temperature"] == 0.7
        run = composed("loss=scl_ce", *words, change, config_name="train")
        assert (run.loss.lam, run.loss.temperature, run.trainer.lr) == (lam, 0.1, study.best["params"]["lr"])
        searched = [x for x in protocol_deviations(asdict(run)) if x.startswith(("search", "loss"))]
        assert searched == (["loss.lam=0.6 by hand"] if lam == 0.6 else [])
        reread = read_study(study.folder)
        assert reread.space["temperature"] == [0.1, 0.3, 0.5, 0.7] and reread.trials == study.trials


def test_searched_tau_is_applied_with_search_fair_and_in_standalone_mode(settings, monkeypatch):
    monkeypatch.setattr(tuning, "train", stand_in(lambda cfg: 60 + 10 * cfg.loss.temperature))
    words = without_search(settings)
    for search, given in (("fair", ["loss=scl_ce"]), ("authors", ["loss=scl", "mode=standalone"])):
        best = tune(composed(f"search={search}", *given, *settings)).best["params"]
        run = composed(*given, *words, config_name="train")
        assert run.loss.temperature == best["temperature"] > 0.5


def drawn(settings, monkeypatch, score, tmp_path, *overrides):
    monkeypatch.setattr(tuning, "train", stand_in(score))
    worker = worker_of(composed("loss=gloss_o", *settings, *overrides, f"paths.outputs={tmp_path}"))
    work(worker)
    return worker


def test_draws_equal_the_authors_default_optuna_sampler(settings, monkeypatch, tmp_path):
    worker = drawn(
        settings, monkeypatch, lambda cfg: 50 - cfg.loss.sigma, tmp_path, "search=authors", "search.trials=13"
    )
    trials = worker.study.trials
    for number in (0, 9, 12):
        seed = int(np.random.SeedSequence([42, number]).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(n_startup_trials=10, multivariate=False, constant_liar=False, seed=seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials(trials[:number])
        trial = study.ask(worker.space)
        assert trial.params == trials[number].params


def test_standalone_trials_are_pruned_after_three_and_keep_their_best_value(settings, monkeypatch):
    score = scored(0.50, 0.52, 0.54, 0.51, 0.53)  # the median of the first three is 0.52
    monkeypatch.setattr(tuning, "train", stand_in(score, 8))
    worker = authors("loss=scl", "mode=standalone", *settings, "search.trials=5")
    work(worker)
    trials = worker.study.trials
    assert states(worker) == ["complete"] * 5
    epochs = [max(t.intermediate_values) for t in trials]
    assert epochs[:3] == [8, 8, 8] and 5 <= epochs[3] < 8 and epochs[4] == 8
    assert trials[3].value == pytest.approx(max(trials[3].intermediate_values.values()))
    assert [t.value for t in trials[:3]] == [0.50, 0.52, 0.54]
    assert read_study(worker.folder).best["number"] == 2
    unpruned = authors("loss=scl", "mode=standalone", *settings, "search.trials=5", "search.prune=false")
    assert unpruned.study_name != worker.study_name


def test_the_value_of_a_trial_is_its_best_score_also_where_it_is_pruned(settings, monkeypatch):
    curves = iter([[0.5, 0.6, *[0.55] * 6]] * 3 + [[0.1, 0.3, *[0.2] * 6]])

    def train(cfg, callbacks, **about):
        rows = [{"epoch": n, "score": score} for n, score in enumerate(next(curves), start=1)]
        for row in rows:
            callbacks[0].on_epoch(row)
        return SimpleNamespace(epochs=lambda: rows)

    monkeypatch.setattr(tuning, "train", train)
    worker = authors("loss=scl", "mode=standalone", *settings, "search.trials=4")
    work(worker)
    assert [t.value for t in worker.study.trials] == [0.6, 0.6, 0.6, 0.3]
    assert len(worker.study.trials[3].intermediate_values) < 8
