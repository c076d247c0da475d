"""The data sets `snippets_*`, tested on small archives of the same format."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile

import pytest

from gloss.config import DatasetConfig
from gloss.data import datasets as data
from gloss.data import snippets
from gloss.data.datasets import load_dataset
from gloss.data.download import prepare
from gloss.errors import DataError

LINES = b"1\t2.0\tA fine film.\n2\t-0.5\tDull\r\n3\t0.49\tso so\n4\t0.5\ta FINE film!\n"
LINES += b"5\t-1\tcaf\xe9 closed\n6\t1\tyes\n7\t-1\tYes.\n"


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def test_only_clear_ratings_and_unique_texts_are_kept():
    assert snippets.polar_rows(LINES) == [["A fine film.", "1"], ["Dull", "0"], ["café closed", "0"]]
    with pytest.raises(DataError, match="line 2 is not an id, a mean rating and a text"):
        snippets.polar_rows(b"1\t2.0\tgood\n2\tgood\n")


def test_splits_are_stratified_disjoint_and_independent_of_order():
    rows = [[f"text {i}", str(int(i % 10 < 3))] for i in range(3000)]
    parts = snippets.split(rows)
    assert {part: len(found) for part, found in parts.items()} == {"train": 1600, "val": 400, "test": 1000}
    assert sorted(sum(parts.values(), [])) == sorted(rows)
    assert [sum(int(label) for _, label in parts[part]) for part in ("train", "val", "test")] == [480, 120, 300]
    assert snippets.split(rows[::-1]) == parts


def test_members_are_read_from_a_nested_archive(tmp_path):
    inner = archive({"h/one_GroundTruth.txt": LINES, "h/other.txt": b"not read", "../up_GroundTruth.txt": b"x"})
    (tmp_path / "v.tar.gz").write_bytes(archive({"v-1/setup.py": b"", "v-1/more/h.tar.gz": inner}))
    found = snippets.members(tmp_path / "v.tar.gz", "more/h.tar.gz")
    assert found == {"one_GroundTruth.txt": LINES, "up_GroundTruth.txt": b"x"}


@pytest.fixture
def domain(tmp_path, monkeypatch):
    """A manifest with one data set of a package in a local folder; no index is used."""
    content = "".join(f"{i}\t{-2 if i % 4 else 2}\tsnippet number {i}\n" for i in range(1500)).encode()
    inner = archive({"h/one_GroundTruth.txt": content})
    setup = b"from setuptools import setup\nsetup(name='tiny-snippets', version='1')\n"
    info = b"Metadata-Version: 2.1\nName: tiny-snippets\nVersion: 1\n"
    files = {"setup.py": setup, "PKG-INFO": info, "h.tar.gz": inner}
    outer = archive({f"tiny_snippets-1/{name}": content for name, content in files.items()})
    (tmp_path / "tiny_snippets-1.tar.gz").write_bytes(outer)
    sha256 = hashlib.sha256(outer).hexdigest()
    sizes = {"train": 100, "val": 400, "test": 1000}
    splits = {part: {"rows": num, "fingerprint": None} for part, num in sizes.items()}
    entry = {"source": "tiny", "member": "one_GroundTruth.txt", "columns": {"text": "text", "label": "label"}}
    entry |= {"labels": {"0": "negative", "1": "positive"}, "splits": splits}
    source = {"package": "tiny-snippets==1", "sha256": sha256, "member": "h.tar.gz"}
    (tmp_path / "manifest.json").write_text(json.dumps({"sources": {"tiny": source}, "sets": {"tiny_one": entry}}))
    monkeypatch.setattr(data, "MANIFEST", tmp_path / "manifest.json")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path} {os.environ.get('PIP_FIND_LINKS', '')}".strip())
    snippets._files.cache_clear()
    return tmp_path


# pip needs an index for setuptools
@pytest.mark.parametrize("method", ["file", pytest.param("pip", marks=pytest.mark.long)])
def test_a_data_set_is_fetched_and_prepared_once(domain, method, monkeypatch):
    if method == "file":
        path = domain / "tiny_snippets-1.tar.gz"
        monkeypatch.setattr(snippets, "_files", lambda package, sha256, member: snippets.members(path, member))
    messages: list[str] = []
    assert prepare(["tiny"], domain / "data", messages.append) == []  # the name of a source selects its data sets
    assert len(messages) == 3
    dataset = load_dataset(DatasetConfig(name="tiny_one"), domain / "data", seed=1)
    assert dataset.labels == ["negative", "positive"] and dataset.splits["test"].labels.sum() == 250
    monkeypatch.setattr(snippets, "_files", lambda *_: pytest.fail("fetched again"))
    assert prepare(["tiny_one"], domain / "data", messages.append) == [] and "complete, kept" in messages[-1]


def test_a_package_with_another_hash_is_refused(domain):
    (domain / "tiny_snippets-1.tar.gz").write_bytes(archive({"tiny_snippets-1/setup.py": b"raise SystemExit"}))
    (problem,) = prepare(["tiny_one"], domain / "data", lambda line: None)
    assert "pip cannot download tiny-snippets==1" in problem and "PIP_FIND_LINKS" in problem
    assert not list((domain / "data").rglob("*.csv.gz"))
