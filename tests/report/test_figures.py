"""Figures of single runs and of all runs: their numbers and their reproducibility."""

import json
import math
from itertools import product

import numpy as np
import pytest
from from_runs import check_files, embeddings_of, groups_of, ungrouped, write_groups
from synthetic import SECONDS, cell, write_run

from gloss.errors import RunError
from gloss.paper.names import DATASET_LOOK, LOSS_LOOK
from gloss.report.figure import panels, styled
from gloss.report.figures import runs as pictures
from gloss.report.figures.method import NODES, SIGMA, fig1
from gloss.report.figures.training import convergence, graph_quality, pretrained_graph


def test_plot_styles_differ_in_marker_or_line_style():
    for looks in (LOSS_LOOK, DATASET_LOOK):
        marks = {(look["marker"], str(look["linestyle"])) for name, look in looks.items() if name != "scl_ce"}
        assert len(marks) == len(looks) - ("scl_ce" in looks)


def test_fig1_shows_propagated_labels(tmp_path):
    """The shares equal an iteration: given labels are fixed, other nodes average over their edges."""
    xyz = [(x, y, math.sqrt(1 - x * x - y * y)) for x, y, *_ in NODES.tolist()]
    weights = np.array([[math.exp(-(math.dist(a, b) ** 2) / (2 * SIGMA**2)) * (a != b) for b in xyz] for a in xyz])
    scale = weights.sum(axis=1) ** -0.5
    steps = scale[:, None] * weights * scale
    steps /= steps.sum(axis=0)
    steps /= steps.sum(axis=1, keepdims=True)
    given, is_labeled = np.eye(2)[NODES[:, 2].astype(int)], NODES[:, 3].astype(bool)
    shares = np.full((len(NODES), 2), 0.5)
    for _ in range(2000):
        shares = np.where(is_labeled[:, None], given, steps @ shares)
    rows = fig1().data
    assert [r["is_labeled"] for r in rows] == is_labeled.tolist() and {r["class"] for r in rows} == {"A", "B"}
    for r, own in zip(rows, (shares * given).sum(axis=1), strict=True):
        assert r["propagated_own_class"] == (None if r["is_labeled"] else pytest.approx(own, abs=1e-9))
    check_files(fig1, tmp_path, times=2)


def test_fig4_shows_edge_weights_between_quantiles(tmp_path):
    """With a wide σ nearly all weights lie in a narrow band; a single distant text must not set the scale."""
    labels = np.arange(40) % 2
    arrays = {"sample_labels": labels, "epoch_1_embeddings": embeddings_of(0.2, labels)}
    arrays["epoch_20_embeddings"] = embeddings_of(3.0, labels)
    arrays["epoch_1_embeddings"][0] = [0, 0, -50, 0, 0, 0, 0, 0]
    groups = write_groups(tmp_path, {"loss": "gloss_o", "arrays": arrays, "accuracy": (85.0,)})
    drawing = pictures.fig4(groups)
    z = arrays["epoch_1_embeddings"].astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    same = [(i, j) for i in range(40) for j in range(40) if i != j and labels[i] == labels[j]]
    within = np.mean([np.exp(-((z[i] - z[j]) ** 2).sum() / (2 * 0.6**2)) for i, j in same])
    first, last = drawing.data
    assert first["epoch"] == 1 and first["within"] == pytest.approx(within, rel=1e-5)
    assert last["between"] < 0.01 < first["between"]
    nearest = [[frozenset((i, j)) for j in ((z - z[i]) ** 2).sum(axis=1).argsort()[1:4]] for i in range(40)]
    share = 100 * np.mean([len({labels[i] for i in edge}) == 1 for edge in set().union(*nearest)])
    titles = [ax.get_title() for ax in drawing.figure.axes if "within a class" in ax.get_title()]
    named = [f"epoch {i}\n{x:.0f} % of drawn edges within a class" for i, x in ((1, share), (20, 100))]
    assert titles == named and share < 90
    images = [ax.images[0] for ax in drawing.figure.axes if ax.images and ax.get_title()]
    weights = np.concatenate([image.get_array().data[~np.eye(40, dtype=bool)] for image in images])
    assert {image.get_clim() for image in images} == {tuple(np.quantile(weights, (0.02, 0.98)))}
    assert "sorted by class" in drawing.notes[0] and "2 to 98 % quantiles" in drawing.notes[0]
    check_files(lambda: pictures.fig4(groups), tmp_path)


