"""A table of the report and its written forms: Markdown, CSV, LaTeX, HTML."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from gloss.report.statistics import mean, std
from gloss.runtime.atomic import write_atomic

WIDE = 60  # characters of a cell that the page breaks into lines
MISSING = "—"  # nothing measured: never a zero
_LATEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "[": "{[}",  # at the head of a row it would be an option of the line break before it
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "—": "---",
    "–": "--",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
    "γ": r"$\gamma$",
    "τ": r"$\tau$",
    "×": r"$\times$",
    "−": r"$-$",
    "Δ": r"$\Delta$",
    "<": r"$<$",
    ">": r"$>$",
}


@dataclass(frozen=True)
class Part:
    """One number as printed. rank: 1 is the best of its column (bold), 2 the second (underlined), 0 neither."""

    text: str
    rank: int = 0
    verdict: str = ""


@dataclass(frozen=True)
class Entry:
    """A cell of a table: numbers separated by slashes, then a remark such as the number of seeds."""

    parts: tuple[Part, ...] = (Part(MISSING),)
    suffix: str = ""

    @property
    def verdicts(self) -> tuple[str, ...]:
        return tuple(part.verdict for part in self.parts if part.verdict)

    @property
    def verdict(self) -> str:
        """The verdicts of the parts, once if they agree: "ok", "ok/near"."""
        return self.verdicts[0] if len(set(self.verdicts)) == 1 else "/".join(self.verdicts)

    def plain(self) -> str:
        return " ".join(x for x in (" / ".join(part.text for part in self.parts), self.suffix) if x)


def entry(text: object, suffix: str = "", rank: int = 0, verdict: str = "") -> Entry:
    """An entry of one text or number."""
    return Entry((Part(str(text), rank, verdict),), suffix)


def number_text(centre: float | None, spread: float | None = None, digits: int = 2, sign: str = "") -> str:
    """ "85.64 ± 0.81"; "85.64" without a deviation; a dash for a number that is missing (None or NaN)."""
    if pd.isna(centre):
        return MISSING
    return f"{centre:{sign}.{digits}f}" + ("" if pd.isna(spread) else f" ± {spread:.{digits}f}")


def mean_std(values: Collection[float], digits: int = 2) -> str:
    """ "85.64 ± 0.81"; "85.64" for a single number, a dash for none."""
    return number_text(mean(values), std(values), digits)


def scored(
    samples: Sequence[Collection[float]], suffixes: Sequence[str] = (), among: Sequence[str] = (), digits: int = 2
) -> list[Entry]:
    """An entry a sample: mean ± standard deviation, ranked among those with an equal word in `among`."""
    means = pd.Series([mean(x) for x in samples], dtype=float)
    ranks = means.groupby(list(among) or [""] * len(means)).transform(lambda block: rank(block, digits=digits))
    suffixes = suffixes or [""] * len(samples)
    return [
        entry(mean_std(x, digits), suffix, int(place)) if x else Entry()
        for x, suffix, place in zip(samples, suffixes, ranks, strict=True)
    ]


@dataclass
class Table:
    """A table as printed, and the same numbers as a tidy data frame.

    Args:
        name: "table2", also the name of its files.
        title: the heading.
        columns: the headings of the columns.
        rows: cells as printed; plain texts and numbers become entries.
        data: the tidy form for the CSV file, a row a number; None where a value is missing.
        notes: footnotes.
        missing: the runs or measurements that the table lacks.
        num_keys: leading columns that name the row, aligned left.
    """

    name: str
    title: str
    columns: list[str]
    rows: list[list[Any]]
    data: Any
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    num_keys: int = 1
    KINDS = ("md", "csv", "tex")  # of the files that are written

    def __post_init__(self) -> None:
        self.rows = [[e if isinstance(e, Entry) else entry(e) for e in row] for row in self.rows]
        self.data = _frame(self.data)

    def save(self, folder: Path) -> None:
        """Write <name>.md, <name>.csv and <name>.tex."""
        for kind, text in zip(self.KINDS, (self.markdown(), self.csv(), self.latex()), strict=True):
            write_atomic(folder / f"{self.name}.{kind}", text)

    def markdown(self) -> str:
        """The table with its title and notes, columns padded so that it also reads well in a terminal."""
        body = [[_md(x) for x in self.columns]] + [[_written(e, _md, _MD) for e in row] for row in self.rows]
        widths = [max(3, *map(len, column)) for column in zip(*body, strict=True)]
        align = ["<" if i < self.num_keys else ">" for i in range(len(widths))]
        body.insert(1, ["-" * w if left == "<" else "-" * (w - 1) + ":" for w, left in zip(widths, align, strict=True)])
        lines = [[f"{x:{a}{w}}" for x, a, w in zip(row, align, widths, strict=True)] for row in body]
        text = f"**{_md(self.title)}**\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
        if self.notes:
            text += "\n" + "\n".join(f"- {_md(note)}" for note in self.notes) + "\n"
        if self.missing:
            text += f"\nMissing ({len(self.missing)}):\n\n" + "\n".join(f"- {_md(x)}" for x in self.missing) + "\n"
        return text

    def csv(self) -> str:
        """The tidy form, columns in the order of their first appearance."""
        return csv_text(self.data)

    def latex(self) -> str:
        """A booktabs table; needs \\usepackage{booktabs}."""
        align = "l" * self.num_keys + "r" * (len(self.columns) - self.num_keys)
        about = {"caption": _tex(self.title), "label": f"tab:{self.name}", "position_float": "centering"}
        text = self._styler(lambda e: _written(e, _tex, _TEX), _tex).to_latex(hrules=True, column_format=align, **about)
        notes = "".join(rf"\par\footnotesize {_tex(note)}" + "\n" for note in self.notes)
        return text.replace(r"\end{table}", notes + r"\end{table}")

    def html(self) -> str:
        """The table as HTML; all texts are escaped."""

        def kinds(row: list[Entry]) -> list[str]:
            paper = "paper " if any(e.plain() == "paper" for e in row) else ""
            keys = ["key " if i < self.num_keys else "" for i in range(len(row))]
            return [paper + key + "wide" * (len(e.plain()) > WIDE) for key, e in zip(keys, row, strict=True)]

        left = {i: [{"selector": "th", "props": "text-align: left"}] for i in range(self.num_keys)}
        styler = self._styler(_html_entry, escape).set_td_classes(pd.DataFrame(map(kinds, self.rows)))
        return styler.set_table_styles(left).to_html()

    def _styler(self, cell: Callable[[Entry], str], heading: Callable[[str], str]) -> Styler:
        """pandas' writer of HTML and LaTeX; cell and heading: the text of an entry and of a column, escaped."""
        body = pd.DataFrame(self.rows, columns=range(len(self.columns)))
        styler = Styler(body, uuid=f"{zlib.crc32(self.name.encode()):x}", cell_ids=False)
        return styler.format(cell).format_index(lambda i: heading(self.columns[i]), axis=1).hide(axis="index")


