"""Tables 2 to 6 and 9, the claims and the table of all runs, from synthetic runs with known results."""

import csv
import io

import pytest
from from_runs import groups_of, ours, records, row, texts, ungrouped, write_groups
from synthetic import cell, write_run

from gloss.experiments.grid import expand_grid
from gloss.records.reading import read_records
from gloss.report.run_list import runs_table
from gloss.report.seed_groups import gather
from gloss.report.statistics import welch_half
from gloss.report.table import scored
from gloss.report.tables import comparisons as compare
from gloss.report.tables import results as tables

LOSSES = ("ce", "scl_ce", "gloss_sqrt", "gloss_o")


def test_table2_shows_means_verdicts_ranks_and_missing_runs(tmp_path):
    found = {"ce": {"accuracy": 85.64}, "scl_ce": {"accuracy": 84.97, "macro_f1": 80.0}}  # CE: the published mean
    found["gloss_o"] = {"accuracy": (86.43, 86.63)}
    specs = [{"loss": x, "dataset": d, **(found.get(x, {}) if d == "mr" else {})} for x in LOSSES for d in ("mr", "r8")]
    table = tables.table2(write_groups(tmp_path, *specs))
    our_row, printed = row(table, "BERT-base", "CE", "ours")
    assert our_row[3:] == ["85.64 ± 0.20 / 85.64 ± 0.20 (3)", "—"]
    assert printed[2:] == ["paper", "85.64 ± 0.81 / 85.64 ± 0.81", "97.57 ± 0.16 / 93.90 ± 0.84"]
    mr = [r[3] for r in ours(table)]
    assert [e.verdict for e in mr] == ["ok", "near/off", "", "unresolved"]
    assert mr[3].plain() == "86.53 ± 0.14 / 86.53 ± 0.14 (2 of 3)"
    assert [[p.rank for p in e.parts] for e in mr] == [[2, 2], [0, 0], [0], [1, 1]]
    assert [r[3].parts[0].rank for r in table.rows if r[2].plain() == "paper"] == [0, 0, 2, 1]  # among themselves
    assert "dataset=mr model=bert mode=integrated loss=gloss_o seed=3" in table.missing
    assert len(table.missing) == 6  # one seed of gloss_o, gloss_sqrt on mr, four cells of r8
    assert "**86.53 ± 0.14** / **86.53 ± 0.14** (2 of 3) *unresolved*" in table.markdown()
    assert "<u>85.64 ± 0.20</u>" in table.markdown()
    assert all(x in table.latex() for x in (r"\textbf{86.53 $\pm$ 0.14}", r"\underline{85.64 $\pm$ 0.20}", r"\toprule"))
    first = next(csv.DictReader(io.StringIO(table.csv())))
    assert (first["metric"], first["n"], first["verdict"], first["paper"]) == ("accuracy", "3", "ok", "85.64")
    assert float(first["difference"]) == pytest.approx(0, abs=1e-9)
    assert float(first["low"]) < -0.1 and float(first["high"]) > 0.1  # its 95 % interval


def test_verdicts_use_the_published_standard_deviation(tmp_path):
    """Both are 2.3 points below. With CE's ± 0.81 it may be less than 1.5 points, with G-Loss-O's ± 0.12 it is more."""
    found = {"ce": 85.64 - 2.3, "gloss_o": 86.63 - 2.3}
    table = tables.table2(write_groups(tmp_path, *({"loss": x, "accuracy": y} for x, y in found.items())))
    assert [r[3].verdicts[0] for r in ours(table)] == ["unresolved", "off"]
    for line, spread in zip(records(table)[::2], (0.81, 0.12), strict=True):
        half = welch_half([-0.2, 0.0, 0.2], spread)
        assert [line[key] for key in ("difference", "low", "high")] == pytest.approx([-2.3, -2.3 - half, -2.3 + half])


