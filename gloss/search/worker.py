"""The search for hyperparameters: an Optuna study of one data set, model, mode, loss and variant.

A trial is a run like any other, in the study's own folder `<outputs>/studies/<name>/`, and its value the best
validation score. Any number of workers may run the same command. Optuna gives each the next trial, notices by its
heartbeat that one died, and queues its trial again: the same values are the same run folder, so training goes on from
the checkpoint. Reports read `study.json` in the folder, without Optuna or a database.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import shutil
import time
import warnings
from contextlib import suppress
from dataclasses import asdict, fields
from functools import reduce
from importlib.metadata import version
from operator import attrgetter, getitem
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
import torch
from optuna.distributions import CategoricalDistribution
from optuna.storages import RetryHeartbeatStaleTrialCallback as Retry
from optuna.trial import FrozenTrial, TrialState

from gloss.config import CONFIG_DIR, HYPERPARAMETERS, ROOT, Config, SearchConfig, TuneConfig, config_file
from gloss.data.datasets import load_dataset
from gloss.errors import ConfigError, RunError
from gloss.losses.registry import INTEGRATED
from gloss.records.run_folder import hashed_config, run_folder, write_json
from gloss.records.study import SCHEMA_VERSION, Study, read_study, rounded
from gloss.resolve import resolve
from gloss.runtime.environment import commit_of
from gloss.runtime.locks import FileLock
from gloss.runtime.signals import Interrupted
from gloss.search.best_values import mismatch, read_tuned, settings_of, tuned_file, write_tuned
from gloss.search.space import Space, range_of, search_space, set_value, space_rows
from gloss.search.storage import MAX_RETRIES, open_storage
from gloss.training.callbacks import Callback
from gloss.training.collapse import majority_f1
from gloss.training.failures import Diverged
from gloss.training.run import train

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # between two checks on other workers
NOT_FINITE = (Diverged, torch.linalg.LinAlgError)  # failures that a trial's values may cause
REASON, LEFT = "reason", "left"  # a trial's attributes: why it failed; that it ended without an outcome


def counted(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The trials of a study, without those that ended without an outcome or that Optuna queued again."""
    return [trial for trial in trials if LEFT not in trial.user_attrs and not _is_retried(trial)]


def _is_retried(trial: FrozenTrial) -> bool:
    """Whether Optuna took its worker for dead and queued its values again."""
    is_dead = trial.state == TrialState.FAIL and REASON not in trial.user_attrs
    return is_dead and len(Retry.retry_history(trial)) < MAX_RETRIES


def place_of(study: optuna.Study, trial: FrozenTrial | optuna.Trial) -> int:
    """The number of counted trials before this one."""
    return len(counted(study.get_trials(deepcopy=False)[: trial.number]))


class Sampler(optuna.samplers.TPESampler):
    """TPE, seeded anew for each trial by its place: two workers never draw alike, and a restarted worker continues as
    if it had not stopped.

    Args:
        settings: of Optuna's TPESampler.
        seed: of the run, unless `settings` have one.
    """

    def __init__(self, settings: dict[str, Any], seed: int) -> None:
        self.settings = {"seed": seed, **settings}
        super().__init__(**self.settings)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        seeds = np.random.SeedSequence([self.settings["seed"], place_of(study, trial)])
        super().__init__(**self.settings | {"seed": int(seeds.generate_state(1)[0])})
        super().before_trial(study, trial)


def tune(given: TuneConfig) -> Study:
    """Work on the study of this configuration until it has its trials, alone or beside others; write the best values.

    Returns the study. Raises ConfigError, DataError, RunError for errors that the user can fix; no trial is then lost.
    """
    search = given.search
    if given.rerun:
        raise ConfigError("rerun=true has no effect on a search: use another seed, or remove the study's folder")
    cfg = Config(**{f.name: copy.deepcopy(getattr(given, f.name)) for f in fields(Config)})
    space = search_space(cfg, search)
    dataset = load_dataset(cfg.dataset, cfg.paths.data, cfg.seed)
    worker = Worker(cfg, search, space, len(dataset.splits["train"].labels), dataset.fingerprint)
    if cfg.mode == INTEGRATED:
        worker.majority = majority_f1(dataset.splits["val"].labels)
    try:
        while worker.step():
            pass
        return worker.conclude()
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise RunError(f"the database went away ({reason}): once it is back, the same command goes on") from error
    finally:
        worker.storage.engine.dispose()


