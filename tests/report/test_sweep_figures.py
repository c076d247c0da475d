"""Figures 2, 3 and 7 and our own experiments, from synthetic runs with known results."""

from itertools import product

import numpy as np
import pytest
from from_runs import check_files, groups_of, records, texts, write_groups
from synthetic import cell, write_run

from gloss.report.figures import sweeps
from gloss.report.tables import comparisons


def at(path, value, *scores, **spec):
    """A cell of a sweep at a value of "section.key", with the scores of seeds 1, 2 …"""
    section, key = path.split(".")
    return {"loss": "gloss_o", "config": {section: {key: value}}, "accuracy": scores, **spec}


def test_fig2_shows_the_distance_to_the_best_mean(tmp_path):
    specs = [at("loss.lam", 0.8, 86.0, 88.0), at("loss.lam", 0.2, 84.0, 84.0, 84.0), at("loss.lam", 0.5)]
    groups = write_groups(tmp_path, *specs)
    drawing = sweeps.fig2(groups)
    shown = [(row["x"], row["mean"], row["n"], row["change"], row["pairs"]) for row in drawing.data]
    assert shown == [(0.2, 84.0, 3, 0.0, 3), (0.8, 87.0, 2, 3.0, 2)]  # paired: 86 - 84, 88 - 84
    assert drawing.data[1]["std"] == drawing.data[1]["change_std"] == pytest.approx(2**0.5)
    assert (
        "Held, MR, BERT-base, integrated, G-Loss-O + CE, against λ: σ 0.6, γ 0.6, learning rate 2e-05." in drawing.notes
    )
    line, hollow = drawing.figure.axes[0].lines[0], drawing.figure.axes[0].lines[-1]
    assert np.isnan(line.get_ydata()[1]) and list(line.get_xdata()) == [0.2, 0.5, 0.8]  # λ 0.5 interrupts the line
    assert 0.8 in hollow.get_xdata() and 0.2 not in hollow.get_xdata()
    assert len(drawing.missing) == 2  # seed 3 of λ 0.8, all of λ 0.5
    assert "n=2–3" in drawing.figure.axes[0].get_legend().get_texts()[0].get_text()
    check_files(lambda: sweeps.fig2(groups), tmp_path)


def test_fig3_has_one_panel_for_gamma_and_one_for_sigma(tmp_path):
    gamma = write_groups(tmp_path, at("loss.gamma", 0.5, 86.0, 88.0))
    sigma = write_groups(tmp_path, at("ablation.sigma_scale", 2.0, 80.0))
    drawing = sweeps.fig3(gamma, sigma)
    assert [(r["setting"], r["x"]) for r in drawing.data] == [("loss.gamma", 0.5), ("ablation.sigma_scale", 2.0)]
    assert not any("sigma_scale" in note for note in drawing.notes)  # a swept key is no deviation from the protocol
    assert sweeps.fig3([], []) is None
    (only,) = sweeps.fig3(gamma, []).figure.axes
    assert only.get_xlabel() == "γ, labeled fraction\nBERT-base, integrated, G-Loss-O + CE"


def test_fig2_separates_models_losses_and_other_settings(tmp_path):
    specs = []
    for i, (model, loss) in enumerate((m, x) for m in ("bert", "minilm") for x in ("gloss_sqrt", "gloss_o")):
        for dataset, offset in (("mr", 0.0), ("r8", 10.0)):
            place = {"dataset": dataset, "model": model, "loss": loss}
            specs += [at("loss.lam", lam, *[70.0 + i + offset + lam] * 2, **place) for lam in (0.2, 0.8)]
    drawing = sweeps.fig2(write_groups(tmp_path, *specs))
    assert len(drawing.figure.axes) == 4 and [len(ax.containers) for ax in drawing.figure.axes] == [2] * 4
    assert {row["change"] for row in drawing.data if row["x"] == 0.8} == {0.0}
    assert all(row["change"] == pytest.approx(-0.6) for row in drawing.data if row["x"] == 0.2)
    assert "BERT-base, integrated, G-Loss-SQRT + CE; BERT-base, integrated, G-Loss-O + CE; MiniLM" in drawing.notes[0]