def test_a_cell_in_another_mode_is_listed_without_verdict(tmp_path):
    """integrated at the published 86.63, standalone two points below; in one cell one would hide the other."""
    scores = {"integrated": 86.63, "standalone": 84.63}
    groups = write_groups(tmp_path, *({"mode": m, "loss": "gloss_o", "accuracy": x} for m, x in scores.items()))
    table = tables.table2(groups)
    assert [texts(r[1:3]) for r in table.rows] == [
        *(["G-Loss-O + CE", "ours"], ["", "paper"]),
        ["G-Loss-O (standalone)", "ours"],
    ]
    assert [r[3].verdict for r in table.rows] == ["ok", "", ""] and table.rows[2][3].plain().startswith("84.63")
    assert [r["paper"] for r in records(table)] == [86.63, 86.61, None, None]
    assert all(part.rank == 0 for r in table.rows for part in r[3].parts)  # modes are not ranked against each other
    third = tables.table3(groups)
    assert [r[2].plain() for r in third.rows] == ["G-Loss-O + CE (integrated)", "G-Loss-O", ""]
    assert [r[4].verdict for r in third.rows] == ["", "unresolved", ""]  # 86.22 in Table 3: 1.59 ± 0.40
    (only,) = expand_grid("table2", ["mode=standalone", "loss=gloss_o", "dataset=mr", "model=bert", "seed=1"])
    assert tables.table2(gather([only], [])[0]).rows[0][1].plain() == "G-Loss-O (standalone)"


def test_pairs_tables_and_ranks_separate_the_modes(tmp_path):
    scores = {("integrated", "gloss_o"): 87.0, ("integrated", "cosine"): 86.0}
    scores |= {("standalone", "gloss_o"): 80.0, ("standalone", "cosine"): 81.0, ("standalone", "scl"): 80.5}
    groups = write_groups(tmp_path, *({"mode": m, "loss": x, "accuracy": y} for (m, x), y in scores.items()))
    assert row(compare.table9(groups), "G-Loss-O against Cosine", "all", "ours")[0][5] == "-1.00"
    found = {c["text"]: [c[key] for key in ("pairs", "difference", "low", "high")] for c in compare.claims("x", groups)}
    assert found["G-Loss-O + CE beats Cosine + CE"] == pytest.approx([3, 1.0, 1.0, 1.0])
    assert found["G-Loss-O beats Cosine"] == pytest.approx([3, -1.0, -1.0, -1.0])
    assert row(compare.table5(groups, []), "G-Loss + BERT-base (ours, mean)")[0][1] == "87.00 O (3)"
    shifted = compare.shift(groups)
    assert {r[2].plain(): r[3].parts[0].rank for r in shifted.rows} == {
        **{"G-Loss-O + CE": 1, "Cosine + CE": 0},
        **{"G-Loss-O (standalone)": 0, "Cosine (standalone)": 1, "SCL (standalone)": 2},
    }
    assert {(r["mode"], r["loss"]) for r in records(shifted)} == set(scores)


def test_runs_with_other_hyperparameters_are_listed_separately(tmp_path):
    others = {"accuracy": 50.0, "config_hash": "ffffffff"}, {"dataset": "r8", "accuracy": 9.0}
    write_groups(tmp_path, {"accuracy": 85.0}, *others)
    groups, others = gather([cell(seeds=(1, 2))], read_records(tmp_path)[0])
    assert sorted(groups[0].test("accuracy").values()) == [84.8, 85.0]
    # others: seed 3 and the other config_hash were not requested; r8 has no cell here
    assert [(g.config_hash, len(g.runs)) for g in others] == [("0123abcd", 1), ("ffffffff", 3)]


def test_ranks_are_by_the_printed_digits_and_lower_seconds_are_better(tmp_path):
    found = {"scl": (0.5511, 20.0), "cosine": (0.5400, 15.0), "gloss_o": (0.5512, 10.0)}
    common = {"mode": "standalone", "accuracy": 86.0}
    specs = [common | {"loss": x, "silhouette": s, "per_epoch": t} for x, (s, t) in found.items()]
    rows = ours(tables.table3(write_groups(tmp_path, *specs)))
    assert [[r[i].parts[0].rank for r in rows] for i in (6, 8)] == [[2, 0, 1], [0, 2, 1]]
    assert [e.parts[0].rank for e in scored([[0.5511], [0.5512]], digits=4)] == [0, 1]


@pytest.fixture
def table3_groups(tmp_path):
    found = {"scl": (86.0, 0.50, 20.0), "triplet": None, "cosine": (86.2, 0.40, 15.0), "gloss_o": (86.3, 0.55, 15.0)}
    specs = [{"mode": "standalone", "loss": loss, "shared_device": loss == "cosine"} for loss in found]
    for spec, x in zip(specs, found.values(), strict=True):
        spec |= {"accuracy": x[0], "silhouette": x[1], "per_epoch": x[2], "epochs": 25} if x else {}
    return write_groups(tmp_path, *specs)