class _Reporter(Callback):
    """Reports a trial's epochs to Optuna, including epochs before an interruption."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial
        self.scores: dict[int, float] = {}

    def report(self, epochs: list[dict[str, Any]]) -> None:
        for row in epochs:
            if row["epoch"] not in self.scores:
                self.scores[row["epoch"]] = row["score"]
                self.trial.report(row["score"], row["epoch"])

    def report_or_prune(self, epochs: list[dict[str, Any]]) -> None:
        self.report(epochs)
        if epochs and self.trial.should_prune():
            raise optuna.TrialPruned

    def on_start(self, cfg: Config, folder: Path, epochs: list[dict[str, Any]]) -> None:
        self.report_or_prune(epochs)  # a resumed trial may have stopped before the question

    def on_epoch(self, row: dict[str, Any]) -> None:
        self.report_or_prune([row])


class Worker:
    """One process at work on a study."""

    majority = -math.inf  # validation macro-F1 of a constant answer; a silhouette has no such floor

    def __init__(self, cfg: Config, search: SearchConfig, space: Space, num_examples: int, fingerprint: str) -> None:
        cfg.ablation.test_on, cfg.trainer.save_model = None, False  # a trial tests no texts and is not kept
        self.cfg, self.search, self.space, self.fingerprint = cfg, search, space, fingerprint
        self.rows = space_rows(cfg, search)
        for name, row in self.rows.items():  # those with one value in the search
            if isinstance(row, (int, float)) and HYPERPARAMETERS[name] not in search.overridden:
                set_value(cfg, name, row)
        self.num_trials = search.trials or search.budget.get(cfg.loss.name, search.budget.get("any"))
        if not self.num_trials or self.num_trials < 1:
            raise ConfigError(f"search.budget has no number of trials for loss={cfg.loss.name}: give search.trials=15")
        self.about: dict[str, Any] = {
            **{"dataset": cfg.dataset.name, "model": cfg.model.alias, "mode": cfg.mode, "loss": cfg.loss.name},
            **{"variant": cfg.variant.name, "search": search.name},
        }
        self.study_name = "-".join((*self.about.values(), self._config_hash()))
        self.about |= {"name": self.study_name, "seed": cfg.seed, "train_examples": num_examples}
        self.about |= {"train_limit": cfg.dataset.train_limit, "max_epochs": cfg.trainer.max_epochs}
        self.about |= {"given": given(cfg, search)}
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # this module reports its trials
        sampler, pruner = _sampler_and_pruner(cfg, search)
        self.folder = Path(cfg.paths.outputs) / "studies" / self.study_name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.folder / "lock")
        self.seen: set[int] = set()  # running trials that have a first heartbeat
        with FileLock(self.folder.parent / "lock"):  # two studies that make a new server's tables at once collide
            self.storage = open_storage(search.storage, self.folder / "study.db", search.heartbeat_seconds)
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=self.study_name,
                direction="maximize",
                sampler=sampler,
                pruner=pruner,
                load_if_exists=True,
            )

    def _config_hash(self) -> str:
        """A hash of every setting that changes a trial's value, so that a study never mixes two settings."""
        rest = hashed_config(self.cfg)
        for name in self.space:
            group, key = HYPERPARAMETERS[name].split(".")
            rest[group][key] = range_of(self.space[name])
        rest |= {"seed": self.cfg.seed, "prune": self.search.prune and self.cfg.mode in self.search.pruner}
        ours = asdict(self.search)
        usual = asdict(SearchConfig()) | config_file("search", self.search.name, is_optional=True)
        for settings in (ours, usual):
            settings["pruner"] = settings["pruner"].get(self.cfg.mode)
        keys = ("sampler", "pruner", "pruned_counts") if rest["prune"] else ("sampler",)
        rest |= {key: ours[key] for key in keys if ours[key] != usual[key]}
        if self.cfg.dataset.has_own_texts:
            rest["fingerprint"] = self.fingerprint
        return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:8]

    def step(self) -> bool:
        """Train a trial, or wait a moment for other workers, which may die; return False once all are finished."""
        optuna.storages.fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number not in self.seen:  # its worker may have died before its first heartbeat
                self.storage.record_heartbeat(trial._trial_id)  # Optuna shows no other id
                self.seen.add(trial.number)
        trials = counted(self.study.get_trials(deepcopy=False))
        if len(trials) < self.num_trials or any(t.state == TrialState.WAITING for t in trials[: self.num_trials]):
            try:
                self.study.optimize(self._objective, n_trials=1, catch=NOT_FINITE, callbacks=[self._after])
            except ValueError as error:
                if not str(error).startswith("Cannot tell a"):  # Optuna's, of a trial that is finished already
                    raise
                log.info(f"{self.study_name}: the trial was taken over by another worker")
            return True
        if all(t.state != TrialState.RUNNING for t in trials):
            return False
        time.sleep(POLL_SECONDS)
        return True

    def _objective(self, trial: optuna.Trial) -> float | None:
        place = place_of(self.study, trial)
        if place >= self.num_trials or LEFT in trial.user_attrs:  # another worker was quicker
            trial.set_user_attr(LEFT, True)
            return None
        shown = f"trial {place + 1} of {self.num_trials}"
        if trial.params:
            log.info(f"{self.study_name} · {shown} · resuming an interrupted trial")
        cfg = copy.deepcopy(self.cfg)
        for name, row in self.space.items():
            if isinstance(row, CategoricalDistribution):
                value = float(trial.suggest_categorical(name, row.choices))
            else:
                value = trial.suggest_float(name, row.low, row.high, step=row.step, log=row.log)
            set_value(cfg, name, rounded(value))
        cfg.paths.outputs = str(self.folder)
        cfg = resolve(cfg)
        self.checkpoint = run_folder(cfg, self.fingerprint) / "checkpoint"
        reporter = _Reporter(trial)
        try:
            record = train(cfg, callbacks=[reporter], is_trial=True, place=shown)
            reporter.report(record.epochs())  # where another trial has had the same values
            return max(reporter.scores.values())
        except (optuna.TrialPruned, *NOT_FINITE) as error:
            if not isinstance(error, optuna.TrialPruned):
                trial.set_user_attr(REASON, str(error))
            elif self.search.pruned_counts:
                return max(reporter.scores.values())
            raise
        except BaseException as error:  # not caused by the values: the next worker goes on
            with suppress(Exception):  # of a trial that was taken over, or a database that went away
                trial.set_user_attr(LEFT, True)
                same: dict[str, Any] = {"params": trial.params, "distributions": trial.distributions}
                self.study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING, **same))
                if isinstance(error, Interrupted):  # which Optuna doesn't catch
                    self.study.tell(trial, state=TrialState.FAIL)
            raise

    def _after(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Write the study and report its trial, unless another worker took that over."""
        if LEFT in trial.user_attrs:
            return
        shutil.rmtree(self.checkpoint, ignore_errors=True)  # of a trial that was pruned, or failed
        self._write()
        values = ", ".join(f"{name} {value:.4g}" for name, value in trial.params.items())
        outcomes = {TrialState.FAIL: f"failed: {trial.user_attrs.get(REASON)}", TrialState.PRUNED: "pruned"}
        score = "val F1" if self.cfg.mode == INTEGRATED else "val silhouette"
        outcome = outcomes.get(trial.state) or f"{score} {trial.value:.6g}"
        place = f"trial {place_of(study, trial) + 1} of {self.num_trials}"
        log.info(f"{self.study_name} · {place} · {values} · {outcome}, {trial.duration.total_seconds():.1f} s")

    def _write(self) -> None:
        """Write study.json from the database."""
        with self.lock:
            rows: list[dict[str, Any]] = []
            for trial in counted(self.study.get_trials(deepcopy=False)):
                if trial.state != TrialState.WAITING or len(rows) < self.num_trials:
                    rows.append(_row(trial, rows))
            content = {**self.about, "num_trials": self.num_trials, "space": self._ranges(), "trials": rows}
            write_json(self.folder / "study.json", {"schema_version": SCHEMA_VERSION, **content})

    def _ranges(self) -> dict[str, dict[str, Any]]:
        return {name: range_of(row) for name, row in self.space.items()}

    def conclude(self) -> Study:
        """Write the overlay of a finished study. Raises RunError where no trial came to a value."""
        self._write()
        study = read_study(self.folder)
        if (best := study.best) is None:
            reasons = "; ".join(sorted({trial["reason"] or trial["state"] for trial in study.trials}))
            raise RunError(f"none of the {len(study.trials)} trials of {study.name} came to a value: {reasons}")
        nothing = found_nothing(study, self.majority)
        path = tuned_file(self.cfg)
        with self.lock:
            values, source = self._best_values(study), self._source(study, nothing)
            old, before = read_tuned(path) if path.is_file() else ({}, {})
            same = ("study", "trials", "value")
            is_new = old != {HYPERPARAMETERS[name]: value for name, value in values.items()}
            if is_new or any(before.get(key) != source[key] for key in same):
                write_tuned(path, values, source)
        if before.get("study", study.name) != study.name:
            others = f", which were searched {why}" if (why := mismatch(self.cfg, before)) else ""
            log.warning(f"{path} held the values of {before['study']}{others}: replaced")
        if nothing:
            log.warning(f"{study.name}: {nothing}; runs will not apply its values")
        found = f"best {study.score} {best['value']:.6g} in trial {best['number'] + 1}"
        log.info(f"{study.name}: {found}\n  {path}")
        return study

    def _best_values(self, study: Study) -> dict[str, float]:
        """The best trial's values, or `final` ones in their place, and the search's values that were not searched."""
        values = {name: attrgetter(HYPERPARAMETERS[name])(self.cfg) for name in self.rows} | study.best["params"]
        final = {name: float(self.rows[name]["final"]) for name in self.space if "final" in self.rows[name]}
        return values | final

    def _source(self, study: Study, nothing: str | None) -> dict[str, Any]:
        """The origin of the values, for the overlay and for the record of every run that applies it."""
        states = [trial["state"] for trial in study.trials]
        commit, is_clean = commit_of(ROOT)
        same = ("search", "score", "seed", "train_examples", "train_limit", "max_epochs")
        return {
            "study": study.name,
            "value": study.best["value"],
            "epochs": study.best["epochs"],
            "trials": len(states),
            **{state: states.count(state) for state in ("complete", "pruned", "fail")},
            "found_nothing": nothing,
            **{key: getattr(study, key) for key in same},
            "space": self._ranges(),
            "fingerprint": self.fingerprint,
            "model_name": self.cfg.model.name,
            "model_revision": self.cfg.model.revision,
            "model_sha256": self.cfg.model.sha256,
            "settings": settings_of(self.cfg),
            "versions": {name: version(name) for name in ("optuna", "torch", "transformers")},
            "commit": commit,
            "commit_clean": is_clean,
        }


def _sampler_and_pruner(cfg: Config, search: SearchConfig) -> tuple[Sampler, optuna.pruners.BasePruner]:
    """Optuna's sampler and pruner. Raises ConfigError for settings that it does not know."""
    pruned = search.pruner.get(cfg.mode) if search.prune else None
    try:
        for key, value in (*search.sampler.items(), *(pruned or {}).items()):
            if isinstance(value, str):
                raise TypeError(f"{key}={value} is no number")
        none, median = optuna.pruners.NopPruner, optuna.pruners.MedianPruner  # below the median of the finished trials
        return Sampler(search.sampler, cfg.seed), none() if pruned is None else median(**pruned)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the settings under search.sampler or search.pruner are not allowed: {error}") from None


def given(cfg: Config, search: SearchConfig) -> dict[str, Any]:
    """The keys of the command line and their values, for a report's command; without paths, and of the groups only
    own texts, own encoders and the experiment."""
    own: dict[str, Any] = {"dataset": cfg.dataset.source} if cfg.dataset.source in ("csv", "hub") else {}
    own |= {} if (CONFIG_DIR / "model" / f"{cfg.model.alias}.yaml").is_file() else {"model": "hf"}
    own |= {"experiment": cfg.experiment.name} if cfg.experiment.name else {}
    tree: Any = asdict(cfg) | {"search": asdict(search)}
    keys = [key for key in search.overridden if "." in key and not key.startswith(("paths.", "hydra."))]
    unread = ("search.storage", "search.worker", "ablation.test_on", "trainer.save_model")
    keys = [key for key in keys if key not in unread]
    return own | {key: reduce(getitem, key.split("."), tree) for key in keys}


def found_nothing(study: Study, majority: float) -> str | None:
    """The reason why the best trial of a study is no better than any other values; None where it is."""
    complete = [trial for trial in study.trials if trial["state"] == "complete"]
    values = [trial["value"] for trial in complete]
    if study.best["value"] <= majority + 1e-6:
        return f"no trial beat the majority class, which has {majority:.4g}"
    if any(trial["params"] != complete[0]["params"] for trial in complete) and max(values) - min(values) < 1e-9:
        return f"all {len(values)} trials tie at {values[0]:.6g}"
    return None


def _row(trial: FrozenTrial, before: list[dict[str, Any]]) -> dict[str, Any]:
    """A trial as study.json has it. before: the rows before it, of which it may be a repetition."""
    reason = trial.user_attrs.get(REASON)
    if trial.state == TrialState.FAIL and reason is None:
        reason = f"its worker died {MAX_RETRIES + 1} times"
    row = {
        "number": len(before),
        "state": trial.state.name.lower(),
        "params": {name: rounded(value) for name, value in trial.params.items()},
        "value": trial.value,
        "epochs": len(trial.intermediate_values),
        "seconds": round(trial.duration.total_seconds(), 3) if trial.duration else None,
        "reason": reason,
    }
    same = ("state", "params", "value") if trial.state.is_finished() else ("number",)
    twins = (other["number"] for other in before if all(other[key] == row[key] for key in same))
    return row | {"duplicate_of": next(twins, None)}
