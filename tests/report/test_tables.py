"""Tables 2 to 9 from synthetic runs with known answers."""

import csv
import io

import pytest
from from_runs import SPREAD, groups_of, records, row, write_cell
from synthetic import cell, write_run

from gloss.experiments.grid import expand_grid
from gloss.paper import published as paper
from gloss.records.reading import read_records
from gloss.report.seed_groups import gather, refuse_doubles, ungrouped_runs
from gloss.report.tables import all_runs as overview
from gloss.report.tables import comparisons as compare
from gloss.report.tables import own_experiments as own
from gloss.report.tables import results as tables


@pytest.fixture
def table2_cells():
    losses = ("ce", "scl_ce", "gloss_sqrt", "gloss_o")
    return [cell(loss=loss, dataset=d, seeds=(1, 2, 3)) for loss in losses for d in ("mr", "r8")]


def test_table2_shows_means_verdicts_ranks_and_what_is_missing(tmp_path, table2_cells):
    write_cell(tmp_path, 85.64, loss="ce")  # the paper's own mean
    write_cell(tmp_path, 84.97, 80.0, loss="scl_ce")  # 1 point below; macro-F1 5.95 below
    write_cell(tmp_path, 86.63, loss="gloss_o", seeds=(1, 2))
    table = tables.table2(groups_of(tmp_path, table2_cells))
    ours, printed = row(table, "BERT-base", "CE", "ours")
    assert ours[3:] == ["85.64 ± 0.20 / 85.64 ± 0.20 (3)", "—"]
    assert printed[2:] == ["paper", "85.64 ± 0.81 / 85.64 ± 0.81", "97.57 ± 0.16 / 93.90 ± 0.84"]
    mr = [r[3] for r in table.rows if r[2].plain() == "ours"]
    assert [e.verdict for e in mr] == ["ok", "near/off", "", "unresolved"]
    assert mr[3].plain() == "86.53 ± 0.14 / 86.53 ± 0.14 (2 of 3)"
    assert [[p.rank for p in e.parts] for e in mr] == [[2, 2], [0, 0], [0], [1, 1]]
    assert "dataset=mr model=bert mode=integrated loss=gloss_o seed=3" in table.missing
    assert len(table.missing) == 6  # one seed of gloss_o, gloss_sqrt on mr, four cells of r8
    text = table.markdown()
    assert "**86.53 ± 0.14** / **86.53 ± 0.14** (2 of 3) *unresolved*" in text
    assert "<u>85.64 ± 0.20</u>" in text
    tex = table.latex()
    assert r"\textbf{86.53 $\pm$ 0.14}" in tex and r"\underline{85.64 $\pm$ 0.20}" in tex and r"\toprule" in tex
    tidy = list(csv.DictReader(io.StringIO(table.csv())))
    first = tidy[0]
    assert (first["metric"], first["n"], first["verdict"], first["paper"]) == ("accuracy", "3", "ok", "85.64")
    assert float(first["difference"]) == pytest.approx(0, abs=1e-9)


def test_a_cell_is_judged_with_the_deviation_that_the_paper_prints_for_it(tmp_path):
    """Both lie 2.3 points below: CE's ± 0.81 leaves it open whether by more than 1.5, G-Loss-O's ± 0.12 does not."""
    write_cell(tmp_path, 85.64 - 2.3, loss="ce")
    write_cell(tmp_path, 86.63 - 2.3, loss="gloss_o")
    table = tables.table2(groups_of(tmp_path, [cell(loss=loss, seeds=(1, 2, 3)) for loss in ("ce", "gloss_o")]))
    assert [r[3].verdicts[0] for r in table.rows if r[2].plain() == "ours"] == ["unresolved", "off"]


