"""Storage of searches: killed workers with a SQLite file and with a database, locks, passwords."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import sqlalchemy
from searching import composed, trial_records, without_search, worker_of

from gloss.cli.hydra_main import main
from gloss.config import ROOT
from gloss.errors import ConfigError
from gloss.records.study import read_studies
from gloss.search.storage import open_storage
from gloss.training.run import train


def start(*overrides: str, log: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "scripts" / "tune.py"), *overrides]
    with log.open("w") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)


def kill_one(overrides: list[str], tmp_path: Path, number: signal.Signals, num_workers: int, moment: str) -> str:
    """Start workers, stop the first when its log contains `moment`, wait for the others; return all logs.

    A single worker is started again.
    """
    logs = [tmp_path / f"{n}.log" for n in range(max(2, num_workers))]
    workers = [start(*overrides, log=log) for log in logs[:num_workers]]
    try:
        while moment not in logs[0].read_text():
            assert workers[0].poll() is None, logs[0].read_text()
            time.sleep(0.02)
        workers[0].send_signal(number)
        expected = -signal.SIGKILL if number == signal.SIGKILL else 128 + number
        assert workers[0].wait(60) == expected, logs[0].read_text()
        workers += [start(*overrides, log=logs[1])] if num_workers == 1 else []
        for worker, log in zip(workers[1:], logs[1:], strict=True):
            assert worker.wait(200) == 0, log.read_text()
    finally:
        for worker in workers:
            worker.kill()
    return "\n".join(log.read_text() for log in logs)


def check_after_kill(overrides: list[str], logs: str, num_trials: int, tmp_path: Path) -> None:
    """Check that each trial exists and was trained once, and that the interrupted trial equals an undisturbed run."""
    ([study], _) = read_studies(tmp_path / "out")
    assert [(t["number"], t["state"]) for t in study.trials] == [(n, "complete") for n in range(num_trials)]
    assert study.is_finished and len({json.dumps(t["params"]) for t in study.trials}) == num_trials
    assert logs.count(": validation accuracy") == num_trials == len(trial_records(study))
    for record in trial_records(study):
        assert [row["epoch"] for row in record.epochs()] == [1, 2, 3, 4, 5, 6]
    again = logs.partition("resuming an interrupted trial")[2]
    assert "· going on from epoch " in again.partition("· epoch ")[0], logs  # it resumed from its checkpoint
    [number] = re.findall(r"· trial (\d+) of \d+ · resuming an interrupted trial", logs)
    interrupted = study.trials[int(number) - 1]  # the log counts from 1
    plain = without_search(overrides)
    rate = f"trainer.lr={interrupted['params']['lr']}"
    cfg = composed(*plain, rate, f"paths.outputs={tmp_path / 'undisturbed'}", config_name="train")
    assert max(row["score"] for row in train(cfg).epochs()) == interrupted["value"]
    assert start(*overrides, log=tmp_path / "again.log").wait(60) == 0  # all trials are finished
    assert "epoch" not in (tmp_path / "again.log").read_text().partition("| Trial")[0]


@pytest.fixture
def to_be_killed(settings):
    """Settings of a search: trials of six epochs with a checkpoint after every step."""
    words = ["trainer.max_epochs=6", "trainer.patience=null", "trainer.checkpoint_minutes=1e-9", "search.trials=3"]
    return ["loss=ce", *settings, *words, "search.heartbeat_seconds=2"]


@pytest.mark.parametrize(
    ("number", "num_workers", "moment"),
    [
        (signal.SIGKILL, 2, "· epoch 2 ·"),
        *(
            pytest.param(*row, marks=pytest.mark.long)
            for row in [
                (signal.SIGKILL, 1, "· epoch 1 ·"),
                (signal.SIGKILL, 3, "· epoch 4 ·"),
                (signal.SIGTERM, 2, "· epoch 2 ·"),
                (signal.SIGINT, 1, "· epoch 3 ·"),
            ]
        ),
    ],
)
def test_a_trial_of_a_stopped_worker_is_resumed(to_be_killed, tmp_path, number, num_workers, moment):
    logs = kill_one(to_be_killed, tmp_path, number, num_workers, moment)
    check_after_kill(to_be_killed, logs, 3, tmp_path)
    assert number == signal.SIGKILL or f"stopped by {number.name}; the same command goes on" in logs


@pytest.fixture
def postgres():
    """The URL of a temporary PostgreSQL server on loopback."""
    found = [*map(Path, filter(None, [shutil.which("pg_ctl")])), *Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")]
    if not found:
        pytest.skip("there is no pg_ctl: install PostgreSQL to test a search with a database")
    programs = found[-1].resolve().parent
    user = {"user": "nobody"} if os.geteuid() == 0 else {}  # the server refuses to run as root
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
def test_a_trial_of_a_killed_worker_is_resumed_with_a_database(to_be_killed, tmp_path, postgres):
    overrides = [*to_be_killed, f"search.storage={postgres}"]
    logs = kill_one(overrides, tmp_path, signal.SIGKILL, 3, "· epoch 2 ·")
    check_after_kill(overrides, logs, 3, tmp_path)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) > 20 and not list((tmp_path / "out").rglob("study.db"))
    assert not any(b"secret" in path.read_bytes() for path in written)  # no file contains the password


def test_a_sweep_of_searches_writes_no_password(monkeypatch, tmp_path, capsys):
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
    assert "multirun.yaml" in {path.name for path in written}
    assert not any(b"secret" in path.read_bytes() for path in written)
    assert main(task, [*sweep, "search.storage=null"], "tune") == 1 and found[2:] == [None, None]


def test_a_reading_worker_locks_the_database_for_others(tmp_path):
    """By default SQLite locks the file only for writers, and two workers could take the same trial."""
    path = tmp_path / "study.db"
    storage = open_storage(None, path, 20)
    with storage.engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT * FROM trials"))
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite3.connect(path, timeout=0, isolation_level=None).execute("BEGIN IMMEDIATE")
    sqlite3.connect(path, timeout=0, isolation_level=None).execute("BEGIN IMMEDIATE")


def test_an_unreachable_database_gives_an_error_without_the_password(settings):
    cfg = composed("loss=ce", *settings, "search.storage=postgresql://me:secret@127.0.0.1:1/search")
    with pytest.raises(ConfigError, match=r"search.storage=postgresql://me:\*\*\*@127.0.0.1:1/search cannot be used"):
        worker_of(cfg)
    cfg = composed("loss=ce", *settings, "search.storage=sqlite:///x.db")
    with pytest.raises(ConfigError, match="expected null .a SQLite file in the study.s folder. or postgresql://"):
        worker_of(cfg)
