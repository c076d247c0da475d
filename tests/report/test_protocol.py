"""Deviations of runs from the paper's protocol: their detection, and the absence of verdicts."""

from dataclasses import asdict

import pytest
import yaml
from conftest import composed
from from_runs import groups_of, ours, records, row, write_groups
from synthetic import cell, write_run

from gloss.config import CONFIG_DIR, HYPERPARAMETERS, config_file
from gloss.experiments.grid import expand_grid
from gloss.records.reading import read_records
from gloss.records.run_folder import hashed_config
from gloss.report.html_page import Section, render
from gloss.report.protocol import protocol_deviations, reductions
from gloss.report.seed_groups import gather
from gloss.report.tables import comparisons as compare
from gloss.report.tables import results as tables
from gloss.report.tables.paper_claims import paper_claims_table
from gloss.search.space import range_of, search_space


def test_reduced_runs_and_other_models_have_no_verdict(tmp_path):
    reduced = {"config": {"dataset": {"train_limit": 500}, "trainer": {"max_epochs": 3}}}
    specs = [{"accuracy": 85.64, **reduced}, {"accuracy": 85.64, "model": "minilm"}]
    specs.append({"accuracy": 85.97, "loss": "scl_ce"})
    table = tables.table2(write_groups(tmp_path, *specs))
    assert [r[3].verdict for r in ours(table)] == ["", "ok", ""]
    notes = " ".join(table.notes)
    assert "dataset.train_limit=500, trainer.max_epochs=3" in notes and "MiniLM" in notes
    assert "paper" not in [r[2].plain() for r in table.rows if r[0].plain() == "MiniLM"]


def test_notes_name_runs_of_a_cell_that_differ(tmp_path):
    """Gradient caching draws other masks of dropout, and config_hash does not cover it."""
    write_run(tmp_path, seed=1, precision="float32")
    config = {"trainer": {"max_epochs": 200, "grad_cache_chunk": 8}}
    write_run(tmp_path, seed=2, precision="bf16", config=config, resumed_on=["epoch 3: threads was 4, is 8"])
    notes = " ".join(tables.table2(groups_of(tmp_path, [cell(seeds=(1, 2))])).notes)
    assert "mixes precisions: bf16, float32" in notes and "mixes values of trainer.grad_cache_chunk: 8" in notes
    assert "seed 2, went on otherwise than it began: epoch 3: threads was 4, is 8" in notes
    assert "mixes texts" not in notes and "num_length_buckets" not in notes


def test_a_failed_run_is_missing_with_its_reason(tmp_path):
    write_run(tmp_path, seed=1)
    failures = {("mr", "bert", "integrated-ce", cell().config_hash, "seed=2"): "failed: the loss is not finite"}
    groups, _ = gather([cell(seeds=(1, 2, 3))], read_records(tmp_path)[0], failures)
    name = "dataset=mr model=bert mode=integrated loss=ce"
    assert tables.table2(groups).missing == [f"{name} seed=2: failed: the loss is not finite", f"{name} seed=3"]


def test_a_chunk_of_the_whole_batch_is_no_other_mask(tmp_path):
    for seed, chunk in ((1, None), (2, 128), (3, 256)):
        write_run(tmp_path, seed=seed, config={"trainer": {"batch_size": 128, "grad_cache_chunk": chunk}})
    notes = tables.table2(groups_of(tmp_path, [cell(seeds=(1, 2, 3))])).notes
    assert not any("grad_cache_chunk" in note for note in notes)


