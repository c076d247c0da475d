"""From run records to tables, figures and one page: needs no GPU, no model and no texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gloss.report.cells import loose_groups, refuse_doubles
from gloss.report.draw import DPI, styled
from gloss.report.overview import convergence, runs_table
from gloss.report.page import Section, render
from gloss.report.table import Table
from gloss.runs import read_records, write_atomic


@dataclass(frozen=True)
class Report:
    """What `build` made: the tables, and where the page is."""

    tables: list[Table]
    page: Path


def build(outputs: str | Path, dpi: int = DPI) -> Report:
    """Make every table and figure for which `outputs` has runs, and the page <outputs>/report/index.html.

    Equal records give equal bytes in the Markdown, CSV and LaTeX files.
    """
    outputs = Path(outputs)
    records, found = read_records(outputs)
    problems = [f"{problem.folder}: {problem.reason}" for problem in found]
    records, doubles = refuse_doubles(records)
    groups = loose_groups(records)
    folder = outputs / "report"
    folder.mkdir(parents=True, exist_ok=True)
    with styled():
        curves = convergence(groups)
    sections = [Section("runs", "All finished runs", [runs_table(groups)])] if groups else []
    if curves:
        sections.append(Section("convergence", curves.title, drawings=[curves]))
    for section in sections:
        for table in section.tables:
            _write(folder, table)
        for drawing in section.drawings:
            drawing.save(folder, dpi)
    text = render(
        "G-Loss: results", _intro(outputs, len(records)), sections, records, problems=problems + doubles, dpi=dpi
    )
    write_atomic(folder / "index.html", text)
    return Report([table for section in sections for table in section.tables], folder / "index.html")


def _intro(outputs: Path, num_runs: int) -> str:
    if not num_runs:
        return f"There are no finished runs under {outputs / 'runs'} yet: `make demo` makes some in a few minutes."
    return (
        f"Made from the records of {num_runs} finished runs; nothing here was typed in by hand but the paper's numbers."
    )


def _write(folder: Path, table: Table) -> None:
    for suffix, text in ((".md", table.markdown()), (".csv", table.csv()), (".tex", table.latex())):
        write_atomic(folder / (table.name + suffix), text)
