"""The page and the files of a report."""

import errno
import json
import os
import re
import shutil

import pytest
from from_runs import DPI, write_groups
from synthetic import cell, result, write_run, write_study

import gloss.report.figure
from gloss.cli import report as command
from gloss.cli.command import run_command
from gloss.errors import ConfigError
from gloss.report.build import build
from gloss.report.html_page import Section, render
from gloss.report.table import Table
from gloss.report.tables.results import table3, table4
from gloss.runtime.terminal import run_with_exit_code

RUN = {"dataset": "docstrings", "model": "minilm"}


@pytest.fixture
def outputs(tmp_path):
    for loss, scores in {"ce": (80.0, 82.0), "gloss_sqrt": (84.0, 86.1)}.items():
        for seed, accuracy in enumerate(scores, start=1):
            write_run(tmp_path, loss=loss, seed=seed, accuracy=accuracy, **RUN)
    return tmp_path


def page_of(folder, **options):
    return build(folder, dpi=DPI, **options).page.read_text()


def test_runs_without_an_experiment_make_a_table_a_figure_and_a_page(outputs):
    """Equal records give equal bytes."""

    def written():
        build(outputs, dpi=DPI)
        return {f.name: f.read_bytes() for f in (outputs / "report").iterdir()}

    first = written()
    assert first == written()
    assert {"runs.md", "runs.csv", "runs.tex", "convergence.csv", "convergence.pdf", "index.html"} <= set(first)
    assert "| G-Loss-SQRT + CE |   2 | **85.05 ± 1.48** |" in first["runs.md"].decode()
    page = first["index.html"].decode()
    assert "85.05 ± 1.48" in page and "81.00 ± 1.41" in page and "data:image/png;base64," in page
    assert not re.search(r'(src|href)="(https?:)?//', page)  # no external resources
    (outputs / "empty").mkdir()
    assert "make demo" in page_of(outputs / "empty")


def test_hostile_names_are_shown_as_text(tmp_path):
    write_run(tmp_path, dataset="<script>alert(1)<", model='"onload=x', accuracy=50.0)
    page = page_of(tmp_path)
    # one script: that which sorts tables
    assert page.count("<script") == 1 and "alert(1)" in page and "&lt;script&gt;" in page
    assert "\\<script\\>" not in page


def test_unusable_records_are_listed_with_the_reason(outputs):
    newer, unfinished, broken = (write_run(outputs, loss="scl_ce", seed=seed, **RUN) for seed in (1, 2, 3))
    (newer / "result.json").write_text(json.dumps(result(loss="scl_ce", seed=1, schema_version=99, **RUN)))
    (unfinished / "DONE").unlink()
    (broken / "result.json").write_text(json.dumps(result())[:-20])
    page = page_of(outputs)
    reasons = ("schema_version: it is 99, newer than this code", "not finished", "cannot be used")
    assert all(reason in page for reason in reasons)
    assert "scl_ce" not in (outputs / "report" / "runs.csv").read_text()


@pytest.fixture
def experiments(outputs, monkeypatch):
    """(outputs, calls): a folder with a selection for table2, with a stub for expand_grid that records its calls."""
    asked = []

    def expand_grid(name, overrides):
        asked.append((name, overrides))
        if name == "fig2":
            raise ConfigError("loss=gloss_o needs a σ")
        table2 = [cell(loss=x, seeds=(1, 2), **RUN) for x in ("ce", "gloss_sqrt", "gloss_o")]
        return table2 if name in ("table2", "fig4") else [cell(mode="standalone", loss=x) for x in ("scl", "gloss_o")]

    monkeypatch.setattr("gloss.experiments.requested.expand_grid", expand_grid)
    selection = "[model=minilm, dataset=docstrings]"
    (outputs / "selections.yaml").write_text(f"table2: [{selection}]\n")
    return outputs, asked


