"""A table of the report and its three written forms: Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

MISSING = "—"  # nothing measured: never a zero
_LATEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
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
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
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
    """What stands in one place of a table: numbers parted by slashes, then a remark such as the number of seeds."""

    parts: tuple[Part, ...] = (Part(MISSING),)
    suffix: str = ""

    @property
    def verdicts(self) -> tuple[str, ...]:
        return tuple(part.verdict for part in self.parts if part.verdict)

    @property
    def verdict(self) -> str:
        """The verdicts of the parts, once if they agree: "ok", "ok/near"."""
        return "/".join(dict.fromkeys(self.verdicts)) if len(set(self.verdicts)) == 1 else "/".join(self.verdicts)

    @property
    def is_paper(self) -> bool:
        """Whether this entry says that its row holds the paper's numbers."""
        return self.plain() == "paper"

    def plain(self) -> str:
        return " ".join(x for x in (" / ".join(part.text for part in self.parts), self.suffix) if x)


def entry(*texts: object, suffix: str = "") -> Entry:
    """An entry of plain texts."""
    return Entry(tuple(Part(str(text)) for text in texts), suffix)


@dataclass(frozen=True)
class Table:
    """name: "table2", also the name of its files; columns and rows as printed; data: the same, tidy, for the CSV file.

    notes: footnotes; missing: what a dash stands for; command: what makes the table's runs.
    """

    name: str
    title: str
    columns: list[str]
    rows: list[list[Entry]]
    data: list[dict[str, object]]
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    command: str = ""
    num_keys: int = 1  # leading columns that name the row: aligned left

    def markdown(self) -> str:
        """The table with its title and notes, columns padded so that it also reads well in a terminal."""
        body = [[_md(x) for x in self.columns]] + [[_md_entry(e) for e in row] for row in self.rows]
        widths = [max(3, *(len(row[i]) for row in body)) for i in range(len(self.columns))]
        is_left = [i < self.num_keys for i in range(len(widths))]
        pad = [
            [x.ljust(w) if left else x.rjust(w) for x, w, left in zip(row, widths, is_left, strict=True)]
            for row in body
        ]
        rule = ["-" * w if left else "-" * (w - 1) + ":" for w, left in zip(widths, is_left, strict=True)]
        lines = ["| " + " | ".join(row) + " |" for row in (pad[0], rule, *pad[1:])]
        text = f"**{_md(self.title)}**\n\n" + "\n".join(lines) + "\n"
        if self.notes:
            text += "\n" + "\n".join(f"- {_md(note)}" for note in self.notes) + "\n"
        if self.missing:
            text += f"\nMissing ({len(self.missing)}):\n\n" + "\n".join(f"- {_md(x)}" for x in self.missing) + "\n"
        return text

    def csv(self) -> str:
        """The tidy form: one line a number, columns in the order of their first appearance."""
        return csv_text(self.data)

    def latex(self) -> str:
        """A booktabs table; needs \\usepackage{booktabs}."""
        align = "l" * self.num_keys + "r" * (len(self.columns) - self.num_keys)
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{_tex(self.title)}}}", rf"\label{{tab:{self.name}}}"]
        lines += [rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
        lines += [" & ".join(_tex(x) for x in self.columns) + r" \\", r"\midrule"]
        lines += [" & ".join(_tex_entry(e) for e in row) + r" \\" for row in self.rows]
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par\footnotesize {_tex(note)}" for note in self.notes]
        return "\n".join([*lines, r"\end{table}", ""])


def csv_text(rows: Sequence[dict[str, object]]) -> str:
    """Rows of dicts as CSV; a key that a row lacks, or None, is an empty field. Floats are written in full."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _cell(v) for k, v in row.items()} for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    # A spreadsheet would run a text that starts like a formula, and names come from records.
    return "'" + value if isinstance(value, str) and re.match(r"[=+@\t\r]|-\D", value) else value


def rank(values: Sequence[float | None], *, higher_is_better: bool = True, digits: int = 2) -> list[int]:
    """1 for the best value, 2 for the second, else 0; equal as printed is equal in rank. None (missing) gets 0.

    Where all are equal nothing is marked, and of only two values the worse is not praised as second.
    """
    shown = [None if v is None else round(v, digits) * (1 if higher_is_better else -1) for v in values]
    present = [v for v in shown if v is not None]
    distinct = sorted(set(present), reverse=True)
    if len(distinct) < 2:
        return [0] * len(shown)
    ranked = distinct[:2] if len(present) > 2 else distinct[:1]
    return [ranked.index(v) + 1 if v in ranked else 0 for v in shown]


def mark(entries: list[Entry], ranks: list[int], part: int = 0) -> list[Entry]:
    """The entries with ranks[i] given to part number `part` of entry i."""
    return [
        replace(e, parts=tuple(replace(p, rank=r) if k == part and r else p for k, p in enumerate(e.parts)))
        for e, r in zip(entries, ranks, strict=True)
    ]


def _md(text: str) -> str:
    return re.sub(r"([|\\`*<\[\]])", r"\\\1", " ".join(text.split()))


def _md_entry(e: Entry) -> str:
    marks = {0: "{}", 1: "**{}**", 2: "<u>{}</u>"}
    text = " / ".join(marks[p.rank].format(_md(p.text)) for p in e.parts)
    return " ".join(x for x in (text, _md(e.suffix), f"*{e.verdict}*" if e.verdict else "") if x)


def _tex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def _tex_entry(e: Entry) -> str:
    marks = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
    text = " / ".join(marks[p.rank].format(_tex(p.text)) for p in e.parts)
    return " ".join(x for x in (text, _tex(e.suffix), rf"\emph{{{_tex(e.verdict)}}}" if e.verdict else "") if x)
