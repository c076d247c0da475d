"""The plan of an experiment as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gloss.experiments.cost import CUT, DEVICES, EPOCHS_TO_BEST, SLOWER_IN_FLOAT32, Speeds
from gloss.experiments.grid import RunSpec, own_fingerprint
from gloss.experiments.requested import with_texts
from gloss.experiments.status import DONE, FAILED, INTERRUPTED, MISSING_RUN, RUNNING, searches_left, state
from gloss.paper import published as paper
from gloss.paper.names import dataset_name, loss_name, model_name
from gloss.records.reading import failure, read_records
from gloss.records.run_folder import config_hash
from gloss.report.seed_groups import gather
from gloss.report.table import MISSING, mean_std, number_text
from gloss.report.tables.results import judge
from gloss.runtime.overrides import value_of, word_of
from gloss.runtime.terminal import escape_control_characters


@dataclass(frozen=True)
class Line:
    """A RunSpec in a plan."""

    spec: RunSpec
    states: Mapping[int, str]  # by seed
    epochs: float
    epochs_from: str
    epoch_seconds: float | None
    speed_from: str
    run_hours: float | None
    published: float | None
    ours: str
    verdict: str

    @property
    def num_left(self) -> int:
        return sum(s != DONE for s in self.states.values())


@dataclass(frozen=True)
class Plan:
    """The RunSpecs of an experiment, the searches before them, and the measured speeds."""

    lines: Sequence[Line]
    speeds: Speeds
    searches: Mapping[Path, tuple[RunSpec, int]]  # overlay to be written -> spec that its search trains, trials

    def runs_to_do(self) -> dict[tuple, Line]:
        """Each run once, also where several experiments share it."""
        found = {}
        for line in self.lines:
            c = line.spec
            level = c.config_hash or config_hash(c.config, c.fingerprint or own_fingerprint(c.config))
            for seed in (seed for seed, s in line.states.items() if s != DONE):
                found[c.dataset, c.model, c.mode, c.loss, level, seed] = line
        return found

    def hours(self) -> tuple[float, float, int, int]:
        """Hours of the runs and of the searches, and the numbers of runs and of trials without an estimate."""
        runs = [line.run_hours for line in self.runs_to_do().values()]
        trials = [(self.speeds.run_hours(spec), num_trials) for spec, num_trials in self.searches.values()]
        in_runs, in_trials = (sum(hours or 0.0 for hours in runs), sum((hours or 0.0) * num for hours, num in trials))
        return in_runs, in_trials, runs.count(None), sum(num for hours, num in trials if hours is None)


def make_plan(
    specs: Sequence[RunSpec],
    device: str,
    cores: int,
    overrides: Sequence[str] = (),
    search: Sequence[str] = ("search.trials=0",),
) -> Plan:
    """The plan of the specs of one or more experiments, at least one spec; they share their `paths.outputs`.

    device: a key of DEVICES, or a GPU's name as the records have it; overrides, search: see `searches_left`. Raises
    DataError where neither the disk nor a record knows a user's own texts.
    """
    records, _ = read_records(specs[0].config.paths.outputs)
    specs = with_texts(specs, records)
    speeds = Speeds(records, device, cores)
    groups, _ = gather(specs, records)
    is_again = value_of(overrides, "rerun", "false").lower() == "true"
    lines = []
    for spec, group in zip(specs, groups, strict=True):
        scores = list(group.test("accuracy").values())
        line = Line(
            spec,
            {seed: MISSING_RUN if is_again else state(spec.folder(seed)) for seed in spec.seeds},
            *speeds.epochs(spec),
            *speeds.epoch_seconds(spec),
            speeds.run_hours(spec),
            paper.published(spec.experiment, spec.dataset, spec.model, spec.loss, "accuracy", spec.mode),
            f"{mean_std(scores)} ({len(scores)})" if scores else MISSING,
            judge(spec.experiment, group, "accuracy", scores),
        )
        lines.append(line)
    return Plan(lines, speeds, searches_left(specs, overrides, search))


def show(plan: Plan) -> str:
    """The plan as text: a line a RunSpec, then the sums and their basis."""
    frame = pd.DataFrame([_row(line) for line in plan.lines], dtype=object)
    empty = [c for c in frame if c not in ("data set", "model", "loss") and set(frame[c]) <= {"", MISSING}]
    rows = [frame.drop(columns=empty).to_string(index=False), ""] if plan.lines else []
    return "\n".join([*rows, *_sums(plan)])


def _row(line: Line) -> dict[str, str]:
    c, counts = line.spec, Counter(line.states.values())
    states = ", ".join(f"{counts[s]} {s}" for s in (DONE, RUNNING, FAILED, INTERRUPTED) if counts[s]) or "0"
    known = line.run_hours is not None and line.num_left
    return {
        "data set": dataset_name(c.dataset),
        "model": model_name(c.model),
        "loss": loss_name(c.loss, c.mode),
        "setting": " ".join(word_of(key.rpartition(".")[2], value) for key, value in c.point.items()),
        "runs": f"{states} of {len(c.seeds)}",
        "epochs": f"{line.epochs:.0f} {line.epochs_from}" if line.num_left else "",
        "s/epoch": f"{line.epoch_seconds:.3g}" if known else "",
        "hours left": f"{line.run_hours * line.num_left:.2f}" if known else "",
        "paper": number_text(line.published),
        "ours": line.ours,
        "verdict": line.verdict,
    }


def _sums(plan: Plan) -> list[str]:
    """The sums of runs and searches, and their basis."""
    runs, searches, *unknown = plan.hours()
    states, left = Counter(s for line in plan.lines for s in line.states.values()), len(plan.runs_to_do())
    counted = ", ".join(f"{n} {name}" for name, n in states.items())
    text = ["Runs: none of its own."]
    if plan.lines:
        text = [f"Runs: {states.total()} ({counted}); {left} to do without repeats, {_hours(runs, unknown[0])}."]
    if plan.searches:
        trials = sum(num_trials for _, num_trials in plan.searches.values())
        cost = f"at most {_hours(searches, unknown[1])}, with each trial counted as a whole run"
        counts = f"{len(plan.searches)} configurations, {trials} trials"
        text.append(f"Searches for {counts}: {cost} (pruning stops the hopeless ones early).")
    if left:
        text += [f"In all {_hours(runs + searches, sum(unknown))}, one job at a time.", *_basis(plan)]
    if any(unknown):
        text.append(
            f"{sum(unknown)} runs or trials are not counted: nothing is known about their encoder, texts or device."
        )
    return text


def _hours(hours: float, num_unknown: int) -> str:
    return "an unknown number of hours" if num_unknown and not hours else f"{hours:.1f} hours"


def _basis(plan: Plan) -> list[str]:
    """The basis of the speeds and of the numbers of epochs."""
    left, name = [line for line in plan.lines if line.num_left], plan.speeds.data_sheet
    sources = Counter(line.speed_from for line in left)
    counted = ", ".join(f"{n} configurations {source}" for source, n in sources.items())
    speed = f"Speed on {plan.speeds.device}: {counted}."
    if name is None and "unknown" in sources:
        reason = "its runs are of other encoders or texts" if plan.speeds.found else "no run was measured on it"
        speed += f" It is none of {', '.join(DEVICES)}, and {reason}: DEVICE=… prices another."
    elif "data sheet" in sources:
        peak, share = DEVICES[name]
        limits = "for two cores" if name == "cpu" else f"in bf16, a {SLOWER_IN_FLOAT32:.0f}th of it in float32"
        speed += f" Not measured: {100 * share:.0f} % of {peak / 1e12:.3g} TFLOP/s {limits} is assumed."
    if any(line.spec.config.model.max_length > CUT for line in left):
        speed += f" Texts that no run has measured count at most {CUT} tokens."
    words = {
        "ours": "means of finished runs",
        "paper": "the paper's Table 3",
        "assumed": f"not known, best after {EPOCHS_TO_BEST} assumed, and patience",
        "fixed": "no early stopping",
    }
    known = dict.fromkeys(line.epochs_from for line in left)
    return [speed, "Epochs: " + "; ".join(f"{source} = {words[source]}" for source in known) + "."]


def failures(lines: Iterable[Line]) -> list[str]:
    """A line for each failed run: its folder, and the reason."""
    folders = [line.spec.folder(seed) for line in lines for seed, s in line.states.items() if s == FAILED]
    return [escape_control_characters(f"{folder}: {failure(folder).partition(chr(10))[0]}") for folder in folders]