def test_each_requested_experiment_has_a_section(experiments):
    """The page starts with the results and a note on smoke runs; runs with other settings have a separate table."""
    outputs, asked = experiments
    short = {"trainer": {"max_epochs": 2}, "dataset": {"train_limit": 50}}
    write_run(outputs, loss="ce", config_hash="ffffffff", accuracy=11.0, config=short, **RUN)
    report = build(outputs, dpi=DPI)
    assert asked == [("table2", ["model=minilm", "dataset=docstrings", f"paths.outputs={outputs}"])]
    names = ["table2", "claims", "table5", "paper_claims", "table2_others", "runs"]
    assert [t.name for t in report.tables] == names
    page = report.page.read_text()
    where = f"OUTPUTS={outputs}"  # in another folder all runs would start anew
    assert f"make reproduce-table2 {where} ARGS=&#34;model=minilm dataset=docstrings&#34;" in page
    for name in ("table6", "fig3"):  # in the list of experiments without runs
        assert f"<code>make reproduce-{name} {where}</code>" in page
    claim = next(row for row in report.tables[1].rows if row[1].plain() == "G-Loss-SQRT + CE beats CE")
    assert claim[2].verdict == "supported" and claim[4].plain() == "+4.05"  # 84 - 80 and 86.1 - 82
    assert "dataset=docstrings model=minilm mode=integrated loss=gloss_o seed=1,2" in page
    written = {name: (outputs / "report" / f"{name}.md").read_text() for name in ("table2", "table2_others")}
    assert "11.00" not in written["table2"] and "11.00" in written["table2_others"]
    order = [page.index(x) for x in ('<h2 id="table2">', "<img ", '<h2 id="claims">', "<h2>All finished runs</h2>")]
    assert order == sorted(order)
    assert "Smoke runs: 1 of 5 runs, on Docstrings, train" in page and "dataset.train_limit=50" in page


def test_a_failed_run_of_a_cell_is_named_with_its_error(experiments):
    outputs, _ = experiments
    folder = write_run(outputs, loss="gloss_o", seed=1, **RUN)
    (folder / "DONE").unlink()
    (folder / "error.json").write_text(json.dumps({"message": "the loss is \x1b[31mNaN\nat step 3"}))
    (table,) = (t for t in build(outputs, only=["table2"], dpi=DPI).tables if t.name == "table2")
    name = "dataset=docstrings model=minilm mode=integrated loss=gloss_o"
    assert table.missing == [rf"{name} seed=1: failed: the loss is \x1b[31mNaN", f"{name} seed=2"]


def test_only_builds_the_given_tables(experiments):
    outputs, asked = experiments
    report = build(outputs, only=["table3", "table9", "fig1"], dpi=DPI)
    assert [t.name for t in report.tables] == ["table3", "table9"] and [name for name, _ in asked] == ["table3"]
    assert (outputs / "report" / "fig1.pdf").is_file()
    with pytest.raises(ValueError, match="only=table10 is not allowed: expected some of demo, table1, table2"):
        build(outputs, only=["table10"])


def test_experiments_and_files_with_errors_are_problems(experiments):
    """Each error gives a problem, and the other tables are built."""
    outputs, _ = experiments
    (outputs / "selections.yaml").write_text("table2: [[]]\nfig2: [[]]\nfig4: [[]]\nfig99: [[]]\n")
    (outputs / "baselines").mkdir()
    (outputs / "baselines" / "tfidf-mr.json").write_text("{")
    for model, graph in (("bert", [{"sigma": 1.0, "scale": 1.0}]), ("tiny", {"scale": 1})):  # without its measures
        path = outputs / "baselines" / f"frozen-mr-{model}.json"
        path.write_text(json.dumps({"dataset": "mr", "model": model, "graph": graph}))
    for folder in (outputs / "runs").glob("*/*/*/*/seed=*"):
        (folder / "predictions.npz").write_bytes(b"PK\x03\x04 half a file")
    report = build(outputs, dpi=DPI)
    problems = "\n".join(report.problems)
    for text in ("fig2: loss=gloss_o needs a σ", "no experiment fig99", "tfidf-mr.json", "frozen-mr-bert.json"):
        assert text in problems
    assert "frozen-mr-tiny.json" in problems and "predictions.npz cannot be" in problems
    assert "table2" in [t.name for t in report.tables]
    assert "make reproduce-fig4" not in report.page.read_text()
    shutil.rmtree(outputs / "runs")
    assert "make reproduce-fig4" in build(outputs, dpi=DPI).page.read_text()  # not run yet
    (outputs / "selections.yaml").write_text("table2: {")
    assert any("selections.yaml cannot be used" in p for p in build(outputs, dpi=DPI).problems)