def test_a_cell_in_another_mode_stands_beside_and_is_not_judged(tmp_path):
    """integrated at the paper's 86.63; standalone two points below it, which would be off, and would hide the other."""
    scores = {"integrated": 86.63, "standalone": 84.63}
    cells = [cell(mode=mode, loss="gloss_o", seeds=(1, 2, 3)) for mode in scores]
    for mode, accuracy in scores.items():
        write_cell(tmp_path, accuracy, mode=mode, loss="gloss_o")
    groups = groups_of(tmp_path, cells)
    table = tables.table2(groups)
    both, printed = row(table, "BERT-base", "G-Loss-O + CE", "ours")
    alone, _ = row(table, "BERT-base", "G-Loss-O (standalone)", "ours")
    assert both[3].startswith("86.63") and alone[3].startswith("84.63") and printed[2] == "paper"
    assert [r[3].verdict for r in table.rows] == ["ok", "", ""] and len(table.rows) == 3
    assert [r["paper"] for r in records(table)] == [86.63, 86.61, None, None]
    assert all(part.rank == 0 for r in table.rows for part in r[3].parts)  # no contest between modes
    third = tables.table3(groups)
    assert [r[2].plain() for r in third.rows] == ["G-Loss-O + CE (integrated)", "G-Loss-O", ""]
    assert [r[4].verdict for r in third.rows] == ["", "unresolved", ""]  # 86.22 in Table 3: 1.59 ± 0.40
    (only,) = expand_grid("table2", ["mode=standalone", "loss=gloss_o", "dataset=mr", "model=bert", "seed=1"])
    (group,) = gather([only], [])[0]
    assert tables.table2([group]).rows[0][1].plain() == "G-Loss-O (standalone)"


def test_pairs_tables_and_ranks_keep_modes_apart(tmp_path):
    scores = {("integrated", "gloss_o"): 87.0, ("integrated", "cosine"): 86.0}
    scores |= {("standalone", "gloss_o"): 80.0, ("standalone", "cosine"): 81.0, ("standalone", "scl"): 80.5}
    for (mode, loss), accuracy in scores.items():
        write_cell(tmp_path, accuracy, mode=mode, loss=loss, silhouette=accuracy / 100)
    groups = groups_of(tmp_path, [cell(mode=mode, loss=loss, seeds=(1, 2, 3)) for mode, loss in scores])
    cosine, _ = row(compare.table9(groups)[0], "G-Loss-O against Cosine", "ours")
    assert cosine[4] == "-1.00"
    found = {c.text: c.differences for c in compare.claims("x", groups)}
    assert found["G-Loss-O + CE beats Cosine + CE"] == pytest.approx([1.0] * 3)
    assert found["G-Loss-O beats Cosine"] == pytest.approx([-1.0] * 3)
    assert row(compare.table5(groups, []), "G-Loss + BERT-base (ours, mean)")[0][1] == "87.00 O (3)"
    silhouettes, _ = row(tables.table4(groups), "MR", "BERT-base", "ours")
    assert silhouettes[3].startswith("0.8000") and silhouettes[4].startswith("0.8050")
    shifted = own.shift(groups)
    assert {r[2].plain(): r[3].parts[0].rank for r in shifted.rows} == {
        **{"G-Loss-O + CE (integrated)": 1, "Cosine + CE (integrated)": 0},
        **{"G-Loss-O (standalone)": 0, "Cosine (standalone)": 1, "SCL (standalone)": 2},
    }
    assert {(r["mode"], r["loss"]) for r in records(shifted)} == set(scores)


def test_runs_with_other_hyperparameters_are_listed_beside_and_never_mixed_in(tmp_path):
    write_cell(tmp_path, 85.0)
    write_cell(tmp_path, 50.0, config_hash="ffffffff")
    write_cell(tmp_path, 10.0, dataset="r8")
    groups, others = gather([cell(seeds=(1, 2))], read_records(tmp_path)[0])
    assert sorted(groups[0].test("accuracy").values()) == [84.8, 85.0]
    # seed 3 of the cell itself was not asked for; the other config_hash were never asked for; r8 is no cell here
    assert [(g.config_hash, len(g.runs)) for g in others] == [("0123abcd", 1), ("ffffffff", 3)]


def test_two_candidates_for_one_cell_and_seed_are_both_refused(tmp_path):
    write_cell(tmp_path / "a", 85.0)
    write_cell(tmp_path / "b", 86.0, seeds=(1,))
    records = read_records(tmp_path / "a")[0] + read_records(tmp_path / "b")[0]
    kept, problems = refuse_doubles(records)
    assert [r.identity.seed for r in kept] == [2, 3]
    assert len(problems) == 1 and problems[0].count("seed=1") == 2


def standalone(root, loss, accuracy, silhouette, per_epoch, **identity):
    for seed, offset in zip((1, 2, 3), SPREAD, strict=True):
        changes = {"accuracy": accuracy + offset, "silhouette": silhouette, "per_epoch": per_epoch, "epochs": 25}
        write_run(root, mode="standalone", loss=loss, seed=seed, seconds=per_epoch * 30, **changes, **identity)


