"""Figures 2, 3 and 7 and our own experiments, from synthetic runs with known answers."""

import pytest
from from_runs import check_files, groups_of, sweep
from synthetic import cell, write_run

from gloss.report.figures import sweeps as lines
from gloss.report.tables import own_experiments as own


def test_fig2_shows_the_distance_to_the_best_mean(tmp_path):
    cells = [
        sweep(tmp_path, {"loss": {"lam": 0.8}}, (86.0, 88.0)),
        sweep(tmp_path, {"loss": {"lam": 0.2}}, (84.0, 84.0, 84.0)),
        sweep(tmp_path, {"loss": {"lam": 0.5}}, ()),
    ]
    groups = groups_of(tmp_path, cells)
    drawing = lines.fig2(groups)
    shown = [(row["x"], row["mean"], row["n"], row["distance"]) for row in drawing.data]
    assert shown == [(0.2, 84.0, 3, -3.0), (0.8, 87.0, 2, 0.0)]
    assert drawing.data[1]["std"] == pytest.approx(2**0.5)
    assert len(drawing.missing) == 2  # seed 3 of λ 0.8, all of λ 0.5
    assert "n=2–3" in drawing.figure.axes[0].get_legend().get_texts()[0].get_text()
    check_files(lambda: lines.fig2(groups), tmp_path)


def test_fig3_has_a_panel_for_gamma_and_one_for_sigma(tmp_path):
    gamma = groups_of(tmp_path, [sweep(tmp_path, {"loss": {"gamma": 0.5}}, (86.0, 88.0))])
    sigma = groups_of(tmp_path, [sweep(tmp_path, {"ablation": {"sigma_scale": 2.0}}, (80.0,))])
    drawing = lines.fig3(gamma, sigma)
    assert [(r["setting"], r["x"]) for r in drawing.data] == [("loss.gamma", 0.5), ("ablation.sigma_scale", 2.0)]
    assert not any("sigma_scale" in note for note in drawing.notes)  # what is swept is no departure
    assert lines.fig3([], []) is None


def test_fig2_and_fig3_mix_no_models_losses_or_other_settings(tmp_path):
    cells = []
    for i, (model, loss) in enumerate((m, x) for m in ("bert", "minilm") for x in ("gloss_sqrt", "gloss_o")):
        for dataset, offset in (("mr", 0.0), ("r8", 10.0)):
            for lam in (0.2, 0.8):
                score = 70.0 + i + offset + lam
                identity = {"dataset": dataset, "model": model, "loss": loss}
                cells.append(sweep(tmp_path, {"loss": {"lam": lam}}, (score, score), **identity))
    drawing = lines.fig2(groups_of(tmp_path, cells))
    assert len(drawing.figure.axes) == 4 and [len(ax.containers) for ax in drawing.figure.axes] == [2] * 4
    assert {row["distance"] for row in drawing.data if row["x"] == 0.8} == {0.0}
    assert all(row["distance"] == pytest.approx(-0.6) for row in drawing.data if row["x"] == 0.2)
    assert "BERT-base, integrated, G-Loss-SQRT + CE; BERT-base, integrated, G-Loss-O + CE; MiniLM" in drawing.notes[0]
    check_files(lambda: lines.fig2(groups_of(tmp_path, cells)), tmp_path)


def test_what_else_was_swept_has_a_line_of_its_own(tmp_path):
    settings = [(limit, lr) for limit in (20, 100) for lr in (1e-5, 2e-5)]
    cells = [
        sweep(
            tmp_path,
            {"dataset": {"train_limit": limit}, "trainer": {"lr": lr}},
            (70.0 + 1e5 * lr,),
            point={"dataset.train_limit": limit, "trainer.lr": lr},
        )
        for limit, lr in settings
    ]
    data = own.few_shot(groups_of(tmp_path, cells)).data
    found = {row["others"]: [r["mean"] for r in data if r["others"] == row["others"]] for row in data}
    assert found == {"trainer.lr=1e-05": [71.0, 71.0], "trainer.lr=2e-05": [72.0, 72.0]}


def test_fig7_gives_the_change_from_the_best_values(tmp_path):
    cells = [
        sweep(tmp_path, {}, (86.0, 87.0, 88.0)),
        sweep(tmp_path, {"ablation": {"sigma_scale": 0.5}}, (85.0, 86.0)),
        sweep(tmp_path, {"ablation": {"sigma_scale": 2.0}}, (87.5,)),
        sweep(tmp_path, {"ablation": {"lam_offset": -0.1}}, (86.9,)),
    ]
    drawing = lines.fig7(groups_of(tmp_path, cells))
    shown = [(r["setting"], r["x"], round(r["change"], 9), r["n"]) for r in drawing.data]
    assert shown == [
        ("ablation.lam_offset", -0.1, -0.1, 1),
        ("ablation.sigma_scale", 0.5, -1.5, 2),
        ("ablation.sigma_scale", 2.0, 0.5, 1),
    ]
    assert lines.fig7(groups_of(tmp_path, cells[1:])) is None  # nothing to compare with


def test_fig7_compares_each_cell_with_its_own_best_values(tmp_path):
    cells = []
    for dataset, model, best in (("mr", "bert", 86.0), ("r8", "bert", 95.0), ("mr", "minilm", 75.0)):
        for scale, score in ((1.0, best), (0.5, best - 2.0)):
            config, point = {"ablation": {"sigma_scale": scale}}, {"ablation": f"scale_{scale}"}
            cells.append(sweep(tmp_path, config, (score, score), dataset=dataset, model=model, point=point))
    cells += [sweep(tmp_path, {"ablation": {"sigma_scale": 0.5}}, (50.0,), dataset="r52")]  # its best was not run
    drawing = lines.fig7(groups_of(tmp_path, cells))
    assert [(r["dataset"], r["model"], r["change"]) for r in drawing.data] == [
        ("mr", "bert", -2.0),
        ("r8", "bert", -2.0),
        ("mr", "minilm", -2.0),
    ]
    titles = [ax.get_title() for ax in drawing.figure.axes]
    assert titles[1] == "R8, BERT-base, integrated, G-Loss-O + CE"
    check_files(lambda: lines.fig7(groups_of(tmp_path, cells)), tmp_path)


@pytest.mark.parametrize(
    "make, key, values",
    [
        (own.few_shot, ("dataset", "train_limit"), (20, 100)),
        (own.label_noise, ("ablation", "label_noise"), (0.0, 0.4)),
        (own.graph_noise, ("ablation", "graph_noise"), (0.0, 0.1)),
        (own.graph_size, ("trainer", "batch_size"), (128, 1024)),
    ],
)
def test_our_own_sweeps_draw_a_line_a_loss(tmp_path, make, key, values):
    section, name = key
    cells = [
        sweep(tmp_path, {section: {name: value}}, (80.0 + i, 82.0 + i), loss=loss)
        for loss in ("gloss_sqrt", "gloss_o")
        for i, value in enumerate(values)
    ]
    groups = groups_of(tmp_path, cells)
    rows = [r for r in make(groups).data if r["metric"] == "accuracy"]
    assert [(r["loss"], r["x"], r["mean"]) for r in rows] == [
        (loss, value, 81.0 + i) for loss in ("gloss_sqrt", "gloss_o") for i, value in enumerate(values)
    ]
    check_files(lambda: make(groups), tmp_path)


def noise_cells(root, gloss=(82.0, 83.2, 84.1), shuffled=(80.5, 81.0, 82.5), **changes):
    """Cross-entropy at 80, 81, 82; G-Loss with two noises; its graph shuffled."""
    cells = [sweep(root, changes, (80.0, 81.0, 82.0), loss="ce", point={"ablation.graph_shuffle": False})]
    for noise, is_shuffled, scores in ((0.0, False, gloss), (0.08, False, (79.0,)), (0.0, True, shuffled)):
        point = {"ablation.graph_noise": noise, "ablation.graph_shuffle": is_shuffled}
        config = {"ablation": {key.partition(".")[2]: value for key, value in point.items()}}
        cells.append(sweep(root, config | changes, scores, point=point))
    return groups_of(root, cells)


def test_graph_noise_says_what_of_the_gain_survives_the_shuffle(tmp_path):
    groups = noise_cells(tmp_path)
    drawing = own.graph_noise(groups)
    start = "MR, BERT-base, G-Loss-O + CE (integrated, n=3): 16 % of its gain over CE (+2.10 points"
    assert drawing.notes[0].startswith(start)
    assert drawing.notes[0].endswith("survives the shuffle; shuffled it is +0.33 from CE.")  # 0.3333 / 2.1
    labels = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert labels == ["CE (n=3)", "G-Loss-O + CE (n=1–3)", "G-Loss-O + CE (shuffled graph) (n=3)"]
    across = [line for line in drawing.figure.axes[0].lines if list(line.get_xdata()) == [0, 1]]
    assert [set(line.get_ydata()) for line in across] == [{81.0}, {244 / 3}]
    check_files(lambda: own.graph_noise(groups), tmp_path)


def test_no_share_of_a_gain_of_runs_off_the_protocol(tmp_path):
    (note,) = own.shuffle_notes(noise_cells(tmp_path, trainer={"max_epochs": 3}))
    assert "+2.10 points" in note and "survives" not in note and "bear no verdict" in note


@pytest.mark.parametrize("gloss", [(79.0, 81.5, 83.0), (79.0, 80.0, 81.0), (82.0,)])
def test_no_share_of_a_gain_that_is_none(tmp_path, gloss):
    notes = own.shuffle_notes(noise_cells(tmp_path, gloss=gloss))
    assert len(notes) == 1 and "no share of it can be named" in notes[0] and "survives" not in notes[0]


def test_shift_pairs_the_drop_by_seed(tmp_path):
    c = cell(config={"ablation": {"test_on": "sst2"}}, seeds=(1, 2))
    for seed, (inside, outside) in enumerate(((86.0, 80.0), (88.0, 81.0)), start=1):
        metrics = {
            k: {"accuracy": v, "macro_f1": v} for k, v in {"val": 90.0, "test": inside, "test_on": outside}.items()
        }
        write_run(tmp_path, seed=seed, metrics=metrics)
    table = own.shift(groups_of(tmp_path, [c]))
    shown = [e.plain() for e in table.rows[0]]
    assert shown == ["MR", "BERT-base", "CE", "87.00 ± 1.41 (2)", "80.50 ± 0.71 (2)", "6.50 ± 0.71"]
    assert table.columns[3:] == ["on MR", "on SST-2", "Drop"]


def test_shift_is_a_matrix_of_training_and_test_sets(tmp_path):
    scores = {"mr": {"test": 80.0, "test_on_r8": 70.0, "test_on_r52": 50.0}}
    scores["r8"] = {"test": 90.0, "test_on_mr": 60.0, "test_on_r52": 85.0}
    cells = []
    for dataset, found in scores.items():
        others = [split.removeprefix("test_on_") for split in found if split != "test"]
        cells.append(cell(dataset=dataset, config={"ablation": {"test_on": others}}))
        metrics = {k: {"accuracy": v, "macro_f1": v} for k, v in {"val": 90.0, **found}.items()}
        write_run(tmp_path, dataset=dataset, metrics=metrics)
    table = own.shift(groups_of(tmp_path, cells))
    assert table.columns == ["Trained on", "Model", "Loss", "on MR", "on R8", "on R52", "Drop"]
    assert [[e.plain().split(" ")[0] for e in row] for row in table.rows] == [
        ["MR", "BERT-base", "CE", "80.00", "70.00", "50.00", "20.00"],
        ["R8", "BERT-base", "CE", "60.00", "90.00", "85.00", "17.50"],
    ]


def test_variant_compares_paper_and_released_by_seed(tmp_path):
    cells = [cell(loss="gloss_o", seeds=(1, 2, 3), config_hash=d * 8) for d in "ab"]
    cells[1].variant = "released"
    for seed, d in enumerate((0.9, 1.0, 1.1), start=1):
        write_run(tmp_path, loss="gloss_o", seed=seed, accuracy=86.0 + d, config_hash="a" * 8)
        write_run(tmp_path, loss="gloss_o", seed=seed, accuracy=86.0, config_hash="b" * 8, variant="released")
    table, claims = own.variant(groups_of(tmp_path, cells))
    shown = [e.plain() for e in table.rows[0][4:]]
    assert shown == ["87.00 ± 0.10 (3)", "86.00 ± 0.00 (3)", "+1.00", "+0.75 to +1.25", "supported"]
    assert claims[0].differences == pytest.approx([0.9, 1.0, 1.1])


def test_variant_compares_equal_settings_only(tmp_path):
    cells = []
    runs = (("paper", 1, 87.0), ("released", 1, 86.0), ("paper", 2, 77.0), ("released", 2, 79.0))
    for d, (name, lr, score) in zip("abcd", runs, strict=True):
        cells.append(
            cell(config_hash=d * 8, config={"variant": {"name": name}}, point={"variant": name, "trainer.lr": lr})
        )
        write_run(tmp_path, config_hash=d * 8, variant=name, accuracy=score)
    table, claims = own.variant(groups_of(tmp_path, cells))
    assert [r[3].plain() for r in table.rows] == ["CE (trainer.lr=1)", "CE (trainer.lr=2)"]
    assert [c.differences for c in claims] == [[1.0], [-2.0]]
