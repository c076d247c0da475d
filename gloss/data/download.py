"""`make data`: fetch the sets of data/manifest.json from their public sources, check them, write the prepared form.

A file takes its place only when its content is proved; what broke off lies beside it as `.part` and is taken up again.
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
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet
import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util.retry import Retry

from gloss.data import snippets
from gloss.data.datasets import difference, fingerprint_of, read_manifest
from gloss.data.files import read_table
from gloss.errors import DataError
from gloss.runtime.atomic import atomic_file
from gloss.runtime.locks import FileLock

TIMEOUT = (20, 60)  # seconds to connect, and between two pieces of the answer
TRIES = 5  # of a transfer that breaks off; a server that is busy (429, 5xx) is asked as often, ever more slowly


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
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / ".lock"):  # two at once would write into one file
            if "package" in source:
                raw, rows = None, snippets.splits(source, entry)[part]
            else:
                raw = path.parent / Path(expected["path"]).name
                fetch(source["url"] + expected["path"], raw, expected)
                rows = _read_raw(raw, entry)
            if reason := difference(rows, entry, part):
                made_from = raw or source["package"]
                raise DataError(f"{made_from}: the file that was expected, yet {reason}: please report this")
            with atomic_file(path) as file:
                file.write(prepared_form(list(entry["columns"].values()), rows))
            if raw is not None:
                raw.unlink()
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
    """Download `url` to `path`, resuming `path`.part, and check it.

    expected: {"git_blob" or "sha256": what the content must have, "bytes": its length or None}. GLOSS_DATA_MIRROR
    replaces the scheme and host of `url`; proxies are those of the environment. Raises DataError.
    """
    if mirror := os.environ.get("GLOSS_DATA_MIRROR"):
        if not mirror.startswith(("http://", "https://")):
            raise DataError(f"GLOSS_DATA_MIRROR={mirror} is not allowed: expected http://... or https://...")
        url = mirror.rstrip("/") + urlsplit(url).path
    partial = path.with_name(path.name + ".part")
    if path.exists():  # left by a run that could not write the prepared form: checked like the rest
        os.replace(path, partial)
    while True:
        was_resumed = partial.exists()
        _transfer(url, partial, expected["bytes"])
        found = {kind: digest for kind, digest in _hashes(partial).items() if kind in expected}
        if not found:
            raise DataError(f"{path.name}: the manifest has no git_blob or sha256 of it, so nothing would be proved")
        if all(expected[kind] == digest for kind, digest in found.items()):
            os.replace(partial, path)
            return
        size = partial.stat().st_size
        partial.unlink()
        if not was_resumed:  # else the fault may lie in the first half, from another day: once more from the start
            kind, digest = next(iter(found.items()))
            raise DataError(
                f"{url}: not the content that the manifest names ({size} bytes, {kind} {digest}, expected "
                f"{expected[kind]}): try again later, or another source with GLOSS_DATA_MIRROR"
            )


def _transfer(url: str, partial: Path, num_bytes: int | None) -> None:
    """Append to `partial` what it lacks; a connection that breaks is made again."""
    busy: dict[str, Any] = {"status": TRIES, "status_forcelist": (429, 500, 502, 503, 504), "backoff_factor": 1}
    retry = Retry(None, connect=0, read=0, redirect=5, respect_retry_after_header=False, raise_on_status=False, **busy)
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        session.mount("https://", HTTPAdapter(max_retries=retry))
        for attempt in range(TRIES):
            start = partial.stat().st_size if partial.exists() else 0
            if start and start == num_bytes:
                return
            # Without compression, so that a range counts the bytes of the file.
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
            try:
                with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
                    if answer.status_code == 416:  # nothing behind the end: whole, or too long
                        return
                    if not answer.ok:
                        raise DataError(f"{url}: the server answers {answer.status_code} {answer.reason}")
                    _write(answer, partial, start if answer.status_code == 206 else 0)
                    return
            except requests.RequestException as error:
                if attempt == TRIES - 1:
                    raise DataError(
                        f"{url}: no connection, or broken off {TRIES} times ({error}): what came is kept, so run this "
                        "again; behind a firewall set HTTPS_PROXY or GLOSS_DATA_MIRROR"
                    ) from None
                time.sleep(0.5 * 2**attempt)


def _write(answer: requests.Response, partial: Path, start: int) -> None:
    rest = int(answer.headers.get("Content-Length", 0))
    bar = {"total": start + rest if rest else None, "initial": start, "unit": "B", "unit_scale": True}
    with partial.open("ab" if start else "wb") as file, tqdm(desc=partial.stem, disable=None, **bar) as progress:
        for piece in answer.iter_content(1 << 16):
            file.write(piece)
            progress.update(len(piece))


def _hashes(path: Path) -> dict[str, str]:
    """sha256 and git blob id (sha1 of a header and the content) of a file."""
    sha256, blob = hashlib.sha256(), hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            sha256.update(piece)
            blob.update(piece)
    return {"sha256": sha256.hexdigest(), "git_blob": blob.hexdigest()}


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            advice = "it would be larger than this account may write (ulimit -f): raise that limit and run this again"
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free // 2**20
            advice = f"the disk or your quota is full ({free} MB free): make room and run this again; what came is kept"
        else:
            advice = f"{error.strerror}: choose a folder that you may write to"
        raise DataError(f"{path}: cannot be written, {advice}") from None