@pytest.fixture
def table3_groups(tmp_path):
    standalone(tmp_path, "scl", 86.0, 0.50, 20.0)
    standalone(tmp_path, "gloss_o", 86.3, 0.55, 15.0)
    standalone(tmp_path, "cosine", 86.2, 0.40, 15.0, shared_device=True)
    losses = ("scl", "triplet", "cosine", "gloss_o")
    return groups_of(tmp_path, [cell(mode="standalone", loss=loss, seeds=(1, 2, 3)) for loss in losses])


def test_table3_gives_times_as_ratios_and_leaves_shared_devices_out(table3_groups):
    table, times = tables.table3(table3_groups), ("total_seconds", "seconds_per_epoch")
    ours, printed = row(table, "MR", "BERT-base", "G-Loss-O", "ours")
    assert ours[4:8] == ["86.30 ± 0.20 (3)", "86.30 ± 0.20", "0.5500 ± 0.0000", "376.0 ± 0.0"]  # 25 · 15 + 1
    assert ours[8:] == ["15.00 ± 0.00 ×0.54", "25 ± 0"]
    assert printed[4:] == ["86.22", "86.22", "0.5507", "810.9", "27.77", "25"]
    total, per_epoch = (next(r for r in records(table) if r["loss"] == "gloss_o" and r["metric"] == m) for m in times)
    assert (total["mean"], total["ratio"]) == (376.0, None) and per_epoch["ratio"] == pytest.approx(15 / 27.77)
    cosine, _ = row(table, "MR", "BERT-base", "Cosine", "ours")
    assert cosine[7:9] == ["—", "—"]
    assert any("runs shared their device (3)" in note for note in table.notes)
    assert [len(r) for r in table.rows] == [len(table.columns)] * 8


def test_times_of_other_devices_are_left_out_and_never_averaged(tmp_path):
    """Two seeds on an A100 at 10 s and one on an H100 at 4 s are 10 s, not 8.00 ± 3.46; a cell on an H100 has none."""
    for loss, devices in {"gloss_o": "AAH", "cosine": "AAA", "scl": "HHH", "triplet": "A"}.items():
        for seed, name in enumerate(devices, start=1):
            run = {"device_name": f"{name}100", "per_epoch": 10.0 if name == "A" else 4.0, "silhouette": 0.5}
            write_run(tmp_path, mode="standalone", loss=loss, seed=seed, shared_device=loss == "triplet", **run)
    losses = ("scl", "triplet", "cosine", "gloss_o")
    groups = groups_of(tmp_path, [cell(mode="standalone", loss=x, seeds=(1, 2, 3)) for x in losses])
    table = tables.table3(groups)
    shown = {r[2].plain(): r[8].plain() for r in table.rows if r[3].plain() == "ours"}
    assert shown == {
        **{"SCL": "—", "Triplet": "—", "Cosine": "10.00 ± 0.00 ×0.36"},
        "G-Loss-O": "10.00 ± 0.00 (2 of 3) ×0.36",
    }
    assert "Times are those on A100: the times of 4 runs on H100 are left out." in table.notes
    ours, _ = row(tables.table4(groups), "MR", "BERT-base", "ours")
    assert ours[6:] == ["4.00 (1)", "4.00 (1)", "+0.0 %"]  # on the one device where a seed of both was timed
    runs = overview.runs_table(ungrouped_runs(read_records(tmp_path)[0]))
    assert {r[3].plain(): r[8].plain() for r in runs.rows} == {
        **{"SCL": "—", "Triplet": "—", "Cosine": "10.00 ± 0.00", "G-Loss-O": "10.00 ± 0.00"}
    }
    assert {r["loss"]: r["per_epoch"] for r in records(runs)} == {
        **{"scl": None, "triplet": None, "cosine": 10.0, "gloss_o": 10.0}
    }
    assert any("runs shared their device (1)" in n for n in runs.notes)


def test_table4_gives_the_change_in_percent(table3_groups):
    table = tables.table4(table3_groups)
    ours, printed = row(table, "MR", "BERT-base", "ours")
    silhouettes = ["0.5500 ± 0.0000 (3)", "0.5000 ± 0.0000 (3)", "+10.0 %"]
    assert ours[3:] == [*silhouettes, "15.00 ± 0.00 (3)", "20.00 ± 0.00 (3)", "-25.0 %"]
    assert [e.verdict for e in table.rows[0][3:5]] == ["ok", "near"]  # the paper: 0.5507 and 0.5725
    assert printed[3:] == ["0.5507", "0.5725", "-3.8 %", "27.77", "33.04", "-16.0 %"]  # the paper: 16.0 % faster


