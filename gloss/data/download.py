"""`make data`: fetch the sets of data/manifest.json from their public sources, check them, write the prepared form.

A file takes its place only when its content is proved; what was good is kept.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import gzip
import hashlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pooch
import pyarrow.parquet
import requests
from pooch import HTTPDownloader

from gloss.data import snippets
from gloss.data.datasets import difference, fingerprint_of, read_manifest
from gloss.data.files import read_table
from gloss.errors import DataError
from gloss.runtime.atomic import write_atomic

TIMEOUT = (20, 60)  # seconds to connect, and between two pieces of the answer
TRIES = 5  # of a transfer that breaks off or brings another content, ever more slowly
BUSY = (429, 500, 502, 503, 504)  # answers of a server that is asked again


def prepare(names: Sequence[str], data_dir: Path, say: Callable[[str], None] = print) -> list[str]:
    """Make the prepared form of the named sets under `data_dir`, keeping what is already good; a source (`snippets`)
    stands for all of its sets.

    Returns what went wrong, a message a set: one that fails does not stop the others. DataError: an unknown name.
    """
    manifest = read_manifest()
    of_source = {name: [k for k, x in manifest["sets"].items() if x["source"] == name] for name in manifest["sources"]}
    names = [name for given in names for name in of_source.get(given, [given])]
    if unknown := [name for name in names if name not in manifest["sets"]]:
        raise DataError(f"{unknown[0]} is none of the sets that can be fetched: {', '.join(manifest['sets'])}")
    problems = []
    for name in names:
        entry = manifest["sets"][name]
        source = manifest["sources"][entry["source"]]
        try:
            for part in entry["splits"]:
                _prepare_file(data_dir / name / f"{part}.csv.gz", entry, part, source, say)
        except DataError as error:
            problems.append(f"{name}: {error}")
    return problems


def _prepare_file(
    path: Path, entry: dict[str, Any], part: str, source: dict[str, str], say: Callable[[str], None]
) -> None:
    if path.exists():
        try:
            reason = difference(read_table(path, list(entry["columns"].values())), entry, part)
        except DataError as error:
            reason = str(error)
        if reason is None:
            say(f"{path}: there already, as it should be")
            return
        say(f"{path}: made again, because of {reason}")
    expected = entry["splits"][part]
    with _disk_errors(path), tempfile.TemporaryDirectory() as folder:
        if "package" in source:
            rows = snippets.splits(source, entry)[part]
        else:
            raw = Path(folder) / Path(expected["path"]).name
            fetch(source["url"] + expected["path"], raw, expected)
            rows = _read_raw(raw, entry)
        if reason := difference(rows, entry, part):
            made_from = expected.get("path") or source["package"]
            raise DataError(f"{made_from}: the file that was expected, yet {reason}: please report this")
        write_atomic(path, prepared_form(list(entry["columns"].values()), rows))
    checked = "checked"
    if expected["fingerprint"] is None:
        checked = "whose fingerprint the manifest does not have; it is " + fingerprint_of(rows, entry)
    say(f"{path}: {expected['rows']} rows, {checked}")


def _read_raw(path: Path, entry: dict[str, Any]) -> list[list[str]]:
    """Rows of text columns and label, as the prepared form has them."""
    columns = list(entry["columns"])
    if path.suffix == ".csv":
        return read_table(path, columns)  # the authors' index column stays behind
    *texts, numbers = (pyarrow.parquet.read_table(path, columns=columns)[column].to_pylist() for column in columns)
    labels = list(entry["labels"])  # parquet has their numbers
    return [[*text, labels[number]] for *text, number in zip(*texts, numbers, strict=True)]


def prepared_form(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """A gzip-compressed CSV file, the same bytes whenever it is made."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return gzip.compress(text.getvalue().encode(), mtime=0)


def fetch(url: str, path: Path, expected: dict[str, Any]) -> None:
    """Download `url` to `path`, which takes its place only when its content is proved.

    expected: {"git_blob" or "sha256": what the content must have}. GLOSS_DATA_MIRROR replaces the scheme and host of
    `url`; proxies come from the environment. Raises DataError.
    """
    if mirror := os.environ.get("GLOSS_DATA_MIRROR"):
        if not mirror.startswith(("http://", "https://")):
            raise DataError(f"GLOSS_DATA_MIRROR={mirror} is not allowed: expected http://... or https://...")
        url = mirror.rstrip("/") + urlsplit(url).path
    if not {"git_blob", "sha256"} & expected.keys():
        raise DataError(f"{path.name}: the manifest has no git_blob or sha256 of it, so nothing would be proved")
    get = HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=1 << 16, timeout=TIMEOUT)

    def download(url: str, output_file: str, pooch: Any) -> None:
        try:
            get(url, output_file, pooch)
        except requests.HTTPError as error:
            if error.response.status_code in BUSY:
                raise
            raise LookupError(error) from None  # which pooch does not take for a reason to try again
        if (blob := expected.get("git_blob")) and blob != (found := _git_blob(Path(output_file).read_bytes())):
            raise ValueError(f"git blob id {found}, expected {blob}")

    sha256 = expected.get("sha256")
    registry = {path.name: sha256 and f"sha256:{sha256}"}
    known = pooch.create(path.parent, base_url="", registry=registry, urls={path.name: url}, retry_if_failed=TRIES - 1)
    try:
        known.fetch(path.name, downloader=download)
    except (LookupError, requests.HTTPError) as error:
        raise DataError(f"the server answers {error}") from None
    except requests.RequestException as error:
        raise DataError(
            f"{url}: no connection, or broken off {TRIES} times ({error}): run this again; behind a firewall set "
            "HTTPS_PROXY or GLOSS_DATA_MIRROR"
        ) from None
    except ValueError as error:
        raise DataError(
            f"{url}: not the content that the manifest names ({error}): try again later, or another source with "
            "GLOSS_DATA_MIRROR"
        ) from None


def _git_blob(content: bytes) -> str:
    """The id under which git keeps a file: all that is known of most of the authors'."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            advice = "it would be larger than this account may write (ulimit -f): raise that limit and run this again"
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free // 2**20
            advice = f"the disk or your quota is full ({free} MB free): free some space and run this again"
        else:
            advice = f"{error.strerror}: choose a folder that you may write to"
        raise DataError(f"{path}: cannot be written, {advice}") from None