def test_table3_shows_time_ratios_and_omits_shared_devices(table3_groups):
    table, times = tables.table3(table3_groups), ("total_seconds", "seconds_per_epoch")
    our_row, printed = row(table, "MR", "BERT-base", "G-Loss-O", "ours")
    assert our_row[4:8] == ["86.30 ± 0.20 (3)", "86.30 ± 0.20", "0.5500 ± 0.0000", "376.0 ± 0.0"]  # 25 · 15 + 1
    assert our_row[8:] == ["15.00 ± 0.00 ×0.54", "25 ± 0"]
    assert printed[4:] == ["86.22", "86.22", "0.5507", "810.9", "27.77", "25"]
    total, per_epoch = (next(r for r in records(table) if r["loss"] == "gloss_o" and r["metric"] == m) for m in times)
    assert (total["mean"], total["ratio"]) == (376.0, None) and per_epoch["ratio"] == pytest.approx(15 / 27.77)
    assert row(table, "MR", "BERT-base", "Cosine", "ours")[0][7:9] == ["—", "—"]
    assert any("runs shared their device (3)" in note for note in table.notes)
    assert [len(r) for r in table.rows] == [len(table.columns)] * 8


def test_times_of_other_devices_are_omitted_from_means(tmp_path):
    """Two seeds on an A100 (10 s) and one on an H100 (4 s) give 10 s, not 8.00 ± 3.46; a cell only on H100 has none."""
    found = {"scl": "HHH", "triplet": "A", "cosine": "AAA", "gloss_o": "AAH"}
    for loss, devices in found.items():
        for seed, name in enumerate(devices, start=1):
            run = {"device_name": f"{name}100", "per_epoch": 10.0 if name == "A" else 4.0, "silhouette": 0.5}
            write_run(tmp_path, mode="standalone", loss=loss, seed=seed, shared_device=loss == "triplet", **run)
    groups = groups_of(tmp_path, [cell(mode="standalone", loss=x, seeds=(1, 2, 3)) for x in found])
    table = tables.table3(groups)
    assert {r[2].plain(): r[8].plain() for r in ours(table)} == {
        **{"SCL": "—", "Triplet": "—", "Cosine": "10.00 ± 0.00 ×0.36"},
        "G-Loss-O": "10.00 ± 0.00 (2 of 3) ×0.36",
    }
    assert "Times are those on A100: the times of 4 runs on H100 are left out." in table.notes
    our_row, _ = row(tables.table4(groups), "MR", "BERT-base", "ours")
    assert our_row[6:] == ["4.00 (1)", "4.00 (1)", "+0.0 %"]  # on the only device with times of a common seed
    runs = runs_table(ungrouped(tmp_path))
    times = {"SCL": "—", "Triplet": "—", "Cosine": "10.00 ± 0.00", "G-Loss-O": "10.00 ± 0.00 (2 of 3)"}
    assert {r[3].plain(): r[8].plain() for r in runs.rows} == times
    assert [r["per_epoch"] for r in records(runs)] == [None, None, 10.0, 10.0]
    assert [r["per_epoch_n"] for r in records(runs)] == [0, 0, 3, 2]
    assert any("runs shared their device (1)" in n for n in runs.notes)


def test_table4_shows_changes_in_percent(table3_groups):
    table = tables.table4(table3_groups)
    our_row, printed = row(table, "MR", "BERT-base", "ours")
    silhouettes = ["0.5500 ± 0.0000 (3)", "0.5000 ± 0.0000 (3)", "+10.0 %"]
    assert our_row[3:] == [*silhouettes, "15.00 ± 0.00 (3)", "20.00 ± 0.00 (3)", "-25.0 %"]
    assert [e.verdict for e in table.rows[0][3:5]] == ["ok", "near"]  # the paper: 0.5507 and 0.5725
    assert printed[3:] == ["0.5507", "0.5725", "-3.8 %", "27.77", "33.04", "-16.0 %"]  # the paper: 16.0 % faster


