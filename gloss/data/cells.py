"""Cells of a file of texts: whether one is a text or a label, and how rows are named in messages."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from gloss.errors import DataError

MAX_TEXT = 2**20  # characters; the longest of the paper's texts has 160,616, and csv's own limit is 131,072
_NOT_LABEL = "several labels per text are not supported (single-label classification only): choose another column"
_INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # categories of Unicode
_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"  # signs of other categories that show nothing


def label_name(value: Any) -> str | None:
    """A label of a file with types as a string; None where it is missing. Raises DataError."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and value != value):
        return None
    if not isinstance(value, bool | int | float):
        raise DataError(f"the label is {type(value).__name__}: {_NOT_LABEL}")
    return str(value)


def fault(cell: Any) -> str | None:
    """Why a cell is no text; None where it is one."""
    if not isinstance(cell, str):
        return f"holds {type(cell).__name__}, not text"
    if len(cell) > MAX_TEXT:
        return f"holds more than {MAX_TEXT:,} characters"
    if "\0" in cell:
        return "holds binary data"
    try:
        cell.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = f"byte 0x{ord(cell[error.start]) & 0xFF:02x}"
        return f"is not in the encoding expected ({byte}): save as UTF-8, or set the encoding (on Windows often cp1252)"
    return None


def is_blank(cell: Any) -> bool:
    """Whether a cell is missing, or a text that shows nothing."""
    return cell is None or (
        isinstance(cell, str) and all(unicodedata.category(c) in _INVISIBLE or c in _FILLERS for c in cell)
    )


def listed(numbers: Sequence[int], unit: str = "row", most: int = 5) -> str:
    """Name rows by their numbers, as far as they are few."""
    shown = ", ".join(map(str, numbers[:most])) + (f" and {len(numbers) - most:,} more" if len(numbers) > most else "")
    return f"{unit}{'s' * (len(numbers) > 1)} {shown}"
