"""The search for hyperparameters: an Optuna study of one data set, model, mode, loss and variant.

A trial is a run like any other, in the study's own folder `<outputs>/studies/<name>/`, and its value the
best validation score. Any number of workers may run the same command: each claims the next trial under a lock, so the
study ends with exactly as many trials as asked for. A worker that dies loses nothing: the next one takes its trial
over, and goes on from its checkpoint. `study.json` in the folder is what reports read, without Optuna or a database.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from gloss.config import HYPERPARAMETERS, INTEGRATED, ROOT, SCL_CE, Config, SearchConfig, TuneConfig, resolve
from gloss.data.datasets import load_dataset
from gloss.errors import ConfigError, RunError
from gloss.records.reading import Record
from gloss.records.run_folder import hashed_config, run_folder, write_json
from gloss.records.study import SCHEMA_VERSION, Study, read_study, rounded
from gloss.runtime.environment import commit_of
from gloss.search.best_values import mismatch, read_tuned, tuned_file, write_tuned
from gloss.search.storage import WORKER, Database, Journal
from gloss.training.callbacks import Callback
from gloss.training.collapse import majority_f1
from gloss.training.run import train
from gloss.training.trainer import Diverged

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # a trial whose workers died that often is given up
POLL_SECONDS = 1.0  # between two looks at what other workers do
ATTEMPTS, DUPLICATE_OF, REASON, SECONDS = "attempts", "duplicate_of", "reason", "seconds"

Space = dict[str, FloatDistribution | CategoricalDistribution]


def found_nothing(study: Study, majority: float) -> str | None:
    """Why the best trial of a study is no better than any other values; None where it is."""
    values = [trial["value"] for trial in study.trials if trial["state"] == "complete"]
    different = {tuple(sorted(t["params"].items())) for t in study.trials if t["state"] == "complete"}
    if study.best["value"] <= majority + 1e-6:
        return f"no trial beat the majority class, which has {majority:.4g}"
    if len(different) > 1 and max(values) - min(values) < 1e-9:
        return f"all {len(values)} trials tie at {values[0]:.6g}"
    return None


class TakenOver(Exception):
    """Another worker took this one for dead and works on its trial."""


# --------------------------------------------------------------------------------------------------------- the space


def space_rows(cfg: Config, search: SearchConfig) -> dict[str, Any]:
    """What the search says of each hyperparameter of this mode and loss: hyperparameter -> its row. Raises ConfigError.

    A row is a number, which every trial has, or a range: low, high, and log or step; or choices. `final` in it is
    the value that the runs after the search take instead of the one found. λ is left out where the variant fixes it.
    """
    try:
        rows = dict(search.space[cfg.mode][cfg.loss.name])
    except (KeyError, TypeError):
        raise ConfigError(f"search={search.name} has no space for mode={cfg.mode} loss={cfg.loss.name}") from None
    for name in rows:
        if name not in HYPERPARAMETERS:
            where = f"search.space.{cfg.mode}.{cfg.loss.name}"
            raise ConfigError(f"{where}.{name} is not allowed: expected one of {', '.join(HYPERPARAMETERS)}")
    if cfg.loss.name == SCL_CE and cfg.variant.scl_lam is not None:
        rows.pop("lam", None)
    return rows


def search_space(cfg: Config, search: SearchConfig) -> Space:
    """What is searched for this mode and loss: hyperparameter -> its range. Raises ConfigError.

    Keys set by hand are left out, and what has one value only.
    """
    space: Space = {}
    for name, row in space_rows(cfg, search).items():
        if HYPERPARAMETERS[name] not in search.overridden and not isinstance(row, (int, float)):
            try:
                space[name] = _distribution(row)
            except (TypeError, ValueError, AttributeError) as error:
                expected = "expected low, high, and log or step; or choices"
                where = f"search.space.{cfg.mode}.{cfg.loss.name}.{name}"
                raise ConfigError(f"{where}={row} is not allowed: {expected} ({error})") from None
    if not space:
        raise ConfigError(f"nothing is left to search for loss={cfg.loss.name}: all is set by hand")
    return space


def _distribution(row: dict[str, Any]) -> FloatDistribution | CategoricalDistribution:
    keys = {key: x for key, x in row.items() if key != "final"}
    if "choices" in keys:
        return CategoricalDistribution(**{key: [float(x) for x in choices] for key, choices in keys.items()})
    return FloatDistribution(float(keys["low"]), float(keys["high"]), log=keys.get("log", False))


def range_of(row: FloatDistribution | CategoricalDistribution) -> dict[str, Any]:
    """A range as study.json has it."""
    if isinstance(row, CategoricalDistribution):
        return {"choices": list(row.choices)}
    return {"low": row.low, "high": row.high, "log": row.log, "step": row.step}


def sampler(search: SearchConfig, seed: int, number: int) -> optuna.samplers.TPESampler:
    """The sampler of one trial: seeded by its number, so that two workers never draw alike, and one that is started
    again goes on as if it had not stopped. seed: of the run, unless the search has its own."""
    settings = {"seed": seed, **search.sampler}
    seeds = np.random.SeedSequence([settings.pop("seed"), number])
    return optuna.samplers.TPESampler(**settings, seed=int(seeds.generate_state(1)[0]))


def pruner(search: SearchConfig, mode: str) -> optuna.pruners.BasePruner:
    """Stops a trial whose best validation score so far is below the median of the finished trials."""
    if not search.prune or mode not in search.pruner:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(**search.pruner[mode])


# --------------------------------------------------------------------------------------------------------- the worker


def tune(cfg: TuneConfig) -> Study:
    """Work on the study of this configuration until it has its trials, alone or beside others; write what was found.

    Returns the study. Raises ConfigError, DataError, RunError for what the user can mend; no trial is lost by that.
    """
    search = cfg.search
    if cfg.rerun:
        raise ConfigError("rerun=true has no effect on a search: use another seed, or remove the study's folder")
    run = Config(**{f.name: copy.deepcopy(getattr(cfg, f.name)) for f in fields(Config)})
    space = search_space(run, search)
    dataset = load_dataset(run.dataset, run.paths.data, run.seed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    worker = Worker(run, search, space, len(dataset.splits["train"].labels), dataset.fingerprint)
    if cfg.mode == INTEGRATED:
        worker.majority = majority_f1(dataset.splits["val"].labels)
    try:
        while (trial := worker.claim()) is not None:
            worker.run(trial)
        return worker.conclude()
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise RunError(f"the database went away ({reason}): once it is back, the same command goes on") from error
    finally:
        worker.store.close()


@dataclass
class _Reporter(Callback):
    """Books the epochs of a trial."""

    worker: Worker
    trial: optuna.Trial

    def on_epoch(self, row: dict[str, Any]) -> None:
        self.worker.on_epoch(self.trial, row["epoch"], row["score"])


class Worker:
    """One process at work on a study."""

    majority = 0.0  # validation macro-F1 of a constant answer

    def __init__(self, cfg: Config, search: SearchConfig, space: Space, num_examples: int, fingerprint: str) -> None:
        self.cfg, self.search, self.space, self.fingerprint = cfg, search, space, fingerprint
        for name, row in self._fixed_rows().items():
            group, key = HYPERPARAMETERS[name].split(".")
            setattr(getattr(cfg, group), key, row)
        self.num_trials = search.trials or search.budget.get(cfg.loss.name, search.budget.get("any"))
        if not self.num_trials or self.num_trials < 1:
            raise ConfigError(f"search.budget has no number of trials for loss={cfg.loss.name}: give search.trials=15")
        words = (cfg.dataset.name, cfg.model.alias, cfg.mode, cfg.loss.name, cfg.variant.name, search.name)
        self.study_name = "-".join((*words, self._config_hash()))
        self.folder = Path(cfg.paths.outputs) / "studies" / self.study_name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.about = {
            "name": self.study_name,
            "dataset": cfg.dataset.name,
            "model": cfg.model.alias,
            "mode": cfg.mode,
            "loss": cfg.loss.name,
            "variant": cfg.variant.name,
            "search": search.name,
            "seed": cfg.seed,
            "train_examples": num_examples,
            "train_limit": cfg.dataset.train_limit,
            "max_epochs": cfg.trainer.max_epochs,
        }
        self.name = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
        if not search.storage:  # an empty GLOSS_STORAGE, too
            self.store: Journal | Database = Journal(self.folder, self.name)
        else:
            self.store = Database(search.storage, self.study_name, self.name, search.heartbeat_seconds)
        with self.store.claiming():
            self.study = optuna.create_study(
                storage=self.store.storage,
                study_name=self.study_name,
                direction="maximize",
                pruner=pruner(search, cfg.mode),
                load_if_exists=True,
            )
        self.has_told_of_waiting = False

    def _config_hash(self) -> str:
        """Of everything that makes a trial's value what it is, so that a study never mixes two settings."""
        rest = hashed_config(self.cfg)
        for name in self.space:
            group, key = HYPERPARAMETERS[name].split(".")
            rest[group][key] = range_of(self.space[name])
        rest |= {"seed": self.cfg.seed, "prune": self.search.prune and self.cfg.mode in self.search.pruner}
        if self.cfg.dataset.has_own_texts:
            rest["fingerprint"] = self.fingerprint
        return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:8]

    # ------------------------------------------------------------------------------------------------------- claiming

    def claim(self) -> optuna.Trial | None:
        """The next trial for this worker; None once the study has all its trials, and each is finished.

        While others work on the last ones it waits, because one of them may die.
        """
        while True:
            with self.store.claiming():
                trial, is_finished = self._next()
            if trial is not None or is_finished:
                return trial
            if not self.has_told_of_waiting:
                self.has_told_of_waiting = True
                log.warning("%s: other workers are at the last trials, waiting", self.study_name)
            time.sleep(POLL_SECONDS)

    def _next(self) -> tuple[optuna.Trial | None, bool]:
        """(a trial to run, whether all are finished); called while claiming, so nobody else starts one."""
        while True:
            self._settle_duplicates()
            trials = self.study.get_trials(deepcopy=False)
            dead = self.store.dead_trials(self.study)
            orphan = next((t for t in trials if t.number in dead and DUPLICATE_OF not in t.user_attrs), None)
            if orphan is not None:
                number = orphan.number
            elif len(trials) < self.num_trials or any(t.state == TrialState.WAITING for t in trials):
                number = len(trials)
            else:
                return None, all(t.state.is_finished() for t in trials)
            self.study.sampler = sampler(self.search, self.cfg.seed, number)
            trial = self.study.ask() if orphan is None else optuna.Trial(self.study, orphan._trial_id)
            for name, row in self.space.items():
                if isinstance(row, CategoricalDistribution):
                    trial.suggest_categorical(name, row.choices)
                else:
                    trial.suggest_float(name, row.low, row.high, step=row.step, log=row.log)
            attempts = trial.user_attrs.get(ATTEMPTS, 0)
            if attempts >= MAX_ATTEMPTS:
                reason = f"its worker died {attempts} times"
                self._tell(trial.number, TrialState.FAIL, reason=reason)
                self._say(trial.number, trial.params, f"failed: {reason}")
                continue
            twin = self._twin(trial, trials)
            if twin is not None:
                trial.set_user_attr(DUPLICATE_OF, twin.number)
                continue
            if isinstance(self.store, Database):
                self.store.storage.record_heartbeat(trial._trial_id)
            trial.set_user_attr(ATTEMPTS, attempts + 1)
            trial.set_user_attr(WORKER, self.name)
            if orphan is not None:
                self._say(trial.number, trial.params, "going on with the trial of a worker that has ended")
            return trial, False

    def _twin(self, trial: optuna.Trial, trials: list[FrozenTrial]) -> FrozenTrial | None:
        """Another trial with the same values, of which this one would be a repetition."""
        mine = self._values(trial.params)
        for other in trials:
            if other.number != trial.number and DUPLICATE_OF not in other.user_attrs:
                if set(other.params) >= set(mine) and self._values(other.params) == mine:
                    return other
        return None

    def _settle_duplicates(self) -> None:
        """Give duplicates the outcome of their original, where that is finished by now."""
        trials = self.study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == TrialState.RUNNING and DUPLICATE_OF in trial.user_attrs:
                twin = trials[trial.user_attrs[DUPLICATE_OF]]
                if twin.state.is_finished():
                    self._tell(trial.number, twin.state, twin.value, twin.user_attrs.get(REASON))
                    self._say(trial.number, trial.params, f"repeats trial {twin.number + 1}, not trained again")

    def _values(self, params: dict[str, float]) -> dict[str, float]:
        return {name: rounded(params[name]) for name in self.space}

    # -------------------------------------------------------------------------------------------------------- a trial

    def run(self, trial: optuna.Trial) -> None:
        """Train a claimed trial and book its outcome. An error that is not of its values' making is raised."""
        cfg = self._config(trial)
        started = time.perf_counter()
        state, value, reason = TrialState.COMPLETE, None, None
        try:
            with self.store.alive(trial._trial_id):
                place = f"trial {trial.number + 1} of {self.num_trials}"
                record = train(cfg, callbacks=[_Reporter(self, trial)], is_trial=True, place=place)
            if not self._is_mine(trial):
                raise TakenOver
            value = self._catch_up(trial, record)
        except optuna.TrialPruned:
            if self.search.pruned_counts:
                value = max(self.store.storage.get_trial(trial._trial_id).intermediate_values.values())
            else:
                state = TrialState.PRUNED
        except (Diverged, torch.linalg.LinAlgError) as error:
            state, reason = TrialState.FAIL, str(error)
        except TakenOver:
            self._say(trial.number, trial.params, "was taken over by another worker")
            return
        except BaseException:
            with suppress(Exception):
                self._hand_back(trial)
            raise
        seconds = round(time.perf_counter() - started, 3)
        with self.store.claiming():
            if not self._is_mine(trial):
                return
            shutil.rmtree(run_folder(cfg, self.fingerprint) / "checkpoint", ignore_errors=True)
            trial.set_user_attr(SECONDS, seconds)
            self._tell(trial.number, state, value, reason)
        score = "val F1" if cfg.mode == INTEGRATED else "val silhouette"
        outcome = f"{score} {value:.6g}" if value is not None else f"failed: {reason}" if reason else "pruned"
        self._say(trial.number, trial.params, f"{outcome}, {seconds:.1f} s")

    def _config(self, trial: optuna.Trial) -> Config:
        cfg = copy.deepcopy(self.cfg)
        for name, value in self._values(trial.params).items():
            group, key = HYPERPARAMETERS[name].split(".")
            setattr(getattr(cfg, group), key, value)
        cfg.paths.outputs = str(self.folder)
        cfg.trainer.save_model = False
        return resolve(cfg)

    def on_epoch(self, trial: optuna.Trial, epoch: int, score: float) -> None:
        """Book an epoch's score. Raises TakenOver where the trial is another worker's by now, or TrialPruned."""
        if not self._is_mine(trial):
            raise TakenOver
        self._report(trial, epoch, score)
        if trial.should_prune():
            raise optuna.TrialPruned(f"below the median at epoch {epoch}")

    def _report(self, trial: optuna.Trial, epoch: int, score: float) -> None:
        """Book an epoch's score, unless a worker before this one did."""
        if epoch not in self.store.storage.get_trial(trial._trial_id).intermediate_values:
            trial.report(score, epoch)

    def _catch_up(self, trial: optuna.Trial, record: Record) -> float:
        """The trial's value; also reports epochs that a worker before this one trained but did not report."""
        epochs = record.epochs()
        for row in epochs:
            self._report(trial, row["epoch"], row["score"])
        return max(row["score"] for row in epochs)

    def _is_mine(self, trial: optuna.Trial) -> bool:
        now = self.store.storage.get_trial(trial._trial_id)
        return now.state == TrialState.RUNNING and now.user_attrs.get(WORKER) == self.name

    def _hand_back(self, trial: optuna.Trial) -> None:
        """Let the next worker have the trial at once; leaving in good order does not count as an attempt."""
        with self.store.claiming():
            if self._is_mine(trial):
                trial.set_user_attr(ATTEMPTS, trial.user_attrs[ATTEMPTS] - 1)
                trial.set_user_attr(WORKER, "")

    def _tell(self, number: int, state: TrialState, value: float | None = None, reason: str | None = None) -> None:
        """Book an outcome; called while claiming."""
        trial_id = self.store.storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        trial = optuna.Trial(self.study, trial_id)
        if reason is not None:
            trial.set_user_attr(REASON, reason)
        if state == TrialState.PRUNED and value is not None:  # a duplicate: Optuna takes a pruned value from a report
            trial.report(value, 0)
        self.study.tell(trial, value if state == TrialState.COMPLETE else None, state)
        self._write()

    def _say(self, number: int, params: dict[str, float], outcome: str) -> None:
        values = ", ".join(f"{name} {value:.4g}" for name, value in params.items())
        log.info(f"{self.study_name} · trial {number + 1} of {self.num_trials} · {values} · {outcome}")

    # --------------------------------------------------------------------------------------------------- what was found

    def _write(self) -> None:
        """study.json, as the storage has it now."""
        trials = [self._row(trial) for trial in self.study.get_trials(deepcopy=False)]
        space = {name: range_of(row) for name, row in self.space.items()}
        content = {**self.about, "num_trials": self.num_trials, "space": space, "trials": trials}
        write_json(self.folder / "study.json", {"schema_version": SCHEMA_VERSION, **content})

    def _row(self, trial: FrozenTrial) -> dict[str, Any]:
        return {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "params": {name: rounded(value) for name, value in trial.params.items()},
            "value": trial.value,
            "epochs": sum(step > 0 for step in trial.intermediate_values),
            "seconds": trial.user_attrs.get(SECONDS),
            "reason": trial.user_attrs.get(REASON),
            "duplicate_of": trial.user_attrs.get(DUPLICATE_OF),
        }

    def conclude(self) -> Study:
        """Write the overlay of a finished study. Raises RunError where no trial came to a value."""
        with self.store.claiming():
            self._write()
            study = read_study(self.folder)
            if study.best is None:
                reasons = "; ".join(sorted({trial["reason"] or trial["state"] for trial in study.trials}))
                raise RunError(f"none of the {len(study.trials)} trials of {study.name} came to a value: {reasons}")
            path = tuned_file(self.cfg)
            before = read_tuned(path)[1] if path.is_file() else {}
            if (before.get("study"), before.get("trials")) != (study.name, len(study.trials)):
                write_tuned(path, self._fixed() | study.best["params"] | self._final(), self._source(study))
        if before.get("study", study.name) != study.name:
            others = f", which were searched {why}" if (why := mismatch(self.cfg, before)) else ""
            log.warning(f"{path} held the values of {before['study']}{others}: replaced")
        if nothing := found_nothing(study, self.majority):
            log.warning(f"{study.name}: {nothing}; runs will not apply its values")
        best = study.best
        found = f"best {study.score} {best['value']:.6g} in trial {best['number'] + 1}"
        log.info(f"{study.name}: {found}\n  {path}")
        return study

    def _fixed_rows(self) -> dict[str, float]:
        """Hyperparameters that the search gives one value."""
        rows = space_rows(self.cfg, self.search)
        return {
            k: x
            for k, x in rows.items()
            if isinstance(x, (int, float)) and HYPERPARAMETERS[k] not in self.search.overridden
        }

    def _fixed(self) -> dict[str, float]:
        """Hyperparameters that were not searched: the others were found beside them, and belong to them."""
        rows = space_rows(self.cfg, self.search)
        keys = {name: HYPERPARAMETERS[name].split(".") for name in rows if name not in self.space}
        return {name: getattr(getattr(self.cfg, group), key) for name, (group, key) in keys.items()}

    def _final(self) -> dict[str, float]:
        """What the runs after the search take instead of the values found."""
        rows = space_rows(self.cfg, self.search)
        return {name: float(rows[name]["final"]) for name in self.space if "final" in rows[name]}

    def _source(self, study: Study) -> dict[str, Any]:
        """Where the values come from, for the overlay and for the record of every run that applies it."""
        states = [trial["state"] for trial in study.trials]
        commit, is_clean = commit_of(ROOT)
        return {
            "study": study.name,
            "search": study.search,
            "score": study.score,
            "value": study.best["value"],
            "trial": study.best["number"],
            "trials": len(study.trials),
            "found_nothing": found_nothing(study, self.majority),
            **{state: states.count(state) for state in ("complete", "pruned", "fail")},
            "fingerprint": self.fingerprint,
            "model_name": self.cfg.model.name,
            "model_revision": self.cfg.model.revision,
            "train_examples": study.train_examples,
            "train_limit": study.train_limit,
            "max_epochs": study.max_epochs,
            "epochs": study.best["epochs"],
            "seed": study.seed,
            "versions": {name: version(name) for name in ("optuna", "torch", "transformers")},
            "commit": commit,
            "commit_clean": is_clean,
        }
