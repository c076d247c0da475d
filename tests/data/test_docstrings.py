"""The data set `docstrings`: the texts that are read and left out, and its reproducibility."""

import importlib.metadata
import random
import re
import sys
from pathlib import Path

import pytest

from gloss.config import DatasetConfig
from gloss.data import datasets as data
from gloss.data import docstrings

CFG = DatasetConfig(name="docstrings", source="docstrings")


@pytest.fixture(scope="module")
def collected():
    return docstrings.collect()


@pytest.fixture
def library(tmp_path, monkeypatch):
    """library(alpha, beta): make the packages `alpha` (alias al) and `beta` of these files the only libraries.

    It returns their texts by split.
    """
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(docstrings, "LIBRARIES", {"Alpha": ("alpha", ("al",)), "Beta": ("beta", ())})
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")

    def build(alpha, beta):
        for package, files in (("alpha", alpha), ("beta", beta)):
            for name, source in files.items():
                path = tmp_path / package / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(source, encoding="utf-8")
        return docstrings.collect()[0]

    yield build
    assert "alpha" not in sys.modules  # the files are read without an import


def test_docstrings_have_the_right_sizes_and_no_library_names(collected):
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


def test_pinned_versions_give_the_pinned_texts_in_any_file_order(collected, monkeypatch):
    listed = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda *args: random.Random(1).sample(paths := [*listed(*args)], len(paths)))
    pinned = data.read_manifest()["docstrings"]
    installed = {name: importlib.metadata.version(name) for name in pinned["versions"]}
    dataset = data.load_dataset(CFG, "unused", seed=1)
    assert bool(dataset.notes) == (installed != pinned["versions"])
    assert dataset.labels == list(docstrings.LIBRARIES)
    parts, versions = collected
    monkeypatch.setattr(docstrings, "collect", lambda: (parts | {"val": parts["val"][1:]}, versions | {"numpy": "1.0"}))
    (note,) = data.load_dataset(CFG, "unused", seed=1).notes
    assert f"differ from the pinned versions' (installed: numpy 1.0 for {pinned['versions']['numpy']}" in note
    monkeypatch.undo()
    monkeypatch.setattr(docstrings, "LIBRARIES", {"no-such-library": ("no_such_library", ())})
    with pytest.raises(data.DataError, match="needs no-such-library: `pip install -r requirements.txt`"):
        data.load_dataset(CFG, "unused", seed=1)


def test_each_source_file_is_in_one_split(library):
    functions = "".join(f'def f{i}():\n    """In FILE there is function number {i} {"x" * i}."""\n' for i in range(3))
    alpha = {f"m{i}.py": functions.replace("FILE", f"file{chr(65 + i)}") for i in range(26)}
    files = {part: {text.split()[1] for text, _ in rows} for part, rows in library(alpha, {"m.py": functions}).items()}
    assert all(files.values()) and sum(map(len, files.values())) == 27


def test_docstring_openings_are_kept_without_library_names_tests_generated_files_and_duplicates(library):
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
    words = {
        "a.py": "Words that stand there twice, number one.",
        "b.py": "WORDS that   stand there twice - number one!",
        "c.py": "Words that both of the libraries have, really.",
        "tests/d.py": "Words that stand in a test and nowhere else.",
        "version.py": "Words that a build has written down here.",
        "distutils/e.py": "Words that are there with Python 3.11 only.",
    }
    alpha = {"__init__.py": source, **{name: f'"""{text}"""' for name, text in words.items()}}
    beta = {
        "c.py": '"""Words that both of the libraries have: really"""',
        "d.py": '"""The only text of another one."""',
    }
    found = {row for rows in library(alpha, beta).values() for row in rows}
    (once,) = {(text, library) for text, library in found if "twice" in text}
    assert found - {once} == {
        ("reads .files and alphabets for everyone, as .read does.", "Alpha"),
        ("One two three four five six. Seven.", "Alpha"),
        ("An inner function is read like any other one.", "Alpha"),
        (" ".join(["word"] * docstrings.MAX_WORDS), "Alpha"),
        ("The only text of another one.", "Beta"),
    }
