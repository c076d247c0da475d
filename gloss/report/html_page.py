"""The report as one self-contained HTML page: its order, its opening, and its text. Needs no network or other file."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader

from gloss.paper.names import dataset_name, model_name
from gloss.records.frame import frame_of
from gloss.records.reading import Record
from gloss.report.figure import Drawing
from gloss.report.protocol import reductions
from gloss.report.seed_groups import Group
from gloss.report.table import Table

_ABOUT = ["device", "device_name", "precision", "commit", "commit_clean", "finished_at", "peak_memory_bytes"]
_ABOUT += ["seconds_total", "shared_device"]
VERDICTS = tuple(f"{word}{mark}" for mark in ("", " (released)") for word in ("ok", "near", "off", "unresolved"))

OTHER_RUNS, OTHER_SETTINGS = "Other runs on", "Runs with other settings"
SEARCHES, SPEED, ALL_RUNS = "Searches", "Speed", "All finished runs"
FOLDED = (OTHER_RUNS, OTHER_SETTINGS, SEARCHES, SPEED, ALL_RUNS)  # groups of sections, at the end, in this order


@dataclass
class Section:
    """A heading of the page: tables and drawings that one command makes.

    group: the fold that holds it, together with others of this group; empty: not folded.
    """

    name: str
    title: str
    parts: Sequence[Table | Drawing]
    command: str = ""
    group: str = ""

    @property
    def tables(self) -> list[Table]:
        return [part for part in self.parts if isinstance(part, Table)]

    @property
    def drawings(self) -> list[Drawing]:
        return [part for part in self.parts if isinstance(part, Drawing)]

    @property
    def notes(self) -> list[str]:
        return [note for part in self.parts for note in part.notes]

    @property
    def missing(self) -> list[str]:
        return list(dict.fromkeys(x for part in self.parts for x in part.missing))

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(f"{part.name}.{kind}" for part in self.parts for kind in part.KINDS))


def render(
    title: str,
    intro: str,
    sections: Sequence[Section],
    records: Sequence[Any] = (),
    problems: Sequence[str] = (),
    not_run: Sequence[tuple[str, str]] = (),
    folder: Path = Path(),
    studies: Sequence[Any] = (),
    banner: str = "",
) -> str:
    """The page as a string, sections in their order; folder: where the drawings were saved.

    Every text is escaped: names in records may come from anywhere.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, keep_trailing_newline=True
    )
    notes = list(dict.fromkeys(note for s in sections for note in s.notes))  # each once, by its number
    environment.filters["number"] = lambda note: notes.index(note) + 1
    environment.filters["png"] = lambda d: base64.b64encode((folder / f"{d.name}.png").read_bytes()).decode()
    counts = Counter(_verdicts([t.data for s in sections for t in s.tables]))
    blocks = [
        SimpleNamespace(id=same[0].name, group=group, short=(group or same[0].title).split(":")[0], sections=same)
        for (group, _), found in groupby(sections, key=lambda s: (s.group, "" if s.group else s.name))
        for same in [list(found)]
    ]
    return environment.get_template("page.html").render(
        title=title,
        intro=intro,
        banner=banner,
        blocks=blocks,
        notes=notes,
        counts=[(word, counts[word]) for word in VERDICTS if counts[word]],
        environment=summarise(records, studies),
        problems=problems,
        not_run=not_run,
    )


def _verdicts(frames: Sequence[pd.DataFrame]) -> list[str]:
    """The verdicts of all cells, one a cell and metric: Table 4 shows some of Table 3 again."""
    judged = pd.concat([f for f in frames if {"config_hash", "verdict"} <= set(f)] or [pd.DataFrame({"verdict": []})])
    keys = [key for key in ("dataset", "model", "mode", "loss", "config_hash", "metric") if key in judged]
    return [*judged.dropna(subset="verdict").drop_duplicates(keys or None)["verdict"]]


