"""The page and the written files as a whole."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from synthetic import cell, result, write_run, write_study

import gloss.report.figure
from gloss.config import ROOT
from gloss.errors import ConfigError
from gloss.experiments.grid import expand_grid
from gloss.records.reading import read_records
from gloss.records.run_folder import config_hash
from gloss.report.build import build
from gloss.report.html_page import Section, render
from gloss.report.seed_groups import gather, reductions
from gloss.report.table import Table, entry
from gloss.report.tables.results import table3, table4
from gloss.runtime.terminal import run_with_exit_code

DPI = 40  # small pictures, so that the tests are quick


@pytest.fixture
def outputs(tmp_path):
    for loss, scores in {"ce": (80.0, 82.0), "gloss_sqrt": (84.0, 86.1)}.items():
        for seed, accuracy in enumerate(scores, start=1):
            write_run(tmp_path, dataset="docstrings", model="minilm", loss=loss, seed=seed, accuracy=accuracy)
    return tmp_path


def test_runs_without_an_experiment_make_a_table_a_figure_and_a_page(outputs):
    report = build(outputs, dpi=DPI)
    text = (outputs / "report" / "runs.md").read_text()
    assert "| G-Loss-SQRT + CE |   2 | **85.05 ± 1.48** |" in text
    assert "81.00 ± 1.41" in text
    page = report.page.read_text()
    assert "85.05 ± 1.48" in page and "data:image/png;base64," in page
    assert not re.search(r'(src|href)="(https?:)?//', page)  # opens without a network
    assert (outputs / "report" / "convergence.pdf").stat().st_size > 1000


def test_equal_records_give_equal_bytes(outputs):
    def written():
        build(outputs, dpi=DPI)
        return {f.name: f.read_bytes() for f in (outputs / "report").iterdir()}

    first = written()
    assert first == written()
    assert {"runs.md", "runs.csv", "runs.tex", "convergence.csv", "convergence.pdf", "index.html"} <= set(first)


def test_hostile_names_are_shown_as_text(tmp_path):
    write_run(tmp_path, dataset="<script>alert(1)<", model='"onload=x', accuracy=50.0)
    page = build(tmp_path, dpi=DPI).page.read_text()
    assert page.count("<script") == 1 and "alert(1)" in page and "&lt;script&gt;" in page  # the one that sorts tables
    assert "\\<script\\>" not in page


def test_an_empty_folder_says_what_to_do(tmp_path):
    assert "make demo" in build(tmp_path, dpi=DPI).page.read_text()


def test_records_that_cannot_be_used_are_listed_with_the_reason(outputs):
    newer = result(dataset="docstrings", model="minilm", loss="scl_ce", seed=1, schema_version=99)
    write_run(outputs, newer)
    unfinished = write_run(outputs, dataset="docstrings", model="minilm", loss="scl_ce", seed=2)
    (unfinished / "DONE").unlink()
    broken = write_run(outputs, dataset="docstrings", model="minilm", loss="scl_ce", seed=3)
    (broken / "result.json").write_text(json.dumps(result())[:-20])
    page = build(outputs, dpi=DPI).page.read_text()
    assert (
        "schema_version: it is 99, newer than this code" in page and "not finished" in page and "cannot be used" in page
    )
    assert "scl_ce" not in (outputs / "report" / "runs.csv").read_text()


@pytest.fixture
def experiments(outputs, monkeypatch):
    """An outputs folder in which table2 was asked for, and the cells that its overrides compose."""
    asked = []

    def expand_grid(name, overrides):
        asked.append((name, overrides))
        if name == "fig2":
            raise ConfigError("loss=gloss_o needs a σ")
        cells = [
            cell(loss=x, dataset="docstrings", model="minilm", seeds=(1, 2)) for x in ("ce", "gloss_sqrt", "gloss_o")
        ]
        return cells if name == "table2" else [cell(mode="standalone", loss=x) for x in ("scl", "gloss_o")]

    monkeypatch.setattr("gloss.experiments.requested.expand_grid", expand_grid)
    selection = "[model=minilm, dataset=docstrings, paths.outputs=elsewhere]"
    (outputs / "selections.yaml").write_text(f"table2: [{selection}]\n")
    return outputs, asked


def test_the_experiments_that_were_run_have_a_section_each(experiments):
    outputs, asked = experiments
    report = build(outputs, dpi=DPI)
    assert asked == [("table2", ["model=minilm", "dataset=docstrings", f"paths.outputs={outputs}"])]
    assert [t.name for t in report.tables] == ["table2", "claims", "table5", "paper_claims", "runs"]
    page = report.page.read_text()
    assert "make reproduce-table2 ARGS=&#34;model=minilm dataset=docstrings&#34;" in page
    assert "<code>make reproduce-table6</code>" in page  # among what was not run yet
    claim = next(row for row in report.tables[1].rows if row[1].plain() == "G-Loss-SQRT + CE beats CE")
    assert claim[2].verdict == "supported" and claim[4].plain() == "+4.05"  # 84 - 80 and 86.1 - 82
    assert "dataset=docstrings model=minilm mode=integrated loss=gloss_o seed=1,2" in page


def test_runs_with_other_settings_stand_beside_the_table(experiments):
    outputs, _ = experiments
    write_run(outputs, dataset="docstrings", model="minilm", loss="ce", config_hash="ffffffff", accuracy=11.0)
    build(outputs, dpi=DPI)
    assert "11.00" not in (outputs / "report" / "table2.md").read_text()
    assert "11.00" in (outputs / "report" / "table2_others.md").read_text()


def test_only_makes_what_was_asked_for(experiments):
    outputs, asked = experiments
    report = build(outputs, only=["table3", "table9", "fig1"], dpi=DPI)
    assert [t.name for t in report.tables] == ["table3", "table9"] and [name for name, _ in asked] == ["table3"]
    assert (outputs / "report" / "fig1.pdf").is_file()
    with pytest.raises(ValueError, match="only=table10 is not allowed: expected some of demo, table1, table2"):
        build(outputs, only=["table10"])


def test_what_cannot_be_composed_or_read_is_a_problem_and_no_crash(experiments):
    outputs, _ = experiments
    (outputs / "selections.yaml").write_text("table2: []\nfig2: []\nfig99: []\n")
    (outputs / "baselines").mkdir()
    (outputs / "baselines" / "tfidf-mr.json").write_text("{")
    problems = " ".join(build(outputs, dpi=DPI).problems)
    assert (
        "fig2: loss=gloss_o needs a σ" in problems and "no experiment fig99" in problems and "tfidf-mr.json" in problems
    )
    (outputs / "selections.yaml").write_text("table2: {")
    assert any("selections.yaml cannot be used" in p for p in build(outputs, dpi=DPI).problems)


def test_searches_are_shown_and_their_trials_are_counted(outputs):
    write_study(outputs)
    write_study(outputs, "mr-bert-integrated-ce-paper-fair-ffffffff", num_trials=15)  # not finished
    write_study(outputs, "copied", name="another")
    (write_study(outputs, "damaged").parent / "study.json").write_text("{")
    write_study(outputs, "bad-seconds", trials=[{"number": 0, "state": "fail", "params": {}, "value": None}])
    report = build(outputs, dpi=DPI)
    names = [t.name for t in report.tables]
    first, second = (
        f"study-mr-bert-integrated-ce-paper-fair-{config_hash}" for config_hash in ("0123abcd", "ffffffff")
    )
    assert names == ["runs", "table7", first, second]  # all runs are the main table where no experiment was asked for
    table7 = (outputs / "report" / "table7.md").read_text()
    assert "2e-05 (1 of 5)" in table7 and "ffffffff: 6 of 15 trials" in table7
    trials = (outputs / "report" / f"{first}.md").read_text()
    assert "| 1 (best) | complete             | " in trials and "complete, as trial 1" in trials
    assert (outputs / "report" / f"{first}.pdf").is_file() and (outputs / "report" / f"{first}.csv").is_file()
    page = report.page.read_text()
    assert "python scripts/tune.py dataset=mr model=bert mode=integrated loss=ce search.trials=6" in page
    # 4 runs of 60 s; two searches of 5 trials of 60 s, their repetitions cost nothing
    assert "0.23 hours in total: 0.07 of runs, 0.17 of 10 trials of searches" in page
    assert page.count('href="#study-') == 1 and "<h2>Searches (2)</h2>" in page  # one fold and one link for all
    refused = [p.partition(":")[0] for p in report.problems]
    assert refused == ["bad-seconds", "copied", "damaged"]


def test_verdicts_are_counted_once_a_cell_and_metric(tmp_path):
    """Table 4 shows the silhouettes of Table 3 again."""
    for loss in ("scl", "gloss_o"):
        for seed in (1, 2, 3):
            write_run(tmp_path, mode="standalone", loss=loss, seed=seed, accuracy=86.0, silhouette=0.56)
    groups, _ = gather(
        [cell(mode="standalone", loss=x, seeds=(1, 2, 3)) for x in ("scl", "gloss_o")], read_records(tmp_path)[0]
    )
    sections = [Section(t.name, t.title, [t]) for t in (table3(groups), table4(groups))]
    shown = [v for s in sections for row in s.tables[0].rows for e in row for v in e.verdicts]
    assert shown.count("ok") == 8 and set(shown) == {"ok"}  # accuracy, macro-F1, silhouette twice, of two losses
    assert '<span class="verdict ok">ok</span> 6 </p>' in render("t", "", sections)


def test_a_report_needs_no_texts_of_the_users_own(tmp_path):
    """Records hold the fingerprint that config_hash of csv runs needs; what no record holds is a problem in a line."""
    given = ["dataset=csv", "dataset.name=mine", f"dataset.path={tmp_path / 'gone.csv'}", "model=tiny", "loss=ce"]
    selected = {"table2": [[*given, "seed=1,2", "model.max_length=16"]], "table6": [[*given, "seed=1"]]}
    (tmp_path / "selections.yaml").write_text(json.dumps(selected))
    (c,) = expand_grid("table2", selected["table2"][0])
    run = {"dataset": "mine", "model": "tiny", "loss": "ce"}
    write_run(tmp_path, config_hash=config_hash(c.config, "f" * 64), accuracy=77.0, **run)
    report = build(tmp_path, dpi=DPI)
    table = next(t for t in report.tables if t.name == "table2")
    assert table.rows[0][3].plain().startswith("77.00") and len(table.missing) == 1
    (problem,) = report.problems
    assert problem.startswith("table6: ") and "gone.csv" in problem and "no run of it" in problem
    write_run(tmp_path, config_hash=config_hash(c.config, "e" * 64), fingerprint="e" * 64, **run)
    report = build(tmp_path, only=["table2"], dpi=DPI)
    assert "runs on 2 different contents" in report.problems[0]  # neither is believed


def test_long_tables_are_folded(tmp_path):
    table = Table("long", "Long", ["x"], [[entry(f"line {i}")] for i in range(81)], [])
    body = render("t", "", [Section("s", "S", [table])]).partition("</head>")[2]
    assert "<summary>81 lines</summary>" in body and "line 80" in body
    assert "80 lines" not in render("t", "", [Section("s", "S", [replace(table, rows=table.rows[:80])])])


def test_a_footnote_stands_once(tmp_path):
    tables = [Table(name, name, ["x"], [["1"]], [], ["shared by both", f"of {name}"]) for name in ("one", "two")]
    page = render("t", "", [Section(t.name, t.title, [t]) for t in tables])
    assert page.count("shared by both") == 1 and page.count('href="#note-1"') == 2
    assert [page.count(f"of {name}</li>") for name in ("one", "two")] == [1, 1]


def test_the_page_opens_with_what_was_run_and_says_that_it_is_a_smoke_run(experiments):
    outputs, _ = experiments
    short = {"trainer": {"max_epochs": 2}, "dataset": {"train_limit": 50}}
    write_run(outputs, dataset="docstrings", model="minilm", loss="scl_ce", config_hash="eeeeeeee", config=short)
    page = build(outputs, dpi=DPI).page.read_text()
    assert "<h1>CE and G-Loss-SQRT + CE on Docstrings with MiniLM</h1>" in page
    order = [page.index(x) for x in ('<h2 id="table2">', "<img ", '<h2 id="claims">', "<h2>All finished runs</h2>")]
    assert order == sorted(order)
    assert "Smoke runs: 1 of 5 runs" in page and "dataset.train_limit=50" in page
    assert "All finished runs <span" not in page  # a mark stands beside headings that are open


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"trainer": {"max_epochs": 3}}, ["trainer.max_epochs=3"]),
        ({"trainer": {"max_epochs": 20}}, []),
        ({"model": {"alias": "tiny"}, "dataset": {"train_limit": 9}}, ["model=tiny", "dataset.train_limit=9"]),
        ({"trainer": {"max_epochs": 3}, "experiment": {"name": "fig6"}}, []),  # its file sets three
        ({"dataset": {"train_limit": 20}, "experiment": {"name": "few_shot"}}, []),
        (
            {"dataset": {"train_limit": 2000}, "trainer": {"max_epochs": 10, "patience": 2}},
            [],
        ),  # early stopping decides
        ({"trainer": {"max_epochs": 10, "patience": 10}}, ["trainer.max_epochs=10"]),
    ],
)
def test_what_makes_a_smoke_run(config, expected):
    assert reductions(config) == expected


def test_benchmarks_have_a_section_and_damaged_ones_cost_no_page(outputs):
    spread = [2.0, 1.5, 2.5]
    step = {"rounds": 1, "seconds": spread, "tokens_per_second": spread, "share_of_peak": spread}
    machine = {"device_name": "a processor", "threads": 1, "cores": 2, "precision": "float32", "load": [0.1, 0.2]}
    machine |= {"peak_flops": 1e11, "peak_from": "data sheet", "commit": "c" * 40}
    turns = {"turns": {"ce": {"seconds": 1.0}, "ce_repeat": {"seconds": 1.1}}}
    record = {
        **{"schema_version": 3, "name": "mr-minilm", "settings": {"clock": "wall"}, "machine": machine},
        **{"texts": {"mean_tokens": 20.0}, "rounds": [turns], "finished_at": "2026-01-01"},
        "candidates": {"ce": step | {"peak_memory_bytes": 10**9}},
    }
    (outputs / "bench").mkdir()
    path = outputs / "bench" / "mr-minilm.json"
    path.write_text(json.dumps(record))
    report = build(outputs, dpi=DPI)
    assert report.problems == [] and "bench" in [t.name for t in report.tables]
    page = report.page.read_text()
    assert "<code>make bench</code>" in page and "2 (1.5 – 2.5)" in page
    for changes in ({"candidates": {"ce": {}}}, {"machine": None}):
        path.write_text(json.dumps(record | changes))
        (problem,) = build(outputs, dpi=DPI).problems
        assert problem.startswith("bench: the results cannot be used")


def test_broken_predictions_cost_one_figure_only(outputs, monkeypatch):
    for folder in (outputs / "runs").glob("*/*/*/*/seed=*"):
        (folder / "predictions.npz").write_bytes(b"PK\x03\x04 half a file")
    cells = [cell(loss="gloss_sqrt", dataset="docstrings", model="minilm")]
    monkeypatch.setattr("gloss.experiments.requested.expand_grid", lambda name, overrides: cells)
    (outputs / "selections.yaml").write_text("fig4: []\ntable2: []\n")
    report = build(outputs, dpi=DPI)
    assert any(p.startswith("fig4: ") and "predictions.npz cannot be read" in p for p in report.problems)
    assert "table2" in [t.name for t in report.tables]


def test_the_command_prints_its_tables_and_mistakes_in_a_line(outputs):
    def run(*arguments):
        command = [sys.executable, str(ROOT / "scripts" / "report.py"), f"paths.outputs={outputs}", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    done = run("only=[table2]", "show=[table2]")
    assert done.returncode == 0 and "| G-Loss-SQRT + CE |" in done.stdout
    assert done.stdout.rstrip().endswith(f"The page: {outputs / 'report' / 'index.html'}")
    for argument, message in (
        ("only=[table10]", "only=table10 is not allowed"),
        ("path.outputs=x", "no key path.outputs"),
    ):
        wrong = run(argument)
        assert wrong.returncode == 2 and message in wrong.stderr and "Traceback" not in wrong.stderr
    shutil.rmtree(outputs / "report")
    (outputs / "report").write_text("in the way")
    refused = run()
    assert refused.returncode == 1 and refused.stderr.startswith("error: ") and str(outputs) in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_full_disk_is_told_and_leaves_no_half_figure(outputs, monkeypatch, capsys):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(gloss.report.figure, "write_atomic", full)
    assert run_with_exit_code(lambda: build(outputs, only=["fig1"], dpi=DPI) and 0) == 1
    assert "fig1.pdf: No space left on device: free some space there" in capsys.readouterr().err
    assert not list((outputs / "report").iterdir())


def test_a_report_of_real_cells_is_composed_by_the_command(outputs):
    """Through Hydra in the same process, as the command does it: the cells of an experiment and their missing runs."""
    (outputs / "selections.yaml").write_text(
        "table2: [dataset=docstrings, model=minilm, 'loss=ce,gloss_sqrt', 'seed=1,2']\n"
    )
    report = build(outputs, only=["table2"], dpi=DPI)
    assert report.problems == [] and [t.name for t in report.tables] == ["table2", "table2_others"]
    assert len(report.tables[0].missing) == 2  # the synthetic runs have config_hash of no real configuration
