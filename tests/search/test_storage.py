"""Where a search is kept: a torn journal, workers that are killed, and a database."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from searching import composed, stand_in, states, trial_records, work, worker_of

from gloss.cli.hydra_main import main
from gloss.config import ROOT
from gloss.errors import ConfigError
from gloss.records.study import read_studies, read_study
from gloss.search import worker as tuning
from gloss.search.storage import Journal
from gloss.training.run import train


def test_a_torn_line_at_the_journal_s_end_costs_nothing_but_itself(settings, monkeypatch):
    monkeypatch.setattr(tuning, "train", stand_in())
    cfg = composed("loss=ce", *settings, "search.trials=3")
    worker = worker_of(cfg)
    worker.run(worker.claim())
    journal = worker.folder / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":5,"worker_id":"x","trial')
    work(worker_of(cfg))
    assert journal.read_bytes().startswith(whole + b'{"op_code"')
    again = worker_of(cfg)
    assert again.claim() is None and states(again) == ["complete"] * 3


def test_a_worker_s_name_in_the_journal_is_no_path(tmp_path):
    journal = Journal(tmp_path / "study", "me")
    precious = tmp_path / "precious.txt"
    for path in (precious, tmp_path / "study" / "beside.txt", journal.workers / "killed"):
        path.write_text("kept")
    for name in (str(precious), "../beside.txt", "../../precious.txt", "./me", "..", ".", "", 7, None, "killed"):
        assert journal._is_dead(name)
    assert precious.read_text() == (tmp_path / "study" / "beside.txt").read_text() == "kept"
    assert not journal._is_dead("me") and [path.name for path in journal.workers.iterdir()] == ["me"]
    journal.close()


def start(*overrides: str, log: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "scripts" / "tune.py"), *overrides]
    with log.open("w") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)


def kill_one_of_two(overrides: list[str], tmp_path: Path, number: signal.Signals) -> str:
    """Start two workers, kill the first in the middle of a trial, wait for the second; both logs."""
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    first = start(*overrides, log=logs[0])
    second = start(*overrides, log=logs[1])
    try:
        while "· epoch 2 ·" not in logs[0].read_text():
            assert first.poll() is None, logs[0].read_text()
            time.sleep(0.02)
        first.send_signal(number)
        expected = -signal.SIGKILL if number == signal.SIGKILL else 128 + number
        assert first.wait(60) == expected, logs[0].read_text()
        assert second.wait(200) == 0, logs[1].read_text()
    finally:
        first.kill()
        second.kill()
    return "\n".join(log.read_text() for log in logs)


def check_after_kill(overrides: list[str], logs: str, num_trials: int, tmp_path: Path) -> None:
    """None lost, none double: each trial is there once, and trained once; the interrupted one as if it had not been."""
    [study] = read_studies(tmp_path / "out")
    assert [(t["number"], t["state"]) for t in study.trials] == [(n, "complete") for n in range(num_trials)]
    assert study.is_finished and len({json.dumps(t["params"]) for t in study.trials}) == num_trials
    [number] = re.findall(r"trial (\d+) of .* going on with the trial of a worker that has ended", logs)
    assert logs.count(": validation accuracy") == num_trials == len(trial_records(study))
    for record in trial_records(study):
        assert [row["epoch"] for row in record.epochs()] == [1, 2, 3, 4, 5, 6]
    interrupted = study.trials[int(number) - 1]  # counted from 1 on the screen
    plain = [w for w in overrides if not w.startswith("search.")]
    rate = f"trainer.lr={interrupted['params']['lr']}"
    cfg = composed(*plain, rate, f"paths.outputs={tmp_path / 'undisturbed'}", config_name="train")
    assert max(row["score"] for row in train(cfg).epochs()) == interrupted["value"]


@pytest.fixture
def to_be_killed(settings):
    """Trials of six epochs, with a checkpoint after every step."""
    words = ["trainer.max_epochs=6", "trainer.patience=null", "trainer.checkpoint_minutes=1e-9", "search.trials=3"]
    return ["loss=ce", *settings, *words]


def test_a_worker_killed_in_the_middle_of_a_trial_loses_nothing(to_be_killed, tmp_path):
    logs = kill_one_of_two(to_be_killed, tmp_path, signal.SIGKILL)
    check_after_kill(to_be_killed, logs, 3, tmp_path)


@pytest.mark.long
def test_a_worker_told_to_stop_hands_its_trial_back(to_be_killed, tmp_path):
    logs = kill_one_of_two(to_be_killed, tmp_path, signal.SIGTERM)
    check_after_kill(to_be_killed, logs, 3, tmp_path)
    assert "stopped by SIGTERM; the same command goes on" in logs


@pytest.fixture
def postgres():
    """The URL of a PostgreSQL server of our own, on loopback, gone afterwards."""
    found = [*map(Path, filter(None, [shutil.which("pg_ctl")])), *Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")]
    if not found:
        pytest.skip("there is no pg_ctl: install PostgreSQL to test a search with a database")
    programs = found[-1].resolve().parent
    user = {"user": "nobody"} if os.geteuid() == 0 else {}  # the server refuses to be root
    folder = Path(tempfile.mkdtemp(prefix="gloss-pg-"))
    if user:
        shutil.chown(folder, "nobody")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(*command: str) -> None:
        subprocess.run([str(programs / command[0]), *command[1:]], check=True, capture_output=True, cwd=folder, **user)

    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    try:
        run("initdb", "-D", f"{folder}/data", "-U", "gloss", "-A", "trust", "-E", "UTF8", "--locale=C")
        run("pg_ctl", "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w", "start")
        try:
            yield f"postgresql://gloss:secret@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
def test_a_database_lets_a_killed_worker_lose_nothing(to_be_killed, tmp_path, postgres):
    overrides = [*to_be_killed, f"search.storage={postgres}", "search.heartbeat_seconds=3"]
    logs = kill_one_of_two(overrides, tmp_path, signal.SIGKILL)
    check_after_kill(overrides, logs, 3, tmp_path)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) > 20
    assert not any(b"secret" in path.read_bytes() for path in written)  # the password stays out of every record


@pytest.mark.long
def test_a_database_gives_two_workers_what_a_file_gives_one(settings, monkeypatch, tmp_path, postgres):
    monkeypatch.setattr(tuning, "train", stand_in(lambda cfg: cfg.loss.gamma))
    with_database = [*settings, f"search.storage={postgres}"]
    first, second = (worker_of(composed("loss=gloss_o", *with_database)) for _ in range(2))
    trials = [first.claim(), second.claim(), first.claim(), second.claim(), second.claim()]
    for worker, trial in zip((first, second, first, second, second), trials, strict=True):
        worker.run(trial)
    assert first.claim() is None and states(second) == ["complete"] * 5
    alone = worker_of(composed("loss=gloss_o", *settings, f"paths.outputs={tmp_path / 'alone'}"))
    work(alone)
    assert [(t.params, t.value) for t in alone.study.trials] == [(t.params, t.value) for t in first.study.trials]
    assert read_study(first.folder).trials == [
        {**row, "seconds": mine["seconds"]}
        for row, mine in zip(read_study(alone.folder).trials, read_study(first.folder).trials, strict=True)
    ]


def test_a_sweep_writes_no_password(monkeypatch, tmp_path, capsys):
    def task(cfg, is_sweep):
        found.append(cfg.search.storage)
        raise ConfigError("the server is away")

    found, url = [], "postgresql://me:secret@127.0.0.1:1/search"
    monkeypatch.setenv("GLOSS_STORAGE", "postgresql://elsewhere/search")
    monkeypatch.setattr(sys, "argv", ["tune.py"])
    sweep = ["-m", "loss=ce,gloss_o", f"search.storage='{url}'", f"paths.outputs={tmp_path}"]
    assert main(task, sweep, "tune") == 1 and found == [url, url]
    assert "the server is away" in "".join(capsys.readouterr())
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"multirun.yaml", "00000", "00001"} <= {path.name for path in written}
    assert not any(b"secret" in path.read_bytes() for path in written)
    assert main(task, [*sweep, "search.storage=null"], "tune") == 1 and found[2:] == [None, None]


def test_a_database_that_is_not_there_is_told_without_its_password(settings):
    cfg = composed("loss=ce", *settings, "search.storage=postgresql://me:secret@127.0.0.1:1/search")
    with pytest.raises(ConfigError, match=r"search.storage=postgresql://me:\*\*\*@127.0.0.1:1/search cannot be used"):
        worker_of(cfg)
    cfg = composed("loss=ce", *settings, "search.storage=sqlite:///x.db")
    with pytest.raises(ConfigError, match="expected null .a file. or postgresql://"):
        worker_of(cfg)
