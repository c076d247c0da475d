"""The data set `docstrings`: the texts that are read and left out, and its reproducibility."""

import importlib.metadata
import random
import re
from pathlib import Path

import pytest

from gloss.config import DatasetConfig
from gloss.data import datasets as data
from gloss.data import docstrings

CFG = DatasetConfig(name="docstrings", source="docstrings")


@pytest.fixture(scope="module")
def collected():
    return docstrings.collect()


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
