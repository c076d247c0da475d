"""The texts of a finished run, read again from the source in its configuration."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from gloss.config import DatasetConfig
from gloss.data.datasets import TextDataset, load_dataset
from gloss.errors import RunError
from gloss.records.reading import Record, shortened


def dataset_config(record: Record) -> DatasetConfig:
    """The data set configuration of a run. Raises RunError where a record, which may come from anywhere, has none."""
    try:
        return TypeAdapter(DatasetConfig).validate_python(record.result["config"].get("dataset"))
    except ValidationError as error:
        raise RunError(f"{record.folder}: its configuration names no data set: {shortened(error)}") from None


def dataset_of(record: Record, data_dir: str | Path | None = None) -> TextDataset:
    """The data set of a run, in the order of its predictions.

    data_dir: folder of the prepared sets; None: the run's own. Raises DataError where the data set cannot be read,
    RunError where its texts differ from the run's.
    """
    cfg = dataset_config(record)
    try:
        dataset = load_dataset(cfg, data_dir or record.result["config"]["paths"]["data"], record.identity.seed)
    except (LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{record.folder}: its configuration names no data set ({error!r})") from None
    if dataset.fingerprint != record.result.get("fingerprint") or dataset.labels != record.result["labels"]:
        raise RunError(f"the texts of {dataset.name} have changed since the run: it was trained on others")
    return dataset