def test_searches_are_shown_and_their_trials_are_counted(outputs):
    write_study(outputs)
    write_study(outputs, "mr-bert-integrated-ce-paper-fair-ffffffff", num_trials=15)  # not finished
    write_study(outputs, "copied", name="another")
    (write_study(outputs, "damaged").parent / "study.json").write_text("{")
    write_study(outputs, "bad-seconds", trials=[{"number": 0, "state": "fail", "params": {}, "value": None}])
    report = build(outputs, dpi=DPI)
    first, second = (f"study-mr-bert-integrated-ce-paper-fair-{end}" for end in ("0123abcd", "ffffffff"))
    # without a requested experiment the main table lists all runs
    assert [t.name for t in report.tables] == ["runs", "table7", first, second]
    table7 = (outputs / "report" / "table7.md").read_text()
    assert "2e-05 (1 of 5)" in table7 and "ffffffff: 6 of 15 trials" in table7
    trials = (outputs / "report" / f"{first}.md").read_text()
    assert "| 2 (best) | complete             | " in trials and "complete, as trial 2" in trials
    assert (outputs / "report" / f"{first}.pdf").is_file() and (outputs / "report" / f"{first}.csv").is_file()
    page = report.page.read_text()
    assert "python scripts/tune.py dataset=mr model=bert mode=integrated loss=ce search.trials=6" in page
    # 4 runs of 60 s; two searches of 5 trials of 60 s; repeated trials take no time
    assert "0.07 hours of runs, 0.17 hours of 10 trials of searches" in page
    assert page.count('href="#study-') == 1 and "<h2>Searches (2)</h2>" in page  # one fold and one link for all studies
    assert [p.partition("/study.json cannot be used: ")[0] for p in report.problems] == [
        str(outputs / "studies" / name) for name in ("bad-seconds", "copied", "damaged")
    ]


def test_verdicts_are_counted_once_per_cell_and_metric(tmp_path):
    """Table 4 repeats the silhouettes of Table 3, which count once."""
    run = {"mode": "standalone", "accuracy": (86.0,) * 3, "silhouette": 0.56}
    groups = write_groups(tmp_path, *(run | {"loss": loss} for loss in ("scl", "gloss_o")))
    tables = [table3(groups), table4(groups)]
    shown = [v for table in tables for row in table.rows for e in row for v in e.verdicts]
    assert shown.count("ok") == 8 and set(shown) == {"ok"}  # accuracy, macro-F1 and twice the silhouette of two losses
    page = render([Section(t.name, t.title, [t]) for t in tables])
    assert '<span class="verdict ok">ok</span> 6 </p>' in page


def test_long_tables_are_folded_and_equal_footnotes_merged():
    tables = [
        Table(f"t{n}", "", ["x"], [[f"line {i}"] for i in range(n)], [], ["of both", f"of {n}"]) for n in (80, 81)
    ]
    page = render([Section(t.name, t.title, [t]) for t in tables]).partition("</head>")[2]
    assert "<summary>81 lines</summary>" in page and "line 80" in page and "80 lines" not in page
    assert page.count("of both") == 1 and page.count('href="#note-1"') == 2
    assert [page.count(f"of {n}</li>") for n in (80, 81)] == [1, 1]


def test_the_command_prints_tables_and_one_line_per_error(outputs, capsys):
    where = f"paths.outputs={outputs}"
    assert run_command(command, [where, "only=[table2]", "show=[table2]"]) == 0
    shown = capsys.readouterr().out
    assert "| G-Loss-SQRT + CE |" in shown
    assert shown.rstrip().endswith(f"The page: {outputs / 'report' / 'index.html'}")
    assert run_command(command, [where, "only=[table2]", "show=[table2,tabel3]"]) == 0
    assert "nothing was made of tabel3" in capsys.readouterr().err
    assert run_command(command, [where, "only=[fig1]", "show=[fig1]"]) == 0
    assert "nothing was made" not in capsys.readouterr().err
    assert run_command(command, [where, "datasets=[mr]"]) == 2
    assert "datasets= has no effect without measure=" in capsys.readouterr().err
    shutil.rmtree(outputs / "report")
    (outputs / "report").write_text("in the way")
    assert run_command(command, [where]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(outputs) in error and len(error.splitlines()) == 1


def test_a_full_disk_gives_an_error_and_no_partial_figure(outputs, monkeypatch, capsys):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(gloss.report.figure, "write_atomic", full)
    assert run_with_exit_code(lambda: build(outputs, only=["fig1"], dpi=DPI) and 0) == 1
    assert "fig1.pdf: No space left on device: free some space there" in capsys.readouterr().err
    assert not list((outputs / "report").iterdir())


def test_a_report_composes_real_cells_and_lists_missing_runs(outputs):
    """The report composes the cells of an experiment with Hydra in the same process."""
    given = "[dataset=docstrings, model=minilm, 'loss=ce,gloss_sqrt', 'seed=1,2']"
    (outputs / "selections.yaml").write_text(f"table2: [{given}]\n")
    report = build(outputs, only=["table2"], dpi=DPI)
    assert report.problems == [] and [t.name for t in report.tables] == ["table2", "table2_others"]
    assert len(report.tables[0].missing) == 2  # no real configuration has the config_hash of the synthetic runs
