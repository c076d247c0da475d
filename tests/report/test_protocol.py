"""Runs off the paper's protocol: what they are, and that they bear no verdict."""

from dataclasses import asdict

import pytest
import yaml
from from_runs import groups_of, records, row, write_cell
from synthetic import cell, write_run

from gloss.config import CONFIG_DIR
from gloss.experiments.grid import expand_grid
from gloss.records.run_folder import hashed_config
from gloss.report.html_page import Section, render
from gloss.report.seed_groups import protocol_deviations
from gloss.report.tables import comparisons as compare
from gloss.report.tables import results as tables


def test_reduced_runs_and_models_of_our_own_bear_no_verdict(tmp_path):
    config = {"dataset": {"train_limit": 500}, "trainer": {"max_epochs": 3}}
    cells = [
        cell(seeds=(1, 2, 3), config=config),
        cell(model="minilm", seeds=(1, 2, 3)),
        cell(model="bert", loss="scl_ce", seeds=(1, 2, 3)),
    ]
    write_cell(tmp_path, 85.64)
    write_cell(tmp_path, 85.64, model="minilm")
    write_cell(tmp_path, 85.97, loss="scl_ce")
    table = tables.table2(groups_of(tmp_path, cells))
    assert [r[3].verdict for r in table.rows if r[2].plain() == "ours"] == ["", "ok", ""]
    notes = " ".join(table.notes)
    assert "dataset.train_limit=500, trainer.max_epochs=3" in notes and "MiniLM" in notes
    assert "paper" not in [r[2].plain() for r in table.rows if r[0].plain() == "MiniLM"]


def test_mixed_precision_and_unsearched_values_are_said(tmp_path):
    write_run(tmp_path, seed=1, precision="float32")
    write_run(tmp_path, seed=2, precision="bf16", tuned={"trials": 15}, resumed_on=["epoch 3: threads was 4, is 8"])
    notes = " ".join(tables.table2(groups_of(tmp_path, [cell(seeds=(1, 2))])).notes)
    assert "mixes precisions: bf16, float32" in notes
    assert "seed 2, went on otherwise than it began: epoch 3: threads was 4, is 8" in notes
    assert "not searched for in all measured cells (CE)" in notes


def test_a_smaller_search_is_a_departure(tmp_path):
    search = {"trials": 2, "search": "fair", "applied": ["trainer.lr"]}
    budgets = {"ce": search, "scl_ce": search | {"trials": 15}, "cosine": {"trials": 5, "search": "authors"}}
    budgets |= {"triplet": {"trials": 5, "search": "fair"}, "gloss_o": {"file": "x.yaml", "applied": []}}
    budgets["scl_ce"]["applied"] = ["loss.lam", "loss.temperature", "trainer.lr"]
    budgets["gloss_sqrt"] = {}
    cells = [cell(loss=loss, seeds=(1, 2, 3), config={"tuned": tuned}) for loss, tuned in budgets.items()]
    for loss, accuracy in (("ce", 85.64), ("scl_ce", 85.97), ("gloss_o", 86.63), ("gloss_sqrt", 86.23)):
        write_cell(tmp_path, accuracy, loss=loss)
    groups = groups_of(tmp_path, cells)
    found = {g.loss: protocol_deviations(g.config) for g in groups}
    assert found == {
        **{"ce": ["search.trials=2"], "triplet": ["search.trials=5"]},
        **{"scl_ce": [], "cosine": []},  # the authors' own budget
        **{"gloss_o": ["search.trials=0"], "gloss_sqrt": ["search.trials=0"]},  # all by hand; nothing searched
    }
    table = tables.table2(groups)
    verdicts = {r[1].plain(): r[3].verdict for r in table.rows if r[2].plain() == "ours"}
    assert verdicts == dict.fromkeys(verdicts, "") | {"SCL + CE": "ok"}
    assert any(note.startswith("Not the paper's protocol (1 of 6 cells): search.trials=2") for note in table.notes)
    overridden = cell(loss="gloss_sqrt", config={"tuned": search | {"trials": 15}, "loss": {"lam": 0.7, "gamma": 0.6}})
    assert protocol_deviations(asdict(overridden.config)) == ["loss.lam=0.7 by hand", "loss.gamma=0.6 by hand"]
    for name, given in (("released", ["loss=scl", "variant=released"]), ("fig6", ["loss=scl"])):
        (c,) = expand_grid("variant" if name == "released" else name, [*given, "dataset=mr", "seed=1"])[:1]
        config = asdict(c.config) | ({"tuned": search | {"trials": 15}} if name == "released" else {})
        said = [x for x in protocol_deviations(config) if x.startswith(("search", "loss.lam"))]
        assert said == []  # released code fixes λ; a timing needs no search


def test_every_key_that_changes_a_run_is_protocol_searched_or_harmless():
    """A changed value of any other key of the configuration must take the verdict away."""
    harmless = {
        *("dataset.text", "dataset.label", "dataset.revision"),  # checked against the manifest; of hub sets only
        *("model.sha256", "variant.name", "trainer.classes_per_batch"),  # a check; its keys count; with the sampler
        *("trainer.embeddings_at", "trainer.save_embeddings", "ablation.test_on", "trainer.precision"),
        *("trainer.lr", "loss.lam", "loss.gamma", "loss.sigma", "loss.temperature"),  # searched
    }
    config = asdict(cell(loss="triplet", mode="standalone").config)
    config["variant"] |= {"name": "paper", "scl_lam": None}
    assert protocol_deviations(config) == []
    keys = [f"{s}.{k}" for s, rest in hashed_config(cell(loss="triplet").config).items() for k in rest]
    unsaid = set()
    for section, key in (k.split(".") for k in keys):
        changed = {**config, section: {**config[section], key: 0.123}}
        if not protocol_deviations(changed):
            unsaid.add(f"{section}.{key}")
    assert unsaid - harmless == set() and len(keys) > 40
    assert protocol_deviations(config | {"mode": "integrated"}) == ["trainer.max_grad_norm=5.0"]