@pytest.mark.parametrize("num_epochs", [2, 4, 6])
def test_fig4_titles_are_whole_and_apart(tmp_path, num_epochs):
    labels = np.arange(40) % 2
    arrays = {f"epoch_{i}_embeddings": embeddings_of(1.0, labels) for i in range(num_epochs)}
    groups = write_groups(
        tmp_path, {"loss": "gloss_o", "arrays": arrays | {"sample_labels": labels}, "accuracy": (85.0,)}
    )
    with styled():
        figure = pictures.fig4(groups).figure
        figure.draw_without_rendering()
    first, last = [ax.title.get_window_extent() for ax in figure.axes if "within a class" in ax.get_title()]
    assert figure.bbox.x0 <= first.x0 and first.x1 < last.x0 and last.x1 <= figure.bbox.x1


def test_figures_without_saved_embeddings(tmp_path):
    groups = write_groups(tmp_path, {"loss": "gloss_o", "accuracy": 85.0})
    assert pictures.fig4(groups) is None
    with pytest.raises(RunError, match="save_embeddings=true"):
        pictures.fig5(groups)
    for path in tmp_path.rglob("predictions.npz"):
        path.unlink()
    with pytest.raises(RunError, match="keeps no predictions.npz"):
        pictures.fig4(groups)


def test_fig5_shows_the_same_texts_for_every_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_POINTS", 40)
    labels = np.arange(60) % 2
    specs = [{"mode": "standalone", "loss": loss, "silhouette": 0.5} for loss in ("scl", "gloss_o", "cosine")]
    for spec, separation in zip(specs[:2], (0.5, 3.0), strict=True):
        arrays = {"test_labels": labels, "test_embeddings": embeddings_of(separation, labels)}
        spec |= {"arrays": arrays, "accuracy": (85.0,)}
    groups = write_groups(tmp_path, *specs, seeds=(1,))
    drawing = pictures.fig5(groups)
    rows = {loss: [r["row"] for r in drawing.data if r["loss"] == loss] for loss in ("scl", "gloss_o")}
    assert rows["scl"] == rows["gloss_o"] and len(set(rows["scl"])) == 40
    assert drawing.missing == ["dataset=mr model=bert mode=standalone loss=cosine seed=1"]
    check_files(lambda: pictures.fig5(groups), tmp_path, times=2)


def test_fig5_has_one_row_per_data_set_and_model_and_names_the_seeds(tmp_path):
    labels = np.arange(30) % 2
    seeds = {("mr", "bert"): {"scl": (2, 3), "gloss_o": (1, 3)}, ("r8", "minilm"): {"scl": (4,), "gloss_o": (5,)}}
    cells = []
    for (dataset, model), losses in seeds.items():
        for loss, found in losses.items():
            place = {"dataset": dataset, "model": model, "mode": "standalone", "loss": loss}
            cells.append(cell(seeds=found, **place))
            for seed in found:
                arrays = {"test_labels": labels, "test_embeddings": embeddings_of(seed, labels)}
                write_run(tmp_path, silhouette=seed / 10, arrays=arrays, seed=seed, **place)
    drawing = pictures.fig5(groups_of(tmp_path, cells))
    assert {(r["model"], r["loss"], r["seed"]) for r in drawing.data} == {
        *(("bert", "scl", 3), ("bert", "gloss_o", 3)),  # the common seed
        *(("minilm", "scl", 4), ("minilm", "gloss_o", 5)),  # no common seed: each panel names its seed
    }
    axes = drawing.figure.axes
    assert [ax.get_ylabel() for ax in axes] == ["MR, BERT-base", "", "R8, MiniLM", ""]
    collapsed = {"test_labels": labels, "test_embeddings": np.ones((30, 8))}
    (folder,) = (tmp_path / "runs" / "r8" / "minilm" / "standalone-scl").glob("*/seed=4")
    np.savez(folder / "predictions.npz", **collapsed)
    drawing_with_one = pictures.fig5(groups_of(tmp_path, cells))
    assert drawing_with_one.figure.axes[2].get_xlabel() == "no map, seed 4" and len(drawing_with_one.data) == 90
    assert any("loss=scl, seed 4: the embeddings of all 30 texts are the same" in x for x in drawing_with_one.notes)
    shown = [f"silhouette 0.{seed}0, seed {seed}" for seed in (3, 3, 4, 5)]
    assert [ax.get_xlabel() for ax in axes] == shown


