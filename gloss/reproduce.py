"""One command a table or figure: search what is missing, run what is missing, report."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from filelock import FileLock

from gloss.config import ROOT, ConfigError
from gloss.experiments import NAMES, SEARCHED_FOR, Cell, compose_cells, search_overrides, sweep_of
from gloss.plan import DONE, RUNNING, Plan, failures, make_plan, searches_left, show
from gloss.report import SECTIONS
from gloss.runs import write_atomic

MEASURED = {"table1": "texts", "table5": "tfidf"}  # what a table needs beside runs
ALL = "all"


class Task:
    """A table, figure or experiment, or all of them, with the overrides it was asked for.

    overrides: as on the command line; `search…` and `hydra/launcher…` go to where they belong, the rest makes cells.
    """

    def __init__(self, name: str, overrides: Sequence[str]) -> None:
        self.name = name
        self.experiments = experiments_of(name)
        self.search = [o for o in overrides if o.startswith(("search=", "search."))]
        self.launcher = [o for o in overrides if o.startswith(("hydra/", "hydra.launcher"))]
        self.overrides = [o for o in overrides if o not in self.search + self.launcher]
        self.outputs = Path(self._value("paths.outputs") or "outputs")

    def _value(self, key: str) -> str | None:
        return next((o.partition("=")[2] for o in reversed(self.overrides) if o.startswith(key + "=")), None)

    def cells(self, experiment: str) -> list[Cell]:
        return compose_cells(experiment, self.overrides)

    # ------------------------------------------------------------------------------------------------------- looking

    def plan(self, device: str, cores: int) -> Plan | None:
        """What is done and to do, and what it costs; None for a table that needs no runs."""
        cells, refused = [], []
        for experiment in self.experiments:
            try:
                cells += self.cells(experiment)
            except ConfigError as error:
                if self.name != ALL:
                    raise
                refused.append(f"{experiment} is left out: {error}")
        print("".join(line + "\n" for line in refused), end="", file=sys.stderr)
        return make_plan(cells, device, cores, self.overrides, self.search) if cells else None

    # --------------------------------------------------------------------------------------------------------- doing

    def run(self) -> int:
        """Search, train, report; the exit status: 0 done, 1 a part failed, 2 nothing can be done, 128 + n by signal."""
        worst = 0
        for experiment in self.experiments:
            try:
                cells = self.cells(experiment)
            except ConfigError as error:
                print(f"error: {experiment}: {error}", file=sys.stderr)
                worst = max(worst, 2)
                continue
            save_selection(self.outputs, experiment, [*self.overrides, *self.search])
            status = self.tune(cells)
            if status < 128:
                train = [f"experiment={experiment}", *self.overrides, *self.launcher]
                status = max(status, call("train.py", "-m", *train))
            if status >= 128:
                return status
            worst = max(worst, status, self._summary(experiment))
        return max(worst, self.report())

    def tune(self, cells: Sequence[Cell]) -> int:
        """The searches that the cells still lack."""
        left = searches_left(cells, self.overrides, self.search)
        rows = [{key: c.choices[key] for key in SEARCHED_FOR if key in c.choices} for c, _ in left.values()]
        shared = search_overrides({key for c in cells for key in c.choices}, self.overrides)
        worst = 0
        for row in grouped(rows):
            status = call("tune.py", "-m", *(f"{k}={v}" for k, v in row.items()), *shared, *self.search, *self.launcher)
            worst = max(worst, status)
            if worst >= 128:
                break
        return worst

    def report(self) -> int:
        names = SECTIONS if self.name == ALL else (self.name,)
        measured = [MEASURED[name] for name in names if name in MEASURED]
        arguments = [o for o in self.overrides if o.startswith(("paths.outputs=", "paths.data="))]
        if measured:
            sets = self._value("dataset") or (sweep_of("table2")["dataset"] if self.name == "table5" else None)
            arguments += [f"measure=[{','.join(measured)}]", *([f"datasets=[{sets}]"] if sets else [])]
        if not (self.outputs / "selections.yaml").is_file():
            arguments.append(f"only=[{self.name}]")
        return call("report.py", *arguments)

    def _summary(self, experiment: str) -> int:
        """Tell how far the experiment is; 1 unless all its runs are done."""
        lines = make_plan(self.cells(experiment), "cpu", 1).lines
        states = [s for line in lines for s in line.states.values()]
        print(f"{experiment}: {states.count(DONE)} of {len(states)} runs done", flush=True)
        for failure in failures(lines):
            print(f"failed: {failure}", file=sys.stderr)
        if states.count(RUNNING):
            print(f"{states.count(RUNNING)} are being run by another process", file=sys.stderr)
        return int(states.count(DONE) < len(states))


def experiments_of(name: str) -> tuple[str, ...]:
    """The experiments whose runs a table or figure shows. Raises ConfigError for an unknown name."""
    if name == ALL:
        return NAMES
    if name in SECTIONS:
        return SECTIONS[name][1]
    if name in NAMES:
        return (name,)
    raise ConfigError(f"{name} is no table, figure or experiment: expected one of {', '.join((*SECTIONS, ALL))}")


def grouped(rows: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """The same combinations in fewer rows: {"dataset": "mr"}, {"dataset": "r8"} become {"dataset": "mr,r8"}."""
    merged = [dict(row) for row in rows]
    for key in SEARCHED_FOR:
        joined: dict[tuple, dict[str, str]] = {}
        for row in merged:
            others = tuple((k, v) for k, v in row.items() if k != key)
            if others in joined and key in row:
                joined[others][key] += "," + row[key]
            else:
                joined[others] = row
        merged = list(joined.values())
    return merged


def save_selection(outputs: Path, experiment: str, overrides: Sequence[str]) -> None:
    """Keep in <outputs>/selections.yaml what was asked for, so that a report composes the same cells again."""
    path = outputs / "selections.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(outputs / ".selections.lock"):
        chosen = selections(outputs)
        chosen[experiment] = [o for o in overrides if not o.startswith(("paths.outputs=", "paths.data="))]
        write_atomic(path, yaml.safe_dump(chosen, sort_keys=False))


def selections(outputs: Path) -> dict[str, list[str]]:
    """Experiment -> overrides it was last asked for with."""
    path = outputs / "selections.yaml"
    found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    if found is not None and not isinstance(found, dict):
        raise ConfigError(f"{path} is damaged: repair or remove it")
    return found or {}


def status(outputs: Path, device: str, cores: int) -> bool:
    """Print how far every experiment is that was asked for; False where there is none."""
    for name, overrides in (chosen := selections(outputs)).items():
        plan = Task(name, [*overrides, f"paths.outputs={outputs}"]).plan(device, cores)
        print(f"{name}  {' '.join(overrides)}\n\n{show(plan)}")
        print("".join(f"failed: {failure}\n" for failure in failures(plan.lines)))
    return bool(chosen)


def call(script: str, *arguments: str) -> int:
    """Run a script of ours, shown as a command, and wait for it; its exit status, 128 + n where signal n ended it."""
    print(f"$ python scripts/{script} {' '.join(arguments)}", flush=True)
    process = subprocess.Popen([sys.executable, str(ROOT / "scripts" / script), *arguments])

    def pass_on(number: int, _frame: object) -> None:
        if number == signal.SIGTERM:  # Ctrl-C reaches the child without our help
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code