def test_notes_name_losses_that_ran_on_other_code_precision_or_device(tmp_path):
    write_run(tmp_path, loss="ce", code="a" * 12, precision="float32", device_name="A100")
    write_run(tmp_path, loss="gloss_o", code="b" * 12, precision="bf16", device_name="A100")
    write_run(tmp_path, dataset="r8", code="c" * 12)  # the only loss of its set
    cells = [cell(loss="ce"), cell(loss="gloss_o"), cell(dataset="r8")]
    notes = [n for n in tables.table2(groups_of(tmp_path, cells)).notes if "the runs are of" in n]
    codes = f"{'a' * 12} (CE); {'b' * 12} (G-Loss-O + CE)"
    assert notes == [
        f"Attention: MR, BERT-base: the runs are of 2 versions of the code: {codes}.",
        "Attention: MR, BERT-base: the runs are of 2 precisions: float32 (CE); bf16 (G-Loss-O + CE).",
    ]
    for loss in ("ce", "gloss_o"):
        write_run(tmp_path, dataset="r52", loss=loss, code="a" * 12)
        write_run(tmp_path, dataset="r52", loss=loss, code="b" * 12, seed=2)
    both = groups_of(tmp_path, [cell(dataset="r52", loss=loss, seeds=(1, 2)) for loss in ("ce", "gloss_o")])
    assert not any("the runs are of" in n for n in tables.table2(both).notes)  # all losses alike, by seed


def test_the_notes_of_runs_are_shown_once_a_kind_and_data_set(tmp_path):
    for seed, sigma in ((1, 6.9), (2, 7.1)):
        write_run(tmp_path, loss="gloss_o", seed=seed, notes=[f"σ={sigma} is so wide"])
    write_run(tmp_path, notes=["σ=6.9 is so wide", "nothing has been learnt yet"])
    write_run(tmp_path, dataset="r8", notes=["σ=8.5 is so wide"])
    cells = [cell(loss="gloss_o", seeds=(1, 2)), cell(), cell(dataset="r8")]
    found = [n for n in tables.table2(groups_of(tmp_path, cells)).notes if n.startswith("Noted")]
    assert found == [
        "Noted by 3 runs (MR, BERT-base, G-Loss-O + CE; MR, BERT-base, CE): σ=6.9 is so wide",
        "Noted by a run (MR, BERT-base, CE): nothing has been learnt yet",
        "Noted by a run (R8, BERT-base, CE): σ=8.5 is so wide",
    ]


FAIR = {"trials": 15, "search": "fair"}


@pytest.mark.parametrize(
    ("loss", "tuned", "expected"),
    [
        ("ce", FAIR | {"trials": 2, "applied": ["trainer.lr"]}, ["search.trials=2"]),
        ("scl_ce", FAIR | {"applied": ["loss.lam", "loss.temperature", "trainer.lr"]}, []),
        ("cosine", {"trials": 5, "search": "authors"}, []),  # the authors' own budget
        ("triplet", {"trials": 5, "search": "fair"}, ["search.trials=5"]),
        ("ce", FAIR | {"trials": 60, "applied": ["trainer.lr"]}, ["search.trials=60"]),
        ("ce", FAIR | {"trials": 17, "fail": 2, "applied": ["trainer.lr"]}, []),  # two failed ones were repeated
        ("gloss_o", {"file": "x.yaml", "applied": []}, ["search.trials=0"]),  # all values set by hand
        ("gloss_sqrt", True, ["search.trials=0"]),  # no search was found
        ("scl_ce", False, ["search.trials=0"]),  # none was used
        ("gloss_sqrt", FAIR | {"applied": ["trainer.lr"]}, ["loss.lam=0.8 by hand", "loss.gamma=0.6 by hand"]),
    ],
)
def test_a_smaller_search_deviates_from_the_protocol(tmp_path, loss, tuned, expected):
    config = {"tuned": tuned, "loss": {"lam": 0.8, "gamma": 0.6}}
    assert protocol_deviations(asdict(cell(loss=loss, config=config).config)) == expected
    table = tables.table2(write_groups(tmp_path, {"loss": loss, "config": config, "accuracy": 86.0}))
    assert bool(table.rows[0][3].verdict) == (not expected and loss in ("ce", "scl_ce"))
    assert [n for n in table.notes if n.startswith("Not the paper's protocol")] == [
        f"Not the paper's protocol (all cells): {x}." for x in [", ".join(expected)] if x
    ]


