"""The layout: each package imports only packages above it, and the README shows the real tree.

Importing the package changes no global state beyond the changes made by its dependencies.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import run_python

from gloss.cli.entry import COMMANDS
from gloss.config import ROOT

# A package may import itself and earlier ones. `losses` imports no other package of gloss: it needs only torch.
LAYERS = (
    *("errors", "losses", "config", "resolve", "paper", "runtime", "records", "models", "data", "training", "search"),
    *("experiments", "report", "benchmark", "inference", "predict", "cli"),
)
FOLDERS = {
    "configs": "a folder per axis (dataset, model, loss, mode, variant, …); train.yaml, tune.yaml",
    "scripts": "entry points: parse, call, exit",
    "data": "the prepared benchmark texts go here (not in the repository)",
    "docs": "method, fidelity to the paper, tuning, speed, trust, guides",
    "outputs": "runs, searches, reports",
    "tests": "mirrors gloss/",
}
MODULES = sorted((ROOT / "gloss").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The packages of gloss that a module imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            words = node.module.split(".")
            if words[0] == "gloss":
                names |= {words[1]} if len(words) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {words[1] for a in node.names if (words := a.name.split("."))[0] == "gloss" and len(words) > 1}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: a relative import"
    return names


def layer(path: Path) -> str:
    return path.relative_to(ROOT / "gloss").parts[0].removesuffix(".py")


def test_every_module_belongs_to_a_layer():
    assert len(MODULES) > 60
    assert {layer(path) for path in MODULES} == {*LAYERS, "__init__"}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_imports_only_earlier_layers(name: str):
    allowed = set(LAYERS[: LAYERS.index(name) + 1]) if name != "losses" else {"losses"}
    for path in (path for path in MODULES if layer(path) == name):
        wrong = imported(path) - allowed
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}: these come after {name}"


def tree() -> str:
    """The expected tree of the README: folders, and packages with the first line of their docstrings."""
    lines = ["gloss/"]
    for name in LAYERS:
        path = ROOT / "gloss" / name
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        first = (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").splitlines()[0]
        lines.append(f"  {name + ('/' if path.is_dir() else '.py'):<14} {first}")
    return "\n".join([*lines, *(f"{name + '/':<16} {line}" for name, line in FOLDERS.items())])


def test_the_tree_of_the_readme_equals_the_real_one():
    assert all((ROOT / name).is_dir() for name in FOLDERS if name != "outputs")  # outputs is created by the first run
    assert tree() in (ROOT / "README.md").read_text(encoding="utf-8"), f"README.md should show\n{tree()}"


def test_no_module_is_longer_than_400_lines():
    long = {str(p.relative_to(ROOT)) for part in ("gloss", "tests") for p in (ROOT / part).rglob("*.py")
            if len(p.read_text(encoding="utf-8").splitlines()) > 400}  # fmt: skip
    assert not long


def test_the_tests_mirror_the_packages():
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    assert folders <= set(LAYERS)


# -- what imports load and change --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        (["gloss"], {"pandas", "torch"}),
        (["gloss.config", "gloss.losses.registry", "gloss.records.frame"], {"torch"}),
        (["gloss.report.build", "gloss.records.study"], {"optuna", "sqlalchemy", "torch"}),
        ([f"gloss.cli.{name}" for name in COMMANDS], {"torch", "transformers"}),
    ],
)
def test_light_modules_import_no_heavy_packages(modules, heavy):
    code = f"import sys, {', '.join(modules)}; assert not {heavy} & sys.modules.keys(); print(gloss.load_runs)"
    assert run_python("-c", code).stdout.startswith("<function load_runs")


IMPORT_ALL = """
import csv, importlib, logging, signal, sys

import torch, transformers

def state():
    handlers = [repr(signal.getsignal(n)) for n in signal.valid_signals()]
    of_logging = logging.root.handlers, logging.root.level, transformers.logging.get_verbosity()
    return csv.field_size_limit(), handlers, of_logging, torch.get_num_threads(), sys.excepthook, sys.stdout

before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
assert state() == before, (before, state())
"""


def test_importing_all_modules_changes_no_global_state():
    paths = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES]
    needs_triton = "gloss.losses.state_elimination_triton"  # Triton is optional
    names = [path.removesuffix(".__init__") for path in paths if path != needs_triton or find_spec("triton")]
    done = run_python("-c", IMPORT_ALL, *names)
    assert done.returncode == 0, done.stderr
