"""The report as one self-contained HTML page: no network, no file beside it."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader

from gloss.records.frame import frame_of
from gloss.report.figure import Drawing
from gloss.report.table import Table

_ABOUT = ["device", "device_name", "precision", "commit", "commit_clean", "finished_at", "peak_memory_bytes"]
_ABOUT += ["seconds_total", "shared_device"]
PIXELS_PER_INCH = 110  # of a figure on the page, so that its letters are as large as the tables'
VERDICTS = tuple(f"{word}{mark}" for mark in ("", " (released)") for word in ("ok", "near", "off", "unresolved"))


@dataclass
class Section:
    """A heading of the page: tables and drawings that one command makes.

    group: the fold that holds it, together with others of this group; empty: it stands open.
    marks: words beside its heading, such as "smoke runs".
    """

    name: str
    title: str
    tables: list[Table] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    command: str = ""
    group: str = ""
    marks: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[str]:
        written = [(t.name, ("md", "csv", "tex")) for t in self.tables]
        written += [(d.name, ("pdf", "png", "csv")) for d in self.drawings]
        return list(dict.fromkeys(f"{name}.{kind}" for name, kinds in written for kind in kinds))


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
    counts = Counter(_verdicts([t.data for s in sections for t in s.tables]))
    notes: dict[str, int] = {}  # each once, by its number
    blocks = [
        SimpleNamespace(id=same[0].name, group=group, short=(group or same[0].title).split(":")[0], sections=same)
        for (group, _), found in groupby(sections, key=lambda s: (s.group, "" if s.group else s.name))
        for same in [[_view(s, folder, notes) for s in found]]
    ]
    return environment.get_template("page.html").render(
        title=title,
        intro=intro,
        banner=banner,
        blocks=blocks,
        notes=list(notes),
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


def _view(section: Section, folder: Path, notes: dict[str, int]) -> SimpleNamespace:
    """A section as the template reads it; what its parts note is added to `notes`."""
    parts: list[Table | Drawing] = [*section.tables, *section.drawings]
    drawings = [
        SimpleNamespace(
            title=d.title,
            width=round(d.figure.get_figwidth() * PIXELS_PER_INCH),
            png=base64.b64encode((folder / f"{d.name}.png").read_bytes()).decode(),
        )
        for d in section.drawings
    ]
    own = {"name", "title", "command", "files", "tables", "marks"}
    return SimpleNamespace(
        **{key: getattr(section, key) for key in own},
        drawings=drawings,
        notes=sorted({notes.setdefault(note, len(notes) + 1) for part in parts for note in part.notes}),
        missing=list(dict.fromkeys(x for part in parts for x in part.missing)),
    )


def summarise(records: Sequence[Any], studies: Sequence[Any] = ()) -> list[tuple[str, str]]:
    """What the runs were made with and what they and the searches' trials cost, as lines of the page."""
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
    lines = [
        ("Runs", f"{len(runs)} finished"),
        ("Compute", cost),
        ("Device", seen(runs["device_name" if runs["device_name"].any() else "device"])),
        ("Precision", seen(runs["precision"])),
        ("Largest peak memory", f"{max([0, *runs['peak_memory_bytes'].dropna()]) / 2**30:.2f} GiB"),
        ("Commits", seen(runs["commit"].str[:12])),
        ("Finished", f"{finished.min()} to {finished.max()}"),
    ]
    if dirty := runs["commit_clean"].eq(False).sum():
        lines.append(("Uncommitted changes", f"in the working tree of {dirty} runs"))
    if shared := runs["shared_device"].eq(True).sum():
        lines.append(("Shared device", f"{shared} runs; their timings are left out of timing tables and figures"))
    return lines