def test_table4_compares_common_seeds(tmp_path):
    found = {"scl": {1: (0.5, 20.0), 2: (0.6, 30.0), 9: (0.9, 1.0)}}
    found["gloss_o"] = {1: (0.6, 10.0), 2: (0.7, 20.0), 3: (0.1, 1.0)}
    for loss, runs in found.items():
        for seed, (silhouette, seconds) in runs.items():
            measured = {"silhouette": silhouette, "per_epoch": seconds, "shared_device": (loss, seed) == ("scl", 2)}
            write_run(tmp_path, mode="standalone", loss=loss, seed=seed, **measured)
    table = tables.table4(groups_of(tmp_path, [cell(mode="standalone", loss=x, seeds=(1, 2, 3, 9)) for x in found]))
    our_row, _ = row(table, "MR", "BERT-base", "ours")
    assert our_row[3:6] == ["0.6500 ± 0.0707 (2)", "0.5500 ± 0.0707 (2)", "+18.2 %"]
    assert our_row[6:] == ["10.00 (1)", "20.00 (1)", "-50.0 %"]  # seed 2 of SCL shared its device
    assert [e.verdict for e in table.rows[0][3:5]] == ["unresolved", "unresolved"]
    assert [r["seeds"] for r in records(table)] == ["1 2", "1"]


def test_table4_compares_no_two_variants_and_gives_no_change_from_a_negative_silhouette(tmp_path):
    specs = [
        {"mode": "standalone", "loss": loss, "dataset": dataset, "accuracy": 86.0, "silhouette": x, "variant": variant}
        for dataset, of_gloss in (("mr", "paper"), ("r8", "released"))
        for loss, x, variant in (("scl", -0.1, "paper"), ("gloss_o", 0.3, of_gloss))
    ]
    table = tables.table4(write_groups(tmp_path, *specs))
    mr, r8 = map(texts, ours(table))
    assert mr[3:6] == ["0.3000 ± 0.0000 (3)", "-0.1000 ± 0.0000 (3)", "—"]
    assert r8[3:] == ["—"] * 6 and "R8, BERT-base: the losses differ in protocol or variant" in " ".join(table.notes)


def test_table9_pairs_by_data_set_and_seed(tmp_path):
    differences = {"mr": (0.4, 0.6, 0.8), "r8": (1.0, 1.2, -0.1)}
    scl = [{"mode": "standalone", "loss": "scl", "dataset": d, "accuracy": (86.0, 87.0, 88.0)} for d in differences]
    both = [{**x, "loss": "gloss_o", "accuracy": tuple(86.0 + i + d for i, d in enumerate(differences[x["dataset"]]))}
            for x in scl]  # fmt: skip
    write_run(tmp_path, loss="scl", accuracy=1.0, mode="standalone", seed=9)  # no seed 9 of the other loss
    table = compare.table9(write_groups(tmp_path, *scl, *both, seeds=(1, 2, 3, 9)))
    our_row, printed = row(table, "G-Loss-O against SCL", "all", "ours")
    assert our_row[3:6] == ["87.65", "87.00", "+0.65"]
    # scipy: ttest_1samp(differences, 0).pvalue = 0.01857; of 64 sign patterns 4 reach |sum| 3.9
    assert our_row[7:13] == ["0.0186", "0.0625", "0.0625", "0.0312", "6", "supported"]
    assert printed[3:6] == ["87.05", "86.41", "0.63"] and printed[7] == "0.0062"
    mr, _ = row(table, "G-Loss-O against SCL", "MR, BERT-base")
    assert mr[7:12] == ["0.0351", "0.2500", "0.5000", "0.2500", "3"]
    assert any("swapped" in note for note in table.notes)
    assert row(table, "G-Loss-O against Triplet", "all")[0][3:] == ["—"] * 8 + ["0", "—"]


def test_verdicts_of_claims_follow_the_interval(tmp_path):
    """Of two settings of a loss that do not belong to a sweep, the last one is used."""
    scores = {"ce": (85.0,) * 3, "gloss_sqrt": (82.3, 82.0, 81.7), "gloss_o": (85.9, 86.0, 86.1)}
    specs = [{"loss": x, "accuracy": y} for x, y in scores.items()]
    specs.insert(1, {"loss": "gloss_o", "accuracy": 70.0, "config_hash": "ffffffff"})
    table = compare.claims_table(compare.claims("Table 2", write_groups(tmp_path, *specs)))
    assert {r[1].plain(): (r[4].plain(), r[6].plain(), r[2].verdict) for r in table.rows} == {
        "G-Loss-SQRT + CE beats CE": ("-3.00", "3", "contradicted"),
        "G-Loss-O + CE beats CE": ("+1.00", "3", "supported"),
    }


