"""The demo: table and picture from synthetic runs, and the cells of its experiment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from from_runs import embeddings_of, texts, write_groups

from gloss.errors import RunError
from gloss.experiments.grid import expand_grid
from gloss.report.demo import demo, upright
from gloss.report.figure import styled
from gloss.report.figures.runs import principal_plane

CONFIG = {"trainer": {"max_epochs": 6, "lr": 1e-4, "batch_size": 64}, "model": {"max_length": 48}}
LEVELS = {"homophily_chance": 0.49, "majority_accuracy": 51.0}
QUALITY = {
    **{"sigma": 0.5, "gamma": 0.6},
    "at_start": {"homophily": 0.5, "propagated_accuracy": 53.0, **LEVELS},
    "at_best": {"homophily": 0.75, "propagated_accuracy": 79.0, **LEVELS},
}
SCORES = {"accuracy": 68.3, "macro_silhouette": 0.002, "knn_accuracy": 62.3}
FROZEN = [{"dataset": "mr", "model": "bert", "test": SCORES}]


@pytest.fixture
def parts(tmp_path: Path):
    """parts(frozen): the table and the picture of two losses."""
    labels = np.arange(60) % 2
    arrays = {"test_labels": labels, "test_embeddings": embeddings_of(2.0, labels)}
    run = {"config": CONFIG, "arrays": arrays, "graph_quality": QUALITY}
    specs = []
    for loss, score, knn in (("ce", 80.0, 78.5), ("gloss_sqrt", 82.0, 81.5)):
        metrics = {"accuracy": score, "macro_f1": score, "macro_silhouette": 0.3, "knn_accuracy": knn}
        specs.append({**run, "loss": loss, "accuracy": (score,), "metrics": {"val": metrics, "test": metrics}})
    groups = write_groups(tmp_path, *specs, seeds=(1,))
    (tmp_path / "baselines").mkdir()
    np.savez_compressed(tmp_path / "baselines" / "frozen-mr-bert.npz", test_embeddings=embeddings_of(0.0, labels))

    def make(frozen=FROZEN):
        with styled():
            return demo(groups, frozen, tmp_path)

    return make


def test_demo_compares_the_losses_with_the_frozen_encoder(parts):
    table, picture = parts()
    assert [texts(row) for row in table.rows] == [
        ["Frozen encoder + probe", "68.3", "0.002", "0.500", "53.0", "62.3"],
        ["CE", "80.0", "0.300", "0.750", "79.0", "78.5"],
        ["G-Loss-SQRT + CE", "82.0", "0.300", "0.750", "79.0", "81.5"],
    ]
    assert "chance 0.490" in table.notes[2] and "chosen on validation texts" in table.notes[0]
    titles = [ax.get_title() for ax in picture.figure.axes]
    assert titles == ["Before training", "CE", "G-Loss-SQRT + CE"] and len(picture.data) == 3 * 60
    before, _, after = ([row for row in picture.data if row["panel"] == title] for title in titles)
    gaps = [abs(np.mean([float(r["x"]) * (2 * r["label"] - 1) for r in rows])) for rows in (before, after)]
    assert gaps[1] > 2 * gaps[0]


def test_missing_or_mismatched_embeddings_give_an_error(parts, tmp_path):
    assert texts(parts([])[0].rows[0])[0] == "Frozen encoder + probe"
    path = tmp_path / "baselines" / "frozen-mr-bert.npz"
    np.savez_compressed(path, test_embeddings=np.ones((59, 4)))
    with pytest.raises(RunError, match="embeddings of 59 texts, where the runs tested 60"):
        parts()
    path.unlink()
    with pytest.raises(RunError, match="make demo measures it again"):
        parts()


def test_upright_orients_the_plane_consistently():
    angle = np.linspace(0, np.pi, 80)
    arch = np.stack([np.cos(angle), np.sin(angle), 0.01 * np.sin(9 * angle)], axis=1) @ np.diag([1, 0.5, 1])
    labels = (angle < 1.5).astype(int)
    for turned in (arch, arch * [-1, 1, 1], arch * [1, -1, 1]):
        xy = upright(principal_plane(turned), labels)
        assert xy[labels == 1, 0].mean() > xy[labels == 0, 0].mean()
        assert xy[[0, -1], 1].max() < xy[40, 1]


def test_the_demo_trains_three_losses_on_one_sample_of_film_reviews():
    cells = expand_grid("demo")
    assert [c.loss for c in cells] == ["ce", "scl_ce", "gloss_sqrt"]
    assert {(c.dataset, c.model, c.seeds, c.config.dataset.train_limit) for c in cells} == {
        ("snippets_movie", "minilm", (1,), 1000)
    }
    assert all(c.config.trainer.save_embeddings for c in cells)
