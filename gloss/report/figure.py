"""One style for all figures, and the files of a figure: PDF, PNG and the numbers behind it as CSV."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from gloss.report.statistics import mean, std
from gloss.report.table import csv_text
from gloss.runtime.atomic import write_atomic
from gloss.runtime.terminal import escape_control_characters

STYLE = Path(__file__).with_name("figure.mplstyle")
DPI = 160
PIXELS_PER_INCH = 110


@dataclass
class Drawing:
    """A figure, the rows of numbers it shows, and notes on them."""

    name: str
    title: str
    figure: Figure
    data: list[dict[str, object]]
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    KINDS = ("pdf", "png", "csv")  # of the files that are written

    @property
    def width(self) -> int:
        """The width in pixels on the page: letters are then as large as in tables."""
        return round(self.figure.get_figwidth() * PIXELS_PER_INCH)

    def save(self, folder: Path, dpi: int = DPI) -> None:
        """Write <name>.pdf, <name>.png and <name>.csv. No dates inside, so equal data give equal bytes."""
        with styled():
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")  # the layout is done; doing it again for each file doubles the time
            pdf = {"metadata": dict.fromkeys(("CreationDate", "Producer", "Creator"))}
            for kind, options in (("pdf", pdf), ("png", {"dpi": dpi, "metadata": {"Software": None}})):
                content = io.BytesIO()  # on a full disk matplotlib would leave half a file, and hide the reason
                self.figure.savefig(content, format=kind, **options)
                write_atomic(folder / f"{self.name}.{kind}", content.getvalue())
        write_atomic(folder / f"{self.name}.csv", csv_text(self.data))


@contextmanager
def styled() -> Iterator[None]:
    """The style, for as long as a figure is made or written."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with matplotlib.rc_context(fname=STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a sign that the font lacks, a panel too small for its labels
        yield


def bare(ax: Any, has_frame: bool = True) -> None:
    """Remove ticks and grid from axes whose coordinates have no meaning."""
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(has_frame)


def band(ax: Any, xs: Sequence[float], found: Sequence[Sequence[float]], label: str, **look: Any) -> list[float]:
    """Draw the means of found[i] at xs[i] as a line, and one standard deviation around them; returns the means."""
    centre, spread = [mean(x) for x in found], [std(x) if len(x) > 1 else 0.0 for x in found]
    ax.plot(xs, centre, label=label, markevery=max(1, len(xs) // 8), **look)
    low, high = ([c + sign * s for c, s in zip(centre, spread, strict=True)] for sign in (-1, 1))
    ax.fill_between(xs, low, high, color=look.get("color"), alpha=0.15, linewidth=0)
    return centre


def num_seeds(counts: Sequence[int]) -> str:
    """The number of seeds behind a line or panel: `n=3`, or the fewest and the most."""
    low, high = min(counts), max(counts)
    return f"n={low}" if low == high else f"n={low}–{high}"


def plain(text: str) -> str:
    """The text, escaped so that matplotlib draws it unchanged ($ would begin a formula)."""
    return escape_control_characters(text).replace("$", r"\$")


def legend_beside(ax: Any, handles: Sequence[Any], names: Sequence[str], per_column: int, **look: Any) -> list[str]:
    """Draw a legend right of the axes, in two columns at most; for more entries, return a note instead."""
    if len(handles) > 2 * per_column:
        return [f"No legend, for {len(handles)} entries leave no room for the figure: see the CSV."]
    columns = -(-len(handles) // per_column)
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "handletextpad": 0.1}
    ax.legend(handles, names, ncols=columns, **place, **look)
    return []


def panels(
    rows: int, columns: int, width: float = 3.2, height: float = 2.4, **kwargs: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of rows x columns axes, each width x height inches; axes as an array [rows, columns].

    No pyplot: no global state, no window system, nothing to close.
    """
    figure = Figure(figsize=(width * columns, height * rows))
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    return figure, axes
