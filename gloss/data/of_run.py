"""The texts of a finished run, read again from where its configuration says."""

from __future__ import annotations

from pathlib import Path

from gloss.config import DatasetConfig
from gloss.data.datasets import TextDataset, load_dataset
from gloss.errors import RunError
from gloss.records.reading import Record


def dataset_of(record: Record, data_dir: str | Path | None = None) -> TextDataset:
    """The data set of a run, in the order of its predictions.

    data_dir: folder of the prepared sets; None: the run's own. Raises DataError where the data set cannot be read,
    RunError where its texts differ from the run's.
    """
    config = record.result["config"]
    try:
        dataset_cfg, data_dir = DatasetConfig(**config["dataset"]), data_dir or config["paths"]["data"]
        dataset = load_dataset(dataset_cfg, data_dir, record.identity.seed)
    except (LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{record.folder}: its configuration names no data set of ours ({error!r})") from None
    if dataset.fingerprint != record.result.get("fingerprint") or dataset.labels != record.result["labels"]:
        raise RunError(f"the texts of {dataset.name} have changed since the run: it was trained on others")
    return dataset