@pytest.mark.parametrize(("lr", "is_outside"), [(1e-5, False), (5e-5, False), (9e-6, True), (5e-3, True)])
def test_values_searched_outside_the_ranges_deviate(lr, is_outside):
    config = asdict(cell(loss="ce", config={"trainer": {"lr": lr}}).config)
    config["tuned"] = FAIR | {"applied": ["trainer.lr"]}
    assert protocol_deviations(config) == ["trainer.lr searched outside 1e-05 to 5e-05"] * is_outside


def searched(*words, **other):
    """Deviations of a run whose search had the ranges that its command line gives, or `other` ones."""
    cfg = composed(*words, "dataset=mr", "model=bert", config_name="tune")
    space = {name: range_of(row) for name, row in search_space(cfg, cfg.search).items()} | other
    tuned = {"search": cfg.search.name, "trials": 15, "applied": [*HYPERPARAMETERS.values()], "space": space}
    return [x for x in protocol_deviations(asdict(cfg) | {"tuned": tuned}) if " searched " in x]


def test_searches_in_other_ranges_deviate():
    for name in ("fair", "authors"):
        for mode, losses in config_file("search", name)["space"].items():
            for loss in losses:
                assert searched(f"search={name}", f"mode={mode}", f"loss={loss}") == []
    wide = "search.space.integrated.gloss_o.sigma.high=20"
    assert searched("loss=gloss_o", wide) == ["loss.sigma searched with low 0.1, high 20.0, log True"]
    assert searched("loss=gloss_o", gamma=None) == ["loss.gamma searched at one value"]
    fixed = "search.space.integrated.ce.lr.choices=[1e-5]"
    assert searched("search=authors", "loss=ce", fixed) == ["trainer.lr searched with choices [1e-05]"]


@pytest.mark.parametrize(("experiment", "given"), [("variant", ["variant=released"]), ("fig6", [])])
def test_released_variant_and_timings_need_no_searched_lam(experiment, given):
    c = expand_grid(experiment, ["loss=scl", "dataset=mr", "seed=1", *given])[0]
    config = asdict(c.config) | ({"tuned": FAIR | {"applied": ["trainer.lr"]}} if given else {})
    assert [x for x in protocol_deviations(config) if x.startswith(("search", "loss.lam"))] == []


def test_every_hashed_key_is_in_the_protocol_searched_or_harmless():
    """A changed value of any key that is not listed here must be a deviation from the protocol."""
    harmless = {
        *("dataset.text", "dataset.label", "dataset.revision"),  # checked against the manifest; only for hub sets
        *("model.sha256", "variant.name"),  # a check; its keys are compared instead
        "trainer.classes_per_batch",  # only with the sampler
        *("trainer.embeddings_at", "trainer.save_embeddings", "ablation.test_on", "trainer.precision"),
        *("trainer.lr", "loss.lam", "loss.gamma", "loss.sigma", "loss.temperature"),  # searched
    }
    config = asdict(cell(loss="triplet", mode="standalone").config)
    config["variant"] |= {"name": "paper", "scl_lam": None}
    assert protocol_deviations(config) == []
    keys = [f"{s}.{k}" for s, rest in hashed_config(cell(loss="triplet").config).items() for k in rest]
    unnoticed = set()
    for section, key in (k.split(".") for k in keys):
        changed = {**config, section: {**config[section], key: 0.123}}
        if not protocol_deviations(changed):
            unnoticed.add(f"{section}.{key}")
    assert unnoticed - harmless == set() and len(keys) > 40
    assert protocol_deviations(config | {"mode": "integrated"}) == ["trainer.max_grad_norm=5.0"]


def test_notes_name_searches_on_other_amounts_of_data(tmp_path):
    note = "the values of mr-bert-integrated-ce.yaml were searched on 450 training texts, this run is on all"
    tuned = {"file": "mr-bert-integrated-ce.yaml", "trials": 15, "note": note}
    write_run(tmp_path, seed=1, tuned=tuned)
    write_run(tmp_path, dataset="r8", tuned=tuned | {"note": None})
    notes = tables.table2(groups_of(tmp_path, [cell(seeds=(1, 2)), cell(dataset="r8")])).notes
    expected = "Values of the search (MR, BERT-base, CE): searched on 450 training texts, this run is on all."
    assert [n for n in notes if "training texts" in n] == [expected]