def test_table4_compares_the_seeds_that_both_ran(tmp_path):
    found = {"scl": {1: (0.5, 20.0), 2: (0.6, 30.0), 9: (0.9, 1.0)}}
    found["gloss_o"] = {1: (0.6, 10.0), 2: (0.7, 20.0), 3: (0.1, 1.0)}
    for loss, runs in found.items():
        for seed, (silhouette, seconds) in runs.items():
            shared = loss == "scl" and seed == 2
            measured = {"silhouette": silhouette, "per_epoch": seconds, "shared_device": shared}
            write_run(tmp_path, mode="standalone", loss=loss, seed=seed, **measured)
    cells = [cell(mode="standalone", loss=loss, seeds=(1, 2, 3, 9)) for loss in found]
    table = tables.table4(groups_of(tmp_path, cells))
    ours, _ = row(table, "MR", "BERT-base", "ours")
    assert ours[3:6] == ["0.6500 ± 0.0707 (2)", "0.5500 ± 0.0707 (2)", "+18.2 %"]
    assert ours[6:] == ["10.00 (1)", "20.00 (1)", "-50.0 %"]  # seed 2 of SCL shared its device
    assert [e.verdict for e in table.rows[0][3:5]] == ["unresolved", "unresolved"]
    assert [r["seeds"] for r in records(table)] == ["1 2", "1"]


def test_table9_pairs_by_data_set_and_seed(tmp_path):
    differences = {"mr": (0.4, 0.6, 0.8), "r8": (1.0, 1.2, -0.1)}
    for dataset, values in differences.items():
        for seed, d in enumerate(values, start=1):
            run = {"mode": "standalone", "dataset": dataset, "seed": seed}
            write_run(tmp_path, loss="scl", accuracy=85.0 + seed, **run)
            write_run(tmp_path, loss="gloss_o", accuracy=85.0 + seed + d, **run)
    write_run(tmp_path, loss="scl", accuracy=1.0, mode="standalone", dataset="mr", seed=9)  # no partner
    seeds = (1, 2, 3, 9)
    cells = [cell(mode="standalone", loss=x, dataset=d, seeds=seeds) for x in ("scl", "gloss_o") for d in differences]
    pooled, within = compare.table9(groups_of(tmp_path, cells))
    ours, printed = row(pooled, "G-Loss-O against SCL", "ours")
    assert ours[2:5] == ["87.65", "87.00", "+0.65"]
    # scipy: ttest_1samp(differences, 0).pvalue = 0.01857; of 64 sign patterns 4 reach |sum| 3.9
    assert ours[6:12] == ["0.0186", "0.0625", "0.0625", "0.0312", "6", "supported"]
    assert printed[2:5] == ["87.05", "86.41", "0.63"] and printed[6] == "0.0062"
    mr, _ = row(within, "G-Loss-O against SCL", "MR")
    assert mr[7:12] == ["0.0351", "0.2500", "0.5000", "0.2500", "3"]
    assert any("swapped" in note for note in pooled.notes)
    triplet, _ = row(pooled, "G-Loss-O against Triplet", "ours")
    assert triplet[2:] == ["—"] * 8 + ["0", "—"]


def test_claims_say_what_the_interval_says(tmp_path):
    for seed, d in enumerate((0.9, 1.0, 1.1), start=1):
        write_run(tmp_path, loss="ce", accuracy=85.0, seed=seed)
        write_run(tmp_path, loss="gloss_o", accuracy=85.0 + d, seed=seed)
        write_run(tmp_path, loss="gloss_sqrt", accuracy=85.0 - 3 * d, seed=seed)
    cells = [cell(loss=x, seeds=(1, 2, 3)) for x in ("ce", "gloss_sqrt", "gloss_o")]
    table = compare.claims_table(compare.claims("Table 2", groups_of(tmp_path, cells)))
    found = {r[1].plain(): (r[4].plain(), r[6].plain(), r[2].verdict) for r in table.rows}
    assert found == {
        "G-Loss-SQRT + CE beats CE": ("-3.00", "3", "contradicted"),
        "G-Loss-O + CE beats CE": ("+1.00", "3", "supported"),
    }


