"""docs/METHOD.md and docs/FIDELITY.md name what exists, and the ledger has a row for every key of the variants."""

import importlib
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent


def variant(name: str) -> dict[str, str]:
    """Every key of an overlay as FIDELITY.md writes it, with its value as YAML writes it."""
    groups = yaml.safe_load((ROOT / f"configs/variant/{name}.yaml").read_text())
    return {
        f"{group}.{key}": {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
        for group, settings in groups.items()
        for key, value in settings.items()
        if key != "name"
    }


def test_ledger_has_every_key_with_both_values():
    rows = re.findall(r"`([a-z_.]+)`: `([^`]+)` → `([^`]+)`", (ROOT / "docs/FIDELITY.md").read_text(encoding="utf-8"))
    paper, released = variant("paper"), variant("released")
    assert sorted(rows) == sorted((key, paper[key], released[key]) for key in paper)
    assert paper.keys() == released.keys() and len(rows) >= 12
    assert all(ours != theirs for _, ours, theirs in rows)


def test_functions_of_the_method_exist():
    names = re.findall(r"`(gloss(?:\.[a-z]+)*)\.([a-z_]+)`", (ROOT / "docs/METHOD.md").read_text(encoding="utf-8"))
    functions = [pair for pair in names if ".".join(pair) not in ("gloss.graph", "gloss.propagation")]
    assert len(functions) >= 12
    for module, name in functions:
        assert callable(getattr(importlib.import_module(module), name)), (module, name)