def test_deviations_of_some_data_sets_name_them(tmp_path):
    """A report may show a data set with one setting beside another with a different one."""
    epochs = {"mr": 3, "r8": 30}
    specs = [
        {"dataset": d, "loss": x, "config": {"trainer": {"max_epochs": n}}}
        for d, n in epochs.items()
        for x in ("ce", "gloss_o")
    ]
    notes = [n for n in tables.table2(write_groups(tmp_path, *specs)).notes if "max_epochs" in n]
    assert notes == [
        "Not the paper's protocol (2 of 4 cells, on MR, BERT-base): trainer.max_epochs=3.",
        "Not the paper's protocol (2 of 4 cells, on R8, BERT-base): trainer.max_epochs=30.",
    ]
    empty = {"dataset": "r52", "config": {"trainer": {"max_epochs": 4}}}
    groups = write_groups(tmp_path, {**specs[0], "accuracy": 80.0}, {**empty})
    notes = [n for n in tables.table2(groups).notes if "max_epochs" in n]
    assert notes == ["Not the paper's protocol (all cells): trainer.max_epochs=3."]  # of the cells with runs


def released(**changes):
    """Changes that give the configuration of a cell the released variant."""
    overlay = yaml.safe_load((CONFIG_DIR / "variant" / "released.yaml").read_text())
    return {"variant": {**overlay["variant"], **changes}, "trainer": overlay["trainer"]}


def test_verdicts_of_the_released_variant_are_marked(tmp_path):
    scores = {"ce": 85.64, "scl_ce": 60.0, "gloss_o": 85.64}
    changes = {"gloss_o": {"forward_passes": 1}}  # a mixture of both variants
    specs = [{"loss": x, "accuracy": y, "config": released(**changes.get(x, {}))} for x, y in scores.items()]
    groups = write_groups(tmp_path, *specs)
    table = tables.table2(groups)
    assert [r[3].verdict for r in ours(table)] == ["ok (released)", "off (released)", ""]
    assert [r["verdict"] for r in records(table)] == ["ok (released)"] * 2 + ["off (released)"] * 2 + [None] * 2
    notes = [n for n in table.notes if "released code's variant" in n or "forward_passes" in n]
    assert notes == [
        "The released code's variant (2 of 3 cells, on MR, BERT-base): variant=released.",
        "Not the paper's protocol (1 of 3 cells, on MR, BERT-base): variant=released, variant.forward_passes=1.",
    ]
    page = render([Section("table2", "t", [table])])
    assert '<span class="verdict ok">ok (released)</span> 2 <span class="verdict off">off (released)</span> 2 ' in page
    (found, _) = compare.claims("Table 2", groups)
    assert (found["where"], found["claim"]) == ("BERT-base on MR (not the paper's protocol)", None)


