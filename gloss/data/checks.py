"""Likely mistakes in the labels and texts of a user's own data: noted before training, or refused."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

from gloss.data.files import SEPARATORS, Row, listed
from gloss.errors import DataError

MANY_DECIMALS = 20  # more classes than these that are numbers with decimals are refused as ratings
MANY_NUMBERS = 50  # more classes than these that are whole numbers are perhaps ratings
MANY_CLASSES = 20  # more classes than these, and more than half as many as examples: not a column of labels
_MISSING = {"nan", "none", "null", "nil", "na", "n/a", "#n/a", "<na>", "nat", "missing"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
# A list as Python writes it (['a'], (a, b)), or NumPy (['a' 'b'], [0 1]); no (not rated), and no (don't know).
_LIST = re.compile(r"""\s*[\[{(](\s*['"].*|.*,.*|\s*\d\S*\s+\d.*)[\]})]\s*""", re.DOTALL)


def words(texts: Sequence[str]) -> tuple[str, ...]:
    """The words of a text, or of a pair, by which repeats are found: case and blanks do not count."""
    return tuple(" ".join(text.casefold().split()) for text in texts)


def letters_and_digits(texts: Sequence[str]) -> tuple[str, ...]:
    """A text, or a pair, reduced to its letters and digits, in which two collections of the same texts agree."""
    return tuple("".join(filter(str.isalnum, text.lower())) for text in texts)


def examine(parts: dict[str, list[Row]]) -> list[str]:
    """Describe suspicious examples of each split, in a sentence each with rows or names.

    Raises DataError for clear mistakes.
    """
    of = {part: f" of {part}" if len(parts) > 1 else "" for part in parts}
    counts = Counter(row.names[-1] for rows in parts.values() for row in rows)
    first: dict[str, str] = {}  # label -> the first row that has it
    for part, rows in parts.items():
        for row in rows:
            first.setdefault(row.names[-1], f"{row.place()}{of[part]}")

    def named(labels: Iterable[str]) -> str:
        return " and ".join(f"{label!r} ({counts[label]:,} texts, first in {first[label]})" for label in labels)

    for label in counts:
        pieces = [piece.strip() for piece in re.split(r"[|;,]", label)]
        if _LIST.fullmatch(label) or (len(pieces) > 1 and all(piece in counts for piece in pieces)):
            raise DataError(f"{named([label])} is a list: several labels per text are not supported, keep one of them")
    ratings = ""  # from the lowest to the highest, where all labels are numbers
    if all(map(_NUMBER.fullmatch, counts)):
        ratings = f"{len(counts)} numbers, {min(counts, key=float)} to {max(counts, key=float)}"
    if ratings and len(counts) > MANY_DECIMALS and any(float(label) % 1 for label in counts):
        advice = "regression is not supported: group them into a few classes"
        raise DataError(f"the labels are {ratings}, which looks like ratings: {advice}")
    if len(counts) > MANY_CLASSES and 2 * len(counts) > counts.total():
        some = " and ".join(map(repr, list(counts)[:2]))
        advice = "set dataset.label to the column of classes, which need several texts each"
        raise DataError(f"the labels have {len(counts):,} values in {counts.total():,} rows, as {some}: {advice}")
    if alike := _groups(counts, _seen):
        raise DataError(f"the classes {named(alike[0])} differ only in blanks or Unicode form: write them alike")
    notes = []
    if similar := _groups(counts, _meant):
        pairs = "; ".join(map(named, similar))
        notes.append(f"classes that differ only in case, form of letters or form of numbers: {pairs}")
    if missing := list(filter(_is_missing, counts)):
        notes.append(f"a class is called {named(missing)}: if that means a missing label, take its rows out")
    if ratings and len(counts) > MANY_NUMBERS:
        notes.append(f"the classes are {ratings}: if these are ratings, group them")
    train = {words(row.texts) for row in parts.get("train", [])}
    content = {part: sorted((row.texts, row.names) for row in rows) for part, rows in parts.items()}
    for part, rows in parts.items():
        notes += _text_notes(rows, of[part], train if part != "train" else set())
        if part != "train" and content[part] == content.get("train"):
            raise DataError(f"{part} repeats the texts of train, each with its label: a score on them says nothing")
    return notes


def _text_notes(rows: Sequence[Row], of_part: str, train: set[tuple[str, ...]]) -> list[str]:
    """Notes on suspicious texts of a split; train: the training split's texts, empty for that split itself."""
    labels_of = defaultdict(set)
    keys = [words(row.texts) for row in rows]
    for key, row in zip(keys, rows, strict=True):
        labels_of[key].add(row.names[-1])
    faults: dict[str, Callable[[tuple[str, ...]], bool]] = {
        "hold a word for a missing text, as nan or none": lambda key: any(map(_is_missing, key)),
        "occur with different labels": lambda key: len(labels_of[key]) > 1,
        "are also among the training texts": train.__contains__,
    }
    notes = []
    for fault, has_fault in faults.items():
        if some := [row for key, row in zip(keys, rows, strict=True) if has_fault(key)]:
            notes.append(f"{len(some):,} of the {len(rows):,} texts{of_part} {fault} ({listed(some)})")
    return notes


def _is_missing(cell: str) -> bool:
    return cell.strip().casefold() in _MISSING


def _seen(label: str) -> str:
    """The visible characters of a label, in one Unicode form."""
    kept = "".join(c for c in label if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFC", " ".join(kept.split()))


def _meant(label: str) -> str | float:
    """A label without case, form of letters and form of numbers."""
    label = unicodedata.normalize("NFKC", _seen(label)).casefold()
    return float(label) if _NUMBER.fullmatch(label) else label


def _groups(labels: Iterable[str], key: Callable[[str], object]) -> list[list[str]]:
    """Groups of two or more labels with the same key."""
    groups = defaultdict(list)
    for label in labels:
        groups[key(label)].append(label)
    return [group for group in groups.values() if len(group) > 1]


def swallowed_rows(rows: Iterable[Row], labels: Collection[str], path: str) -> list[str]:
    """A note on a text of a CSV file whose lines look like rows, as after a quote that was left open.

    Raises DataError where that is sure: several lines in a row look so, or no text of the file has other lines.
    """

    def is_row(line: str, place: int) -> bool:
        return any(sep in line and line.split(sep)[place].strip('"\r') in labels for sep in SEPARATORS)

    several = [(row.number, text.split("\n")) for row in rows for text in row.texts if "\n" in text]
    alike = [
        (number, len(lines))
        for number, lines in several
        if all(is_row(x, -1) for x in lines[:-1]) or all(is_row(x, 0) for x in lines[1:])
    ]
    if not alike:
        return []
    sure = alike if len(alike) == len(several) else [(number, count) for number, count in alike if count > 2]
    number, count = (sure or alike)[0]
    found = f"{path}: row {number} holds {count} lines that look like rows themselves"
    if not sure:
        return [f"{found}: is a quote open there?"]
    advice = "close the quote that is open there, or double it inside a text"
    raise DataError(f"{found}: {advice}; a text that is meant so can be given as JSON lines")
