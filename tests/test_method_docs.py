"""docs/METHOD.md and docs/FIDELITY.md: named functions exist, and the ledger agrees with the configuration."""

import importlib
import re
from pathlib import Path

import yaml
from conftest import composed

ROOT = Path(__file__).parent.parent


def variant(name: str) -> dict[str, str]:
    """All keys of a variant in the notation of FIDELITY.md, with their values in YAML."""
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
    assert all(paper_value != released_value for _, paper_value, released_value in rows)


def test_functions_named_in_method_docs_exist():
    names = re.findall(r"`(gloss(?:\.[a-z]+)*)\.([a-z_]+)`", (ROOT / "docs/METHOD.md").read_text(encoding="utf-8"))
    modules = ("gloss.losses.reference", "gloss.training.graph_quality")
    functions = [pair for pair in names if ".".join(pair) not in modules]
    assert len(functions) >= 12
    for module, name in functions:
        assert callable(getattr(importlib.import_module(module), name)), (module, name)


def ledger_row(point: str) -> list[str]:
    """The cells of the row of FIDELITY.md that starts with `point`."""
    lines = (ROOT / "docs/FIDELITY.md").read_text(encoding="utf-8").splitlines()
    (row,) = [line for line in lines if line.startswith(f"| {point} |")]
    return [cell.strip() for cell in row.strip("|").split(" | ")]


def test_ledger_defaults_equal_the_configuration():
    cfg = {loss: composed(f"loss={loss}") for loss in ("gloss_sqrt", "scl_ce")}
    gloss, scl = cfg["gloss_sqrt"], cfg["scl_ce"]
    lr = f"{gloss.trainer.lr:.0e}".replace("e-0", "e-")
    expected = f"learning rate {lr}, λ {gloss.loss.lam} (SCL {scl.loss.lam}), γ {gloss.loss.gamma}"
    assert ledger_row("defaults without a search")[3] == f"{expected}, τ {scl.loss.temperature}; no σ"