def test_two_settings_of_a_loss_cost_no_claim(tmp_path):
    """Settings that no sweep tells apart, as two variants asked for by hand: the last speaks."""
    write_cell(tmp_path, 85.0, loss="ce")
    for config_hash, accuracy in (("0123abcd", 80.0), ("ffffffff", 86.0)):
        write_cell(tmp_path, accuracy, loss="gloss_o", config_hash=config_hash)
    cells = [cell(loss="ce", seeds=(1, 2, 3)), *(cell(loss="gloss_o", config_hash=d) for d in ("0123abcd", "ffffffff"))]
    (found,) = compare.claims("Table 2", groups_of(tmp_path, cells))
    assert found.differences == pytest.approx([1.0])


def test_table5_chooses_the_variant_on_validation_and_marks_the_best_seed(tmp_path):
    for seed, offset in enumerate(SPREAD, start=1):
        write_run(tmp_path, loss="gloss_sqrt", accuracy=86.0 + offset, val=90.0, seed=seed)
        write_run(
            tmp_path, loss="gloss_o", accuracy=87.0 + offset, val=89.0, seed=seed
        )  # better on test: not looked at
    cells = [cell(loss=x, seeds=(1, 2, 3)) for x in ("ce", "gloss_sqrt", "gloss_o")]
    tfidf = [{"dataset": "mr", "test": {"accuracy": 76.14}}]
    table = compare.table5(groups_of(tmp_path, cells), tfidf)
    ours, best = row(table, "G-Loss + BERT-base (ours, mean)")
    assert ours[1] == "86.00 SQRT (3)" and best[1] == "86.20 [seed 3]"
    assert row(table, "TF-IDF + linear classifier (measured here)")[0][1] == "76.14"
    assert row(table, "TextGCN")[0][1] == "76.74"
    ranks = {r[0].plain(): r[1].parts[0].rank for r in table.rows}
    assert ranks["RoBERTa-GCN"] == 1 and ranks["RoBERTa-large"] == 2
    assert ranks["G-Loss + RoBERTa-large (paper)"] == 0  # one best number: not ranked


def test_table5_s_note_names_the_cell_that_is_no_best_seed():
    note = paper.table5_note()
    assert "in 9 of 10 (BERT-base on MR 87.14 against 86.63)" in note
    assert note.endswith("Below it, and so no best seed: RoBERTa-large on MR 90.82 against 90.87.")


def test_table5_does_not_rank_reduced_runs_of_ours(tmp_path):
    limits = {"mr": None, "r8": 500}
    cells = [cell(loss="gloss_o", dataset=d, config={"dataset": {"train_limit": n}}) for d, n in limits.items()]
    for dataset in limits:
        write_run(tmp_path, loss="gloss_o", dataset=dataset, accuracy=99.9)
    table = compare.table5(groups_of(tmp_path, cells), [])
    ours = next(r for r in table.rows if r[0].plain() == "G-Loss + BERT-base (ours, mean)")
    best = {r[0].plain(): [e.parts[0].rank for e in r[1:]] for r in table.rows}
    assert [e.parts[0].rank for e in ours[1:]] == [1, 0]
    assert [name for name, ranks in best.items() if ranks[1] == 1] == ["RoBERTa-GCN"]
    assert any("not ranked" in n and "protocol" in n for n in table.notes)


def test_table6_carries_the_papers_contradictions(tmp_path):
    write_cell(tmp_path, 89.08, dataset="qnli")
    cells = [cell(dataset=d, seeds=(1, 2, 3)) for d in ("sst2", "qnli")]
    table = tables.table6(groups_of(tmp_path, cells))
    ours, printed = row(table, "BERT-base", "CE", "ours")
    assert ours[3:] == ["—", "89.08 ± 0.20 (3)"] and printed[3:] == ["91.20", "89.08"]
    notes = " ".join(table.notes)
    assert "92.32" in notes and "90.06 against 89.62" in notes


def test_records_of_an_older_schema_count_what_they_have(tmp_path):
    write_run(tmp_path, seed=1)
    old = write_run(tmp_path, seed=2)
    text = (old / "result.json").read_text().replace('"schema_version": 1', '"schema_version": 0')
    (old / "result.json").write_text(text.replace('"per_epoch"', '"per_epoch_before"'))
    group = ungrouped_runs(read_records(tmp_path)[0])[0]
    assert list(group.values("seconds", "per_epoch")) == [1]
    assert list(group.test("accuracy")) == [1, 2]
