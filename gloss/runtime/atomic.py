"""Files and folders that are written whole or not at all.

Each is written under a hidden name beside its place, reaches the disk, and is renamed: a reader, or a crash at any
moment, sees the old one or the whole new one (of a folder that is replaced, for a moment none). A killed process
leaves hidden files, which a run removes from its folder when it starts (`remove_half_written`); elsewhere they stay.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from safetensors import SafetensorError


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that replaces `path` once the block has ended well. Raises OSError that names `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _hidden(path)
    try:
        with _named(path), temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content`."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill that replaces `folder` once the block has ended well. Raises OSError that names `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _hidden(folder), _hidden(folder)
    try:
        with _named(folder):
            temporary.mkdir()
            yield temporary
            for path in (*temporary.rglob("*"), temporary):
                _fsync(path)
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_half_written(folder: Path) -> None:
    """Remove the half-written files of killed processes in `folder` and below it."""
    for path in sorted(folder.rglob(".*." + 8 * "[0-9a-f]")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn the error of a failed write, from any library, into an OSError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    except (SafetensorError, RuntimeError) as error:  # torch's writer hides the cause in the context
        code = re.search(r"os error (\d+)", str(error))
        number = int(code[1]) if code else getattr(error.__context__, "errno", None)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _fsync(path: Path) -> None:
    """Flush a file, or a rename inside a folder, to disk, so that it survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
