"""Random inputs: properties of losses, CSV reader, record reader and configuration; invalid inputs give an error.

By default a short round of fixed cases runs; with `-m long`, a long round of new random cases (more than 10,000).
"""

from __future__ import annotations

import copy
import json
import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from loops import value_and_gradient
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from synthetic import result
from test_hostile import GONE, changed, places

from gloss.config import CONFIG_DIR, DatasetConfig, known_options
from gloss.data.datasets import load_dataset
from gloss.errors import ConfigError, DataError, RunError
from gloss.losses import batch_all_triplet_loss, choose_labeled, cosine_similarity_loss, gloss_loss, supcon_loss
from gloss.records.reading import read_record
from gloss.records.run_folder import run_folder
from gloss.resolve import resolve


def fuzz(short: int, long: int, *strategies: st.SearchStrategy) -> Callable:
    """Make a test of a property with random arguments: `short` cases by default, `long` cases with -m long."""

    def decorate(check: Callable) -> Callable:
        @pytest.mark.parametrize("cases", [short, pytest.param(long, marks=pytest.mark.long)])
        def test(cases: int) -> None:
            fixed = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
            settings(max_examples=cases, derandomize=cases == short, **fixed)(given(*strategies)(check))()

        test.__doc__ = check.__doc__
        return test

    return decorate


# -------------------------------------------------------------------------------------------------------------- losses


@st.composite
def batches(draw: st.DrawFn, tame: bool = False) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Embeddings [B, D], labels [B] and settings of all losses; tame: only generic points, where losses are smooth."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    num, width, classes = draw(st.integers(2, 14)), draw(st.integers(1, 8)), draw(st.integers(1, 6))
    x = torch.randn(num, width, dtype=torch.float64, generator=generator)
    labels = torch.randint(classes, (num,), generator=generator)
    shape = "normal" if tame else draw(st.sampled_from(["normal", "doubles", "clusters", "zeros", "one point"]))
    if shape == "doubles":
        x = x[torch.randint(num, (num,), generator=generator)]
    elif shape == "clusters":
        x = x[labels % num] + 10.0 ** draw(st.integers(-12, 0)) * x
    elif shape == "zeros":
        x = x * (torch.rand(num, 1, generator=generator) < 0.5)
    elif shape == "one point":
        x = x[:1].repeat(num, 1)
    scale = 10.0 ** draw(st.integers(-1, 1) if tame else st.integers(-20, 20))
    chosen = {
        "scale": scale,
        "sigma": 10.0 ** draw(st.floats(-1, 1) if tame else st.floats(-4, 4)),
        "is_labeled": choose_labeled(num, draw(st.floats(0.05, 0.95)), generator),
        "classes": classes + draw(st.integers(0, 2)),
        "temperature": 10.0 ** draw(st.floats(-1, 1) if tame else st.floats(-3, 3)),
        "margin": scale * draw(st.floats(0, 5)),
        "generator": generator,
    }
    return x * scale, labels, chosen


def losses(s: dict[str, Any]) -> dict[str, Callable]:
    graph = {"sigma": s["sigma"], "is_labeled": s["is_labeled"], "num_classes": s["classes"]}
    return {
        "gloss nll": lambda x, y: gloss_loss(x, y, **graph),
        "gloss softmax": lambda x, y: gloss_loss(x, y, **graph, objective="softmax"),
        "supcon": lambda x, y: supcon_loss(x, y, s["temperature"]),
        "triplet": lambda x, y: batch_all_triplet_loss(x, y, s["margin"]),
        "cosine": cosine_similarity_loss,
    }


@fuzz(40, 3000, batches(), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_losses_are_finite_and_at_least_0_with_finite_gradients(batch, dtype):
    x, labels, chosen = batch
    for name, loss in losses(chosen).items():
        value, gradient = value_and_gradient(loss, x.to(dtype), labels)
        assert value.isfinite() and value >= 0 and gradient.isfinite().all(), name


@fuzz(30, 2000, batches())
def test_losses_do_not_depend_on_the_order_of_the_batch(batch):
    x, labels, chosen = batch
    order = torch.randperm(len(x), generator=chosen["generator"])
    ordered = losses({**chosen, "is_labeled": chosen["is_labeled"][order]})
    # The bound is the rounding of logarithms as large as 2/σ² (graph) and 1/τ (contrastive loss).
    rounding = {"gloss nll": 2 / chosen["sigma"] ** 2, "gloss softmax": 2 / chosen["sigma"] ** 2}
    rounding |= {"supcon": 1 / chosen["temperature"], "triplet": chosen["scale"], "cosine": 1.0}
    for name, loss in losses(chosen).items():
        plain, other = loss(x, labels), ordered[name](x[order], labels[order])
        assert abs(plain - other) <= 1e-12 * (1 + rounding[name] + abs(plain)), name


@fuzz(30, 2000, batches(tame=True))
def test_gradients_equal_finite_differences(batch):
    x, labels, chosen = batch
    gaps = torch.cdist(x, x)[:, :, None] - torch.cdist(x, x)[:, None, :] + chosen["margin"]
    apart = 1 - torch.eye(len(x), dtype=torch.float64)
    assume(x.shape[1] > 1)  # with D = 1 unit vectors are ±1, and only the triplet loss has a gradient
    assume((x.norm(dim=1) > 0.2 * chosen["scale"]).all())  # near 0 the normalisation to unit length is nearly singular
    direction = torch.randn(x.shape, dtype=torch.float64, generator=chosen["generator"])
    step = 1e-5 * chosen["scale"]
    for name, loss in losses(chosen).items():
        if name == "triplet" and (gaps.abs()[apart.bool()] < 1e-3 * chosen["scale"]).any():
            continue  # a triplet at the edge of its margin: the mean over positive triplets jumps there
        value, gradient = value_and_gradient(loss, x, labels)
        measured = (loss(x + step * direction, labels) - loss(x - step * direction, labels)) / (2 * step)
        expected = (gradient * direction).sum()
        size = gradient.abs().max() * direction.abs().sum() + abs(value) / chosen["scale"]
        assert abs(measured - expected) <= 1e-5 * size + 1e-9 / chosen["scale"], name


# ----------------------------------------------------------------------------------------------------------------- CSV

CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(["", " ", "a", "1", '"', "\n"])
TABLE = st.lists(st.lists(CELL, min_size=1, max_size=4), max_size=30)
LABELLED = st.lists(st.tuples(st.text("abc", min_size=1, max_size=6), st.sampled_from("xyz")), min_size=9, max_size=40)
EDITS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=2)


