"""Maps of embeddings: many classes, long or unusual class names, distances, predictions."""

from __future__ import annotations

import csv
import warnings

import numpy as np
import pytest
from test_predict import train_tiny

from gloss.inference.embedding_plot import embedding_map, map_of_run
from gloss.report.figure import styled


def map_of(names: list[str]):
    """A map of three texts per class; warnings are errors."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(names)), 3)
    embeddings = rng.normal(size=(len(labels), 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return embedding_map(embeddings, labels, labels, names, "pca", "map", "a set, " * 30)


def width_of_axes(drawing) -> float:
    """The width of the axes in inches after the layout."""
    with styled():
        drawing.figure.draw_without_rendering()
    ax = drawing.figure.axes[0]
    return ax.get_position().width * drawing.figure.get_figwidth()


@pytest.mark.parametrize(
    ("names", "has_legend"),
    [
        ([f"class {i}" for i in range(3)], True),
        ([f"class {i}" for i in range(51)], True),
        ([f"class {i}" for i in range(151)], False),
        (["a very long name of a class " * 20, "$formula_", "x\x1b[31m"], True),
        (["天気", "été", "\u202eabc"], True),
    ],
)
def test_a_map_has_room_for_any_number_and_length_of_class_names(names: list[str], has_legend: bool, tmp_path):
    drawing = map_of(names)
    ax = drawing.figure.axes[0]
    assert (ax.get_legend() is not None) is has_legend
    assert any("No legend" in note for note in drawing.notes) is not has_legend
    if len(names) > 3:
        assert width_of_axes(drawing) > 1.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawing.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.csv", "map.pdf", "map.png"]
    if has_legend:
        assert max(len(text.get_text()) for text in ax.get_legend().get_texts()) < 40
    assert {row["label"] for row in drawing.data} == set(names)  # the CSV has the full names


def test_a_map_shows_the_predictions_and_keeps_the_distances_of_a_plane(tmp_path):
    record = train_tiny(tmp_path)
    drawing = map_of_run(record, "test", "pca", "cpu")
    drawing.save(tmp_path / "map")
    assert {path.suffix for path in (tmp_path / "map").iterdir()} == {".pdf", ".png", ".csv"}
    rows = list(csv.DictReader((tmp_path / "map" / f"{drawing.name}.csv").open()))
    recorded = record.predictions()
    names = record.result["labels"]
    assert [row["predicted"] for row in rows] == [names[i] for i in recorded["test_logits"].argmax(axis=1)]
    assert [row["label"] for row in rows] == [names[i] for i in recorded["test_labels"]]

    # PCA keeps the distances of points in a plane.
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 40)
    plane = np.stack([np.cos(angle), np.sin(angle)], axis=1) @ np.linalg.qr(rng.normal(size=(8, 8)))[0][:2] * 5
    labels = rng.integers(0, 3, 40)
    drawing = embedding_map(plane, labels, labels, ["$a", "b_$", "c\x1b"], "pca", "plane", "$")
    xy = np.array([[float(row["x"]), float(row["y"])] for row in drawing.data])
    apart = np.linalg.norm(xy[:, None] - xy, axis=2)
    np.testing.assert_allclose(apart, np.linalg.norm(plane[:, None] - plane, axis=2) / 5, atol=1e-3)
    drawing.save(tmp_path)
