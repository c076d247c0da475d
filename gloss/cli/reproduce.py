"""Make tables and figures, each by one command: do the missing searches, then the missing runs, then report.

  python scripts/reproduce.py target=table2 model=minilm dataset=mr,r8 seed=1,2 search.trials=2 trainer.max_epochs=3
  python scripts/reproduce.py action=plan target=fig5 device=h100

Every key of scripts/tune.py (--help) can be set besides; values separated by commas are run each.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain
from pathlib import Path

import yaml

from gloss.cli.command import WithOverrides, refuse, run_command
from gloss.config import CONFIG_DIR, TuneConfig, choice, known_options
from gloss.errors import ConfigError, DataError
from gloss.experiments.cost import DEVICES
from gloss.experiments.grid import NAMES, SEARCH_KEYS, RunSpec, expand_grid, search_overrides
from gloss.experiments.requested import requested_runs, same_settings, selections
from gloss.experiments.status import DONE, RUNNING, searches_left
from gloss.report.build import ALIASES, SECTIONS
from gloss.report.plan import Plan, failures, make_plan, show
from gloss.runtime.atomic import write_atomic
from gloss.runtime.compose import sweep_of
from gloss.runtime.locks import FileLock
from gloss.runtime.overrides import SECRET, is_of_search, override, prepared, value_of
from gloss.runtime.terminal import program

SEARCHES_OF = {"table7": ("table2", "table3")}  # a table of searches: the experiments whose searches it shows
ALL = "all"
# The measurements that a section needs beside runs. With target=all without frozen encoders, which take hours on a CPU.
MEASURED = {"table1": "texts", "table5": "tfidf", "pretrained_graph": "frozen", ALL: "texts,tfidf"}
STORAGE = SECRET + "="
ASK_ABOVE = 1.0  # hours of a plan
ASK_ABOVE_UNKNOWN = 10  # runs or trials without a known cost
log = logging.getLogger(__name__)


@dataclass
class Reproduce(WithOverrides):
    action: str = choice("run", "run", "plan", "tune", "status")  # tune: only the missing searches
    target: str = ALL  # table2, fig5, few_shot …, or all
    device: str | None = None  # of a plan: a100, h100, h200 or cpu; null: this machine's


class Task:
    """A table, figure or experiment, or all of them, with its overrides.

    overrides: as on the command line; `search…` goes to the search, `hydra/launcher…` to Hydra, the rest to the specs.
    """

    def __init__(self, name: str, overrides: Sequence[str]) -> None:
        self.name = name = ALIASES.get(name, name)
        overrides = prepared(overrides, known_options(TuneConfig), is_sweep=True)
        self.experiments = experiments_of(name)
        self.searched = SEARCHES_OF.get(name, ())  # experiments of which only the searches belong to it
        self.storage = [o for o in overrides if o.startswith(STORAGE)]  # a URL that may hold a password
        self.search = [o for o in overrides if is_of_search(o) and o not in self.storage]
        self.launcher = [o for o in overrides if o.lstrip("+").startswith(("hydra/", "hydra.launcher"))]
        self.overrides = [o for o in overrides if o not in self.search + self.launcher + self.storage]
        self.outputs = Path(value_of(self.overrides, "paths.outputs", "outputs"))
        if name == ALL and (sets := value_of(self.overrides, "dataset")):
            left_out = [e for e in self.experiments if not set(sets.split(",")) & _sets_of(e)]
            self.experiments = tuple(e for e in self.experiments if e not in left_out)
            if not self.experiments:
                raise ConfigError(f"no experiment is about dataset={sets}: name one, such as make reproduce-table2")
            if left_out:
                log.warning("%s: left out, not about dataset=%s", ", ".join(left_out), sets)

    def overrides_of(self, experiment: str) -> list[str]:
        """The overrides of an experiment. With target=all its data sets are those requested that its sweep contains."""
        sets = value_of(self.overrides, "dataset") if self.name == ALL else None
        mine = ",".join(x for x in sets.split(",") if x in _sets_of(experiment)) if sets else ""
        return [f"dataset={mine}" if mine and o.startswith("dataset=") else o for o in self.overrides]

    def specs(self) -> dict[str, list[RunSpec]]:
        """The specs by experiment. A refused one is left out with a warning; raises ConfigError where none is left."""
        found, refused = {}, []
        for experiment in self.experiments or self.searched:
            try:
                found[experiment] = expand_grid(experiment, self.overrides_of(experiment))
            except ConfigError as error:
                refused.append(f"{experiment}: {error}")
        if refused and not found:
            raise ConfigError(refused[0])
        for line in refused:
            log.warning("left out: %s", line)
        return found

    def plan(self, device: str, cores: int) -> Plan | None:
        """The finished and missing runs and searches, with their cost; None for a table that needs no runs."""
        specs = list(chain.from_iterable(self.specs().values()))
        plan = make_plan(specs, device, cores, self.overrides, self.search) if specs else None
        return replace(plan, lines=()) if plan and self.searched else plan

    def confirm(self, runs: bool, searches: bool) -> None:
        """Call `confirm` for the runs, the searches, or both."""
        if os.environ.get("YES") == "1" or (plan := self.plan(this_device(), os.cpu_count() or 1)) is None:
            return
        hours_of_runs, hours_of_trials, unknown_runs, unknown_trials = plan.hours()
        unknown = runs * unknown_runs + searches * unknown_trials
        confirm(self.name, runs * hours_of_runs + searches * hours_of_trials, unknown)

    def run(self, searches_only: bool = False) -> int:
        """Search, train, report; return the exit status: 0 done, 1 a part failed, 128 + n by signal."""
        worst = 0
        for experiment, specs in self.specs().items():
            is_run = experiment in self.experiments and not searches_only
            overrides = self.overrides_of(experiment)
            if is_run:
                save_selection(self.outputs, experiment, [*overrides, *self.search])
            status = self.tune(specs)
            if is_run and status < 128:
                train = call("train", "-m", f"experiment={experiment}", *overrides, *self.launcher)
                status = max(status, train)
            worst = max(worst, status)
            if worst >= 128:
                return worst
            if is_run:
                worst = max(worst, self._summary(experiment))
        return worst if searches_only else max(worst, self.report())

    def tune(self, specs: Sequence[RunSpec]) -> int:
        """Do the searches that the specs still lack; return the exit status."""
        left = searches_left(specs, self.overrides, self.search)
        rows = [{key: c.choices[key] for key in SEARCH_KEYS if key in c.choices} for c, _ in left.values()]
        shared = search_overrides({key for c in specs for key in c.choices}, self.overrides)
        worst = 0
        for row in grouped(rows):
            chosen = (f"{k}={v}" for k, v in row.items())
            status = call("tune", "-m", *chosen, *shared, *self.search, *self.storage, *self.launcher)
            worst = max(worst, status)
            if worst >= 128:
                break
        return worst

    def report(self) -> int:
        arguments = [o for o in self.overrides if o.startswith(("paths.outputs=", "paths.data="))]
        if measured := MEASURED.get(self.name):
            sets, model = (value_of(self.overrides, key) for key in ("dataset", "model"))
            sets = sets or (sweep_of("table2")["dataset"] if self.name == "table5" else None)
            named = [x for x in sets.split(",") if x not in ("csv", "hub")] if sets else []  # their files name no texts
            if named or not sets:
                arguments.append(f"measure=[{measured}]")
                arguments += [f"datasets=[{','.join(named)}]"] if named else []
                if model and model != "hf":
                    arguments += [f"tokenizer={model.split(',')[0]}"] if "texts" in measured else []
                    arguments += [f"models=[{model}]"] if "frozen" in measured else []
        if self.name != ALL:
            homes = (section for section, kind in SECTIONS.items() if self.name in (section, *kind.experiments))
            section = next(homes, self.name)  # an experiment of one's own has none
            is_alone = not (self.outputs / "selections.yaml").is_file()
            arguments += [f"show=[{section}]", *([f"only=[{section}]"] if is_alone else [])]
        return call("report", *arguments)

    def _summary(self, experiment: str) -> int:
        """Print how many runs of the experiment are done; return 1 unless all are."""
        lines = make_plan(expand_grid(experiment, self.overrides_of(experiment)), "cpu", 1).lines
        states = [s for line in lines for s in line.states.values()]
        print(f"{experiment}: {states.count(DONE)} of {len(states)} runs done", flush=True)
        for failure in failures(lines):
            log.warning("failed: %s", failure)
        if states.count(RUNNING):
            log.warning("%d are being run by another process", states.count(RUNNING))
        return int(states.count(DONE) < len(states))


def this_device() -> str:
    """The device of a plan: cpu, or the name of this machine's GPU."""
    from gloss.runtime.device import choose_device, device_name  # here: slow to import

    device = choose_device("auto")
    return "cpu" if device.type == "cpu" else device_name(device)


