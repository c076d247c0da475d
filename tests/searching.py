"""Helpers of the search tests: workers, dead workers, a stub for training, a finished search."""

import time
from functools import cache, partial
from types import SimpleNamespace

import conftest

from gloss.records.reading import read_record
from gloss.records.run_folder import run_folder
from gloss.search import worker as tuning
from gloss.search.space import search_space
from gloss.search.worker import Worker, counted, tune

composed = partial(conftest.composed, config_name="tune")


def without_search(words: list[str]) -> list[str]:
    """The overrides that also apply to runs."""
    return [word for word in words if not word.startswith("search.")]


def worker_of(cfg) -> Worker:
    """A worker without texts, for tests with a stub for training."""
    search = cfg.search
    plain = tuning.Config(**{f.name: getattr(cfg, f.name) for f in tuning.fields(tuning.Config)})
    return Worker(plain, search, search_space(plain, search), 48, "0" * 64)


def die(worker: Worker):
    """Start a trial and leave it like a killed worker; return the trial."""
    trial = worker.study.ask(worker.space)
    worker.storage.record_heartbeat(trial._trial_id)
    age(worker)
    return trial


def age(worker: Worker) -> None:
    """Wait for the heartbeats of all running trials, which threads write, and make them an hour older."""
    older = "UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-1 hour') WHERE trial_id IN "
    older += "(SELECT trial_id FROM trials WHERE state = 'RUNNING')"
    running = states(worker).count("running")
    for _ in range(1000):
        with worker.storage.engine.begin() as connection:
            if connection.exec_driver_sql(older).rowcount == running:
                return
        time.sleep(0.01)
    raise AssertionError("there was no heartbeat")


def stand_in(score=lambda cfg: 50.0, epochs: int = 2):
    """A stub for `train`, with the list of requested configurations in its attribute `asked`."""
    asked = []

    def train(cfg, wait=True, callbacks=(), is_trial=False, place=""):
        assert is_trial
        asked.append(cfg)
        folder = run_folder(cfg, "0" * 64)
        (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
        rows = [{"epoch": n, "score": score(cfg) - (epochs - n)} for n in range(1, epochs + 1)]
        for row in rows:
            callbacks[0].on_epoch(row)
        return SimpleNamespace(epochs=lambda: rows)

    train.asked = asked
    return train


def scored(*scores: float):
    """A score for `stand_in`: the next of `scores` for each learning rate and τ that did not occur before."""
    left = iter(scores)
    of = cache(lambda lr, temperature: next(left))
    return lambda cfg: of(cfg.trainer.lr, cfg.loss.temperature)


def trial_records(study):
    """The records of the finished trials of a study."""
    return [read_record(done.parent) for done in sorted(study.folder.glob("runs/*/*/*/*/seed=*/DONE"))]


def states(worker: Worker) -> list[str]:
    return [t.state.name.lower() for t in counted(worker.study.get_trials(deepcopy=False))]


def work(worker: Worker) -> None:
    while worker.step():
        pass


def finished(settings, monkeypatch, *overrides):
    monkeypatch.setattr(tuning, "train", stand_in(lambda cfg: 60 + (cfg.loss.gamma or 1e6 * cfg.trainer.lr)))
    return tune(composed(*([] if "loss=ce" in overrides else ["loss=gloss_o"]), *settings, *overrides))
