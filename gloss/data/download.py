"""`make data`: fetch the sets of data/manifest.json from their public sources, check them, write the prepared form.

A file is written only after its content is verified; files that are already good are kept.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pooch
import pyarrow.parquet
import requests

from gloss.data import snippets
from gloss.data.datasets import difference, fingerprint_of, read_manifest
from gloss.data.files import read_table
from gloss.errors import DataError
from gloss.runtime.atomic import write_atomic

TIMEOUT = (20, 60)  # seconds to connect, and between two pieces of the answer
TRIES = 5  # of a transfer that fails or brings another content, with growing pauses


def prepare(names: Sequence[str], data_dir: Path, say: Callable[[str], None] = print) -> list[str]:
    """Make the prepared form of the named sets under `data_dir`, keeping good files; a source (`snippets`) stands for
    all of its sets.

    Returns a message for each set that failed; the others are still made. Raises DataError for an unknown name.
    """
    manifest = read_manifest()
    of_source = {name: [k for k, x in manifest["sets"].items() if x["source"] == name] for name in manifest["sources"]}
    names = [name for given in names for name in of_source.get(given, [given])]
    if unknown := [name for name in names if name not in manifest["sets"]]:
        raise DataError(f"there is no data set {unknown[0]} to fetch: expected one of {', '.join(manifest['sets'])}")
    problems = []
    for name in names:
        entry = manifest["sets"][name]
        try:
            for part in entry["splits"]:
                path = data_dir / name / f"{part}.csv.gz"
                _prepare_file(path, entry, part, manifest["sources"][entry["source"]], say)
        except DataError as error:
            problems.append(f"{name}: {error}")
        except OSError as error:
            advice = (
                "free space there, raise `ulimit -f`, or choose another folder with paths.data (of downloads: TMPDIR)"
            )
            problems.append(f"{error.filename or path}: cannot be written ({error.strerror}): {advice}")
    return problems


def _prepare_file(
    path: Path, entry: dict[str, Any], part: str, source: dict[str, str], say: Callable[[str], None]
) -> None:
    expected, columns = entry["splits"][part], entry["columns"]
    if path.exists():
        try:
            reason = difference(read_table(path, list(columns.values())), entry, part)
        except DataError as error:
            reason = str(error)
        say(f"{path}: fetched again: {reason}" if reason else f"{path}: complete, kept")
        if not reason:
            return
    if "package" in source:
        rows = snippets.splits(source, entry)[part]
    else:
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / Path(expected["path"]).name
            fetch(source["url"] + expected["path"], raw, expected)
            rows = _read_raw(raw, list(columns), list(entry["labels"]))
    if reason := difference(rows, entry, part):
        raise DataError(f"{part}: the file that was expected, yet {reason}: please report this")
    write_atomic(path, prepared_form(list(columns.values()), rows))
    unknown = "whose fingerprint the manifest does not have; it is " + fingerprint_of(rows, entry)
    say(f"{path}: {expected['rows']} rows, {'checked' if expected['fingerprint'] else unknown}")


def _read_raw(path: Path, columns: list[str], labels: list[str]) -> list[list[str]]:
    """Rows of text columns and label, as the prepared form has them."""
    if path.suffix == ".csv":
        return read_table(path, columns)  # the authors' index column stays behind
    *texts, numbers = (column.to_pylist() for column in pyarrow.parquet.read_table(path).select(columns).columns)
    return [[*text, labels[number]] for *text, number in zip(*texts, numbers, strict=True)]


def prepared_form(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """A gzip-compressed CSV file, the same bytes whenever it is made."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return gzip.compress(text.getvalue().encode(), mtime=0)


def fetch(url: str, path: Path, expected: dict[str, Any]) -> None:
    """Download `url` to `path`, which is written only after its content is verified.

    expected: {"git_blob" or "sha256": the content's hash}. GLOSS_DATA_MIRROR replaces the scheme and host of
    `url`; proxies come from the environment. Raises DataError.
    """
    if mirror := os.environ.get("GLOSS_DATA_MIRROR"):
        url = mirror.rstrip("/") + urlsplit(url).path
    get = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=1 << 16, timeout=TIMEOUT)
    blob, sha256 = expected.get("git_blob"), expected.get("sha256")

    def download(url: str, output_file: str, pooch: Any) -> None:
        get(url, output_file, pooch)
        content = Path(output_file).read_bytes()  # as git hashes it: the only hash known for most of the authors' files
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        if blob not in (None, found):
            raise ValueError(f"git blob id {found}, expected {blob}")

    registry = {path.name: sha256 and f"sha256:{sha256}"}
    known = pooch.create(path.parent, base_url="", registry=registry, urls={path.name: url}, retry_if_failed=TRIES - 1)
    try:
        known.fetch(path.name, downloader=download)
    except requests.RequestException as error:
        advice = "run this again; behind a firewall set HTTPS_PROXY or GLOSS_DATA_MIRROR"
        raise DataError(f"{url}: not downloaded in {TRIES} tries ({error}): {advice}") from None
    except ValueError as error:
        advice = "try again later, or another source with GLOSS_DATA_MIRROR"
        raise DataError(f"{url}: not the content that the manifest names ({error}): {advice}") from None