def test_other_swept_keys_have_separate_lines(tmp_path):
    specs = []
    for limit, lr in product((20, 100), (1e-5, 2e-5)):
        point = {"dataset.train_limit": limit, "trainer.lr": lr}
        specs.append(at("dataset.train_limit", limit, 70.0 + 1e5 * lr, point=point))
    data = sweeps.sweep("few_shot", write_groups(tmp_path, *specs)).data
    found = {row["others"]: [r["mean"] for r in data if r["others"] == row["others"]] for row in data}
    assert found == {"trainer.lr=1e-05": [71.0, 71.0], "trainer.lr=2e-05": [72.0, 72.0]}


def test_fig7_compares_each_cell_with_its_best_values(tmp_path):
    sigma, lam = "ablation.sigma_scale", "ablation.lam_offset"
    mr = [at(sigma, 0.5, 85.0, 86.0), at(sigma, 2.0, 87.5), at(lam, -0.1, 86.9)]
    r8 = [at(sigma, 1.0, 95.0, 95.0, dataset="r8"), at(sigma, 0.5, 93.0, 93.0, dataset="r8")]
    r52 = [at(sigma, 0.5, 50.0, dataset="r52")]  # the cell with its best values is missing
    groups = write_groups(tmp_path, at(sigma, 1.0, 86.0, 87.0, 88.0), *mr, *r8, *r52)
    drawing = sweeps.fig7(groups)
    shown = [(r["dataset"], r["setting"], r["x"], round(r["change"], 9), r["n"]) for r in drawing.data]
    assert shown == [
        ("mr", lam, -0.1, 0.9, 1),  # paired by seed: 86.9 - 86
        ("mr", sigma, 0.5, -1.0, 2),
        ("mr", sigma, 2.0, 1.5, 1),
        ("r8", sigma, 0.5, -2.0, 2),
    ]
    assert [r["change_std"] for r in drawing.data if r["x"] == 0.5] == [0.0, 0.0]  # all of 85, 86 is the seeds' spread
    assert drawing.figure.axes[1].get_title() == "R8, BERT-base, integrated, G-Loss-O + CE"
    assert sweeps.fig7([g for g in groups if g.dataset == "r52"]) is None  # no reference cell
    check_files(lambda: sweeps.fig7(groups), tmp_path)


@pytest.mark.parametrize(
    ("name", "path", "values"),
    [
        ("few_shot", "dataset.train_limit", (20, 100)),
        ("label_noise", "ablation.label_noise", (0.0, 0.4)),
        ("graph_noise", "ablation.graph_noise", (0.0, 0.1)),
        ("graph_size", "trainer.batch_size", (128, 1024)),
    ],
)
def test_own_sweeps_draw_one_line_per_loss(tmp_path, name, path, values):
    losses = ("gloss_sqrt", "gloss_o")
    specs = [at(path, x, 80.0 + i, 82.0 + i, loss=loss) for loss in losses for i, x in enumerate(values)]
    groups = write_groups(tmp_path, *specs)
    rows = [r for r in sweeps.sweep(name, groups).data if r["metric"] == "accuracy"]
    expected = [(loss, x, 81.0 + i) for loss in losses for i, x in enumerate(values)]
    assert [(r["loss"], r["x"], r["mean"]) for r in rows] == expected
    check_files(lambda: sweeps.sweep(name, groups), tmp_path)


@pytest.mark.parametrize(("second", "is_hollow"), [((80.0, 82.0), False), ((80.0,), True)])
def test_a_sweep_explains_its_hollow_points(tmp_path, second, is_hollow):
    path = "dataset.train_limit"
    drawing = sweeps.sweep("few_shot", write_groups(tmp_path, at(path, 20, 70.0, 71.0), at(path, 100, *second)))
    assert any(note.startswith("Hollow:") for note in drawing.notes) == is_hollow
    assert (100 in drawing.figure.axes[0].lines[-1].get_xdata()) == is_hollow


