"""make: its selectors, and the confirmation of long jobs."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import run_python

from gloss.cli.reproduce import confirm
from gloss.config import ROOT
from gloss.errors import ConfigError


def make(*words: str) -> subprocess.CompletedProcess:
    """The commands that make would run."""
    return subprocess.run(["make", "-n", "-o", "setup", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "words",
    [
        ["DATASET=mr", "MODEL=minilm", "LOSS=ce,scl", "SEED=1", "TRIAL=2"],
        ["DATASETS=mr", "MODELS=minilm", "LOSSES=ce,scl", "SEEDS=1", "TRIALS=2"],
    ],
)
def test_make_selectors_may_be_singular_or_plural(words: list[str]):
    for target, action in {
        "reproduce-table2": [],
        "plan-table2": ["action=plan"],
        "tune-table2": ["action=tune"],
    }.items():
        done = make(target, *words, "OUTPUTS=it's here")
        chosen = "dataset=mr model=minilm loss=ce,scl seed=1 search.trials=2".split()
        command = ["scripts/reproduce.py", *action, "target=table2", *chosen, "paths.outputs=it's here"]
        assert shlex.split(done.stdout)[1:] == command
    assert shlex.split(make("data", words[0]).stdout)[-1] == "datasets=mr"


@pytest.mark.parametrize(("word", "meant"), [("DATSET=mr", "DATASET"), ("MODLE=x", "MODEL"), ("seed=1", "SEED"),
                                             ("SEEED=1", "SEED"), ("NOSUCH=1", "one of DATASETS")])  # fmt: skip
def test_misspelt_make_selectors_are_refused(word: str, meant: str):
    done = make("reproduce-table2", word)
    assert done.returncode and not done.stdout
    assert f"no variable {word.partition('=')[0]}; did you mean {meant}" in done.stderr


@pytest.mark.parametrize("script", [("reproduce.py", "target=table2"), ("train.py", "-m", "experiment=table2")])
def test_long_jobs_do_not_start_without_confirmation(script, tmp_path):
    done = run_python(f"scripts/{script[0]}", *script[1:], f"paths.outputs={tmp_path / 'out'}")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert re.search(r"table2 takes about [\d,]+ hours", done.stderr) and "YES=1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_long_jobs_ask_for_confirmation_on_a_terminal(monkeypatch, capsys):
    monkeypatch.delenv("YES", raising=False)
    confirm("table2", 0.9, unknown=10)
    with pytest.raises(ConfigError, match="YES=1 starts it"):
        confirm("table2", 1.1)
    with pytest.raises(ConfigError, match="not counting 11 runs or trials .* YES=1 starts it"):
        confirm("table2", 0.0, unknown=11)
    for answer, starts in {"y\n": True, "yes\n": True, "n\n": False, "\n": False, "": False}.items():
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=lambda a=answer: a))
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        with contextlib.nullcontext() if starts else pytest.raises(ConfigError, match="not started"):
            confirm("table2", 1234.5)
        assert "1,234 hours" in capsys.readouterr().err
    monkeypatch.setenv("YES", "1")
    monkeypatch.setattr(sys, "stdin", None)
    confirm("table2", 1e6)
