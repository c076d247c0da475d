"""A trained run as a model folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from gloss.errors import RunError
from gloss.models.saved_model import load_model, model_folder
from gloss.records.reading import Record
from gloss.runtime.atomic import atomic_folder


def export(record: Record, to: Path) -> Path:
    """Copy a run's model to the new folder `to`, after loading it once. Raises RunError where either cannot be done."""
    source = model_folder(record)
    if to.exists():
        raise RunError(f"to={to} exists already: give the name of a folder that does not exist, or remove it")
    load_model(source)
    with atomic_folder(to) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
    return to