def test_all_texts_are_drawn_at_their_number(tmp_path):
    """dataset.train_limit=null of few_shot."""
    path = "dataset.train_limit"
    groups = write_groups(tmp_path, *(at(path, x, y, point={path: x}) for x, y in ((20, 70.0), (None, 75.0))))
    number = next(iter(groups[1].values("num_rows", "train").values()))
    drawn = [(row["x"], row["mean"]) for row in sweeps.sweep("few_shot", groups).data]
    assert drawn == [(20, 70.0), (number, 75.0)] and number == 100
    assert groups[1].name.endswith("dataset.train_limit=null")  # as Hydra takes it


def noise_cells(root, gloss=(82.0, 83.2, 84.1), **changes):
    """Cross-entropy with scores 80, 81, 82; G-Loss with two noise levels and with a shuffled graph."""
    specs = [{"accuracy": (80.0, 81.0, 82.0), "point": {"ablation.graph_shuffle": False}, "config": changes}]
    for noise, is_shuffled, scores in ((0.0, False, gloss), (0.08, False, (79.0,)), (0.0, True, (80.5, 81.0, 82.5))):
        ablation = {"graph_noise": noise, "graph_shuffle": is_shuffled}
        point = {f"ablation.{key}": value for key, value in ablation.items()}
        config = {"ablation": ablation, **changes}
        specs.append({"loss": "gloss_o", "accuracy": scores, "point": point, "config": config})
    return write_groups(root, *specs)


def test_a_shared_legend_names_a_loss_once_with_the_seeds_of_all_panels(tmp_path):
    specs = [{"dataset": "mr", "accuracy": (80.0, 81.0, 82.0)}, {"dataset": "r8", "accuracy": (90.0, 91.0)}]
    drawing = sweeps.sweep("graph_noise", write_groups(tmp_path, *specs))
    (legend,) = drawing.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["CE (n=2–3)"]


def test_graph_noise_notes_the_share_of_the_gain_after_the_shuffle(tmp_path):
    groups = noise_cells(tmp_path)
    drawing = sweeps.sweep("graph_noise", groups)
    start = "MR, BERT-base, G-Loss-O + CE (integrated, n=3): 16 % of its gain over CE (+2.10 points"
    assert drawing.notes[0].startswith(start)
    assert drawing.notes[0].endswith("survives the shuffle; shuffled it is +0.33 from CE.")  # 0.3333 / 2.1
    lines = [container.lines[0] for container in drawing.figure.axes[0].containers]
    looks = [line.get_linestyle() for line in lines]
    assert looks[2] == ":" and ":" not in looks[:2]  # the line style of another setting
    assert {line.get_fillstyle() for line in lines} == {"full"}  # hollow: fewer seeds
    labels = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert labels == ["CE (n=3)", "G-Loss-O + CE (n=1–3)", "G-Loss-O + CE (shuffled graph) (n=3)"]
    across = [line for line in drawing.figure.axes[0].lines if list(line.get_xdata()) == [0, 1]]
    assert [set(line.get_ydata()) for line in across] == [{81.0}, {244 / 3}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": {"max_epochs": 3}}, "bear no verdict"),  # off the protocol
        ({"gloss": (79.0, 81.5, 83.0)}, "no share of it can be named"),  # the gain is not resolved
        ({"gloss": (79.0, 80.0, 81.0)}, "no share of it can be named"),  # the gain is negative
        ({"gloss": (82.0,)}, "no share of it can be named"),
    ],
)
def test_no_share_is_noted_without_a_resolved_gain(tmp_path, changes, message):
    (note,) = sweeps.shuffle_notes(noise_cells(tmp_path, **changes))
    assert message in note and "survives" not in note


