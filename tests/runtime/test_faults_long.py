"""kill -9 at random moments, and sweeps killed twice: the final records equal the records of uninterrupted runs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import outcome
from test_stops import command_of, start

from gloss.records.reading import read_records
from gloss.records.run_folder import is_done

pytestmark = pytest.mark.long

# One process that has imported all modules forks a child for each attempt, which saves the start of Python.
FORKING = """
import os, sys, time
import torch
from gloss.resolve import resolve
from hydra import compose, initialize_config_dir
from gloss.config import CONFIG_DIR
import gloss.training.run
torch.set_num_threads(1)
with initialize_config_dir(str(CONFIG_DIR), version_base=None):
    cfg = resolve(compose("train", sys.argv[1:]))
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        status = 1
        try:
            gloss.training.run.train(cfg)
            status = 0
        finally:
            os._exit(status)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Runner:
    """Attempts at one run, each in a forked process."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        command = [sys.executable, "-c", FORKING, *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        pipe = subprocess.PIPE
        self.log = log
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=log.open("w"), text=True, env=environment, bufsize=1
        )
        assert self.process.stdout.readline() == "ready\n", log.read_text()

    def attempt(self, kill_after: float | None = None) -> tuple[int, float]:
        """Run one attempt, with kill -9 after `kill_after` seconds; returns (wait status, seconds)."""
        self.process.stdin.write("go\n")
        child, started = int(self.process.stdout.readline()), time.monotonic()
        if kill_after is not None:
            time.sleep(kill_after)
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return int(self.process.stdout.readline()), time.monotonic() - started

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


@pytest.mark.parametrize(
    "options",
    [
        ["loss=gloss_sqrt", "mode=integrated"],
        ["loss=scl", "mode=standalone", "trainer.save_model=true", "trainer.embeddings_at=[0,2]"],
    ],
    ids=["integrated", "standalone"],
)
def test_a_run_killed_at_15_random_moments_equals_an_uninterrupted_run(options, toy_csv, tmp_path):
    # checkpoint_minutes is below the time of a step: a checkpoint after every step, so many kills hit one.
    options = [*options, "trainer.max_epochs=3", "trainer.patience=null", "trainer.checkpoint_minutes=1e-9"]
    runner = Runner(command_of(toy_csv, tmp_path, *options), tmp_path / "log")
    try:
        status, duration = runner.attempt()
        [folder] = tmp_path.glob("runs/*/*/*/*/seed=*")
        assert status == 0, runner.log.read_text()
        expected, moments = outcome(folder), random.Random(0)
        kills, finished = 0, 0
        while kills < 15:
            for path in sorted(folder.rglob("*"), reverse=True):  # start again after a finished chain of attempts
                path.rmdir() if path.is_dir() else path.unlink()
            while kills < 15 and not is_done(folder):
                status, _ = runner.attempt(kill_after=moments.uniform(0.05, 1.05) * duration)
                assert status in (0, signal.SIGKILL), runner.log.read_text()
                kills += status == signal.SIGKILL
            if not is_done(folder):
                assert runner.attempt()[0] == 0, runner.log.read_text()
            finished += 1
            assert outcome(folder) == expected
            assert read_records(tmp_path)[1] == []
            assert not list(folder.glob(".*")) and is_done(folder)
        print(f"{kills} kills in {finished} chains, {duration:.2f} s undisturbed")
    finally:
        runner.close()


def test_a_sweep_killed_twice_trains_every_run_once(toy_csv, tmp_path):
    sweep = command_of(
        *(toy_csv, tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=4", "trainer.max_epochs=2"),
        *("loss=ce,scl_ce,cosine,gloss_sqrt", "seed=1,2,3,4", "trainer.checkpoint_minutes=1e-9"),
    )

    def done() -> int:
        return len(list(tmp_path.glob("runs/*/*/*/*/seed=*/DONE")))

    before: dict[Path, str] = {}
    for wanted, kills_group in ((3, True), (8, False)):
        process = start("-m", *sweep, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while done() < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None and done() >= wanted
        if kills_group:  # first all processes are killed, as in a crash; then only the parent, which leaves its workers
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        assert done() < 16
        finished = {path: path.read_text() for path in tmp_path.glob("runs/*/*/*/*/seed=*/result.json")}
        assert all(finished[path] == text for path, text in before.items())  # no run was trained twice
        before = {path: text for path, text in finished.items() if is_done(path.parent)}
    process = start("-m", *sweep, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    output = process.communicate(timeout=600)[1]
    assert process.returncode == 0, output
    deadline = time.monotonic() + 60  # a run that an orphaned worker trains is left to it
    while done() < 16 and time.monotonic() < deadline:
        time.sleep(0.2)
    records, problems = read_records(tmp_path)
    assert len(records) == 16 and not problems, output
    assert len({(r.identity.loss, r.identity.seed) for r in records}) == 16
    assert all((path).read_text() == text for path, text in before.items())
    [reference] = [r for r in records if (r.identity.loss, r.identity.seed) == ("gloss_sqrt", 4)]
    alone = start(*command_of(toy_csv, tmp_path / "alone", "loss=gloss_sqrt", "seed=4", "trainer.max_epochs=2"))
    assert alone.wait(timeout=300) == 0
    [folder] = (tmp_path / "alone").glob("runs/*/*/*/*/seed=4")
    assert outcome(folder) == outcome(reference.folder)


@pytest.mark.parametrize("fault", ["a worker is killed", "SIGTERM", "Ctrl-C"])
def test_a_stopped_sweep_prints_the_reason_ends_its_workers_and_can_resume(toy_csv, tmp_path, fault):
    sweep = command_of(
        *(toy_csv, tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "trainer.max_epochs=8"),
        *("loss=ce", "seed=1,2", "trainer.patience=null", "trainer.checkpoint_minutes=1e-9"),
    )
    process = start("-m", *sweep, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and len(list(tmp_path.glob("runs/*/*/*/*/*/epochs.jsonl"))) < 2:
        time.sleep(0.02)
    if fault == "SIGTERM":
        process.terminate()
    elif fault == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends the signal to the whole group
    else:
        command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)]
        listed = subprocess.run(command, capture_output=True, text=True).stdout
        worker = next(line for line in listed.splitlines() if "popen_loky" in line)
        os.kill(int(worker.split()[0]), signal.SIGKILL)
    output = process.communicate(timeout=120)[1]
    expected = {"SIGTERM": (143, "stopped by SIGTERM"), "Ctrl-C": (130, "stopped by SIGINT")}
    status, message = expected.get(fault, (1, "a worker was killed by the system"))
    assert process.returncode == status and message in output, output
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (left := _group(process.pid)):
        time.sleep(0.1)
    assert not left
    done = start("-m", *sweep, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    output = done.communicate(timeout=300)[1]
    assert done.returncode == 0, output
    records, problems = read_records(tmp_path)
    assert sorted(r.identity.seed for r in records) == [1, 2] and not problems


def test_a_warned_submitit_job_is_requeued_and_resumes_from_its_checkpoint(toy_csv, tmp_path):
    job = command_of(
        *(toy_csv, tmp_path, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=1440", "loss=ce", "seed=1"),
        *("trainer.max_epochs=60", "trainer.patience=null", "trainer.checkpoint_minutes=0"),  # one checkpoint per epoch
    )
    process = start("-m", *job, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and not list(tmp_path.glob("runs/*/*/*/*/*/checkpoint/[0-9]*")):
        time.sleep(0.02)
    [folder] = tmp_path.glob("runs/*/*/*/*/*")
    command = ["pgrep", "-g", str(process.pid), "-f", "submitit.core._submit"]
    [*_, worker] = subprocess.run(command, capture_output=True, text=True).stdout.split()
    os.kill(int(worker), signal.SIGTERM)  # a SIGTERM, as of a preemption, does not end the job
    os.kill(int(worker), signal.SIGUSR2)
    output = process.communicate(timeout=300)[1]
    assert process.returncode == 0 and is_done(folder), output
    logs = "".join(path.read_text() for path in tmp_path.rglob("*_log.*"))
    assert "this job is preempted" in logs and "Requeued job" in logs
    expected = start(*command_of(toy_csv, tmp_path / "alone", *job[-5:]))
    assert expected.wait(timeout=300) == 0
    [alone] = (tmp_path / "alone").glob("runs/*/*/*/*/*")
    assert outcome(folder) == outcome(alone)


def _group(number: int) -> list[str]:
    """The running processes of a process group."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [" ".join(row) for row in rows if row[0] == str(number) and not row[1].startswith("Z")]
