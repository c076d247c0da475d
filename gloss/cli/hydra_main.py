"""From a command line to a checked configuration: Hydra composes, found values are applied, mistakes become a line.

Exit status: 0 done; 1 a run failed; 2 the command or the data cannot be used; 128 + n stopped by signal n.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from gloss.cli.help import usage
from gloss.config import CONFIG_DIR, ROOT, Config, TuneConfig, known_options, resolve
from gloss.errors import ConfigError
from gloss.experiments.grid import check_experiment, check_single, is_run, sweep_arguments
from gloss.runtime.compose import readable
from gloss.runtime.gpu_sharing import assign_gpu, shared_lock_folder
from gloss.runtime.overrides import SECRET, override, prepared, value_of
from gloss.runtime.signals import Interrupted, raise_on_signal
from gloss.runtime.terminal import explain, ignore_broken_pipe
from gloss.search.best_values import apply_tuned, overridden_keys, told_of_tuned

# Read when torch is loaded: threads that wait shall sleep, not spin, which beside busy processes is many times faster.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


LOST_JOBS = {  # errors of launchers, by name: they are imported only where they are used
    "TerminatedWorkerError": "a worker was killed by the system, most often for lack of memory, and with it the sweep: "
    "try fewer at a time (hydra.launcher.n_jobs)",
    "UncompletedJobError": "a job was cancelled or killed before its run was done; the others go on. Its log is in the "
    "sweep's folder slurm",
}


@ignore_broken_pipe()
@raise_on_signal()
def main(task: Callable[[Config, str], Any], arguments: Sequence[str] | None = None, config_name: str = "train") -> int:
    """Run `task(config, place)` for the configuration, or each of a sweep's (`-m`); the exit status.

    place: of a run in its sweep, as "run 2 of 6"; else empty. A record that the task returns is in the sweep's table.

    config_name: "train", or "tune" for a search (task gets a TuneConfig, to which no search's values are applied).
    In a sweep a run that fails does not stop the others; the failures are listed at the end.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    schema = TuneConfig if config_name == "tune" else Config
    if {"-h", "--help"} & set(arguments):
        print(usage(config_name, schema))
        return 0
    # Hydra would print mistakes its own way and leave; with this it raises them, and they are told below.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    is_sweep, failures = bool({"-m", "--multirun"} & set(arguments)), Path()
    try:
        arguments = prepared(arguments, known_options(schema))
        if not is_sweep and _takes_job(arguments):
            task, arguments = _show, arguments[2:]
        if (experiment := value_of(arguments, "experiment", "null")) != "null":
            seeds = ("seed",) if config_name == "tune" else ()  # an experiment's seeds share one search
            if not is_sweep:
                check_single(experiment, arguments, but=seeds)
            elif task is not _show and not os.environ.get("YES"):
                from gloss.cli.reproduce import confirm_sweep  # here: it loads what draws reports

                confirm_sweep(experiment, arguments, searches=config_name == "tune")
            swept = sweep_arguments(arguments)
            arguments = [a for a in swept if a in arguments or a.partition("=")[0] not in seeds]
        if is_sweep:
            # Hydra writes a sweep's arguments into files, and a database's URL may hold a password.
            if (storage := value_of(arguments, SECRET, "null")) != "null":
                os.environ["GLOSS_STORAGE"] = storage
                arguments = [a for a in arguments if not a.startswith(SECRET + "=")]
            name = f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
            failures = Path(value_of(arguments, "paths.outputs", "outputs")) / "sweeps" / name
            arguments = [*arguments, override("hydra.sweep.dir", failures)]
            # Of this checkout, for workers that are started elsewhere.
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        sys.argv = [sys.argv[0], *arguments]

        @hydra.main(version_base=None, config_path=str(CONFIG_DIR), config_name=config_name)
        def job(cfg: DictConfig) -> None:
            try:
                _job(cfg, task, arguments)
            except Exception as error:  # past Hydra, which would add lines of its own
                if is_sweep:  # perhaps in another process
                    raise
                raised.append(error)

        raised: list[Exception] = []
        job()
        if raised:
            raise raised[0]
    except (HydraException, OmegaConfBaseException) as error:
        return _tell(readable(error, arguments, schema))
    except Exception as error:
        if _is_expected(error):
            return _tell(explain(error), status=2 if isinstance(error, ValueError) else 1)
        if lost := LOST_JOBS.get(type(error).__name__):
            return _tell(f"{lost}. What is done is kept: the same command does the rest", status=1)
        traceback.print_exc()
        return 1
    except Interrupted as error:
        return _tell(f"stopped by {error}; the same command goes on where it stopped", status=128 + error.number)
    failed = [path for folder in _failure_folders(failures) for path in sorted(folder.glob("*"))] if is_sweep else []
    for path in failed:
        print(path.read_text(encoding="utf-8").rstrip(), file=sys.stderr)
    if is_sweep and task is not _show and value_of(arguments, "experiment", "null") == "null":
        _print_table(failures)
    if failed:
        print(f"{len(failed)} run{'s' * (len(failed) > 1)} failed; the others are done", file=sys.stderr)
    return 1 if failed else 0


@ignore_broken_pipe()  # perhaps in another process
def _job(cfg: DictConfig, task: Callable[[Config, str], Any], arguments: Sequence[str]) -> None:
    hydra_cfg = HydraConfig.get()
    overrides = list(hydra_cfg.overrides.task)
    if hydra_cfg.mode != RunMode.MULTIRUN:
        task(_prepare(cfg, overrides), "")
        return
    if not is_run(overrides, cfg.experiment.only):  # a combination of the sweep that its experiment leaves out
        return
    try:
        assign_gpu()
        if "SUBMITIT_EXECUTOR" in os.environ:  # SLURM queues again a job that it has to kill, not one that leaves
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        run = _prepare(cfg, overrides)
        if run.trainer.save_model == "auto" and run.dataset.source not in ("csv", "hub"):
            run.trainer.save_model = False
        record = task(run, _place(arguments, cfg.experiment.only, hydra_cfg.job.num))
        if record is not None:
            with contextlib.suppress(OSError):  # a full disk: the run is finished nevertheless
                done = Path(hydra_cfg.sweep.dir) / "done"
                done.mkdir(parents=True, exist_ok=True)
                (done / f"{hydra_cfg.job.num:05d}").write_text(str(record.folder), encoding="utf-8")
    except Exception as error:
        reason = explain(error) if _is_expected(error) else traceback.format_exc().rstrip()
        text = f"failed: {' '.join(overrides)}\n  {reason}\n"
        _note_failure(text, Path(hydra_cfg.sweep.dir), f"{hydra_cfg.job.num:05d}")
        print(text, end="", file=sys.stderr, flush=True)


def _place(arguments: Sequence[str], only: Any, number: int) -> str:
    """Where job `number` stands among the runs of a sweep, as "run 2 of 6"."""
    swept = [a for a in arguments if not a.startswith(("-", "hydra/", "hydra."))]
    jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(swept), None)[0]
    is_mine = [is_run(job, only) for job in jobs]
    return f"run {sum(is_mine[: number + 1])} of {sum(is_mine)}"


