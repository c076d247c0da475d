"""Groups, tables and figures from synthetic runs: what several test files here share."""

import zlib

import numpy as np
from synthetic import cell, write_run

from gloss.records.reading import read_records
from gloss.report.figure import styled
from gloss.report.seed_groups import gather

DPI = 40
SPREAD = (-0.2, 0.0, 0.2)  # added to a mean for seeds 1, 2, 3: standard deviation 0.2


def groups_of(root, cells):
    return gather(cells, read_records(root)[0])[0]


def write_cell(root, accuracy, macro_f1=None, seeds=(1, 2, 3), **identity):
    for seed, offset in zip(seeds, SPREAD, strict=False):
        f1 = None if macro_f1 is None else macro_f1 + offset
        write_run(root, accuracy=accuracy + offset, macro_f1=f1, seed=seed, **identity)


def records(table):
    """The rows of a table's tidy form."""
    return table.data.to_dict("records")


def row(table, *keys):
    """The plain texts of the row that starts with these keys, and of the row below."""
    i = next(i for i, r in enumerate(table.rows) if tuple(e.plain() for e in r[: len(keys)]) == keys)
    return [e.plain() for e in table.rows[i]], [e.plain() for e in table.rows[i + 1]] if i + 1 < len(table.rows) else []


def sweep(root, config, scores, dataset="mr", loss="gloss_o", point=None, **identity):
    """A cell of a sweep whose seeds 1, 2 … have the scores given, and its runs."""
    c = cell(
        dataset=dataset,
        loss=loss,
        seeds=(1, 2, 3),
        config=config,
        config_hash=f"{zlib.crc32(str((config, point)).encode()):08x}",
        point=point,
        **identity,
    )
    for seed, score in enumerate(scores, start=1):
        write_run(root, dataset=dataset, loss=loss, config_hash=c.config_hash, seed=seed, accuracy=score, **identity)
    return c


def written(drawing, folder):
    with styled():
        drawing.save(folder, dpi=DPI)
    return {path.name: path.read_bytes() for path in folder.glob(f"{drawing.name}.*")}


def check_files(make, tmp_path):
    """The figure is written as PDF, PNG and CSV, twice the same."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    with styled():
        files = written(make(), first)
        assert files == written(make(), second)
    assert len(files) == 3 and b"CreationDate" not in next(v for k, v in files.items() if k.endswith("pdf"))


def embeddings_of(separation, labels):
    rng = np.random.default_rng(0)
    z = rng.normal(0, 0.3, (len(labels), 8))
    z[:, 0] += separation * (2 * labels - 1)
    return z.astype(np.float32)