def test_table5_chooses_the_variant_on_validation_and_marks_the_best_seed(tmp_path):
    specs = [{"loss": "ce"}, {"loss": "gloss_sqrt", "accuracy": 86.0, "val": 90.0}]
    specs += [{"loss": "gloss_o", "accuracy": 87.0, "val": 89.0}]  # better on test, which is not used
    table = compare.table5(write_groups(tmp_path, *specs), [{"dataset": "mr", "test": {"accuracy": 76.14}}])
    our_row, best = row(table, "G-Loss + BERT-base (ours, mean)")
    assert our_row[1] == "86.00 SQRT (3)" and best[1] == "86.20 [seed 3]"
    assert row(table, "TF-IDF + linear SVM (measured here)")[0][1] == "76.14"
    assert row(table, "TextGCN")[0][1] == "76.74"
    ranks = {r[0].plain(): r[1].parts[0].rank for r in table.rows}
    assert ranks["RoBERTa-GCN"] == 1 and ranks["RoBERTa-large"] == 2
    assert ranks["G-Loss + RoBERTa-large (paper)"] == 0  # a best number instead of a mean: not ranked


def test_table5_does_not_rank_reduced_runs_of_ours(tmp_path):
    reduced = {"dataset": "r8", "config": {"dataset": {"train_limit": 500}}}
    specs = [{"loss": "gloss_o", "accuracy": (99.9,), **x} for x in ({}, reduced)]
    table = compare.table5(write_groups(tmp_path, *specs), [])
    ranks = {r[0].plain(): [e.parts[0].rank for e in r[1:]] for r in table.rows}
    assert ranks["G-Loss + BERT-base (ours, mean)"] == [1, 0]
    assert [name for name, (_, r8) in ranks.items() if r8 == 1] == ["RoBERTa-GCN"]
    assert any("not ranked" in n and "protocol" in n for n in table.notes)


def test_table6_notes_contradictions_in_the_paper(tmp_path):
    table = tables.table6(write_groups(tmp_path, {"dataset": "sst2"}, {"dataset": "qnli", "accuracy": 89.08}))
    our_row, printed = row(table, "BERT-base", "CE", "ours")
    assert our_row[3:] == ["—", "89.08 ± 0.20 (3)"] and printed[3:] == ["91.20", "89.08"]
    notes = " ".join(table.notes)
    assert "92.32" in notes and "90.06 against 89.62" in notes


def test_runs_are_sorted_by_the_values_of_their_settings(tmp_path):
    for i, limit in enumerate((100, 20, 1000)):
        write_run(tmp_path, config_hash=f"{i}" * 8, config={"dataset": {"train_limit": limit}})
    settings = [row[4].plain() for row in runs_table(ungrouped(tmp_path)).rows]
    assert settings == ["train_limit=20", "train_limit=100", "train_limit=1000"]  # as texts: 100, 1000, 20


def test_runs_are_ranked_only_within_equal_settings(tmp_path):
    for loss, accuracy in (("ce", 80.0), ("gloss_o", 81.0)):
        write_run(tmp_path, loss=loss, accuracy=accuracy, config_hash="1" * 8)
        limited = {"dataset": {"train_limit": 20}}
        write_run(tmp_path, loss=loss, accuracy=accuracy - 30, config_hash="2" * 8, config=limited)
        write_run(tmp_path, loss=loss, accuracy=95.0, config_hash="3" * 8, variant="released")
    table = runs_table(ungrouped(tmp_path))
    reduced, full = "max_epochs=null train_limit=20", "max_epochs=200 train_limit=null"
    assert [(r[3].plain(), r[4].plain(), r[6].parts[0].rank) for r in table.rows] == [
        *[("CE", full, 0), ("G-Loss-O + CE", full, 1)],  # comparable runs, named by the differing settings
        *[("CE", reduced, 0), ("G-Loss-O + CE", reduced, 1)],
        *[("CE", "released", 0), ("G-Loss-O + CE", "released", 0)],  # equal scores
    ]
    assert "Not the paper's protocol (2 of 6 rows; the CSV says of which): dataset.train_limit=20." in table.notes