def summarise(records: Sequence[Any], studies: Sequence[Any] = ()) -> list[tuple[str, str]]:
    """Device, code and cost of the runs and of the searches' trials, as lines of the page."""
    runs = frame_of(records).reindex(columns=_ABOUT).astype(object)
    trials = [t["seconds"] / 3600 for s in studies for t in s.trials if t["seconds"]]
    hours = [seconds / 3600 for seconds in runs["seconds_total"].dropna()]
    cost = f"{math.fsum(hours + trials):.2f} hours in total"
    if trials:
        cost += f": {math.fsum(hours):.2f} of runs, {math.fsum(trials):.2f} of {len(trials)} trials of searches"
    if runs.empty:
        return [("Runs", "none"), *([("Compute", cost)] if trials else [])]

    def seen(values: pd.Series) -> str:
        counts = values.replace("", None).fillna("not recorded").value_counts().sort_index()
        return ", ".join(f"{name} ({num})" for name, num in counts.items())

    finished = runs["finished_at"].fillna("")
    return [
        ("Runs", f"{len(runs)} finished, {finished.min()} to {finished.max()}"),
        ("Compute", cost),
        ("Device", seen(runs["device_name" if runs["device_name"].any() else "device"])),
        ("Precision", seen(runs["precision"])),
        ("Largest peak memory", f"{max([0, *runs['peak_memory_bytes'].dropna()]) / 2**30:.2f} GiB"),
        ("Commits", seen(runs["commit"].str[:12])),
        ("Uncommitted changes", f"in the working tree of {runs['commit_clean'].eq(False).sum()} runs"),
        ("Shared device", f"{runs['shared_device'].eq(True).sum()} runs, whose times are left out"),
    ]


def arranged(sections: Sequence[Section], measured: Sequence[str]) -> list[Section]:
    """The main table and the main figure first, then the claims; folded sections last.

    measured: the experiments that have runs. The main table is the table of the first of them, else of all runs.
    """
    main = next((s for s in sections if s.tables and s.name in measured), None)
    main = main or next((s for s in sections if s.name == "runs"), None)
    figures = [s for s in sections if s.drawings and not s.group and s.name != "fig1"]
    first = []
    if main is not None:
        main.group = ""  # not folded
        shown = next((s for s in figures if s.name == "convergence"), next(iter(figures), None))
        first = [main] if main.drawings or shown is None else [main, shown]
    rest = [s for s in sections if s not in first]
    fold = {s.name: next((i for i, x in enumerate(FOLDED) if s.group.startswith(x)), -1) for s in rest}
    return first + sorted(rest, key=lambda s: (fold[s.name], s.name != "claims"))


def headline(groups: Sequence[Group]) -> str:
    """ "CE, SCL + CE and G-Loss-O + CE on MR and R8 with BERT-base"; of more than three, their number."""
    if not groups:
        return "G-Loss"
    losses = _listed([g.loss_name for g in groups], "losses")
    datasets = _listed([dataset_name(g.dataset) for g in groups], "data sets")
    return f"{losses} on {datasets} with {_listed([model_name(g.model) for g in groups], 'models')}"


def _listed(names: Sequence[str], kind: str) -> str:
    *others, last = dict.fromkeys(names)
    if len(others) > 2:
        return f"{len(others) + 1} {kind}"
    return f"{', '.join(others)} and {last}" if others else last


def intro(outputs: Path, num_runs: int) -> str:
    if not num_runs:
        return f"There are no finished runs under {outputs / 'runs'} yet: make demo makes some in a few minutes."
    return f"Made from the records of {num_runs} finished runs; only the paper's own numbers are copied from elsewhere."


def smoke_banner(records: Sequence[Record]) -> str:
    """The sentence about smoke runs; empty where there are none."""
    found = [said for r in records if (said := reductions(r.result["config"]))]
    if not found:
        return ""
    which = f"All {len(found)} runs" if len(found) == len(records) else f"{len(found)} of {len(records)} runs"
    most = [x for x, _ in Counter(x for said in found for x in said).most_common(4)]
    return (
        f"Smoke runs: {which} train on few texts, for few epochs or with a small part of a model ({', '.join(most)}). "
        "They show that everything works, and are no evidence on which loss is better."
    )
