"""`make data` against a local server: each download ends with a complete file or an error, never a partial file."""

import functools
import gzip
import hashlib
import http.server
import json
import os
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

import gloss.cli.data
from gloss.cli.command import run_command
from gloss.config import DatasetConfig
from gloss.data import datasets as data
from gloss.data import download
from gloss.data.datasets import load_dataset
from gloss.data.download import fetch, prepare, prepared_form
from gloss.data.files import read_table
from gloss.errors import DataError

REAL = Path(os.environ.get("GLOSS_DATA_DIR", ""))
CONTENT = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(10_000))  # 320 kB, incompressible


def git_blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` (path -> content); `faults` lists the faults of the next requests in order."""

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
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # no waiting between tries
    with Server() as server:
        threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        server.files["/file"] = CONTENT
        yield server
        server.shutdown()


# -- one file ----------------------------------------------------------------------------------------------------------
PROOFS = [{"git_blob": git_blob(CONTENT)}, {"sha256": hashlib.sha256(CONTENT).hexdigest()}]


@pytest.mark.parametrize("expected", PROOFS)
@pytest.mark.parametrize("faults", [[], ["broken", "no length", 503]])
def test_a_download_succeeds_after_failed_attempts(server, tmp_path, expected, faults):
    server.faults = list(faults)
    fetch(f"{server.url}/file", tmp_path / "x", expected)
    assert (tmp_path / "x").read_bytes() == CONTENT and os.listdir(tmp_path) == ["x"]
    assert len(server.asked) == 1 + len(faults)


WRONG = "not the content that the manifest names"
FAILED = "not downloaded in 5 tries .*HTTPS_PROXY or GLOSS_DATA_MIRROR"


@pytest.mark.parametrize("expected", PROOFS)
@pytest.mark.parametrize(("content", "fault", "message"), [
    *((content, None, WRONG) for content in (CONTENT[:-1], b"<html>sign in here</html>")),
    *((CONTENT, fault, FAILED) for fault in ("broken", 503, 404)),
])  # fmt: skip
def test_wrong_content_and_server_errors_end_in_an_error_and_leave_no_file(
    server, tmp_path, content, fault, message, expected
):
    server.files["/file"], server.faults = content, [fault] * 9
    with pytest.raises(DataError, match=f"/file: {message}"):
        fetch(f"{server.url}/file", tmp_path / "x", expected)
    assert os.listdir(tmp_path) == [] and len(server.asked) == download.TRIES


def test_mirror_replaces_the_host_and_keeps_the_path(server, tmp_path, monkeypatch):
    server.files = {"/mirror/of/it/owner/name/file": CONTENT}
    monkeypatch.setenv("GLOSS_DATA_MIRROR", server.url + "/mirror/of/it/")
    fetch("https://raw.example.org/owner/name/file", tmp_path / "x", PROOFS[0])
    assert (tmp_path / "x").read_bytes() == CONTENT


# -- data sets ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def toy(server, tmp_path, monkeypatch):
    """A manifest of two data sets: `toy` as CSV, like the authors' files; `pairs` as parquet, like GLUE."""
    rows = {
        "toy": {
            part: [[f'{part}, "{i}"\nend', "01"[i % 2]] for i in range(n)]
            for part, n in (("train", 9000), ("test", 40))
        },
        "pairs": {p: [[f"q{i}", f"{p} {i}", ("yes", "no")[i % 2]] for i in range(50)] for p in ("train", "dev")},
    }
    entries = {"toy": {"labels": {"0": "bad", "1": "good"}, "columns": {"text": "text", "label": "label"}}}
    columns = {"question": "question", "s": "sentence", "label": "label"}
    entries["pairs"] = {"labels": {"yes": "yes", "no": "no"}, "columns": columns}
    for name, parts in rows.items():
        entry = entries[name] | {"source": "here", "splits": {}}
        for part, table in parts.items():
            if name == "toy":
                lines = [[i, *row] for i, row in enumerate(table)]
                file, path = prepared_form(["", "text", "label"], lines), f"toy/{part}.csv"
                content = gzip.decompress(file)
            else:
                frame = pd.DataFrame(table, columns=["question", "s", "label"]).assign(idx=range(50))
                content, path = frame.replace({"label": {"yes": 0, "no": 1}}).to_parquet(), f"pairs/{part}.parquet"
            server.files[f"/data/{path}"] = content
            known = data.fingerprint_of(table, entry) if (name, part) != ("pairs", "train") else None
            split = {"rows": len(table), "fingerprint": known, "path": path}
            entry["splits"][part] = split | {"git_blob": git_blob(content)}
        entries[name] = entry
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"sources": {"here": {"url": f"{server.url}/data/"}}, "sets": entries}))
    monkeypatch.setattr(data, "MANIFEST", manifest)
    return rows


def test_data_sets_are_prepared_and_valid_files_are_kept(server, toy, tmp_path):
    messages = []
    assert prepare(["toy", "pairs"], tmp_path / "data", messages.append) == []
    for name, parts in toy.items():
        for part, rows in parts.items():
            columns = ["text", "label"] if name == "toy" else ["question", "sentence", "label"]
            assert read_table(tmp_path / "data" / name / f"{part}.csv.gz", columns) == rows
    assert sorted(os.listdir(tmp_path / "data" / "toy")) == ["test.csv.gz", "train.csv.gz"]
    # gzip's time stamp is 0: equal content gives equal bytes
    assert (tmp_path / "data" / "toy" / "train.csv.gz").read_bytes()[4:8] == bytes(4)
    cfg = DatasetConfig(name="pairs", text=["question", "sentence"])
    assert load_dataset(cfg, tmp_path / "data", 1).labels == ["yes", "no"]
    server.asked.clear()
    damaged = tmp_path / "data" / "toy" / "test.csv.gz"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert prepare(["toy", "pairs"], tmp_path / "data", messages.append) == []
    assert server.asked == ["/data/toy/test.csv"]
    assert "complete, kept" in messages[-1] and any("fetched again" in line for line in messages)


def test_a_failed_data_set_does_not_stop_the_others(server, toy, tmp_path):
    del server.files["/data/toy/test.csv"]
    (problem,) = prepare(["toy", "pairs"], tmp_path / "data", lambda line: None)
    assert problem.startswith("toy: ") and "404 Client Error" in problem
    assert sorted(os.listdir(tmp_path / "data" / "pairs")) == ["dev.csv.gz", "train.csv.gz"]
    assert sorted(os.listdir(tmp_path / "data" / "toy")) == ["train.csv.gz"]


def test_a_file_with_another_row_count_than_the_manifest_is_refused(server, toy, tmp_path):
    manifest = json.loads(data.MANIFEST.read_text())
    manifest["sets"]["toy"]["splits"]["train"]["rows"] = 8999
    data.MANIFEST.write_text(json.dumps(manifest))
    (problem,) = prepare(["toy"], tmp_path / "data", lambda line: None)
    assert "9000 rows, where the manifest has 8999" in problem
    assert not (tmp_path / "data" / "toy" / "train.csv.gz").exists()


def test_a_folder_that_cannot_be_written_ends_in_an_error(server, toy, tmp_path):
    (tmp_path / "data").write_text("a file")
    (problem,) = prepare(["toy"], tmp_path / "data", lambda line: None)
    assert f"{tmp_path / 'data' / 'toy'}: cannot be written (Not a directory): free space there, raise" in problem


# -- the real texts ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["mr", "r8", "ohsumed", "20ng"])
def test_authors_test_files_are_prepared_byte_for_byte(server, tmp_path, monkeypatch, name):
    """The authors' file, rebuilt from index, text and label; it must have the git blob id of the real manifest."""
    source = REAL / name / "test.csv.gz"
    if not os.environ.get("GLOSS_DATA_DIR") or not source.exists():
        pytest.skip(f"GLOSS_DATA_DIR has no {name}")
    lines = [[i, *row] for i, row in enumerate(read_table(source, ["text", "label"]))]
    manifest = data.read_manifest()
    part = manifest["sets"][name]["splits"]["test"]
    content = gzip.decompress(prepared_form(["", "text", "label"], lines))
    server.files = {f"/saditya13/G-Loss-LoG/0d21b812b817f9f2230f690e3560aa0a3462470b/{part['path']}": content}
    monkeypatch.setenv("GLOSS_DATA_MIRROR", server.url)
    manifest["sets"][name]["splits"] = {"test": part}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(data, "MANIFEST", tmp_path / "manifest.json")
    assert prepare([name], tmp_path, lambda line: None) == []
    made, given = ((folder / name / "test.csv.gz").read_bytes() for folder in (tmp_path, REAL))
    assert gzip.decompress(made) == gzip.decompress(given)


# -- the command -------------------------------------------------------------------------------------------------------
def test_the_command_reports_failed_sets(server, tmp_path, monkeypatch, capsys):
    """With the repository's manifest and the local server as mirror."""
    monkeypatch.setenv("GLOSS_DATA_MIRROR", server.url)
    assert run_command(gloss.cli.data, [f"paths.data={tmp_path / 'data'}", "datasets=mr"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: mr: ") and "404 Client Error" in error
