"""Mutation testing of losses, objective, metrics and training loop (`make mutants`).

It lists the single changes of the code that no test detects. mutmut changes a copy under outputs/mutants, one place at
a time, and runs the tests that reach this place. The groups in pyproject.toml ([tool.mutants]) name the changed files
and the tests that must detect the changes; a change takes seconds. mutmut skips functions with decorators, so the copy
applies decorators in a line after the function. Arguments: names of groups and patterns of mutants
(`gloss.losses.geometry.*unit*`); without arguments all mutants run.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORK = ROOT / "outputs" / "mutants"
DETECTED = 1  # mutmut's exit code; time-outs can come from a busy machine and count as survivors
# Other decorators are applied at each call, so that they wrap the mutated function.
AT_ONCE = ("property", "staticmethod", "classmethod", "cache")


def undecorated(source: str) -> str:
    """The same module, with each decorator applied in a line after its function."""
    lines = source.splitlines()
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    for node in sorted(functions, key=lambda node: -node.lineno):
        value = node.name
        for decorator in map(ast.unparse, reversed(node.decorator_list)):
            call = f"(lambda *args, _f={value}, **named: {decorator}(_f)(*args, **named))"
            value = f"{decorator}({value})" if decorator in AT_ONCE else call
        if node.decorator_list:
            lines.insert(node.end_lineno, f"{' ' * node.col_offset}{node.name} = {value}")
            del lines[node.decorator_list[0].lineno - 1 : node.lineno - 1]
    return "\n".join([*lines, ""])


def copy(folder: Path, files: list[str], tests: list[str], settings: dict[str, object]) -> None:
    """Update the copy of a group; unchanged files keep their times, so that mutmut keeps its results."""
    lists = {"only_mutate": files, "pytest_add_cli_args_test_selection": tests}
    written = {"pyproject.toml": "[tool.mutmut]\n"}
    for key, value in {**settings, **lists}.items():
        written["pyproject.toml"] += f"{key} = {json.dumps(value)}\n"
    for path in (path for name in ("gloss", "tests", "configs", "data") for path in sorted((ROOT / name).rglob("*"))):
        name = str(path.relative_to(ROOT))
        if path.suffix in (".py", ".yaml", ".json", ".html", ".csv", ".md", ".mplstyle"):
            written[name] = path.read_text()
            if name in files:
                written[name] = undecorated(written[name])
    for name, content in written.items():
        target = folder / name
        if not target.is_file() or target.read_text() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)


def main(arguments: list[str]) -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    groups = config["mutants"]
    patterns = [argument for argument in arguments if argument not in groups]
    total, survivors, environment = 0, [], {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in [argument for argument in arguments if argument in groups] or list(groups):
        group, folder = groups[name], WORK / name
        copy(folder, group["files"], group["tests"], config["mutmut"])
        chosen = patterns or group.get("mutants", [])  # without patterns mutmut tries only new or changed code
        subprocess.run([sys.executable, "-m", "mutmut", "run", *chosen], cwd=folder, env=environment)
        for path in sorted((folder / "mutants").rglob("*.meta")):
            for mutant, status in json.loads(path.read_text())["exit_code_by_key"].items():
                if status is not None and any(fnmatch(mutant, pattern) for pattern in chosen or ["*"]):
                    total += 1
                    survivors += [mutant] * (status != DETECTED)
    print(f"\n{total - len(survivors)} of {total} mutants were detected ({1 - len(survivors) / max(total, 1):.1%})")
    print(*survivors, sep="\n")
    print("`cd outputs/mutants/<group> && python -m mutmut show <mutant>` shows one")


if __name__ == "__main__":
    main(sys.argv[1:])
