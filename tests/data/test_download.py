"""`make data` against a local server: every ending is a whole file or a clear error, never half a file."""

import csv
import errno
import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gloss.config import ROOT, DatasetConfig
from gloss.data import datasets as data
from gloss.data import download
from gloss.data.datasets import load_dataset
from gloss.data.download import fetch, prepare, prepared_form
from gloss.data.files import read_table
from gloss.errors import DataError

REAL = Path(os.environ.get("GLOSS_DATA_DIR", ""))
CONTENT = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(10_000))  # 320 kB that do not compress


def git_blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` (path -> content); `faults` says what happens to the next requests, one by one."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.asked = {}, [], []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        fault = self.server.faults.pop(0) if self.server.faults else None
        content = self.server.files.get(self.path)
        if isinstance(fault, int) or content is None:
            return self.send_error(fault or 404)
        self.send_response(200)
        if fault != "no length":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault else content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("GLOSS_DATA_MIRROR", raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between tries
    with Server() as server:
        threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        server.files["/file"] = CONTENT
        yield server
        server.shutdown()


# -- one file ----------------------------------------------------------------------------------------------------------
PROOFS = [{"git_blob": git_blob(CONTENT)}, {"sha256": hashlib.sha256(CONTENT).hexdigest()}]


@pytest.mark.parametrize("expected", PROOFS)
@pytest.mark.parametrize("faults", [[], ["broken", "no length"], [503, 429, 503]])
def test_a_good_download_whatever_came_before(server, tmp_path, expected, faults):
    server.faults = list(faults)
    fetch(f"{server.url}/file", tmp_path / "x", expected)
    assert (tmp_path / "x").read_bytes() == CONTENT and os.listdir(tmp_path) == ["x"]
    assert len(server.asked) == 1 + len(faults)


@pytest.mark.parametrize("expected", PROOFS)
@pytest.mark.parametrize("content", [CONTENT[:-1] + b"?", CONTENT[:-1], b"", b"<html>sign in here</html>"])
def test_a_wrong_content_is_refused(server, tmp_path, content, expected):
    server.files["/file"] = content
    with pytest.raises(DataError, match="/file: not the content that the manifest names"):
        fetch(f"{server.url}/file", tmp_path / "x", expected)
    assert os.listdir(tmp_path) == [] and len(server.asked) == download.TRIES


@pytest.mark.parametrize("faults, message, num_asked", [
    (["broken"] * 9, "/file: no connection, or broken off 5 times .*run this again", 5),
    ([503] * 9, "the server answers 503 Server Error: .*/file", 5),
    ([404], "the server answers 404 Client Error: .*/file", 1),
])  # fmt: skip
def test_a_server_that_does_not_send_it_ends_in_an_error_and_leaves_nothing(
    server, tmp_path, faults, message, num_asked
):
    server.faults = faults
    with pytest.raises(DataError, match=message):
        fetch(f"{server.url}/file", tmp_path / "x", PROOFS[0])
    assert os.listdir(tmp_path) == [] and len(server.asked) == num_asked


def test_no_server(server, tmp_path):
    server.server_close()
    with pytest.raises(DataError, match="no connection, .*HTTPS_PROXY or GLOSS_DATA_MIRROR"):
        fetch(f"{server.url.rsplit(':', 1)[0]}:9/file", tmp_path / "x", PROOFS[0])


def test_a_file_of_which_nothing_is_known_is_not_fetched(server, tmp_path):
    with pytest.raises(DataError, match="nothing would be proved"):
        fetch(f"{server.url}/file", tmp_path / "x", {"bytes": len(CONTENT)})
    assert not server.asked


def test_the_mirror_replaces_the_host_and_keeps_the_path(server, tmp_path, monkeypatch):
    server.files = {"/mirror/of/it/owner/name/file": CONTENT}
    monkeypatch.setenv("GLOSS_DATA_MIRROR", server.url + "/mirror/of/it/")
    fetch("https://raw.example.org/owner/name/file", tmp_path / "x", PROOFS[0])
    assert (tmp_path / "x").read_bytes() == CONTENT
    monkeypatch.setenv("GLOSS_DATA_MIRROR", "/some/folder")
    with pytest.raises(DataError, match="GLOSS_DATA_MIRROR=/some/folder is not allowed: expected http://"):
        fetch("https://raw.example.org/owner/name/file", tmp_path / "y", PROOFS[0])


def test_the_proxy_of_the_environment_is_asked(server, tmp_path, monkeypatch):
    server.files = {"http://nowhere.invalid/file": CONTENT}
    monkeypatch.setenv("http_proxy", server.url)
    fetch("http://nowhere.invalid/file", tmp_path / "x", PROOFS[0])
    assert server.asked[0] == "http://nowhere.invalid/file"


# -- whole sets --------------------------------------------------------------------------------------------------------
@pytest.fixture
def toy(server, tmp_path, monkeypatch):
    """A manifest of two sets as the authors and GLUE publish theirs: `toy` as CSV, `pairs` as parquet."""
    names = {"toy": {"0": "bad", "1": "good"}, "pairs": {"yes": "yes", "no": "no"}}
    rows = {
        "toy": {
            part: [[f'{part}, "{i}"\nend', str(i % 2)] for i in range(num)]
            for part, num in [("train", 9000), ("test", 40)]
        },
        "pairs": {
            part: [[f"q{i}", f"{part} {i}", ["yes", "no"][i % 2]] for i in range(50)] for part in ("train", "dev")
        },
    }
    columns = {
        "toy": {"text": "text", "label": "label"},
        "pairs": {"question": "question", "s": "sentence", "label": "label"},
    }
    sets = {}
    for name, parts in rows.items():
        splits = {}
        for part, table in parts.items():
            file = io.BytesIO()
            if name == "toy":
                text = io.StringIO(newline="")
                csv.writer(text, lineterminator="\n").writerows(
                    [["", "text", "label"], *([i, *row] for i, row in enumerate(table))]
                )
                file.write(text.getvalue().encode())
            else:
                questions, sentences, labels = zip(*table, strict=True)
                numbers = [["yes", "no"].index(label) for label in labels]
                arrays = {"question": questions, "s": sentences, "label": numbers, "idx": range(50)}
                pyarrow.parquet.write_table(pyarrow.table({key: list(value) for key, value in arrays.items()}), file)
            path = f"{name}/{part}.{'csv' if name == 'toy' else 'parquet'}"
            server.files[f"/data/{path}"] = file.getvalue()
            digests = data.row_digests([tuple(row[:-1]) for row in table], [names[name][row[-1]] for row in table])
            known = data.fingerprint(digests) if part != "train" or name == "toy" else None
            splits[part] = {
                "rows": len(table),
                "fingerprint": known,
                "path": path,
                "git_blob": git_blob(file.getvalue()),
            }
        sets[name] = {"source": "here", "columns": columns[name], "labels": names[name], "splits": splits}
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"sources": {"here": {"url": f"{server.url}/data/"}}, "sets": sets}))
    monkeypatch.setattr(data, "MANIFEST", manifest)
    return rows


def test_sets_are_prepared_and_what_is_good_is_kept(server, toy, tmp_path):
    said = []
    assert prepare(["toy", "pairs"], tmp_path / "data", said.append) == []
    for name, parts in toy.items():
        for part, rows in parts.items():
            columns = ["text", "label"] if name == "toy" else ["question", "sentence", "label"]
            assert read_table(tmp_path / "data" / name / f"{part}.csv.gz", columns) == rows
    assert sorted(os.listdir(tmp_path / "data" / "toy")) == ["test.csv.gz", "train.csv.gz"]
    cfg = DatasetConfig(name="pairs", text=["question", "sentence"])
    assert load_dataset(cfg, tmp_path / "data", 1).labels == ["yes", "no"]
    server.asked.clear()
    damaged = tmp_path / "data" / "toy" / "test.csv.gz"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert prepare(["toy", "pairs"], tmp_path / "data", said.append) == []
    assert server.asked == ["/data/toy/test.csv"]
    assert "there already" in said[-1] and any("made again, because of" in line for line in said)


def test_the_prepared_form_is_the_same_bytes_every_time(toy):
    rows = toy["toy"]["train"]
    first = prepared_form(["text", "label"], rows)
    assert first == prepared_form(["text", "label"], rows)
    assert first[4:8] == bytes(4)  # where gzip puts the time


def test_a_set_that_fails_does_not_stop_the_others(server, toy, tmp_path):
    del server.files["/data/toy/test.csv"]
    (problem,) = prepare(["toy", "pairs"], tmp_path / "data", lambda line: None)
    assert problem.startswith("toy: ") and "answers 404" in problem
    assert sorted(os.listdir(tmp_path / "data" / "pairs")) == ["dev.csv.gz", "train.csv.gz"]
    assert sorted(os.listdir(tmp_path / "data" / "toy")) == ["train.csv.gz"]


def test_the_right_file_with_other_rows_than_the_manifest_is_refused(server, toy, tmp_path):
    manifest = json.loads(data.MANIFEST.read_text())
    manifest["sets"]["toy"]["splits"]["train"]["rows"] = 8999
    data.MANIFEST.write_text(json.dumps(manifest))
    (problem,) = prepare(["toy"], tmp_path / "data", lambda line: None)
    assert "9000 rows, where the manifest has 8999" in problem
    assert not (tmp_path / "data" / "toy" / "train.csv.gz").exists()


def test_an_unknown_set(toy, tmp_path):
    with pytest.raises(DataError, match="tyo is none of the sets that can be fetched: toy, pairs"):
        prepare(["tyo"], tmp_path)


def test_a_disk_without_room_ends_in_an_error_and_the_next_run_goes_on(server, toy, small_disk):
    filler = small_disk / "filler"
    filler.write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize - 8_000))
    (problem,) = prepare(["toy"], small_disk / "data", lambda line: None)
    assert "train.csv.gz: cannot be written, the disk or your quota is full (0 MB free)" in problem
    assert os.listdir(small_disk / "data" / "toy") == []
    filler.unlink()
    assert not prepare(["toy"], small_disk / "data", lambda line: None)


FULL_DISK = """
import resource, sys
from pathlib import Path
from gloss.data import datasets as data
from gloss.data import download
data.MANIFEST = Path(sys.argv[1])
def limit(then=None):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
    return then
if sys.argv[4] == "download":
    limit()
else:
    read = download._read_raw
    download._read_raw = lambda *args: limit(read(*args))  # the download is whole already
print(*download.prepare(["toy"], Path(sys.argv[2]), lambda line: None))
"""


@pytest.mark.parametrize("what", ["download", "prepared form"])
def test_a_limit_on_file_size_ends_in_an_error_and_the_next_run_goes_on(server, toy, tmp_path, what):
    # It stops the writing in the middle, wherever that is.
    raw, folder = server.files["/data/toy/train.csv"], tmp_path / "data"
    prepared = len(prepared_form(["text", "label"], toy["toy"]["train"]))
    assert prepared < 100_000 < len(raw)
    limit = 100_000 if what == "download" else prepared - 1
    command = [sys.executable, "-c", FULL_DISK, str(data.MANIFEST), str(folder), str(limit), what]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert "train.csv.gz: cannot be written, it would be larger than this account may write" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr and not list(folder.rglob("*.*"))
    assert prepare(["toy"], folder, lambda line: None) == []
    assert sorted(os.listdir(folder / "toy")) == ["test.csv.gz", "train.csv.gz"]


def test_a_folder_that_cannot_be_written(toy, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir(mode=0o500)
    if os.geteuid() == 0:  # permissions do not bind the superuser, so the system's answer is imitated

        def refuse(path, *args, **kwargs):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))

        monkeypatch.setattr(os, "mkdir", refuse)
    (problem,) = prepare(["toy"], tmp_path / "data", lambda line: None)
    assert "Permission denied: choose a folder that you may write to" in problem


# -- the real texts ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["mr", "r8", "ohsumed", "20ng"])
def test_the_authors_test_files_are_prepared_byte_for_byte(server, tmp_path, monkeypatch, name):
    """The authors' file, rebuilt: index, text, label. Its git blob id in the real manifest proves that it is theirs."""
    source = REAL / name / "test.csv.gz"
    if not os.environ.get("GLOSS_DATA_DIR") or not source.exists():
        pytest.skip(f"GLOSS_DATA_DIR has no {name}")
    text = io.StringIO(newline="")
    rows = read_table(source, ["text", "label"])
    csv.writer(text, lineterminator="\n").writerows([["", "text", "label"], *([i, *row] for i, row in enumerate(rows))])
    manifest = data.read_manifest()
    part = manifest["sets"][name]["splits"]["test"]
    server.files = {
        f"/saditya13/G-Loss-LoG/0d21b812b817f9f2230f690e3560aa0a3462470b/{part['path']}": text.getvalue().encode()
    }
    monkeypatch.setenv("GLOSS_DATA_MIRROR", server.url)
    manifest["sets"][name]["splits"] = {"test": part}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(data, "MANIFEST", tmp_path / "manifest.json")
    assert prepare([name], tmp_path, lambda line: None) == []
    made, given = ((folder / name / "test.csv.gz").read_bytes() for folder in (tmp_path, REAL))
    assert gzip.decompress(made) == gzip.decompress(given)


# -- the command -------------------------------------------------------------------------------------------------------
def test_the_command(server, toy, tmp_path):
    """scripts/data.py with the repository's own manifest: nothing is fetched from the network."""
    environment = {**os.environ, "GLOSS_DATA_MIRROR": server.url}
    command = [sys.executable, "scripts/data.py", f"paths.data={tmp_path / 'data'}"]
    done = subprocess.run(
        [*command, "datasets=mr"], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60
    )
    assert (
        done.returncode == 2
        and "mr: " in done.stderr
        and "answers 404" in done.stderr
        and "Traceback" not in done.stderr
    )
    done = subprocess.run(
        [*command, "datasets=[imdb]"], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60
    )
    assert done.returncode == 2 and "imdb is none of the sets that can be fetched: mr, r8, r52" in done.stderr