def test_a_map_that_is_missing_leaves_the_names_and_the_legend_of_its_row(tmp_path):
    labels, cells = np.arange(30) % 2, []
    for dataset, loss in (("mr", "scl"), ("mr", "gloss_o"), ("r8", "gloss_sqrt")):
        place = {"dataset": dataset, "model": "bert", "mode": "standalone", "loss": loss}
        cells.append(cell(seeds=(1,), **place))
        write_run(tmp_path, arrays={"test_labels": labels, "test_embeddings": embeddings_of(1, labels)}, **place)
    figure = pictures.fig5(groups_of(tmp_path, cells)).figure
    assert [ax.get_ylabel() for ax in figure.axes[::3]] == ["MR, BERT-base", "R8, BERT-base"]
    assert all(ax.get_title() for ax in figure.axes[:3])
    assert [len(ax.artists) + (ax.get_legend() is not None) for ax in (figure.axes[2], figure.axes[5])] == [1, 1]


def test_fig6_omits_the_first_epoch_and_shared_devices(tmp_path):
    write_run(tmp_path, loss="ce", epochs=3, per_epoch=3.7)
    write_run(tmp_path, loss="ce", epochs=3, per_epoch=99.0, seed=2, shared_device=True)
    slow_start = write_run(tmp_path, loss="gloss_o", epochs=3, per_epoch=7.4) / "epochs.jsonl"
    first, *rest = slow_start.read_text().splitlines()
    slow_start.write_text("\n".join([first.replace('"total": 7.4', '"total": 1000.0'), *rest]))
    for seed, seconds in ((2, 11.1), (3, 14.8)):
        write_run(tmp_path, dataset="r8", model="minilm", epochs=3, per_epoch=seconds, seed=seed)
    cells = [cell(loss=loss, seeds=(1, 2)) for loss in ("ce", "gloss_o")]
    drawing = pictures.fig6(groups_of(tmp_path, [*cells, cell(dataset="r8", model="minilm", seeds=(2, 3))]))
    with pytest.raises(RunError, match="runs shared their device"):
        pictures.fig6(groups_of(tmp_path, [cell(loss="ce", seeds=(2,))]))
    ce, gloss, r8 = drawing.data
    assert {part: pytest.approx(value) for part, value in SECONDS.items()} == {part: ce[part] for part in SECONDS}
    assert (ce["total"], ce["epochs"]) == (pytest.approx(3.7), 2)
    assert gloss["total"] == pytest.approx(7.4) and gloss["other"] == pytest.approx(0, abs=1e-9)
    assert (r8["total"], r8["total_std"]) == pytest.approx((12.95, 3.7 / 3**0.5))  # of 11.1, 11.1, 14.8, 14.8
    assert any("runs shared their device (1)" in note for note in drawing.notes)
    labels = [ax.get_xlabel().partition(": ")[2] for ax in drawing.figure.axes]
    assert labels == ["MR, BERT-base", "R8, MiniLM"]


def changed(folder, **content):
    """Replace keys in the result.json of a run."""
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | content))


QUALITY = {"homophily": 0.5, "homophily_chance": 0.5, "propagated_accuracy": 50.0, "majority_accuracy": 50.0}


