"""Sweeps from the command line: launchers, failures, and a table that is interrupted and resumed."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import on_terminal, run_python

from gloss.config import ROOT
from gloss.experiments.status import state
from gloss.records.reading import read_records

WORDS = {"up": "good great fine superb happy".split(), "down": "bad poor sad awful dull".split()}


@pytest.fixture
def toys(tmp_path):
    """Arguments that define two small data sets of the user, toy_a and toy_b."""
    (tmp_path / "configs" / "dataset").mkdir(parents=True)
    for name in ("toy_a", "toy_b"):
        draw = random.Random(name)
        path = tmp_path / f"{name}.csv"
        with path.open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(("text", "label"))
            for i in range(60):
                label = ("up", "down")[i % 2]
                out.writerow((" ".join([*draw.choices(WORDS[label], k=4), "number", str(i)]), label))
        config = tmp_path / "configs" / "dataset" / f"{name}.yaml"
        config.write_text(f"name: {name}\nsource: csv\npath: {path}\n")
    where = [f"hydra.searchpath=[file://{tmp_path / 'configs'}]", f"paths.outputs={tmp_path / 'out'}"]
    words = ["model=tiny", "trainer.batch_size=16", "trainer.max_epochs=2", "trainer.device=cpu"]
    return [*where, *words, "trainer.precision=float32"]


def train(*arguments):
    return run_python("scripts/train.py", "-m", *arguments)


def run_folders(outputs: Path) -> dict[str, Path]:
    return {"/".join(f.parts[-5:-1]): f for f in sorted((outputs / "runs").glob("*/*/*/*/seed=*"))}


def test_failed_runs_keep_their_errors_the_sweep_continues_and_workers_show_only_lines(toys, tmp_path):
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    runs = ["dataset=toy_a", "loss=ce,triplet", "trainer.lr=1e30,1e-3"]  # the runs with lr=1e30 diverge
    status, lines = on_terminal("scripts/train.py", "-m", *toys, *launcher, *runs)
    shown = "\n".join(lines)
    assert status == 1 and "2 runs failed; the others are done" in shown
    folders = list(run_folders(tmp_path / "out").values())
    assert sorted(map(state, folders)) == ["done", "done", "failed", "failed"]
    for folder in folders:
        if state(folder) == "failed":
            assert "not finite" in json.loads((folder / "error.json").read_text())["message"]
            assert f"loss={folder.parts[-3].partition('-')[2]} " in shown
    records, problems = read_records(tmp_path / "out")
    assert sorted(r.identity.loss for r in records) == ["ce", "triplet"] and len(problems) == 2
    for loss in ("ce", "triplet"):
        name = f"toy_a tiny integrated {loss} seed 1"
        assert [sum(line.startswith(f"{name} · epoch {n} · loss ") for line in lines) for n in (1, 2)] == [1, 1]
    live_view = re.search(r"^run \d of 4 · .* \(\d:\d\d\)", shown, re.MULTILINE)
    assert "starting …" in shown and not live_view
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("Data set")) :]
    assert f"{tmp_path}/out/report/index.html" in "".join(table)


def test_a_sweep_runs_through_submitit(toys, tmp_path):
    launcher = ["hydra/launcher=submitit_local", f"hydra.launcher.submitit_folder={tmp_path / 'logs'}"]
    done = train(*toys, *launcher, "dataset=toy_a", "loss=ce,triplet")
    assert done.returncode == 0, done.stderr
    assert [state(f) for f in run_folders(tmp_path / "out").values()] == ["done", "done"]
    assert len(list((tmp_path / "logs").glob("*_result.pkl"))) == 2  # results of submitit's processes


def make(toys, **options):
    arguments = [a for a in toys if not a.startswith("model=")]
    command = ["make", "-o", "setup", "reproduce-table2", f"RUN={sys.executable}", "MODELS=tiny"]
    command += ["DATASETS=toy_a,toy_b", "LOSSES=gloss_sqrt", "SEEDS=1", "TRIALS=0", f"ARGS={' '.join(arguments)}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, start_new_session=True, **options)


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_killed_table_resumes(toys, tmp_path, number):
    toys = [*toys, "trainer.max_epochs=4", "trainer.checkpoint_minutes=0"]  # one checkpoint per epoch
    log = tmp_path / "log"
    with log.open("w") as file:
        first = make(toys, stdout=file, stderr=file)
        interrupted = None
        for _ in range(30_000):
            folders = run_folders(tmp_path / "out")
            unfinished = [f for f in folders.values() if not (f / "DONE").exists()]
            if len(unfinished) < len(folders):
                interrupted = next((f for f in unfinished if any(f.glob("checkpoint/[0-9]*"))), None)
            if interrupted or first.poll() is not None:
                break
            time.sleep(0.01)
        assert interrupted is not None, log.read_text()
        os.killpg(first.pid, number)
        assert first.wait(timeout=60) != 0
    for _ in range(500):  # until the last process of the group has ended and released its lock
        if state(interrupted) != "running":
            break
        time.sleep(0.02)
    done_before = {key: (f / "result.json").stat().st_mtime_ns for key, f in folders.items() if state(f) == "done"}
    assert len(done_before) == 1 and state(interrupted) == "interrupted"

    second = make(toys, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = second.communicate(timeout=300)[0]
    assert second.returncode == 0, text
    folders = run_folders(tmp_path / "out")
    assert [state(f) for f in folders.values()] == ["done"] * 2 and "table2: 2 of 2 runs done" in text
    for key, time_before in done_before.items():  # no run was repeated
        assert (folders[key] / "result.json").stat().st_mtime_ns == time_before
    output = f"{interrupted.parts[-5]} tiny integrated gloss_sqrt seed 1 · epoch "
    before, after = (
        [line.removeprefix(output)[0] for line in part.splitlines() if line.startswith(output)]
        for part in (log.read_text(), text)
    )  # an epoch in the checkpoint may not be printed yet, but no epoch is trained twice
    assert "1" not in after and after[-1] == "4" and not set(before) & set(after)
    assert len((interrupted / "epochs.jsonl").read_text().splitlines()) == 4
    assert (tmp_path / "out" / "report" / "table2.csv").is_file()