def test_a_search_on_other_amounts_of_data_is_said(tmp_path):
    note = "the values of mr-bert-integrated-ce.yaml were searched on 450 training texts, this run is on all"
    tuned = {"file": "mr-bert-integrated-ce.yaml", "trials": 15, "note": note}
    write_run(tmp_path, seed=1, tuned=tuned)
    write_run(tmp_path, dataset="r8", tuned=tuned | {"note": None})
    notes = tables.table2(groups_of(tmp_path, [cell(seeds=(1, 2)), cell(dataset="r8")])).notes
    expected = "Values of the search (MR, BERT-base, CE): searched on 450 training texts, this run is on all."
    assert [n for n in notes if "training texts" in n] == [expected]


@pytest.mark.parametrize(
    "config, expected",
    [
        ({"model": {"name": "prajjwal1/bert-tiny", "revision": None}}, "model.name=prajjwal1/bert-tiny"),
        ({"model": {"name": "google-bert/bert-base-uncased", "revision": "main"}}, "model.revision=main"),
        ({"dataset": {"source": "csv", "path": "x.csv"}}, "dataset.source=csv"),
        ({"dataset": {"source": "hub", "path": "who/mr"}}, "dataset.source=hub"),
        ({"variant": {"name": "released"}}, "variant.forward_passes=1"),  # by name alone, with the paper's keys
        ({"variant": {"forward_passes": 2}}, "variant.forward_passes=2"),
    ],
)
def test_other_texts_under_the_name_another_encoder_or_variant_bear_no_verdict(tmp_path, config, expected):
    known = {"name": "google-bert/bert-base-uncased", "revision": "86b5e0934494bd15c9632b12f734a8a67f723594"}
    write_cell(tmp_path, 85.64)
    for changes, verdict in (({"model": known}, "ok"), (config, "")):
        table = tables.table2(groups_of(tmp_path, [cell(seeds=(1, 2, 3), config=changes)]))
        assert table.rows[0][3].verdict == verdict
        assert any(expected in note for note in table.notes) == (not verdict)


def released(**changes):
    """The changes of a cell's configuration that make it one of the released code's variant."""
    overlay = yaml.safe_load((CONFIG_DIR / "variant" / "released.yaml").read_text())
    return {"variant": {**overlay["variant"], **changes}, "trainer": overlay["trainer"]}


def test_the_released_variant_bears_verdicts_that_say_so(tmp_path):
    write_cell(tmp_path, 85.64, loss="ce")
    write_cell(tmp_path, 60.0, loss="scl_ce")
    write_cell(tmp_path, 85.64, loss="gloss_o")
    changes = {"ce": released(), "scl_ce": released()}
    changes["gloss_o"] = released(forward_passes=1)  # a mixture of the two
    cells = [cell(loss=loss, seeds=(1, 2, 3), config=config) for loss, config in changes.items()]
    table = tables.table2(groups_of(tmp_path, cells))
    assert [r[3].verdict for r in table.rows if r[2].plain() == "ours"] == ["ok (released)", "off (released)", ""]
    assert [r["verdict"] for r in records(table)] == ["ok (released)"] * 2 + ["off (released)"] * 2 + [None] * 2
    notes = [n for n in table.notes if "released code's variant" in n or "forward_passes" in n]
    assert notes == [
        "Not the paper's protocol (1 of 3 cells): variant.forward_passes=1.",
        "The released code's variant (all cells): variant=released.",
    ]
    page = render("t", "", [Section("table2", "t", [table])])
    assert '<span class="verdict ok">ok (released)</span> 2 <span class="verdict off">off (released)</span> 2 ' in page
    (found, _) = compare.claims("Table 2", groups_of(tmp_path, cells))
    assert (found.where, found.verdict) == ("BERT-base on MR (not the paper's protocol)", "")


def test_runs_off_the_protocol_bear_no_verdict_among_claims_either(tmp_path):
    for dataset in ("mr", "r8"):
        for loss, mode, accuracy in (("scl", "standalone", 80.0), ("gloss_o", "standalone", 90.0)):
            write_cell(tmp_path, accuracy, loss=loss, mode=mode, dataset=dataset)
    limits = {"mr": None, "r8": 500}
    cells = [
        cell(loss=loss, mode="standalone", dataset=d, seeds=(1, 2, 3), config={"dataset": {"train_limit": n}})
        for d, n in limits.items()
        for loss in ("scl", "gloss_o")
    ]
    groups = groups_of(tmp_path, cells)
    pooled, within = compare.table9(groups)
    assert row(pooled, "G-Loss-O against SCL", "ours")[0][10:] == ["6", "—"] and records(pooled)[0]["claim"] is None
    assert [(r[1].plain(), r[-1].plain()) for r in within.rows] == [("MR", "supported"), ("R8", "—")]
    (both,) = compare.claims("Table 3", groups)
    assert (both.verdict, both.where) == ("", "BERT-base on MR, R8 (not the paper's protocol)")
    shown = compare.claims_table([both])
    (line,) = records(shown)
    assert shown.rows[0][2].verdict == "" and line["verdict"] is None and line["difference"] == 10.0
    (one,) = compare.claims("Table 3", [g for g in groups if g.dataset == "mr"])
    assert (one.verdict, one.where) == ("supported", "BERT-base on MR")