def shift_groups(root, scores):
    """Groups for the shift table; scores: by training set and split, of seeds 1, 2 …"""
    cells = []
    for dataset, found in scores.items():
        others = [split.removeprefix("test_on_") for split in found if split != "test"]
        cells.append(cell(dataset=dataset, config={"ablation": {"test_on": others}}, seeds=(1, 2)))
        sizes = {"train": 100, "val": 10, **{split: 50 for split in found}}
        for i in range(len(found["test"])):
            metrics = {k: {"accuracy": v[i], "macro_f1": v[i]} for k, v in {"val": (90.0,) * 2, **found}.items()}
            sizes |= {"test_on_r8": 50 + 10 * i}
            write_run(root, dataset=dataset, seed=i + 1, metrics=metrics, num_rows=sizes)
    return groups_of(root, cells)


def test_shift_table_compares_training_on_the_tested_set_and_elsewhere_by_seed(tmp_path):
    scores = {"mr": {"test": (80.0, 82.0), "test_on_r8": (70.0, 70.0), "test_on_r52": (50.0, 51.0)}}
    scores["r8"] = {"test": (90.0,), "test_on_mr": (60.0,), "test_on_r52": (85.0,)}
    table = comparisons.shift(shift_groups(tmp_path, scores))
    assert table.columns == ["Trained on", "Model", "Loss", "on MR", "on R8", "on R52", "Lost"]
    mr, r8 = map(texts, table.rows)
    assert mr[2:] == ["CE", "81.00 ± 1.41 (2)", "70.00 ± 0.00 (2)", "50.50 ± 0.71 (2)", "20.00"]  # R8: 90 - 70, seed 1
    assert r8[2:] == ["CE", "60.00 (1 of 2)", "90.00 (1 of 2)", "85.00 (1 of 2)", "20.00"]  # MR: 80 - 60
    assert "Texts tested, without those that a run trains or validates on: MR to R8 50 to 60;" in table.notes[1]


def test_the_loss_by_shift_is_over_the_seeds_with_all_sets(tmp_path):
    scores = {"mr": {"test": (80.0, 80.0), "test_on_r8": (70.0, 70.0), "test_on_r52": (50.0, 50.0)}}
    scores["r8"] = {"test": (90.0, 90.0), "test_on_mr": (60.0, 60.0), "test_on_r52": (85.0, 85.0)}
    scores["r52"] = {"test": (90.0,), "test_on_mr": (60.0,), "test_on_r8": (85.0,)}
    mr, *_ = comparisons.shift(shift_groups(tmp_path, scores)).rows
    assert mr[-1].plain() == "30.00"  # seed 1: (90 - 70 + 90 - 50) / 2; seed 2 lacks R52's own run


def test_variant_compares_paper_and_released_by_seed_and_equal_settings(tmp_path):
    specs = [{"loss": "gloss_o", "accuracy": (86.9, 87.0, 87.1), "config_hash": "a" * 8}]
    specs += [{"loss": "gloss_o", "accuracy": (86.1, 86.0, 85.9), "config_hash": "b" * 8, "variant": "released"}]
    runs = (("paper", 1, 87.0), ("released", 1, 86.0), ("paper", 2, 77.0), ("released", 2, 79.0))
    for name, lr, score in runs:
        point = {"variant": name, "trainer.lr": lr}
        specs.append({"config": {"variant": {"name": name}}, "variant": name, "point": point, "accuracy": (score,)})
    table, claims = comparisons.variant(write_groups(tmp_path, *specs))
    assert [r[3].plain() for r in table.rows] == ["G-Loss-O + CE", "CE (trainer.lr=1)", "CE (trainer.lr=2)"]
    shown = ["87.00 ± 0.10 (3)", "86.00 ± 0.10 (3)", "+1.00", "+0.50 to +1.50", "supported"]
    assert texts(table.rows[0][4:]) == shown and records(table)[0]["difference_std"] == pytest.approx(0.2)
    assert [(c["pairs"], c["difference"]) for c in claims[1:]] == [(1, 1.0), (1, -2.0)]