def test_runs_off_the_protocol_have_no_verdict_in_claims(tmp_path):
    limits, scores = {"mr": None, "r8": 500}, {"scl": 80.0, "gloss_o": 90.0}
    specs = [
        {"mode": "standalone", "loss": x, "dataset": d, "accuracy": y, "config": {"dataset": {"train_limit": n}}}
        for d, n in limits.items()
        for x, y in scores.items()
    ]
    groups = write_groups(tmp_path, *specs)
    table = compare.table9(groups)
    assert row(table, "G-Loss-O against SCL", "all")[0][11:] == ["6", "—"] and records(table)[0]["claim"] is None
    within = [(r[1].plain(), r[-1].plain()) for r in table.rows[-2:]]
    assert within == [("MR, BERT-base", "supported"), ("R8, BERT-base", "—")]
    (both,) = compare.claims("Table 3", groups)
    assert (both["claim"], both["where"]) == (None, "BERT-base on MR, R8 (not the paper's protocol)")
    shown = compare.claims_table([both])
    (line,) = records(shown)
    assert shown.rows[0][2].verdict == "" and line["verdict"] is None and line["difference"] == 10.0
    (one,) = compare.claims("Table 3", [g for g in groups if g.dataset == "mr"])
    assert (one["claim"], one["where"]) == ("supported", "BERT-base on MR")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"trainer": {"max_epochs": 3}}, ["trainer.max_epochs=3"]),
        ({"trainer": {"max_epochs": 20}}, []),
        ({"model": {"alias": "tiny"}, "dataset": {"train_limit": 9}}, ["model=tiny", "dataset.train_limit=9"]),
        ({"trainer": {"max_epochs": 3}, "experiment": {"name": "fig6"}}, []),  # the experiment sets 3 epochs
        ({"dataset": {"train_limit": 20}, "experiment": {"name": "few_shot"}}, []),
        ({"dataset": {"train_limit": 2000}, "trainer": {"max_epochs": 10, "patience": 2}}, []),  # stopped early
        ({"trainer": {"max_epochs": 10, "patience": 10}}, ["trainer.max_epochs=10"]),
    ],
)
def test_reductions_of_smoke_runs(config, expected):
    assert reductions(config) == expected


def test_claims_do_not_mix_the_paper_and_the_released_code(tmp_path):
    specs = [
        {"loss": loss, "dataset": dataset, "accuracy": score, "variant": variant}
        | ({"config": released()} if variant == "released" else {})
        for dataset, variant in (("mr", "released"), ("r8", "paper"))
        for loss, score in (("ce", 80.0), ("gloss_sqrt", 85.0), ("gloss_o", 90.0))
    ]
    groups = write_groups(tmp_path, *specs)
    found = [(c["where"], c["claim"], c["pairs"]) for c in compare.claims("Table 2", groups) if "-O" in c["text"]]
    assert found == [("BERT-base on MR (released)", "supported", 3), ("BERT-base on R8", "supported", 3)]
    assert "1 supported (released), 1 supported" in [r[-1].plain() for r in paper_claims_table(groups).rows]


def test_table9_pools_no_two_variants(tmp_path):
    specs = [
        {"mode": "standalone", "loss": loss, "dataset": dataset, "accuracy": score, "variant": variant}
        | ({"config": released()} if variant == "released" else {})
        for dataset, variant in (("mr", "released"), ("r8", "paper"))
        for loss, score in (("scl", 80.0), ("gloss_o", 90.0))
    ]
    table = compare.table9(write_groups(tmp_path, *specs))
    assert [r[-1].plain() for r in table.rows if r[1].plain() == "all" and "SCL" in r[0].plain()] == ["—"]
    assert [r[-1].plain() for r in table.rows[-2:]] == ["supported", "supported"]


def test_tables_that_compare_losses_name_a_swept_setting(tmp_path):
    specs = [
        {"mode": "standalone", "loss": loss, "accuracy": score, "variant": variant, "point": {"variant": variant}}
        for variant in ("paper", "released")
        for loss, score in (("scl", 80.0), ("gloss_o", 90.0))
    ]
    groups = write_groups(tmp_path, *specs)
    for table in (tables.table4(groups), compare.table9(groups)):
        assert "Not compared here, since the request sweeps variant: select one value." in table.notes


def test_table9_compares_no_two_variants_of_one_data_set(tmp_path):
    specs = [
        {"mode": "standalone", "loss": "scl", "accuracy": 80.0},
        {"mode": "standalone", "loss": "gloss_o", "accuracy": 90.0, "variant": "released", "config": released()},
    ]
    found = records(compare.table9(write_groups(tmp_path, *specs)))
    assert [r["claim"] for r in found if r["rival"] == "scl"] == [None, None]
    assert [r["difference"] for r in found if r["rival"] == "scl"] == [pytest.approx(10.0)] * 2
