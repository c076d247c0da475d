"""Optuna's database: a SQLite file in the study's folder, for one machine, or a server, for several."""

from __future__ import annotations

import re
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import sqlalchemy

from gloss.errors import ConfigError

MAX_RETRIES = 2  # of a trial whose worker died
GRACE = 3  # heartbeats without a sign, after which a worker is dead
# Seconds to wait for the other workers' writing; transactions are SQLAlchemy's.
_SQLITE: dict[str, Any] = {"timeout": 60, "isolation_level": None, "check_same_thread": False}


def _encoded(url: str) -> str:
    """The URL with the characters of its password that would end it (@ / # …) written as %40 and so on."""
    parts = re.fullmatch(r"([^:]+://[^:/@]*:)(.*)(@[^@]*)", url, re.DOTALL)
    if parts is None:
        return url
    password = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", parts[2])
    return parts[1] + quote(password, safe="%") + parts[3]


def open_storage(url: str | None, path: Path, heartbeat_seconds: int) -> optuna.storages.RDBStorage:
    """The database at `url`, else the SQLite file `path`. Raises ConfigError, which doesn't show the password."""
    expected = "expected null (a SQLite file in the study's folder) or postgresql://user@host/database"
    try:
        parsed = sqlalchemy.make_url(_encoded(url or "sqlite:///study.db"))
    except sqlalchemy.exc.SQLAlchemyError:  # its message may hold a password anywhere
        raise ConfigError(f"search.storage is not allowed: {expected}") from None
    if url and parsed.get_backend_name() == "sqlite":
        raise ConfigError(f"search.storage={url} is not allowed: {expected}")
    options: dict[str, Any] = {"pool_pre_ping": True}  # a training lasts longer than some idle connections
    if not url:  # connected here, because a folder's name may hold signs that end a URL
        options = {"creator": partial(sqlite3.connect, path, **_SQLITE)}
    try:
        storage = optuna.storages.RDBStorage(
            parsed.render_as_string(hide_password=False),
            engine_kwargs=options,
            heartbeat_interval=heartbeat_seconds,
            grace_period=GRACE * heartbeat_seconds,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(MAX_RETRIES),
        )
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ConfigError(f"search.storage={parsed} cannot be used: {reason}") from None
    if not url:  # Optuna reads before it writes: two workers would read that a trial is free
        sqlalchemy.event.listen(storage.engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage
