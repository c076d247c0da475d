"""Every figure from synthetic runs: the numbers it shows, and that it is drawn and written the same each time."""

import json
import zlib

import numpy as np
import pytest
from synthetic import SECONDS, cell, write_run

from gloss.errors import RunError
from gloss.paper.names import DATASET_LOOK, LOSS_LOOK
from gloss.records.reading import read_records
from gloss.report.figure import styled
from gloss.report.figures import graph_quality as quality
from gloss.report.figures import runs as pictures
from gloss.report.figures import sweeps as lines
from gloss.report.seed_groups import gather, ungrouped_runs
from gloss.report.tables import all_runs as overview
from gloss.report.tables import own_experiments as own

DPI = 40


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


def groups_of(root, cells):
    return gather(cells, read_records(root)[0])[0]


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


def test_losses_differ_in_more_than_colour():
    for looks in (LOSS_LOOK, DATASET_LOOK):
        marks = {(look["marker"], str(look["linestyle"])) for name, look in looks.items() if name != "scl_ce"}
        assert len(marks) == len(looks) - ("scl_ce" in looks)


def test_fig1_is_drawn(tmp_path):
    check_files(pictures.fig1, tmp_path)


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


def embeddings_of(separation, labels):
    rng = np.random.default_rng(0)
    z = rng.normal(0, 0.3, (len(labels), 8))
    z[:, 0] += separation * (2 * labels - 1)
    return z.astype(np.float32)


def test_fig4_weights_agree_with_the_formula(tmp_path):
    labels = np.arange(40) % 2
    arrays = {"sample_labels": labels, "epoch_1_embeddings": embeddings_of(0.2, labels)}
    arrays["epoch_20_embeddings"] = embeddings_of(3.0, labels)
    c = cell(loss="gloss_o")
    write_run(tmp_path, loss="gloss_o", config_hash=c.config_hash, arrays=arrays)
    groups = groups_of(tmp_path, [c])
    data = pictures.fig4(groups).data
    z = arrays["epoch_1_embeddings"].astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    within = [
        np.exp(-((z[i] - z[j]) ** 2).sum() / (2 * 0.6**2))
        for i in range(40)
        for j in range(40)
        if i != j and labels[i] == labels[j]
    ]
    assert data[0]["epoch"] == 1 and data[0]["within"] == pytest.approx(np.mean(within), rel=1e-5)
    assert data[1]["between"] < 0.01 < data[0]["between"]
    check_files(lambda: pictures.fig4(groups), tmp_path)


def test_fig4_without_kept_embeddings_is_not_drawn(tmp_path):
    write_run(tmp_path, loss="gloss_o")
    assert pictures.fig4(groups_of(tmp_path, [cell(loss="gloss_o")])) is None


def test_fig5_shows_the_same_texts_for_every_loss(tmp_path):
    labels = np.arange(60) % 2
    cells = [cell(mode="standalone", loss=loss) for loss in ("scl", "gloss_o", "cosine")]
    for c, separation in zip(cells[:2], (0.5, 3.0), strict=True):
        arrays = {"test_labels": labels, "test_embeddings": embeddings_of(separation, labels)}
        write_run(tmp_path, mode="standalone", loss=c.loss, config_hash=c.config_hash, silhouette=0.5, arrays=arrays)
    groups = groups_of(tmp_path, cells)
    drawing = pictures.fig5(groups, max_points=40)
    rows = {loss: [r["row"] for r in drawing.data if r["loss"] == loss] for loss in ("scl", "gloss_o")}
    assert rows["scl"] == rows["gloss_o"] and len(set(rows["scl"])) == 40
    assert drawing.missing == ["dataset=mr model=bert mode=standalone loss=cosine seed=1"]
    check_files(lambda: pictures.fig5(groups, max_points=40), tmp_path)


def test_fig5_has_a_row_a_data_set_and_model_and_says_the_seeds(tmp_path):
    labels = np.arange(30) % 2
    seeds = {("mr", "bert"): {"scl": (2, 3), "gloss_o": (1, 3)}, ("r8", "minilm"): {"scl": (4,), "gloss_o": (5,)}}
    cells = []
    for (dataset, model), losses in seeds.items():
        for loss, found in losses.items():
            c = cell(dataset=dataset, model=model, mode="standalone", loss=loss, seeds=found)
            cells.append(c)
            for seed in found:
                arrays = {"test_labels": labels, "test_embeddings": embeddings_of(seed, labels)}
                run = {"dataset": dataset, "model": model, "mode": "standalone", "loss": loss, "seed": seed}
                write_run(tmp_path, silhouette=seed / 10, arrays=arrays, **run)
    drawing = pictures.fig5(groups_of(tmp_path, cells))
    assert {(r["model"], r["loss"], r["seed"]) for r in drawing.data} == {
        ("bert", "scl", 3),  # the seed that both ran
        ("bert", "gloss_o", 3),
        ("minilm", "scl", 4),  # none in common: each panel names its own
        ("minilm", "gloss_o", 5),
    }
    axes = drawing.figure.axes
    assert [ax.get_ylabel() for ax in axes] == ["MR, BERT-base\nseed 3", "", "R8, MiniLM", ""]
    shown = ["silhouette 0.30", "silhouette 0.40, seed 4", "silhouette 0.50, seed 5"]
    assert [ax.get_xlabel() for ax in axes[1:]] == shown
    assert drawing.notes[0].startswith("BERT-base, MiniLM; ") and "seed 3, 4, 5;" in drawing.notes[0]


def test_fig6_has_a_panel_a_data_set_and_model(tmp_path):
    places = [("mr", "bert"), ("r8", "bert"), ("mr", "minilm")]
    for i, (dataset, model) in enumerate(places):
        write_run(tmp_path, dataset=dataset, model=model, epochs=3, per_epoch=3.7 * (i + 1), seed=7)
    drawing = pictures.fig6(groups_of(tmp_path, [cell(dataset=d, model=m, seeds=(7,)) for d, m in places]))
    assert [(r["dataset"], r["model"]) for r in drawing.data] == places
    assert [r["total"] for r in drawing.data] == pytest.approx([3.7, 7.4, 11.1])
    labels = [ax.get_xlabel().partition(": ")[2] for ax in drawing.figure.axes]
    assert labels == ["MR, BERT-base", "R8, BERT-base", "MR, MiniLM"] and "; seed 7;" in drawing.notes[0]


def test_fig5_says_how_to_get_embeddings(tmp_path):
    write_run(tmp_path, loss="gloss_o")
    with pytest.raises(RunError, match="save_embeddings=true"):
        pictures.fig5(groups_of(tmp_path, [cell(loss="gloss_o")]))


def test_fig6_leaves_the_first_epoch_and_shared_devices_out(tmp_path):
    cells = [cell(loss=loss, seeds=(1, 2)) for loss in ("ce", "gloss_o")]
    write_run(tmp_path, loss="ce", epochs=3, per_epoch=3.7)
    write_run(tmp_path, loss="ce", epochs=3, per_epoch=99.0, seed=2, shared_device=True)
    slow_start = write_run(tmp_path, loss="gloss_o", epochs=3, per_epoch=7.4) / "epochs.jsonl"
    first, *rest = slow_start.read_text().splitlines()
    slow_start.write_text("\n".join([first.replace('"total": 7.4', '"total": 1000.0'), *rest]))
    drawing = pictures.fig6(groups_of(tmp_path, cells))
    ce, gloss = drawing.data
    assert {part: pytest.approx(value) for part, value in SECONDS.items()} == {part: ce[part] for part in SECONDS}
    assert (ce["total"], ce["epochs"]) == (pytest.approx(3.7), 2)
    assert gloss["total"] == pytest.approx(7.4) and gloss["other"] == pytest.approx(0, abs=1e-9)
    assert any("1 runs shared" in note for note in drawing.notes)


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


def noise_cells(root, gloss=(82.0, 83.2, 84.1), shuffled=(80.5, 81.0, 82.5)):
    """Cross-entropy at 80, 81, 82; G-Loss with two noises; its graph shuffled."""
    cells = [sweep(root, {}, (80.0, 81.0, 82.0), loss="ce", point={"ablation.graph_shuffle": False})]
    for noise, is_shuffled, scores in ((0.0, False, gloss), (0.08, False, (79.0,)), (0.0, True, shuffled)):
        point = {"ablation.graph_noise": noise, "ablation.graph_shuffle": is_shuffled}
        config = {"ablation": {key.partition(".")[2]: value for key, value in point.items()}}
        cells.append(sweep(root, config, scores, point=point))
    return groups_of(root, cells)


def test_graph_noise_says_what_of_the_gain_survives_the_shuffle(tmp_path):
    groups = noise_cells(tmp_path)
    drawing = own.graph_noise(groups)
    start = "MR, BERT-base, G-Loss-O + CE (integrated, n=3): 16 % of its gain over CE (+2.10 points"
    assert drawing.notes[0].startswith(start)
    assert drawing.notes[0].endswith("survives the shuffle; shuffled it is +0.33 from CE.")  # 0.3333 / 2.1
    labels = [text.get_text() for text in drawing.figure.axes[0].get_legend().get_texts()]
    assert labels == ["CE (n=3)", "G-Loss-O + CE (n=1–3)", "G-Loss-O + CE (shuffled graph) (n=3)"]
    across = [line for line in drawing.figure.axes[0].lines if list(line.get_xdata()) == [0, 1]]
    assert [set(line.get_ydata()) for line in across] == [{81.0}, {244 / 3}]
    check_files(lambda: own.graph_noise(groups), tmp_path)


