"""All dependencies are pinned, and no code executes or unpickles the files that it reads."""

from __future__ import annotations

import re
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gloss.config import ROOT


def test_requirements_are_complete_pinned_and_consistent():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pins = {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in requirements}
    assert all(re.fullmatch(r"==[\w.]+", str(r.specifier)) for r in requirements)
    named = "torch transformers datasets hydra-core omegaconf optuna scikit-learn pandas matplotlib"
    assert list(pins)[:9] == named.split()
    wanted = [(name, Requirement(text)) for name in pins for text in metadata.requires(name) or []]
    wanted = [(name, r) for name, r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    assert len(wanted) > 100
    for name, r in wanted:
        if name == "torch" and r.name.startswith(("nvidia", "cuda", "triton")):
            continue  # pins of CUDA builds of torch
        assert canonicalize_name(r.name) in pins, f"{name} needs {r}, which is not pinned"
        assert r.specifier.contains(pins[canonicalize_name(r.name)]), f"{name} needs {r}"


def test_no_code_instantiates_by_name_or_unpickles():
    files = [p for group in ("gloss", "scripts", "configs") for p in (ROOT / group).rglob("*") if p.is_file()]
    text = {p.relative_to(ROOT): p.read_text(encoding="utf-8") for p in files if p.suffix in (".py", ".yaml")}
    assert len(text) > 50
    named = {str(p) for p, t in text.items() if re.search(r"\b_target_\b|hydra\.utils|\binstantiate\(", t)}
    assert not named
    bad = r"(import|from) pickle|yaml\.(load|unsafe_load)\(|weights_only=False|allow_pickle=True|"
    bad += r"trust_remote_code=True|(?<!\.)\beval\(|\bexec\("
    assert not {str(p) for p, t in text.items() if re.search(bad, t)}
