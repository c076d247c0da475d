"""From a command line to a checked configuration: Hydra composes it, searched values are applied, errors are short."""

from __future__ import annotations

import copy
import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from gloss.cli.command import show, show_messages
from gloss.cli.help import usage
from gloss.config import ROOT, Config, TuneConfig, known_options
from gloss.errors import ConfigError, RunError
from gloss.experiments.grid import check_single, in_sweep_order, jobs_of, kept_jobs
from gloss.resolve import resolve
from gloss.runtime.compose import composed, hydra_of_our_own, readable
from gloss.runtime.overrides import SECRET, override, parted, prepared, value_of
from gloss.runtime.terminal import explain, ignore_broken_pipe, is_expected, program, run_with_exit_code
from gloss.search.best_values import apply_tuned, lines_on_tuned, overridden_keys

LOST_JOBS = {  # errors of launchers, by name: they are imported only where they are used; {}: their last line
    "TerminatedWorkerError": "a worker was killed by the system, most often for lack of memory, and with it the sweep: "
    "try fewer at a time (hydra.launcher.n_jobs)",
    "FailedJobError": "SLURM refused the jobs ({}): set hydra.launcher.partition, account, timeout_min or mem_gb as "
    "this cluster wants them",
    "UncompletedJobError": "a job was cancelled or killed before its run was done; the others go on. Its log is in the "
    "sweep's folder slurm",
}
log = logging.getLogger(__name__)
SCHEMAS = {"train": Config, "tune": TuneConfig}


@ignore_broken_pipe()
def main(task: Callable[[Any, str], Any], words: Sequence[str] | None = None, config_name: str = "train") -> int:
    """Run `task(config, place)` for the configuration, or each of a sweep's (`-m`), and return the exit status.

    place: of a run in its sweep, as "run 2 of 6"; else empty. The sweep's table shows the records that tasks return.

    words: of the command line; None: the program's own. --help shows the docstring of the task's module.
    config_name: "train", or "tune" for a search (task gets a TuneConfig, to which no search's values are applied).
    In a sweep a run that fails does not stop the others; at the end each failure is listed in two lines.
    """
    show_messages(has_progress=True)
    words = sys.argv[1:] if words is None else words
    if {"-h", "--help"} & set(words):
        about, schema = sys.modules[task.__module__].__doc__ or "", SCHEMAS[config_name]
        return run_with_exit_code(lambda: print(usage(about, schema, config_name)))
    hint = "; the same command goes on where it stopped"
    if value_of(words, "rerun", "false").lower() == "true":
        hint = "; the same command without rerun=true goes on with this run"
    return run_with_exit_code(lambda: _main(task, words, config_name), hint)


def _main(task: Callable[[Any, str], Any], arguments: Sequence[str], config_name: str) -> int:
    schema = SCHEMAS[config_name]
    flags, words = parted(prepared(arguments, known_options(schema)))
    is_sweep, is_shown = bool({"-m", "--multirun"} & set(flags)), bool({"-c", "--cfg"} & set(flags))
    experiment = value_of(words, "experiment", "null")
    if experiment != "null":
        if config_name == "tune" and value_of(words, "seed") is None:  # an experiment's seeds share one search
            words.append(f"seed={Config.seed}")
        if not is_sweep:
            check_single(experiment, words)
        elif not is_shown:
            from gloss.cli.reproduce import Task  # here: it loads the packages that draw reports

            is_search = config_name == "tune"
            task_of_sweep = Task(experiment, [w for w in words if not w.startswith("experiment=")])
            task_of_sweep.confirm(runs=not is_search, searches=is_search)
        words = in_sweep_order(experiment, words)
    try:
        if is_shown:
            if not is_sweep:
                show(configured(words, config_name))
            for job in kept_jobs(experiment, jobs_of(_without_hydra(words))) if is_sweep else ():
                print(f"--- # {' '.join(job)}")
                show(configured(job, config_name))
            return 0
        if not is_sweep:
            task(configured(words, config_name), "")
            return 0
        results = _sweep(task, words, config_name)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(readable(error)) from None
    except Exception as error:
        if lost := LOST_JOBS.get(type(error).__name__):
            lost = lost.format((str(error).strip().splitlines() or [""])[-1].strip())
            raise RunError(f"{lost}. Finished runs are kept: the same command does the rest") from None
        raise
    failed = [result for result in results if isinstance(result, str)]
    print("".join(failed), file=sys.stderr, end="")
    if experiment == "null" and (folders := [result for result in results if isinstance(result, Path)]):
        _print_table(folders, Path(value_of(words, "paths.outputs", "outputs")))
    if failed:
        print(
            f"{len(failed)} run{'s' * (len(failed) > 1)} failed; the others are done, or with another process",
            file=sys.stderr,
        )
    return 1 if failed else 0