@pytest.mark.parametrize("gloss", [(79.0, 81.5, 83.0), (79.0, 80.0, 81.0), (82.0,)])
def test_no_share_of_a_gain_that_is_none(tmp_path, gloss):
    notes = own.shuffle_notes(noise_cells(tmp_path, gloss=gloss))
    assert len(notes) == 1 and "no share of it can be named" in notes[0] and "survives" not in notes[0]


QUALITY = {"homophily": 0.5, "homophily_chance": 0.5, "propagated_accuracy": 50.0, "majority_accuracy": 50.0}


def measured_runs(root, loss, seeds, slope):
    """Runs whose graph gets better by `slope` points of homophily and twice that of propagation an epoch."""
    for seed in seeds:
        folder = write_run(root, loss=loss, seed=seed, accuracy=80.0 + seed, epochs=4)
        rows = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
        qualities = [
            QUALITY | {"homophily": 0.5 + e * slope / 100, "propagated_accuracy": 50.0 + 2 * e * slope + seed}
            for e in range(5)
        ]
        for row, found in zip(rows, qualities[1:], strict=True):
            row["val"] = {"graph_quality": found}
        (folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        record = json.loads((folder / "result.json").read_text())
        best = qualities[record["best_epoch"]]
        record["graph_quality"] = {"sigma": 0.5, "gamma": 0.6, "at_start": qualities[0], "at_best": best}
        (folder / "result.json").write_text(json.dumps(record))


def test_graph_quality_by_epoch_and_against_accuracy(tmp_path):
    measured_runs(tmp_path, "ce", (1, 2), 1.0)
    measured_runs(tmp_path, "gloss_sqrt", (1, 2), 3.0)
    write_run(tmp_path, loss="scl_ce")  # an older record, without it
    groups = ungrouped_runs(read_records(tmp_path)[0])
    (drawing,) = quality.graph_quality(groups)
    rows = {(r["loss"], r["measure"], r.get("epoch", r.get("seed"))): r for r in drawing.data}
    assert {loss for loss, *_ in rows} == {"ce", "gloss_sqrt"}
    assert rows["ce", "homophily", 4]["mean"] == pytest.approx(0.54)
    assert rows["gloss_sqrt", "propagated_accuracy", 0]["mean"] == pytest.approx(51.5)
    assert rows["gloss_sqrt", "propagated_accuracy", 2]["mean"] == pytest.approx(63.5)
    assert rows["ce", "at_best", 2]["test_accuracy"] == 82.0
    assert rows["ce", "at_best", 2]["propagated_accuracy"] == pytest.approx(50 + 2 * 3 + 2)
    left, middle, right = drawing.figure.axes
    assert left.lines[0].get_ydata()[-1] == pytest.approx(4.0)  # points above chance
    assert list(right.lines[0].get_ydata()) == [81.0, 82.0]
    check_files(lambda: quality.graph_quality(groups)[0], tmp_path)


def test_runs_without_graph_quality_make_no_figure(tmp_path):
    write_run(tmp_path)
    assert quality.graph_quality(ungrouped_runs(read_records(tmp_path)[0])) == []


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


def test_convergence_ends_where_the_first_seed_stopped(tmp_path):
    write_run(tmp_path, seed=1, accuracy=80.0, epochs=4, per_epoch=10.0)
    write_run(tmp_path, seed=2, accuracy=82.0, epochs=6, per_epoch=20.0)
    write_run(tmp_path, seed=3, accuracy=10.0, config_hash="ffffffff")  # fewer seeds: left out, and said
    (drawing,) = overview.convergence(ungrouped_runs(read_records(tmp_path)[0]))
    by_epoch = [r for r in drawing.data if r["by"] == "epoch"]
    assert [r["epoch"] for r in by_epoch] == [1, 2, 3, 4]
    # best epochs 3 and 5; scores fall by the square of the distance, over 10: 80 - 0 and 82 - 0.4 at epoch 3
    assert by_epoch[2]["score"] == pytest.approx((80.0 + 81.6) / 2)
    assert [r["x"] for r in drawing.data if r["by"] == "seconds"] == pytest.approx([15.0, 30.0, 45.0, 60.0])
    assert "Left out of MR, BERT-base, integrated, for their other settings: CE ffffffff (n=1)." in drawing.notes


def test_convergence_draws_one_protocol_and_of_equal_seed_counts_the_better_on_validation(tmp_path):
    short = {"trainer": {"max_epochs": 3}}
    for dataset in ("mr", "r8"):
        for model in ("bert", "minilm"):
            for seed in (1, 2):
                for loss in ("ce", "gloss_o"):  # a reduced run has the smaller config_hash and more losses
                    reduced = {"config_hash": "0" * 8, "config": short}
                    write_run(tmp_path, dataset=dataset, model=model, loss=loss, seed=seed, **reduced)
                for config_hash, val in (("1" * 8, 80.0), ("2" * 8, 90.0)):
                    write_run(
                        tmp_path,
                        dataset=dataset,
                        model=model,
                        seed=seed,
                        config_hash=config_hash,
                        accuracy=70.0,
                        val=val,
                    )
    drawings = overview.convergence(ungrouped_runs(read_records(tmp_path)[0]))
    for drawing in drawings:
        assert {r["loss"] for r in drawing.data} == {"ce"}
        assert {round(max(r["score"] for r in drawing.data if r["dataset"] == d)) for d in ("mr", "r8")} == {90}
        (note,) = [n for n in drawing.notes if n.startswith("Left out of R8")]
        assert all(x in note for x in ("CE 00000000 (n=2)", "G-Loss-O + CE 00000000 (n=2)", "CE 11111111 (n=2)"))
    assert [d.name for d in drawings] == ["convergence_bert", "convergence_minilm"]
    check_files(lambda: overview.convergence(ungrouped_runs(read_records(tmp_path)[0]))[0], tmp_path)


def test_convergence_draws_the_cells_of_the_tables_first(tmp_path):
    short = {"trainer": {"max_epochs": 3}}
    for loss in ("ce", "gloss_o"):
        write_run(tmp_path, loss=loss, config_hash="0" * 8, config=short)
        write_run(tmp_path, loss=loss, config_hash="f" * 8, accuracy=99.0)
    cells = groups_of(tmp_path, [cell(loss=loss, config_hash="0" * 8, config=short) for loss in ("ce", "gloss_o")])
    (drawing,) = overview.convergence(ungrouped_runs(read_records(tmp_path)[0]), cells)
    assert {r["loss"] for r in drawing.data} == {"ce", "gloss_o"} and max(r["score"] for r in drawing.data) < 86
    assert "Not the paper's protocol (MR, BERT-base, integrated): trainer.max_epochs=3." in drawing.notes


def test_runs_are_ranked_among_their_like_only(tmp_path):
    for loss, accuracy in (("ce", 80.0), ("gloss_o", 81.0)):
        write_run(tmp_path, loss=loss, accuracy=accuracy, config_hash="1" * 8)
        limited = {"dataset": {"train_limit": 20}}
        write_run(tmp_path, loss=loss, accuracy=accuracy - 30, config_hash="2" * 8, config=limited)
        write_run(tmp_path, loss=loss, accuracy=95.0, config_hash="3" * 8, variant="released")
    table = overview.runs_table(ungrouped_runs(read_records(tmp_path)[0]))
    found = {row[3].plain(): row[5].parts[0].rank for row in table.rows}
    assert found == {
        **{"CE [11111111]": 0, "G-Loss-O + CE [11111111]": 1},
        **{"CE [22222222]": 0, "G-Loss-O + CE [22222222]": 1},
        **{"CE [33333333]": 0, "G-Loss-O + CE [33333333]": 0},  # equal
    }
    expected = "Not the paper's protocol (mr/bert 22222222): dataset.train_limit=20."
    assert expected in table.notes


def test_convergence_survives_broken_and_empty_epochs(tmp_path):
    (write_run(tmp_path, seed=1) / "epochs.jsonl").write_text('{"epoch": 1, "sco')
    (write_run(tmp_path, seed=2) / "epochs.jsonl").write_text("")
    assert overview.convergence(ungrouped_runs(read_records(tmp_path)[0])) == []


def test_convergence_has_a_figure_for_each_model(tmp_path):
    for model in ("minilm", "bert"):
        for dataset in ("mr", "r8", "r52"):
            write_run(tmp_path, model=model, dataset=dataset)
    drawings = overview.convergence(ungrouped_runs(read_records(tmp_path)[0]))
    assert [d.name for d in drawings] == ["convergence_bert", "convergence_minilm"]
    assert [len(d.figure.axes) for d in drawings] == [6, 6]
    assert {r["dataset"] for r in drawings[0].data} == {"mr", "r8", "r52"}
