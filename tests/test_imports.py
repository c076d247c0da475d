"""Importing the package changes no global state beyond the changes made by its dependencies."""

from __future__ import annotations

import ast
import json
from importlib.util import find_spec

import pytest
from conftest import run_python

from gloss.cli.entry import COMMANDS
from gloss.config import ROOT

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "gloss").rglob("*.py")
)
STATE = """
import contextlib, csv, json, locale, logging, os, signal, sys, warnings

def state():
    import torch, transformers
    return {
        "environ": dict(os.environ),
        "csv": csv.field_size_limit(),
        "signals": [repr(signal.getsignal(n)) for n in signal.valid_signals()],
        "logging": [repr(logging.root.handlers), logging.root.level, repr(logging.getLogger("gloss").handlers)],
        "warnings": [repr(one) for one in warnings.filters],
        "transformers": [transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()],
        "torch": [torch.get_num_threads(), repr(torch.get_default_dtype()), torch.is_grad_enabled()],
        "hooks": [repr(sys.excepthook), repr(sys.stdout), repr(sys.stderr), locale.setlocale(locale.LC_ALL)],
    }
"""


def imports_of_others() -> list[str]:
    """All import statements of the package, also inside functions, except those of its own modules."""
    found = set()
    for path in (ROOT / "gloss").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom) and not ast.unparse(node).split()[1].startswith("gloss"):
                found.add(ast.unparse(node))
    return sorted(found - {"from __future__ import annotations"})


def changed_by(before: list[str], code: list[str]) -> dict[str, list]:
    """The state that `code` changes in a process that has run `before`: key -> [old, new]."""
    others = [f"with contextlib.suppress(ImportError): exec({text!r})" for text in before]
    end = "new = state(); print(json.dumps({key: [old[key], new[key]] for key in old if old[key] != new[key]}))"
    script = "\n".join([STATE, *others, "old = state()", *code, end])
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


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


def test_importing_all_modules_changes_no_global_state():
    assert len(MODULES) > 80
    needs_triton = "gloss.losses.state_elimination_triton"  # Triton is optional
    names = [name for name in MODULES if name != needs_triton or find_spec("triton")]
    assert changed_by(imports_of_others(), [f"import {name}" for name in names]) == {}
