"""The data set `docstrings`: what is read, what is left out, and that it is the same everywhere."""

import importlib.metadata
import random
import re
import sys
from pathlib import Path

import pytest

from gloss.config import DatasetConfig
from gloss.data import datasets as data
from gloss.data import docstrings
from gloss.data.datasets import load_dataset

CFG = DatasetConfig(name="docstrings", source="docstrings")


@pytest.fixture(scope="module")
def collected():
    return docstrings.collect()


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Makes two small packages the only libraries: `alpha` (also called al) of the given files, and `beta`."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(docstrings, "LIBRARIES", {"Alpha": ("alpha", ("al",)), "Beta": ("beta", ())})
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")

    def build(alpha, beta):
        for package, files in (("alpha", alpha), ("beta", beta)):
            for name, source in files.items():
                path = tmp_path / package / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(source, encoding="utf-8")
        parts, _ = docstrings.collect()
        return {(text, library) for rows in parts.values() for text, library in rows}

    yield build
    assert "alpha" not in sys.modules  # read, never imported


def test_size_classes_and_names(collected):
    parts, versions = collected
    rows = [row for part in parts.values() for row in part]
    assert len(rows) >= 1500 and len(docstrings.LIBRARIES) >= 6
    for part, size in docstrings.TEXTS.items():
        counts = [sum(library == name for _, library in parts[part]) for name in docstrings.LIBRARIES]
        assert max(counts) <= size and min(counts) >= 0.9 * size, counts
    for text, library in rows:
        package, aliases = docstrings.LIBRARIES[library]
        words = re.findall(r"\w+", text.lower())
        assert not {library.lower(), package, *aliases}.intersection(words), (library, text)
        assert docstrings.MIN_WORDS <= len(text.split()) <= docstrings.MAX_WORDS
    keys = ["".join(re.findall(r"\w", text.casefold())) for text, _ in rows]
    assert len(set(keys)) == len(keys)


def test_no_file_stands_in_two_splits(library, monkeypatch):
    functions = "".join(f'def f{i}():\n    """In FILE there is function number {i} {"x" * i}."""\n' for i in range(3))
    library({f"m{i}.py": functions.replace("FILE", f"file{chr(65 + i)}") for i in range(26)}, {"m.py": functions})
    parts, _ = docstrings.collect()
    files = {part: {text.split()[1] for text, _ in rows} for part, rows in parts.items()}
    assert all(files.values())
    assert sum(map(len, files.values())) == 27  # each in one


def test_the_pinned_versions_give_the_pinned_texts():
    pinned = data.read_manifest()["docstrings"]
    installed = {name: importlib.metadata.version(name) for name in pinned["versions"]}
    dataset = load_dataset(CFG, "unused", seed=1)
    if installed == pinned["versions"]:
        assert dataset.notes == []
    else:
        assert "differ from the pinned versions'" in str(dataset.notes)
    assert dataset.labels == list(docstrings.LIBRARIES)


def test_other_versions_are_named(collected, monkeypatch):
    parts, versions = collected
    parts = parts | {"val": parts["val"][1:]}
    monkeypatch.setattr(docstrings, "collect", lambda: (parts, versions | {"numpy": "1.0"}))
    pin = data.read_manifest()["docstrings"]["versions"]["numpy"]
    (note, *_) = load_dataset(CFG, "unused", seed=1).notes
    assert f"differ from the pinned versions' (installed: numpy 1.0 for {pin}" in note


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(docstrings, "LIBRARIES", {"no-such-library": ("no_such_library", ())})
    with pytest.raises(
        data.DataError, match="dataset=docstrings needs no-such-library: `pip install -r requirements.txt`"
    ):
        load_dataset(CFG, "unused", seed=1)


def test_nothing_depends_on_the_order_of_a_folder(collected, monkeypatch):
    listed = Path.rglob

    def shuffled(self, pattern):
        paths = list(listed(self, pattern))
        random.Random(1).shuffle(paths)
        return paths

    monkeypatch.setattr(Path, "rglob", shuffled)
    assert docstrings.collect() == collected


def test_the_opening_is_taken_and_its_library_taken_out(library):
    source = '''"""Alpha reads al.files and alphabets for everyone, as ALPHA.read does.

Parameters
----------
path : str
"""
raise RuntimeError("imported")

class Reader:
    """One two three four five six.

    Seven.

    >>> Reader()
    """

    def read(self):
        """Too short."""
        def inner():
            """An inner function is read like any other one."""

async def wait():
    """{many}"""
'''.replace("{many}", "word " * 100)
    texts = library({"__init__.py": source}, {"__init__.py": '"""The only text that the other library has."""'})
    assert texts == {
        ("reads .files and alphabets for everyone, as .read does.", "Alpha"),
        ("One two three four five six. Seven.", "Alpha"),
        ("An inner function is read like any other one.", "Alpha"),
        (" ".join(["word"] * docstrings.MAX_WORDS), "Alpha"),
        ("The only text that the other library has.", "Beta"),
    }


def test_tests_generated_files_and_duplicates_are_left_out(library):
    def doc(text):
        return f'"""{text}"""'

    alpha = {
        "a.py": doc("Words that stand in alpha twice, number one."),
        "b.py": doc("WORDS that   stand in alpha twice - number one!"),
        "c.py": doc("Words that both of the libraries have, really."),
        "tests/d.py": doc("Words that stand in a test and nowhere else."),
        "version.py": doc("Words that a build has written down here."),
        "distutils/e.py": doc("Words that are there with Python 3.11 only."),
    }
    beta = {
        "c.py": doc("Words that both of the libraries have: really"),
        "d.py": doc("Words that beta has for itself alone."),
    }
    texts = library(alpha, beta)
    assert len(texts) == 2
    assert {"".join(re.findall("[a-z]+", text.lower())) for text, _ in texts} == {
        "wordsthatstandintwicenumberone",
        "wordsthatbetahasforitselfalone".replace("beta", ""),
    }