def confirm(name: str, hours: float, unknown: int = 0) -> None:
    """Ask on a terminal before a job of more than ASK_ABOVE hours, or of many runs or trials of unknown cost.

    Raises ConfigError without a yes.
    """
    if hours <= ASK_ABOVE and unknown <= ASK_ABOVE_UNKNOWN or os.environ.get("YES") == "1":
        return
    takes = f"takes about {hours:,.0f} hours here" if hours >= 1 else "has many runs or trials"
    message = f"{name} {takes}, one job at a time (make plan-{name} lists them)"
    if unknown:
        message += f", not counting {unknown} runs or trials whose encoder, texts or device have no known cost"
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigError(f"{message}: YES=1 starts it, and DATASET=… MODEL=… LOSS=… SEED=… make it smaller")
    print(f"{message}. Start? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError("not started")


def experiments_of(name: str) -> tuple[str, ...]:
    """The experiments whose runs a table or figure shows. Raises ConfigError for an unknown name."""
    if name == ALL:
        return NAMES
    if name in SECTIONS:
        return SECTIONS[name].experiments
    if (CONFIG_DIR / "experiment" / f"{name}.yaml").is_file():
        return (name,)
    expected = ", ".join((*SECTIONS, *ALIASES, ALL))
    raise ConfigError(f"{name} is no table, figure or experiment: expected one of {expected}")


def grouped(rows: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """The same combinations in fewer rows: {"dataset": "mr"}, {"dataset": "r8"} become {"dataset": "mr,r8"}."""
    merged = [dict(row) for row in rows]
    for key in SEARCH_KEYS:
        joined: dict[tuple, dict[str, str]] = {}
        for row in merged:
            others = tuple((k, v) for k, v in row.items() if k != key)
            if others in joined and key in row:
                joined[others][key] += "," + row[key]
            else:
                joined[others] = row
        merged = list(joined.values())
    return merged


def _sets_of(experiment: str) -> set[str]:
    return set(sweep_of(experiment)["dataset"].split(","))


def save_selection(outputs: Path, experiment: str, overrides: Sequence[str]) -> None:
    """Add the overrides of a request to <outputs>/selections.yaml, where a report finds its specs."""
    path = outputs / "selections.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = [o for o in overrides if not o.startswith(("paths.outputs=", "paths.data=", "rerun=", STORAGE))]

    def specs(selection: Iterable[str]) -> set[str]:
        return {o for o in selection if not is_of_search(o)}

    with FileLock(outputs / ".selections.lock"):
        asked = selections(outputs)
        before = [selection for selection in asked.get(experiment, []) if specs(selection) != specs(mine)]
        write_atomic(path, yaml.safe_dump({**asked, experiment: [*before, mine]}, sort_keys=False))


def status(outputs: Path, device: str, cores: int) -> bool:
    """Print the progress of every requested experiment; return False if there is none."""
    asked = selections(outputs)
    for name in asked:
        try:
            groups = same_settings(name, asked[name])
        except ConfigError as error:  # no such experiment
            print(f"{name}: {error}\n")
            continue
        for group in groups:
            print("\n".join(f"{name}  {' '.join(overrides)}".rstrip() for overrides in group) + "\n")
            try:
                task = Task(name, [*group[-1], override("paths.outputs", outputs)])
                plan = make_plan(requested_runs(name, group, outputs), device, cores, task.overrides, task.search)
            except (ConfigError, DataError) as error:  # one request that cannot be read leaves the others
                print(f"{name}: {error}\n")
                continue
            print(show(plan))
            print("".join(f"failed: {failure}\n" for failure in failures(plan.lines)))
    return bool(asked)


def call(script: str, *words: str) -> int:
    """Print one of our commands, run it in this process, and return its exit status."""
    shown = shlex.join(f"{STORAGE}…" if word.startswith(STORAGE) else word for word in words)
    print(f"$ {program(script)} {shown}", flush=True)
    return run_command(import_module(f"gloss.cli.{script}"), words)


def task(cfg: Reproduce) -> int:
    task, cores = Task(cfg.target, cfg.overrides), os.cpu_count() or 1
    if cfg.action in ("run", "tune"):
        refuse(cfg, ("device",), f"with action={cfg.action}: a run takes trainer.device=")
        task.confirm(runs=cfg.action == "run", searches=True)
        os.environ["YES"] = "1"  # the commands that follow do not ask again
        return task.run(searches_only=cfg.action == "tune")
    device = cfg.device or this_device()
    if cfg.action == "status":
        refuse(cfg, ("target",), "with action=status, which shows all that was requested")
        if not status(task.outputs, device, cores):
            print(f"nothing was requested yet: there is no {task.outputs}/selections.yaml")
        return 0
    plan = task.plan(device, cores)
    if cfg.device and plan and not (plan.speeds.data_sheet or plan.speeds.found):
        known = ", ".join(DEVICES)
        raise ConfigError(f"device={cfg.device} is not allowed: expected {known}, or a GPU on which runs have finished")
    print(f"{cfg.target} needs no runs" if plan is None else show(plan))
    for failure in failures(plan.lines if plan else ()):
        print(f"failed: {failure}")
    return 0
