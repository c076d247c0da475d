"""Mutation testing of the science (`make mutants`): which single changes of the code does no test notice?

mutmut changes a copy under outputs/mutants, one place at a time, and runs the tests that reach the place. It leaves out
functions with decorators, so the copy has `f = decorator(f)` behind the function instead. What is mutated, and by which
tests it should be noticed, stands in pyproject.toml. Takes names of mutants or patterns; without any, all of SELECTED.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORK = ROOT / "outputs" / "mutants"
STEP = ("_step", "_backward", "_backward_in_slices", "_encode", "_loss", "_validate", "_end_epoch", "lr")
FIT = [f"gloss.fit.xǁFitǁ{name}__mutmut_*" for name in STEP]  # of the loop: its step and its validation
SELECTED = ["gloss.losses.*", "gloss.objective.*", "gloss.evaluate.*", "gloss.graph.*", "gloss.propagation.*"]
SELECTED += ["gloss.report.stats.*", *FIT]


def undecorated(source: str) -> str:
    """The same module, with each decorator of a function applied in a line behind it."""
    lines = source.splitlines()
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    for node in sorted(functions, key=lambda node: -node.lineno):
        value = node.name
        for decorator in reversed(node.decorator_list):
            value = f"{ast.unparse(decorator)}({value})"
        if node.decorator_list:
            lines.insert(node.end_lineno, f"{' ' * node.col_offset}{node.name} = {value}")
            del lines[node.decorator_list[0].lineno - 1 : node.lineno - 1]
    return "\n".join([*lines, ""])


def copy(settings: dict[str, list[str]]) -> None:
    """Bring the copy up to date; files that are as before keep their time, so that mutmut keeps its results."""
    for name in ("gloss", "tests", "configs", "data", "pyproject.toml"):
        shutil.rmtree(WORK / name, ignore_errors=True) if name != "gloss" else None
        skip = shutil.ignore_patterns("__pycache__", "*.gz")
        if (ROOT / name).is_dir() and name != "gloss":
            shutil.copytree(ROOT / name, WORK / name, ignore=skip)
        elif name != "gloss":
            shutil.copy2(ROOT / name, WORK / name)
    for path in sorted((ROOT / "gloss").rglob("*")):
        target = WORK / path.relative_to(ROOT)
        if path.is_file() and "__pycache__" not in path.parts:
            content = path.read_bytes()
            if any(fnmatch(str(path.relative_to(ROOT)), pattern) for pattern in settings["only_mutate"]):
                content = undecorated(content.decode()).encode()
            if not target.is_file() or target.read_bytes() != content:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)


def main(names: list[str]) -> None:
    names = names or SELECTED
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
    WORK.mkdir(parents=True, exist_ok=True)
    copy(settings)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "mutmut", "run", *names], cwd=WORK, env=environment)
    survivors, count = [], 0
    for path in sorted((WORK / "mutants").rglob("*.meta")):
        for mutant, status in json.loads(path.read_text())["exit_code_by_key"].items():
            if any(fnmatch(mutant, pattern) for pattern in names) and status is not None:
                count += 1
                survivors += [mutant] * (status in (0, 33))  # 33: no test reaches it
    print(f"\n{count - len(survivors)} of {count} mutants were noticed ({1 - len(survivors) / max(count, 1):.1%})")
    print("\n".join(survivors))
    sys.exit(done.returncode)


if __name__ == "__main__":
    main(sys.argv[1:])
