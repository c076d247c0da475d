"""The data set `docstrings`: which library does this docstring come from?

Read from the source files of installed packages, which are parsed and never imported. The texts are the same on every
machine that has the versions pinned in requirements.txt: files that a build generates are left out, and nothing depends
on the order of files in a folder.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

LIBRARIES = {  # distribution -> package, and other names that would reveal it in a text
    "matplotlib": ("matplotlib", ("mpl", "pyplot", "plt")),
    "networkx": ("networkx", ("nx",)),
    "numpy": ("numpy", ("np",)),
    "pandas": ("pandas", ("pd",)),
    "scikit-learn": ("sklearn", ("scikit-learn", "scikit learn", "scikits.learn")),
    "scipy": ("scipy", ("sp",)),
    "SQLAlchemy": ("sqlalchemy", ("sqla",)),
    "sympy": ("sympy", ()),
}
TEXTS = {"train": 210, "val": 30, "test": 60}  # of each library, at most
TEXTS_PER_FILE = 10  # a module's docstrings resemble each other
MAX_BYTES = 60_000  # of a file: to parse the few longer ones would take most of the time
MIN_WORDS, ENOUGH_WORDS, MAX_WORDS = 6, 18, 60  # paragraphs are added until there are enough words
SKIPPED_FOLDERS = {
    "tests", "testing",
    "externals", "array_api_compat", "array_api_extra",  # code of other projects
    "asyncio",  # of SQLAlchemy: repeats the words of its orm
    "distutils",  # of NumPy: only there with Python 3.11
}  # fmt: skip
SECTION_OR_EXAMPLE = re.compile(r"^\s*[-=~]{3,}\s*$|>>>", re.MULTILINE)
GENERATED = re.compile(r"(__config__|_?version\w*|_distributor_init\w*|_version_meson)\.py")


def collect() -> tuple[dict[str, list[tuple[str, str]]], dict[str, str]]:
    """Texts with their library's name by split (train, val, test), and the versions they come from.

    Files, not texts, are assigned to the splits, so that the docstrings of one file are never in two of them.
    """
    versions, found = {}, []
    for library, (package, aliases) in LIBRARIES.items():
        versions[library] = importlib.metadata.version(library)
        found += [(text, library, part) for text, part in _texts(package, (package, *aliases))]
    libraries_of = Counter(key for key, _ in {(_key(text), library) for text, library, _ in found})
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "val": [], "test": []}
    for text, library, part in found:
        if libraries_of[_key(text)] == 1:  # the same words in two libraries have no true label
            parts[part].append((text, library))
    return parts, versions


def _texts(package: str, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """(text, split) of one package."""
    spec = importlib.util.find_spec(package)  # of a top-level package: found, not imported
    assert spec is not None and spec.submodule_search_locations is not None
    root = Path(spec.submodule_search_locations[0])
    files = {path.relative_to(root.parent).as_posix(): path for path in root.rglob("*.py")}
    alternatives = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    own_name = re.compile(rf"(?<!\w)({alternatives})(?!\w)", re.IGNORECASE)
    seen: set[str] = set()
    texts: dict[str, list[str]] = {part: [] for part in TEXTS}
    for name in sorted(files, key=_hash):  # an order that mixes the package's parts
        folders, file = name.split("/")[1:-1], name.split("/")[-1]
        bucket = _hash(name + "/split") % 10
        part = "train" if bucket < 6 else "val" if bucket < 8 else "test"
        room = min(TEXTS_PER_FILE, TEXTS[part] - len(texts[part]))
        if room == 0 or SKIPPED_FOLDERS.intersection(folders) or GENERATED.fullmatch(file):
            continue
        source = files[name].read_bytes().replace(b"\r\n", b"\n")  # some are longer on Windows
        if len(source) > MAX_BYTES:
            continue
        for text in _docstrings(source):
            words = own_name.sub(" ", text).split()[:MAX_WORDS]
            text = " ".join(words)
            if room and len(words) >= MIN_WORDS and _key(text) not in seen:
                seen.add(_key(text))
                texts[part].append(text)
                room -= 1
    return [(text, part) for part in texts for text in texts[part]]


def _docstrings(source: bytes) -> Iterator[str]:
    """The opening of each docstring of a file: its first paragraphs, up to a section, an example or ENOUGH_WORDS."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes that a newer Python dislikes
        nodes: list[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef] = [ast.parse(source)]
    for node in nodes:  # grows: classes and functions, at any depth
        nodes += [c for c in node.body if isinstance(c, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
        opening = ""
        for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
            if SECTION_OR_EXAMPLE.search(paragraph) or len(opening.split()) >= ENOUGH_WORDS:
                break
            opening += paragraph + "\n"
        yield opening


def _key(text: str) -> str:
    """Texts with one key are duplicates: case, blanks, digits and punctuation do not count."""
    return re.sub(r"[\W\d_]+", "", text.casefold())


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