def _frame(rows: Any) -> pd.DataFrame:
    """Rows (a data frame, or dicts) as a data frame of objects: numbers keep their types, None where one is missing."""
    frame = pd.DataFrame(rows, dtype=object)
    return frame.where(frame.notna(), None)


def csv_text(rows: Any) -> str:
    """Rows (a data frame, or dicts) as CSV; a missing value is an empty field. Floats are written in full."""
    # A spreadsheet would run a text that starts like a formula, and names come from records.
    harmless = _frame(rows).replace(r"^(?=[=+@\t\r]|-\D)", "'", regex=True)
    return harmless.to_csv(index=False, lineterminator="\n")


def rank(values: Iterable[float | None], *, higher_is_better: bool = True, digits: int = 2) -> list[int]:
    """1 for the best value, 2 for the second, else 0; equal as printed is equal in rank. None and NaN get 0.

    No marks if all values are equal; of two values only the best is marked.
    """
    shown = pd.Series([None if pd.isna(v) else round(v, digits) for v in values], dtype=float)  # as the format rounds
    if shown.nunique() < 2:
        return [0] * len(shown)
    places = shown.rank(method="dense", ascending=not higher_is_better)
    return [int(place) if place <= min(2, shown.count() - 1) else 0 for place in places]


_MD = ("{}", "**{}**", "<u>{}</u>", "*{}*")  # forms of a part without a rank, the best, the second; of a verdict
_TEX = ("{}", r"\textbf{{{}}}", r"\underline{{{}}}", r"\emph{{{}}}")
_HTML = ("{}", "<b>{}</b>", '<span class="second">{}</span>')


def _md(text: str) -> str:
    return re.sub(r"([|\\`*<\[\]])", r"\\\1", " ".join(text.split()))


def _tex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def _written(e: Entry, escaped: Callable[[str], str], marks: tuple[str, ...]) -> str:
    text = " / ".join(marks[p.rank].format(escaped(p.text)) for p in e.parts)
    verdict = marks[3].format(escaped(e.verdict)) if e.verdict else ""
    return " ".join(x for x in (text, escaped(e.suffix), verdict) if x)


def _html_entry(e: Entry) -> str:
    lines = [_HTML[p.rank].format(escape(p.text)) for p in e.parts]
    lines[0] += f" {escape(e.suffix)}" if e.suffix else ""
    for i, p in enumerate(e.parts):
        if p.verdict:
            lines[i] += f' <span class="verdict {escape(p.verdict.split()[0])}">{escape(p.verdict)}</span>'
    return "<br>".join(lines)
