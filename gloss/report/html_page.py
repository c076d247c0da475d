"""The report as one self-contained HTML page: no script, no network, no file beside it."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
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
VERDICTS = tuple(f"{word}{mark}" for mark in ("", " (released)") for word in ("ok", "near", "off", "unresolved"))


@dataclass
class Section:
    """A heading of the page: tables and drawings that one command makes."""

    name: str
    title: str
    tables: list[Table] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    command: str = ""

    @property
    def short(self) -> str:
        """The title up to its colon."""
        return self.title.split(":")[0]

    @property
    def files(self) -> list[str]:
        names = [f"{t.name}.{kind}" for t in self.tables for kind in ("md", "csv", "tex")]
        return names + [f"{d.name}.{kind}" for d in self.drawings for kind in ("pdf", "png", "csv")]


def render(
    title: str,
    intro: str,
    sections: Sequence[Section],
    records: Sequence[Any] = (),
    problems: Sequence[str] = (),
    not_run: Sequence[tuple[str, str]] = (),
    folder: Path = Path(),
    studies: Sequence[Any] = (),
) -> str:
    """The page as a string; folder: where the drawings were saved.

    Every text is escaped: names in records may come from anywhere.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, keep_trailing_newline=True
    )
    counts = Counter(_verdicts([t.data for s in sections for t in s.tables]))
    return environment.get_template("page.html").render(
        title=title,
        intro=intro,
        sections=[_view(s, folder) for s in sections],
        links=list({s.short: s.name for s in reversed(sections)}.items())[::-1],  # one to all searches: the first
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


def _view(section: Section, folder: Path) -> SimpleNamespace:
    parts: list[Table | Drawing] = [*section.tables, *section.drawings]
    return SimpleNamespace(
        name=section.name,
        title=section.title,
        command=section.command,
        files=section.files,
        tables=section.tables,
        drawings=[
            SimpleNamespace(title=d.title, png=base64.b64encode((folder / f"{d.name}.png").read_bytes()).decode())
            for d in section.drawings
        ],
        notes=list(dict.fromkeys(note for part in parts for note in part.notes)),
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