def edited(content: bytes, edits: list[tuple[int, int]]) -> bytes:
    content = bytearray(content)
    for place, byte in edits:
        content[place % len(content)] = byte
    return bytes(content)


@st.composite
def csv_bytes(draw: st.DrawFn) -> bytes:
    """Noise, a random table, or a valid file of texts and labels, sometimes with a few bytes changed."""
    kind = draw(st.sampled_from(["noise", "table", "texts", "texts", "texts"]))
    if kind == "noise":
        return draw(st.binary(max_size=200))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    content = "text,label" + end + "".join(",".join(row) + end for row in draw(TABLE if kind == "table" else LABELLED))
    content = content.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))
    return edited(content, draw(EDITS)) if draw(st.booleans()) else content


ENCODING = st.sampled_from(["utf-8", "utf-8", "utf-8", "latin-1", "utf-16", "cp1252", "nonsense"])


@fuzz(60, 2500, csv_bytes(), ENCODING, st.sampled_from([None, None, *",,;\t|"]))
def test_a_csv_file_is_read_completely_or_refused(content, encoding, separator):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        path.write_bytes(content)
        cfg = DatasetConfig(name="csv", source="csv", path=str(path), encoding=encoding, separator=separator)
        try:
            dataset = load_dataset(cfg, folder, seed=0)
        except DataError as error:
            assert str(path) in str(error) or "csv" in str(error) or "encoding" in str(error)
            return
    rows = np.concatenate([split.rows for split in dataset.splits.values()])
    left_out = sum(int(count) for count in re.findall(r"(\d+) rows? left out", str(dataset.notes)))
    assert len(set(rows.tolist())) == len(rows)  # each row is in one split, and omitted rows are noted
    assert 2 <= min(rows) and max(rows) - 1 - len(rows) <= left_out
    assert len(dataset.labels) >= 2 and all(len(split) for split in dataset.splits.values())
    for split in dataset.splits.values():
        assert len(split.texts) == len(split.labels) and all(text.strip() for (text,) in split.texts)
        assert split.labels.min() >= 0 and split.labels.max() < len(dataset.labels)


# ------------------------------------------------------------------------------------------------------------ records

LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400)
JSON = st.recursive(LEAF, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3))


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """A valid result.json with some values replaced or removed, or with some bytes changed."""
    record = result()
    for _ in range(draw(st.sampled_from([0, 1, 1, 2, 3]))):
        path = draw(st.sampled_from(list(places(record))))
        record = changed(record, path, draw(st.just(GONE) | JSON))
    content = json.dumps(record).encode()
    return edited(content, draw(EDITS)) if draw(st.booleans()) else content


def numbers(tree: Any) -> list[float]:
    if isinstance(tree, dict | list):
        return [x for item in (tree.values() if isinstance(tree, dict) else tree) for x in numbers(item)]
    return [tree] if isinstance(tree, int | float) else []


@fuzz(60, 2500, records())
def test_a_record_is_valid_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "result.json").write_bytes(content)
        (Path(folder) / "DONE").touch()
        try:
            record = read_record(Path(folder))
        except RunError as error:
            assert "result.json cannot be used" in str(error)
            return
    for split in ("val", "test"):
        assert 0 <= record.result["metrics"][split]["accuracy"] <= 100
    assert all(math.isfinite(x) for x in numbers(record.result))
    assert json.dumps(record.result, allow_nan=False, ensure_ascii=False).encode()
    assert isinstance(record.identity.seed, int) and all(isinstance(x, str) for x in record.result["labels"])


# ------------------------------------------------------------------------------------------------------- configuration

WORDS = [
    *("sqrt", "standalone", "integrated", "ce", "gloss_o", "balanced", "../..", "/etc", "csv"),
    *(0.5, 1, 2, [], ["a"]),
]
VALUE = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(WORDS)
with initialize_config_dir(str(CONFIG_DIR), version_base=None):
    DEFAULT = compose("train")


@fuzz(60, 2000, st.lists(st.tuples(st.sampled_from(list(known_options())), VALUE), min_size=1, max_size=3))
def test_a_configuration_is_valid_or_refused(changes):
    cfg = copy.deepcopy(DEFAULT)
    try:
        for key, value in changes:
            OmegaConf.update(cfg, key, value)
        found = resolve(cfg)
    except (ConfigError, OmegaConfBaseException) as error:
        assert str(error)
        return
    found.paths.outputs = "/outputs"
    folder = Path(str(run_folder(found, fingerprint="f")))
    assert folder == folder.resolve() and folder.parts[:3] == ("/", "outputs", "runs") and len(folder.parts) == 8
