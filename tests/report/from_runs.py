"""Helpers of the report tests: groups, tables and figures from synthetic runs."""

import zlib

import numpy as np
from synthetic import cell, write_run

from gloss.records.reading import read_records
from gloss.report.figure import styled
from gloss.report.seed_groups import gather, ungrouped_runs

DPI = 40  # small pictures for fast tests
SPREAD = (-0.2, 0.0, 0.2)  # offsets of seeds 1, 2, 3 from a mean: standard deviation 0.2
OF_CELLS = ("dataset", "model", "mode", "loss", "config_hash", "config", "point")


def groups_of(root, cells):
    return gather(cells, read_records(root)[0])[0]


def ungrouped(root):
    return ungrouped_runs(read_records(root)[0])


def write_groups(root, *specs, seeds=(1, 2, 3)):
    """Write runs; return the groups of their cells, which request `seeds`.

    specs: arguments of `cell` and of `result`. accuracy: a tuple with the values of seeds 1, 2 …, or a mean, to which
    SPREAD is added; without it no run is written. config: changes of the configuration of the cell.
    """
    cells = []
    for spec in specs:
        asked = {key: spec[key] for key in OF_CELLS if key in spec}
        if "config" in asked or "point" in asked:
            asked.setdefault("config_hash", f"{zlib.crc32(str((spec.get('config'), spec.get('point'))).encode()):08x}")
        c = cell(seeds=seeds, **asked)
        c.variant = spec.get("variant", c.variant)
        cells.append(c)
        run = {key: x for key, x in spec.items() if key not in ("config", "point", "accuracy")}
        accuracy = spec.get("accuracy", ())
        for seed, score in zip(
            seeds, accuracy if isinstance(accuracy, tuple) else [accuracy + x for x in SPREAD], strict=False
        ):
            write_run(root, **{**run, "config_hash": c.config_hash, "seed": seed, "accuracy": score})
    return groups_of(root, cells)


def records(table):
    """The rows of a table's tidy data."""
    return table.data.to_dict("records")


def texts(row):
    return [e.plain() for e in row]


def ours(table):
    """The rows of a table with our numbers."""
    return [row for row in table.rows if "ours" in texts(row[:4])]


def row(table, *keys):
    """The plain texts of the row that starts with these keys, and of the next row."""
    i = next(i for i, r in enumerate(table.rows) if tuple(texts(r[: len(keys)])) == keys)
    return texts(table.rows[i]), texts(table.rows[i + 1]) if i + 1 < len(table.rows) else []


def check_files(make, tmp_path, times=1):
    """Check that the figure is written as PDF, PNG and CSV, each time with equal bytes."""
    written = []
    for name in ("first", "second")[:times]:
        folder = tmp_path / name
        folder.mkdir()
        with styled():
            make().save(folder, dpi=DPI)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written == [written[0]] * times and len(written[0]) == 3
    assert b"CreationDate" not in next(v for k, v in written[0].items() if k.endswith("pdf"))


def embeddings_of(separation, labels):
    z = np.random.default_rng(0).normal(0, 0.3, (len(labels), 8))
    z[:, 0] += separation * (2 * labels - 1)
    return z.astype(np.float32)
