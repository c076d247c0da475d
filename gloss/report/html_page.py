"""The report as one self-contained HTML page. Needs no network or other file."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

from jinja2 import Environment, FileSystemLoader

from gloss.paper.names import dataset_name
from gloss.records.reading import Record, number
from gloss.records.study import Study
from gloss.report.figure import Drawing
from gloss.report.protocol import reductions
from gloss.report.table import Table

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
    def deviations(self) -> list[str]:
        """Notes shown in full: the runs are not the paper's."""
        return [note for note in dict.fromkeys(self.notes) if note.startswith("Not the paper's protocol")]

    @property
    def footnotes(self) -> list[str]:
        return [note for note in self.notes if note not in self.deviations]

    @property
    def missing(self) -> list[str]:
        return list(dict.fromkeys(x for part in self.parts for x in part.missing))

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(f"{part.name}.{kind}" for part in self.parts for kind in part.KINDS))


def render(
    sections: Sequence[Section],
    records: Sequence[Record] = (),
    studies: Sequence[Study] = (),
    problems: Sequence[str] = (),
    not_run: Sequence[tuple[str, str]] = (),
    folder: Path = Path(),
) -> str:
    """The page as a string, sections in their order; folder: where the drawings were saved.

    Every text is escaped: names in records may come from anywhere.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, keep_trailing_newline=True
    )
    notes = list(dict.fromkeys(note for s in sections for note in s.footnotes))  # each once, by its number
    environment.filters["number"] = lambda note: notes.index(note) + 1
    environment.filters["png"] = lambda d: base64.b64encode((folder / f"{d.name}.png").read_bytes()).decode()
    judged = [t.data for s in sections for t in s.tables if "config_hash" in t.data]
    counts = Counter(word for data in judged for word in data.get("verdict", ()) if word)
    blocks = [
        SimpleNamespace(id=same[0].name, group=group, short=(group or same[0].title).split(":")[0], sections=same)
        for (group, _), found in groupby(sections, key=lambda s: (s.group, "" if s.group else s.name))
        for same in [list(found)]
    ]
    return environment.get_template("page.html").render(
        num_runs=len(records),
        banner=smoke_banner(records),
        blocks=blocks,
        notes=notes,
        counts=[(word, counts[word]) for word in VERDICTS if counts[word]],
        environment=summarise(records, studies),
        problems=problems,
        not_run=not_run,
    )


def summarise(records: Sequence[Record], studies: Sequence[Study]) -> list[tuple[str, str]]:
    """Device, code and cost of the runs and of the searches' trials, as lines of the page."""
    results = [record.result for record in records]
    runs = [number(r, "seconds", "total") or 0.0 for r in results]
    trials = [t["seconds"] for s in studies for t in s.trials if t["seconds"]]

    def counted(key: str, length: int | None = None) -> str:
        found = Counter(str(r.get(key) or "not recorded")[:length] for r in results)
        return ", ".join(f"{name} ({num})" for name, num in sorted(found.items()))

    hours, searching = sum(runs) / 3600, sum(trials) / 3600
    lines = [
        ("Runs", f"{len(runs)} finished"),
        ("Compute", f"{hours:.2f} hours of runs, {searching:.2f} hours of {len(trials)} trials of searches"),
        ("Device", counted("device_name")),
        ("Precision", counted("precision")),
        ("Commits", counted("commit", 12)),
        ("Uncommitted changes", f"in the working tree of {sum(r.get('commit_clean') is False for r in results)} runs"),
        ("Shared device", f"{sum(r.get('shared_device') is True for r in results)} runs, whose times are left out"),
    ]
    return lines if records else lines[:2]


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


def smoke_banner(records: Sequence[Record]) -> str:
    """The sentence about smoke runs; empty where there are none."""
    found = [(r.identity.dataset, said) for r in records if (said := reductions(r.result["config"]))]
    if not found:
        return ""
    num, sets = len(found), ", ".join(dict.fromkeys(dataset_name(dataset) for dataset, _ in found))
    which = f"All {num} runs" if num == len(records) else f"{num} of {len(records)} runs, on {sets},"
    most = [x for x, _ in Counter(x for _, said in found for x in said).most_common(4)]
    return (
        f"Smoke runs: {which} train on few texts, for few epochs or with a small part of a model ({', '.join(most)}). "
        "They show that everything works, and are no evidence on which loss is better."
    )