def _print_table(sweep: Path) -> None:
    """The runs of a sweep by configuration, and how to get the page."""
    folders = [Path(path.read_text(encoding="utf-8")) for path in sorted((sweep / "done").glob("*"))]
    if folders:
        from gloss.records.frame import frame_of  # here: slow to import
        from gloss.records.reading import read_record
        from gloss.report.run_list import by_cell

        records = [read_record(folder) for folder in dict.fromkeys(folders)]
        print(f"\n{by_cell(frame_of(records))}")
        outputs = sweep.parent.parent
        print(f"The page {outputs / 'report' / 'index.html'}: python scripts/report.py paths.outputs={outputs}")


def _failure_folders(sweep: Path) -> list[Path]:
    """Where a sweep's failed runs are noted, and where they are if that disk is full."""
    elsewhere = shared_lock_folder("sweeps")
    return [sweep / "failed", *([elsewhere / sweep.name] if elsewhere else [])]


def _note_failure(text: str, sweep: Path, name: str) -> None:
    for folder in (folders := _failure_folders(sweep)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
            return
        except OSError:
            if folder == folders[-1]:
                raise
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)  # it may be there, but empty


def _prepare(cfg: DictConfig, overrides: Sequence[str]) -> Config:
    if "search" in cfg:
        cfg.search.overridden = sorted(overridden_keys(overrides))
        return resolve(cfg)
    cfg = apply_tuned(cfg, overrides)
    for line in told_of_tuned(cfg):
        print(line, file=sys.stderr, flush=True)
    return check_experiment(resolve(cfg))


def _takes_job(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for the configuration of a run, which Hydra would show without a search's values."""
    return len(arguments) > 1 and arguments[0] in ("--cfg", "-c") and arguments[1] == "job"


def _show(cfg: Config, place: str) -> None:
    print(yaml.safe_dump(dataclasses.asdict(cfg), sort_keys=False, allow_unicode=True), end="")


def _is_expected(error: Exception) -> bool:
    """Whether the message alone says what to do, so that a traceback would only hide it."""
    return (
        isinstance(error, ConfigError)
        or type(error).__name__ in ("DataError", "RunError", "Diverged")
        or (isinstance(error, OSError) and error.errno is not None)
    )


def _tell(message: str, status: int = 2) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
