"""What make and the commands behind it ask before they start work of days."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
from test_command_line import run_script

from gloss.cli.reproduce import confirm
from gloss.config import ROOT
from gloss.errors import ConfigError


def make(*words: str) -> subprocess.CompletedProcess:
    """What make would run."""
    return subprocess.run(["make", "-n", "-o", "setup", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "words",
    [
        ["DATASET=mr", "MODEL=minilm", "LOSS=ce,scl", "SEED=1", "TRIAL=2"],
        ["DATASETS=mr", "MODELS=minilm", "LOSSES=ce,scl", "SEEDS=1", "TRIALS=2"],
    ],
)
def test_selectors_of_make_are_singular_or_plural(words: list[str]):
    for target, what in {
        "reproduce-table2": [],
        "plan-table2": ["action=plan"],
        "tune-table2": ["action=tune"],
    }.items():
        done = make(target, *words, "OUTPUTS=it's here")
        chosen = "dataset=mr model=minilm loss=ce,scl seed=1 search.trials=2".split()
        command = ["scripts/reproduce.py", *what, "target=table2", *chosen, "paths.outputs=it's here"]
        assert shlex.split(done.stdout)[1:] == command
    assert shlex.split(make("data", words[0]).stdout)[-1] == "datasets=mr"


@pytest.mark.parametrize(("word", "meant"), [("DATSET=mr", "DATASET"), ("MODLE=x", "MODEL"), ("seed=1", "SEED"),
                                             ("SEEED=1", "SEED"), ("NOSUCH=1", "one of DATASETS")])  # fmt: skip
def test_a_misspelt_selector_of_make_is_refused(word: str, meant: str):
    done = make("reproduce-table2", word)
    assert done.returncode and not done.stdout
    assert f"no variable {word.partition('=')[0]}; did you mean {meant}" in done.stderr


@pytest.mark.parametrize("script", [("reproduce.py", "target=table2"), ("train.py", "-m", "experiment=table2")])
def test_days_of_work_do_not_start_by_a_mistake(script, tmp_path):
    done = run_script(f"scripts/{script[0]}", *script[1:], f"paths.outputs={tmp_path / 'out'}")
    output = done.stderr.decode()
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert re.search(r"table2 takes about [\d,]+ hours", output) and "YES=1" in output and len(output.splitlines()) == 1


def test_a_long_job_is_asked_about_on_a_terminal(monkeypatch, capsys):
    monkeypatch.delenv("YES", raising=False)
    confirm("table2", 0.9)
    with pytest.raises(ConfigError, match="YES=1 starts it"):
        confirm("table2", 1.1)
    for answer, starts in {"y\n": True, "yes\n": True, "n\n": False, "\n": False, "": False}.items():
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=lambda a=answer: a))
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        with contextlib.nullcontext() if starts else pytest.raises(ConfigError, match="not started"):
            confirm("table2", 1234.5)
        assert "1,234 hours" in capsys.readouterr().err
    monkeypatch.setenv("YES", "1")
    monkeypatch.setattr(sys, "stdin", None)
    confirm("table2", 1e6)