def configured(words: Sequence[str], config_name: str = "train") -> Config:
    """The checked configuration of a single run or search.

    words: of the command line, as `prepared` gives them. Raises ConfigError.
    """
    try:
        cfg = copy.deepcopy(composed(words, config_name))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(readable(error)) from None
    return _prepare(cfg, _without_hydra(words))


def _without_hydra(words: Sequence[str]) -> list[str]:
    return [word for word in words if not word.startswith(("hydra.", "hydra/"))]


def _sweep(task: Callable[[Any, str], Any], words: list[str], config_name: str) -> list[Path | str | None]:
    """Run a sweep; for every job, in order, the folder of its record, two lines on its failure, or None."""
    # Hydra writes a sweep's arguments into files, and a database's URL may hold a password.
    if (storage := value_of(words, SECRET, "null")) != "null":
        os.environ["GLOSS_STORAGE"] = storage
        words = [word for word in words if not word.startswith(SECRET + "=")]
    if value_of(words, "hydra/launcher") in ("slurm", "submitit_slurm"):
        if shutil.which("srun") is None:
            raise ConfigError("hydra/launcher=slurm needs SLURM's commands on this machine: there is no srun")
        if config_name == "tune" and not os.environ.get("GLOSS_STORAGE"):
            log.warning(
                "searches in SLURM jobs keep study.db on the shared file system, which may damage it where its locks "
                "do not work: set GLOSS_STORAGE to a database server (docs/TUNING.md)"
            )
    sweeps = Path(value_of(words, "paths.outputs", "outputs")) / "sweeps"
    # So that workers started elsewhere import this checkout.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    jobs = jobs_of(_without_hydra(words))
    kept = kept_jobs(value_of(words, "experiment", "null"), jobs)
    places = [f"run {kept.index(job) + 1} of {len(kept)}" if job in kept else "" for job in jobs]
    with hydra_of_our_own():
        words = [override("hydra.sweep.dir", sweeps / f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"), *words]
        hydra: Any = GlobalHydra.instance().hydra
        batches = hydra.multirun(config_name, partial(_job, task=task, places=places), words)
    return [job.return_value for batch in batches for job in batch]


@ignore_broken_pipe()  # perhaps in another process
def _job(cfg: DictConfig, task: Callable[[Any, str], Any], places: Sequence[str]) -> Path | str | None:
    """Run one job of a sweep. places: of all jobs, as "run 2 of 6"; empty for a job that the experiment leaves out."""
    from gloss.runtime.gpu_sharing import assign_gpu  # here: it loads torch

    show_messages(has_progress=True)
    hydra_cfg = HydraConfig.get()
    overrides = list(hydra_cfg.overrides.task)
    if not (place := places[hydra_cfg.job.num]):
        return None
    try:
        assign_gpu()
        if "SUBMITIT_EXECUTOR" in os.environ:  # SLURM queues again a job that it has to kill, not one that leaves
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        run = _prepare(cfg, overrides)
        if run.trainer.save_model == "auto" and run.dataset.source not in ("csv", "hub"):
            run.trainer.save_model = False
        record = task(run, place)
        return Path(record.folder) if record is not None else None
    except Exception as error:
        failed, reason = f"failed: {' '.join(overrides)}\n  ", explain(error)
        print(failed + (reason if is_expected(error) else traceback.format_exc().rstrip()), file=sys.stderr, flush=True)
        return failed + (reason.partition("\n")[0] or type(error).__name__) + "\n"


def _print_table(folders: Sequence[Path], outputs: Path) -> None:
    """Print the runs of a sweep by configuration, and the command that makes the page."""
    from gloss.records.frame import frame_of  # here: slow to import
    from gloss.records.reading import read_record
    from gloss.report.run_list import by_configuration

    print(f"\n{by_configuration(frame_of([read_record(folder) for folder in dict.fromkeys(folders)]))}")
    print(f"The page {outputs / 'report' / 'index.html'}: {program('report')} paths.outputs={outputs}")


def _prepare(cfg: DictConfig, overrides: Sequence[str]) -> Config:
    if "search" in cfg:
        cfg.search.overridden = sorted(overridden_keys(overrides))
        return resolve(cfg)
    cfg = apply_tuned(cfg, overrides)
    for line in lines_on_tuned(cfg):
        print(line, file=sys.stderr, flush=True)
    return resolve(cfg)