def measured_runs(root, loss, seeds, slope):
    """Runs whose homophily rises by `slope` points per epoch, and propagated accuracy by twice that."""
    for seed in seeds:
        folder = write_run(root, loss=loss, seed=seed, accuracy=80.0 + seed, epochs=4)
        rows = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
        better = [
            {"homophily": 0.5 + e * slope / 100, "propagated_accuracy": 50.0 + 2 * e * slope + seed} for e in range(5)
        ]
        qualities = [QUALITY | found for found in better]
        for row, found in zip(rows, qualities[1:], strict=True):
            row["val"] = {"graph_quality": found}
        (folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        best = {"at_start": qualities[0], "at_best": qualities[3]}
        changed(folder, graph_quality={"sigma": 0.5, "gamma": 0.6, **best})


def test_graph_quality_by_epoch_and_against_accuracy(tmp_path):
    write_run(tmp_path, loss="scl_ce")  # an older record without graph quality
    assert graph_quality(ungrouped(tmp_path)) == []
    measured_runs(tmp_path, "ce", (1, 2), 1.0)
    measured_runs(tmp_path, "gloss_sqrt", (1, 2), 3.0)
    (drawing,) = graph_quality(ungrouped(tmp_path))
    rows = {(r["loss"], r["measure"], r.get("epoch", r.get("seed"))): r for r in drawing.data}
    assert {loss for loss, *_ in rows} == {"ce", "gloss_sqrt"}
    assert rows["ce", "homophily", 4]["mean"] == pytest.approx(0.54)
    assert rows["gloss_sqrt", "propagated_accuracy", 0]["mean"] == pytest.approx(51.5)
    assert rows["gloss_sqrt", "propagated_accuracy", 2]["mean"] == pytest.approx(63.5)
    assert rows["ce", "at_best", 2]["test_accuracy"] == 82.0
    assert rows["ce", "at_best", 2]["propagated_accuracy"] == pytest.approx(50 + 2 * 3 + 2)
    left, _, right = drawing.figure.axes
    assert left.lines[0].get_ydata()[-1] == pytest.approx(4.0)  # points above chance
    assert list(right.lines[0].get_ydata()) == [81.0, 82.0]
    check_files(lambda: graph_quality(ungrouped(tmp_path))[0], tmp_path)


def test_the_graph_before_training_by_sigma(tmp_path):
    found = {x: {"homophily": 0.5 + 0.1 / x, "propagated_accuracy": 50 + 10 / x} for x in (0.25, 1.0)}
    graph = [QUALITY | {"scale": x, "sigma": x / 2} | found[x] for x in found]
    frozen = [
        {"dataset": d, "model": "minilm", "graph": rows} for d, rows in (("r8", graph), ("mr", graph), ("r52", []))
    ]
    assert pretrained_graph(frozen[2:]) is None
    drawing = pretrained_graph(frozen)
    assert [(r["dataset"], r["scale"]) for r in drawing.data] == [("mr", 0.25), ("mr", 1.0), ("r8", 0.25), ("r8", 1.0)]
    homophily, propagated = drawing.figure.axes
    assert list(homophily.lines[0].get_ydata()) == pytest.approx([40.0, 10.0])  # points above chance
    assert list(propagated.lines[1].get_ydata()) == [40.0, 10.0]
    check_files(lambda: pretrained_graph(frozen), tmp_path)


def test_a_control_does_not_replace_its_loss_in_convergence(tmp_path):
    """The control with a shuffled graph has equally many seeds and a better score; both are off the protocol."""
    for config_hash, is_shuffled, accuracy in (("11111111", False, 70.0), ("22222222", True, 90.0)):
        config = {"ablation": {"graph_shuffle": is_shuffled}, "dataset": {"train_limit": 2000}}
        for seed in (1, 2):
            run = {"loss": "gloss_sqrt", "mode": "standalone", "config_hash": config_hash, "config": config}
            write_run(tmp_path, seed=seed, accuracy=accuracy, **run)
    (drawing,) = convergence(ungrouped(tmp_path))
    assert max(r["score"] for r in drawing.data) < 71


def test_convergence_ends_at_the_first_stopped_seed(tmp_path):
    write_run(tmp_path, seed=1, accuracy=80.0, epochs=4)
    write_run(tmp_path, seed=2, accuracy=82.0, epochs=6)
    write_run(tmp_path, seed=3, accuracy=10.0, config_hash="ffffffff")  # fewer seeds: omitted with a note
    (drawing,) = convergence(ungrouped(tmp_path))
    assert [r["epoch"] for r in drawing.data] == [1, 2, 3, 4]
    # best epochs 3 and 5; the score falls by distance² / 10: 80 - 0 and 82 - 0.4 at epoch 3
    third = drawing.data[2]
    assert (third["score"], third["std"]) == pytest.approx(((80.0 + 81.6) / 2, 1.6 / 2**0.5))
    left_out = "Configurations left out of MR, BERT-base, integrated, for their other settings: CE (1)."
    assert left_out in drawing.notes


def test_convergence_picks_by_silhouette_in_standalone_mode(tmp_path):
    for config_hash, accuracy, silhouette in (("1" * 8, 90.0, 0.2), ("2" * 8, 80.0, 0.4)):
        run = {"config_hash": config_hash, "accuracy": accuracy, "silhouette": silhouette}
        write_run(tmp_path, mode="standalone", loss="scl", **run)
    (drawing,) = convergence(ungrouped(tmp_path))
    assert max(r["score"] for r in drawing.data) == 80.0


def test_convergence_names_the_values_of_the_drawn_configuration(tmp_path):
    for config_hash, lam, sigma, val in (("1" * 8, 0.2, "sqrt", 90.0), ("2" * 8, 0.5, 0.4, 80.0)):
        config = {"loss": {"lam": lam, "sigma": sigma}}
        write_run(tmp_path, loss="gloss_sqrt", config_hash=config_hash, accuracy=70.0, val=val, config=config)
    (drawing,) = convergence(ungrouped(tmp_path))
    (note,) = (note for note in drawing.notes if "best on validation" in note)
    assert note.endswith("best on validation, MR, BERT-base, integrated: G-Loss-SQRT + CE with λ 0.2, σ sqrt.")
    (drawing,) = convergence(ungrouped(tmp_path)[:1])
    assert not any("best on validation" in note for note in drawing.notes)


def test_convergence_draws_one_protocol_and_the_best_on_validation(tmp_path):
    """One figure per model. Reduced runs have a smaller config_hash and more losses, but are not drawn."""
    for dataset, model, seed in ((d, m, s) for d in ("mr", "r8", "r52") for m in ("bert", "minilm") for s in (1, 2)):
        place = {"dataset": dataset, "model": model, "seed": seed}
        for loss in ("ce", "gloss_o"):
            write_run(tmp_path, loss=loss, config_hash="0" * 8, config={"trainer": {"max_epochs": 3}}, **place)
        for config_hash, val in (("1" * 8, 80.0), ("2" * 8, 90.0)):
            write_run(tmp_path, config_hash=config_hash, accuracy=70.0, val=val, **place)
    drawings = convergence(ungrouped(tmp_path))
    assert [d.name for d in drawings] == ["convergence_bert", "convergence_minilm"]
    for drawing in drawings:
        assert {r["loss"] for r in drawing.data} == {"ce"} and len(drawing.figure.axes) == 3
        sets = ("mr", "r8", "r52")
        assert {round(max(r["score"] for r in drawing.data if r["dataset"] == d)) for d in sets} == {90}
        (note,) = [n for n in drawing.notes if "left out of R8" in n]
        assert note.endswith("CE (2), G-Loss-O + CE (1).")
    check_files(lambda: convergence(ungrouped(tmp_path))[0], tmp_path)


def test_runs_without_readable_epochs_are_not_drawn(tmp_path):
    (write_run(tmp_path, seed=1) / "epochs.jsonl").write_text('{"epoch": 1, "sco')
    (write_run(tmp_path, seed=2) / "epochs.jsonl").write_text("")
    assert convergence(ungrouped(tmp_path)) == []


def test_convergence_has_a_title_on_each_panel_no_empty_panels_and_a_legend_that_covers_none(tmp_path):
    for dataset, loss in product(("mr", "r8", "r52", "20ng"), ("ce", "gloss_o")):
        write_run(tmp_path, dataset=dataset, loss=loss)
    write_run(tmp_path, seed=2)
    with styled():
        (drawing,) = convergence(ungrouped(tmp_path))
        drawing.figure.draw_without_rendering()
    axes = drawing.figure.axes
    shown = [f"{d}, BERT-base, integrated\nn={n}" for d, n in (("MR", "1–2"), ("R8", 1), ("R52", 1), ("20NG", 1))]
    assert [ax.get_title() for ax in axes] == shown and all(ax.lines for ax in axes)
    (legend,) = drawing.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["CE", "G-Loss-O + CE"]
    covered = legend.get_window_extent()
    assert not any(ax.get_legend() or covered.overlaps(ax.get_window_extent()) for ax in axes)


def test_panels_with_the_same_deviations_share_a_note(tmp_path):
    for dataset, epochs in (("mr", 3), ("r8", 3), ("r52", 4)):
        write_run(tmp_path, dataset=dataset, config={"trainer": {"max_epochs": epochs}})
    (drawing,) = convergence(ungrouped(tmp_path))
    assert drawing.notes[1:] == [
        "Not the paper's protocol (MR, BERT-base, integrated; R8, BERT-base, integrated): trainer.max_epochs=3.",
        "Not the paper's protocol (R52, BERT-base, integrated): trainer.max_epochs=4.",
    ]


def test_convergence_prefers_the_cells_of_the_tables(tmp_path):
    short = {"trainer": {"max_epochs": 3}}
    for loss in ("ce", "gloss_o"):
        write_run(tmp_path, loss=loss, config_hash="0" * 8, config=short)
        write_run(tmp_path, loss=loss, config_hash="f" * 8, accuracy=99.0)
    cells = groups_of(tmp_path, [cell(loss=loss, config_hash="0" * 8, config=short) for loss in ("ce", "gloss_o")])
    (drawing,) = convergence(ungrouped(tmp_path), cells)
    assert {r["loss"] for r in drawing.data} == {"ce", "gloss_o"} and max(r["score"] for r in drawing.data) < 86
    assert "Not the paper's protocol (MR, BERT-base, integrated): trainer.max_epochs=3." in drawing.notes


def test_the_52_classes_of_r52_have_distinct_markers():
    figure, axes = panels(1, 1, width=1.0, height=1.0)
    labels = np.arange(52)
    handles = pictures.class_points(axes[0, 0], np.zeros((52, 2)), labels, list(map(str, labels)))
    looks = {(tuple(h.get_facecolor()[0]), h.get_paths()[0].vertices.tobytes()) for h in handles}
    assert len(looks) == 52
