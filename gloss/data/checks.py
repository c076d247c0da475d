"""Labels and texts of a user's own data that are almost what was meant: noted before training, or refused."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from gloss.data.cells import listed
from gloss.data.files import SEPARATORS, Examples
from gloss.errors import DataError

MANY_DECIMALS = 20  # more classes than these that are numbers with decimals are refused as ratings
MANY_NUMBERS = 50  # more classes than these that are whole numbers are perhaps ratings
MANY_CLASSES = 20  # more classes than these, and more than half as many as examples: not a column of labels
_MISSING = {"nan", "none", "null", "nil", "na", "n/a", "#n/a", "<na>", "nat", "missing"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def words(texts: Sequence[str]) -> tuple[str, ...]:
    """The words of a text, or of a pair, by which repeats are found: case and blanks do not count."""
    return tuple(" ".join(text.casefold().split()) for text in texts)


def letters_and_digits(texts: Sequence[str]) -> tuple[str, ...]:
    """A text, or a pair, reduced to what two collections of the same texts agree in."""
    return tuple("".join(filter(str.isalnum, text.lower())) for text in texts)


def examine(parts: dict[str, Examples]) -> list[str]:
    """Describe what is odd about the examples of each split, in a sentence each with rows or names.

    Raises DataError for what cannot be meant.
    """
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}  # label -> the first row that has it
    for part, examples in parts.items():
        for (*_, label), number in zip(examples.rows, examples.numbers, strict=True):
            counts[label] += 1
            first.setdefault(label, f"row {number}{_of(part, parts)}")

    def named(labels: Iterable[str]) -> str:
        return " and ".join(f"{label!r} ({counts[label]:,} texts, first in {first[label]})" for label in labels)

    _refuse_several_labels(counts, named)
    _refuse_other_columns(counts)
    for part, examples in parts.items():
        _refuse_swallowed_rows(examples, counts, _of(part, parts))
    if alike := _groups(counts, _seen):
        raise DataError(f"the classes {named(alike[0])} differ only in blanks or Unicode form: write them alike")
    notes = []
    if similar := _groups(counts, _meant):
        shown = "; ".join(map(named, similar[:3])) + (f"; and {len(similar) - 3} more" if len(similar) > 3 else "")
        notes.append(f"classes that differ only in case, form of letters or form of numbers: {shown}")
    if missing := list(filter(_is_missing, counts)):
        notes.append(f"a class is called {named(missing)}: if that means a missing label, take its rows out")
    if len(counts) > MANY_NUMBERS and all(map(_NUMBER.fullmatch, counts)):
        notes.append(f"the {len(counts)} classes are numbers, {_range(counts)}: if these are ratings, group them")
    train = {words(texts) for *texts, _ in parts["train"].rows}
    for part, examples in parts.items():
        notes += _text_notes(examples, _of(part, parts), train if part != "train" else set())
        if part != "train" and sorted(examples.rows) == sorted(parts["train"].rows):
            raise DataError(f"{part} repeats the texts of train, each with its label: a score on them says nothing")
    return notes


def _of(part: str, parts: dict[str, Examples]) -> str:
    return f" of {part}" if len(parts) > 1 else ""


def _text_notes(examples: Examples, of_part: str, train: set[tuple[str, ...]]) -> list[str]:
    """What is odd about the texts of a split; train: the training split's texts, where this is another."""
    labels_of = defaultdict(set)
    known = [words(texts) for *texts, _ in examples.rows]
    for key, (*_, label) in zip(known, examples.rows, strict=True):
        labels_of[key].add(label)
    found = {
        "hold a word for a missing text, as nan or none": [any(map(_is_missing, key)) for key in known],
        "occur with different labels": [len(labels_of[key]) > 1 for key in known],
        "are also among the training texts": [key in train for key in known],
    }
    notes = []
    for what, is_odd in found.items():
        if odd := [number for number, one in zip(examples.numbers, is_odd, strict=True) if one]:
            notes.append(f"{len(odd):,} of the {len(known):,} texts{of_part} {what} ({listed(odd)})")
    return notes


def _is_missing(cell: str) -> bool:
    return cell.strip().casefold() in _MISSING


def _seen(label: str) -> str:
    """What can be seen of a label."""
    kept = "".join(c for c in label if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFC", " ".join(kept.split()))


def _meant(label: str) -> str | float:
    """What a label may stand for."""
    label = unicodedata.normalize("NFKC", _seen(label)).casefold()
    return float(label) if _NUMBER.fullmatch(label) else label


def _groups(labels: Iterable[str], key: Callable[[str], object]) -> list[list[str]]:
    """The labels with the same key, where these are several."""
    groups = defaultdict(list)
    for label in labels:
        groups[key(label)].append(label)
    return [group for group in groups.values() if len(group) > 1]


def _range(labels: Iterable[str]) -> str:
    ordered = sorted(labels, key=float)
    return f"{ordered[0]} to {ordered[-1]}"


def _refuse_several_labels(counts: Counter[str], named: Callable[[Iterable[str]], str]) -> None:
    for label in counts:
        parts = [part.strip() for part in re.split(r"[|;,]", label)]
        is_list = re.fullmatch(r"""[\[{(].*[,'" ].*[\]})]""", label.strip(), re.DOTALL)  # as Python writes one
        if is_list or (len(parts) > 1 and all(part in counts for part in parts)):
            raise DataError(
                f"the label {named([label])} is a list: several labels per text are not supported (single-label "
                "classification only): keep one of them, or choose another column"
            )


def _refuse_other_columns(counts: Counter[str]) -> None:
    """Refuse a column that holds ratings, numbers of rows, or texts."""
    num, total = len(counts), counts.total()
    if num > MANY_DECIMALS and all(map(_NUMBER.fullmatch, counts)) and any(float(x) % 1 for x in counts):
        raise DataError(
            f"the column of labels has {num} different numbers, {_range(counts)}, which looks like ratings: regression "
            "is not supported (single-label classification only): group them into a few classes"
        )
    if num > MANY_CLASSES and 2 * num > total:
        some = " and ".join(map(repr, list(counts)[:2]))
        raise DataError(
            f"the column of labels has {num:,} different values in {total:,} rows, as {some}: a "
            "classifier needs several texts of each class; set dataset.label to the column of classes"
        )


def _refuse_swallowed_rows(examples: Examples, labels: Counter[str], of_part: str) -> None:
    """Refuse a text of several lines that are rows themselves, since a quote was left open."""

    def is_row(line: str, place: int) -> bool:
        return any(sep in line and line.split(sep)[place].strip('"\r') in labels for sep in SEPARATORS)

    for (*texts, _), number in zip(examples.rows, examples.numbers, strict=True):
        for text in texts:
            lines = text.split("\n")
            if len(lines) > 1 and (all(is_row(x, -1) for x in lines[:-1]) or all(is_row(x, 0) for x in lines[1:])):
                raise DataError(
                    f"row {number}{of_part} holds {len(lines)} lines that look like rows themselves: is a quote left "
                    "open there? Close it, or double it inside a text"
                )
