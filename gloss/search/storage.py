"""Where a study's trials are kept while workers claim them: a file, for one machine, or a database, for several."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import sqlalchemy
from filelock import Timeout
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from gloss.errors import ConfigError
from gloss.runtime.locks import FileLock

WORKER = "worker"  # the attribute of a trial that names who works on it


class Journal:
    """A file on this machine. The system frees the locks of a process that dies, so a dead worker shows at once."""

    def __init__(self, folder: Path, worker: str) -> None:
        self.path = folder / "journal.log"
        self.workers = folder / "workers"
        self.workers.mkdir(parents=True, exist_ok=True)
        self.worker = worker
        self.presence = FileLock(self.workers / worker)
        self.presence.acquire()
        self.lock = FileLock(folder / "lock")
        lock: Any = self  # has the two methods of Optuna's locks
        with self.lock:
            self.storage = optuna.storages.JournalStorage(JournalFileBackend(str(self.path), lock_obj=lock))

    def acquire(self) -> bool:
        """The journal's own lock, taken before every line. What a torn write left at its end goes."""
        self.lock.acquire()
        with open(self.path, "rb+") as file:
            content = b"\n" if file.seek(0, os.SEEK_END) == 0 else None
            if content is None:
                file.seek(-1, os.SEEK_END)
                content = file.read(1)
            if content != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self.lock.release()

    @contextmanager
    def claiming(self) -> Iterator[None]:
        """One worker at a time."""
        with self.lock:
            yield

    def dead_trials(self, study: optuna.Study) -> set[int]:
        """Numbers of the running trials whose worker is no more; without a name it died in the middle of a claim."""
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return {t.number for t in running if self._is_dead(t.user_attrs.get(WORKER, ""))}

    def _is_dead(self, worker: str) -> bool:
        if worker == self.worker:
            return False
        # The name stands in the journal, which anybody may have written: a path would be unlinked wherever it leads.
        is_name = isinstance(worker, str) and Path(worker).name == worker
        if not is_name or not (path := self.workers / worker).is_file():
            return True
        try:
            with FileLock(path, timeout=0):
                path.unlink(missing_ok=True)
            return True
        except Timeout:
            return False

    @contextmanager
    def alive(self, trial_id: int) -> Iterator[None]:
        yield  # the presence file says so

    def close(self) -> None:
        self.presence.release()
        (self.workers / self.worker).unlink(missing_ok=True)


def _encoded(url: str) -> str:
    """The URL with the signs of its password that would end it (@ / # …) written as %40 and so on."""
    parts = re.fullmatch(r"([^:]+://[^:/@]*:)(.*)(@[^@]*)", url, re.DOTALL)
    if parts is None:
        return url
    password = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", parts[2])
    return parts[1] + quote(password, safe="%") + parts[3]


class Database:
    """A PostgreSQL server that several machines reach. A worker that gives no sign for two heartbeats is dead."""

    LOCK = int.from_bytes(hashlib.sha256(b"gloss").digest()[:4], "big")

    def __init__(self, url: str, study: str, worker: str, heartbeat_seconds: int) -> None:
        if not url.startswith("postgresql"):
            raise ConfigError(
                "search.storage is not allowed: expected null (a file) or postgresql://user@host/database"
            )
        self.seconds = heartbeat_seconds
        self.worker = worker
        self.key = int.from_bytes(hashlib.sha256(study.encode()).digest()[:4], "big", signed=True)
        options = {"pool_pre_ping": True}  # a training lasts longer than some idle connections
        warnings.filterwarnings("ignore", message=".*[Hh]eartbeat", module="optuna")  # experimental
        try:
            parsed = sqlalchemy.make_url(_encoded(url))
            self.engine = sqlalchemy.create_engine(parsed, **options)
            with self.claiming(key=0):  # two that make the tables at once would trip over each other
                self.storage = optuna.storages.RDBStorage(
                    parsed.render_as_string(hide_password=False),
                    engine_kwargs=options,
                    heartbeat_interval=heartbeat_seconds,
                    grace_period=2 * heartbeat_seconds,
                )
        except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
            if isinstance(url, str):  # it could not be read, and may hold a password anywhere
                raise ConfigError("search.storage is not allowed: expected postgresql://user@host/database") from None
            reason = str(error).splitlines()[0]
            raise ConfigError(f"search.storage={url.render_as_string()} cannot be used: {reason}") from None

    @contextmanager
    def claiming(self, key: int | None = None) -> Iterator[None]:
        """One worker at a time; the server frees the lock of a connection that is gone."""
        take = sqlalchemy.text("SELECT pg_advisory_xact_lock(:all, :study)")
        with self.engine.begin() as connection:
            connection.execute(take, {"all": self.LOCK - 2**31, "study": self.key if key is None else key})
            yield

    def dead_trials(self, study: optuna.Study) -> set[int]:
        """As Journal's."""
        stale = set(self.storage._get_stale_trial_ids(study._study_id))  # public only as "fail them all"
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return {t.number for t in running if not t.user_attrs.get(WORKER) or t._trial_id in stale}

    @contextmanager
    def alive(self, trial_id: int) -> Iterator[None]:
        """Heartbeats from a thread while the context lasts."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(self.seconds):
                with suppress(Exception):  # a server that is away for a moment must not end the training
                    self.storage.record_heartbeat(trial_id)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def close(self) -> None:
        self.engine.dispose()
        self.storage.engine.dispose()
