"""make and scripts/reproduce.py: selections, the commands that it runs, plans, status, long jobs are confirmed."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from synthetic import write_run

from gloss.cli import reproduce, train
from gloss.cli.command import run_command
from gloss.cli.reproduce import Task, confirm, experiments_of, grouped, save_selection, status
from gloss.config import ROOT
from gloss.errors import ConfigError
from gloss.experiments.grid import NAMES, expand_grid
from gloss.experiments.requested import requested_runs, same_settings, selections, shown_runs
from gloss.records.run_folder import config_hash
from gloss.report.build import build
from gloss.report.plan import show

CE = ["dataset=mr", "model=bert", "loss=ce"]


def test_grouped_merges_combinations_exactly():
    losses, sets = ("ce", "scl"), ("mr", "r8", "r52")
    rows = [{"dataset": d, "model": "bert", "loss": x, "mode": "integrated"} for d in sets for x in losses]
    assert grouped(rows) == [{"dataset": "mr,r8,r52", "model": "bert", "loss": "ce,scl", "mode": "integrated"}]
    merged = grouped(rows[1:])  # no longer a full grid
    expanded = [(d, x) for row in merged for d in row["dataset"].split(",") for x in row["loss"].split(",")]
    assert sorted(expanded) == sorted((row["dataset"], row["loss"]) for row in rows[1:])


def test_selections_are_saved_for_the_report(tmp_path, capsys):
    save_selection(tmp_path, "table2", [*CE, "seed=1", f"paths.outputs={tmp_path}"])
    save_selection(tmp_path, "fig6", ["model=tiny"])
    asked = [*CE, "seed=1,2"]
    where = [f"paths.outputs={tmp_path}", "paths.data=x", "search.storage=postgresql://me:secret@host/db"]
    save_selection(tmp_path, "table2", [*asked, *where])
    save_selection(tmp_path, "table2", [*asked, "search.trials=2", *where])  # the same cells with another search
    expected = {"table2": [[*CE, "seed=1"], [*asked, "search.trials=2"]], "fig6": [["model=tiny"]]}
    assert selections(tmp_path) == expected and "secret" not in (tmp_path / "selections.yaml").read_text()
    assert status(tmp_path, "cpu", 2)
    shown = capsys.readouterr().out
    assert all(x in shown for x in ("table2  dataset=mr model=bert loss=ce seed=1,2", "2 trials", "85.64", "fig6"))
    for text in ("- what\n", "table2: {", "table2: mr\n", "table2: [dataset=mr, model=bert]\n"):
        (tmp_path / "selections.yaml").write_text(text)
        with pytest.raises(ConfigError, match="selections.yaml cannot be used"):
            selections(tmp_path)


def test_a_smaller_selection_does_not_reduce_a_larger_one(tmp_path):
    larger, smaller = ["dataset=mr,r8", "model=bert", "loss=ce", "seed=1,2"], ["dataset=mr", "model=bert", "loss=ce"]
    for overrides in (["dataset=mr", "model=minilm", "loss=gloss_sqrt", "seed=4"], larger, [*smaller, "seed=2,3"]):
        save_selection(tmp_path, "table2", overrides)
    (group,) = same_settings("table2", selections(tmp_path)["table2"])
    cells = requested_runs("table2", group, tmp_path)
    assert [(c.dataset, c.model, c.loss, c.seeds) for c in cells] == [
        ("mr", "bert", "ce", (1, 2, 3)),
        ("mr", "minilm", "gloss_sqrt", (4,)),
        ("r8", "bert", "ce", (1, 2)),
    ]
    # other settings make a separate group, so that a table compares only runs with equal settings
    save_selection(tmp_path, "table2", [*smaller, "trainer.max_epochs=3", "search.trials=2"])
    first, last = same_settings("table2", selections(tmp_path)["table2"])
    assert first == group and [c.config.trainer.max_epochs for c in requested_runs("table2", last, tmp_path)] == [3]
    # a report shows them for their data set and model, and the earlier settings for the others
    cells, used = shown_runs("table2", selections(tmp_path)["table2"], tmp_path)
    assert [(c.dataset, c.model, c.config.trainer.max_epochs, c.seeds) for c in cells] == [
        ("mr", "bert", 3, (1, 2, 3, 4, 5)),
        ("mr", "minilm", 200, (4,)),
        ("r8", "bert", 200, (1, 2)),
    ]
    assert used == [*first, *last]
    # keys that change no result do not part the losses of a table
    for given in (["loss=gloss_sqrt"], ["loss=scl_ce", "trainer.device=cpu", "trainer.save_model=false"]):
        save_selection(tmp_path, "table6", ["dataset=sst2", "model=bert", *given, "rerun=true"])
    cells, _ = shown_runs("table6", selections(tmp_path)["table6"], tmp_path)
    assert {c.loss for c in cells} == {"gloss_sqrt", "scl_ce"}
    assert "rerun" not in (tmp_path / "selections.yaml").read_text()  # the page's command would train again
    save_selection(tmp_path, "table2", [*smaller, "seed=1"])
    assert len(same_settings("table2", selections(tmp_path)["table2"])[-1]) == 4
    save_selection(tmp_path, "fig2", ["loss.lam=0.1,0.2", "dataset=mr"])
    save_selection(tmp_path, "fig2", ["loss.lam=0.2,0.3", "dataset=mr"])
    (group,) = same_settings("fig2", selections(tmp_path)["fig2"])
    assert [c.point["loss.lam"] for c in requested_runs("fig2", group, tmp_path)] == [0.1, 0.2, 0.3]


def test_a_table_takes_each_loss_with_hyperparameters_of_its_own(tmp_path):
    words = ["dataset=mr", "model=bert", "trainer.patience=3"]
    for given in (["loss=scl", "seed=1,2"], ["loss=gloss_o", "loss.sigma=0.2", "seed=1"]):
        save_selection(tmp_path, "table3", [*words, *given])
    cells, _ = shown_runs("table3", selections(tmp_path)["table3"], tmp_path)
    assert [(c.loss, c.config.loss.sigma, c.seeds) for c in cells] == [("scl", None, (1, 2)), ("gloss_o", 0.2, (1,))]
    save_selection(tmp_path, "table3", [*words, "loss=gloss_o", "loss.sigma=0.4", "seed=2"])
    save_selection(tmp_path, "table3", [*words, "loss=gloss_o", "loss.sigma=0.4", "seed=3"])
    cells, _ = shown_runs("table3", selections(tmp_path)["table3"], tmp_path)
    assert [(c.loss, c.config.loss.sigma, c.seeds) for c in cells] == [("scl", None, (1, 2)), ("gloss_o", 0.4, (2, 3))]
    # but never a curve of two settings
    for given in (["loss.sigma=0.4", "loss.lam=0.1,0.5"], ["loss.sigma=0.9", "loss.lam=0.5"]):
        save_selection(tmp_path, "fig2", ["dataset=mr", "seed=1", *given])
    cells, used = shown_runs("fig2", selections(tmp_path)["fig2"], tmp_path)
    assert [(c.config.loss.sigma, c.point["loss.lam"]) for c in cells] == [(0.9, 0.5)]
    assert used == selections(tmp_path)["fig2"][-1:]
    assert status(tmp_path, "cpu", 1)


def test_all_omits_experiments_without_the_requested_data_sets(tmp_path, capsys):
    task = Task("all", ["dataset=mr,r8", f"paths.outputs={tmp_path}"])
    assert set(NAMES) - set(task.experiments) == {"table6", "shift"}
    assert "table6, shift: left out, not about dataset=mr,r8" in capsys.readouterr().err
    assert task.overrides_of("fig4")[0] == "dataset=mr" and task.overrides_of("fig2")[0] == "dataset=mr,r8"
    assert Task("all", ["dataset=qnli"]).experiments == ("table6",)
    assert Task("table6", ["dataset=mr"]).overrides_of("table6") == ["dataset=mr"]  # requested by name
    with pytest.raises(ConfigError, match="no experiment is about dataset=csv"):
        Task("all", ["dataset=csv"])


@pytest.fixture
def called(monkeypatch) -> list[tuple[str, ...]]:
    """The list of commands that would run; they are not executed."""
    found: list[tuple[str, ...]] = []
    name = "run_command"
    monkeypatch.setattr(reproduce, name, lambda command, words: found.append((command.__name__[10:], *words)) or 0)
    return found


def test_commands_contain_no_password_and_all_reports_everything(tmp_path, called, capsys):
    given = ["dataset=mr", "model=tiny", "loss=ce", "seed=1", f"paths.outputs={tmp_path}"]
    url = "search.storage=postgresql://me:secret@host/db"
    task = Task("table2", [*given, url, "search.trials=2", "search.budget.any=3", "rerun=true"])
    assert task.run() == 1  # the run is missing
    assert [(name, url in words) for name, *words in called] == [("tune", True), ("train", False), ("report", False)]
    assert {"search.trials=2", "++search.budget.any=3"} < {*called[0]} and "rerun=true" not in called[0]
    assert "rerun=true" in called[1] and not any("search" in word for word in called[1])
    shown = capsys.readouterr().out
    assert "$ python scripts/tune.py -m dataset=mr" in shown and "secret" not in shown
    assert not any("secret" in path.read_text() for path in tmp_path.rglob("*.yaml"))
    Task("all", [f"paths.outputs={tmp_path / 'empty'}"]).report()
    assert not any("only" in x for x in called[-1])


@pytest.mark.parametrize(("target", "given", "measured"), [
    ("table5", ["dataset=csv"], ["show=[table5]"]),  # own texts are in no file of configs/dataset
    ("table1", ["dataset=csv,mr", "model=hf"], ["measure=[texts]", "datasets=[mr]", "show=[table1]"]),
    ("table1", ["model=minilm"], ["measure=[texts]", "tokenizer=minilm", "show=[table1]"]),
    ("table5", ["model=minilm"], ["measure=[tfidf]", "datasets=[mr,r8,r52,20ng,ohsumed]", "show=[table5]"]),
    ("pretrained_graph", ["model=minilm", "dataset=mr"],
     ["measure=[frozen]", "datasets=[mr]", "models=[minilm]", "show=[pretrained_graph]"]),
    ("fig3a", ["dataset=mr"], ["show=[fig3]"]),  # one of the two experiments of a figure
    ("mine", [], ["show=[mine]"]),  # an experiment of one's own, without a section
])  # fmt: skip
def test_a_report_measures_the_sets_that_have_a_file(target, given, measured, tmp_path, called, monkeypatch):
    if target == "mine":
        monkeypatch.setattr("gloss.cli.reproduce.experiments_of", lambda name: (name,))
    Task(target, [*given, f"paths.outputs={tmp_path}"]).report()
    words = [word for word in called[-1] if word.startswith(("measure", "datasets", "tokenizer", "models", "show"))]
    assert words == measured


def test_the_demo_reports_on_the_folder_of_its_runs():
    assert {spec.config.paths.outputs for spec in expand_grid("demo")} == {str(Task("demo", []).outputs)}


def test_table7_runs_only_the_searches_of_tables_2_and_3(tmp_path, called, capsys):
    given = ["dataset=mr", "model=tiny", "search.trials=2", f"paths.outputs={tmp_path}"]
    task = Task("table8", [*given, "loss=ce,gloss_o"])  # another name of table7
    assert task.name == "table7" and task.run(searches_only=True) == 0
    assert [c[0] for c in called] == ["tune"]  # table3 has no loss=ce: left out
    assert "left out: table3: loss=ce mode=standalone" in capsys.readouterr().err
    called.clear()
    task = Task("table7", [*given, "loss=gloss_o"])
    assert task.run() == 0 and [c[0] for c in called] == ["tune", "tune", "report"]
    modes = [next(x for x in c if x.startswith("mode=")) for c in called[:2]]
    assert modes == ["mode=integrated", "mode=standalone"]
    assert "only=[table7]" in called[-1] and not (tmp_path / "selections.yaml").exists()
    shown = show(task.plan("cpu", 2))
    assert shown.startswith("Runs: none of its own.\nSearches for 2 configurations, 4 trials: at most")
    for wrong in ("loss=nosuch", "loss.sigma=3"):
        with pytest.raises(ConfigError, match=wrong):
            Task("table7", [*given, "loss=ce", wrong]).run(searches_only=True)
    assert build(tmp_path, only=["table8"]).problems == []


def test_derived_tables_use_the_runs_of_other_experiments():
    assert experiments_of("table9") == ("table3",) and experiments_of("fig3") == ("fig3a", "fig3b")
    assert experiments_of("table1") == () and experiments_of("demo") == ("demo",) and len(experiments_of("all")) == 16
    with pytest.raises(ConfigError, match="nosuch is no table"):
        experiments_of("nosuch")


def test_status_and_report_work_without_texts_and_name_unknown_cells(tmp_path, capsys):
    """The config_hash of csv runs uses the fingerprint in the records."""
    given = ["dataset=csv", "dataset.name=mine", f"dataset.path={tmp_path / 'gone.csv'}", "model=tiny", "loss=ce"]
    source = {"train_limit": None, "max_epochs": 200, "search": "fair", "trials": 15, "fingerprint": "f" * 64}
    # searched values for the same texts, which cannot be read
    overlay = tmp_path / "tuned" / "mine-tiny-integrated-ce.yaml"
    overlay.parent.mkdir()
    overlay.write_text(yaml.safe_dump({"trainer": {"lr": 1e-5}, "tuned": source}))
    (cell,) = expand_grid("table2", [*given, "seed=1,2", f"paths.outputs={tmp_path}"])
    run = {"dataset": "mine", "model": "tiny", "loss": "ce"}
    write_run(tmp_path, config_hash=config_hash(cell.config, "f" * 64), accuracy=77.0, **run)
    save_selection(tmp_path, "table2", [*given, "seed=1,2"])
    save_selection(tmp_path, "table6", [*given, "seed=1", "model.max_length=16"])
    save_selection(tmp_path, "fig2", ["model=gone"])
    save_selection(tmp_path, "fig7", ["dataset=mr", "model=tiny", "loss=gloss_sqrt"])
    (tmp_path / "selections.yaml").write_text("oldname: [[]]\n" + (tmp_path / "selections.yaml").read_text())
    assert status(tmp_path, "cpu", 2)
    shown = capsys.readouterr().out
    assert "oldname: experiment=oldname is not allowed" in shown
    assert "1 done of 2" in shown and "77.00 (1)" in shown
    assert "gone.csv" in shown and "no run of it" in shown
    assert "fig2: model=gone is not allowed" in shown and "fig7  dataset=mr" in shown  # the others are still shown
    (tmp_path / "selections.yaml").write_text(
        yaml.safe_dump({name: asked for name, asked in selections(tmp_path).items() if name in ("table2", "table6")})
    )
    report = build(tmp_path, dpi=20)
    table = next(t for t in report.tables if t.name == "table2")
    assert table.rows[0][3].plain().startswith("77.00") and len(table.missing) == 1
    (problem,) = report.problems
    assert problem.startswith("table6: ") and "gone.csv" in problem and "no run of it" in problem
    write_run(tmp_path, config_hash=config_hash(cell.config, "e" * 64), fingerprint="e" * 64, **run)
    report = build(tmp_path, only=["table2"], dpi=20)
    assert "runs on 2 different contents" in report.problems[0]  # neither content is used


# -- make and the confirmation of long jobs ----------------------------------------------------------------------------


def make(*words: str) -> subprocess.CompletedProcess:
    """The commands that make would run."""
    return subprocess.run(["make", "-n", "-o", "setup", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "words",
    [
        ["DATASET=mr", "MODEL=minilm", "LOSS=ce,scl", "SEED=1", "TRIAL=2"],
        ["DATASETS=mr", "MODELS=minilm", "LOSSES=ce,scl", "SEEDS=1", "TRIALS=2"],
    ],
)
def test_make_selectors_may_be_singular_or_plural(words: list[str]):
    chosen = "dataset=mr model=minilm loss=ce,scl seed=1 search.trials=2".split()
    for target, action in (("reproduce", []), ("plan", ["action=plan"]), ("tune", ["action=tune"])):
        done = make(f"{target}-table2", *words, "OUTPUTS=it's here")
        command = ["scripts/reproduce.py", *action, "target=table2", *chosen, "paths.outputs=it's here"]
        assert shlex.split(done.stdout)[1:] == command
    assert shlex.split(make("data", words[0]).stdout)[-1] == "datasets=mr"


@pytest.mark.parametrize(("word", "meant"), [("DATSET=mr", "DATASET"), ("NOSUCH=1", "one of DATASETS")])
def test_misspelt_make_selectors_are_refused(word: str, meant: str):
    done = make("reproduce-table2", word)
    assert done.returncode and not done.stdout
    assert f"no variable {word.partition('=')[0]}; did you mean {meant}" in done.stderr


def test_make_refuses_a_variable_that_no_target_reads():
    assert "device=cpu" in make("plan-table2", "DEVICE=cpu").stdout
    assert "paths.outputs=x" in make("report", "RUNS=x").stdout
    assert "seed=2" in make("data", "reproduce", "SEED=2").stdout  # one of the targets reads it
    for words, hint in {
        "reproduce-table2 DEVICE=cpu": "reproduce-table2 does not read DEVICE: a run takes ARGS=trainer.device=cpu",
        "tune-table2 DEVICE=cpu": "tune-table2 does not read DEVICE: a run takes ARGS=trainer.device=cpu",
        "reproduce RUNS=x": "reproduce does not read RUNS: it takes OUTPUTS",
        "report DATASETS=mr": "report does not read DATASETS",
        "demo SEED=2": "demo does not read SEED",
    }.items():
        done = make(*words.split())
        assert done.returncode and not done.stdout and f"make {hint}" in done.stderr


def test_a_plan_for_an_unknown_device_is_refused(tmp_path, capsys):
    words = ["action=plan", "target=table2", "dataset=mr", "model=bert", "loss=ce", f"paths.outputs={tmp_path}"]
    assert run_command(reproduce, [*words, "device=a100x"]) == 2
    assert "device=a100x is not allowed: expected a100, h100, h200, cpu, or a GPU" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "words"), [(reproduce, ["target=table2"]), (train, ["-m", "experiment=table2"])])
def test_long_jobs_do_not_start_without_confirmation(command, words, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("YES", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # no terminal
    assert run_command(command, [*words, f"paths.outputs={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert not (tmp_path / "out").exists() and len(error.splitlines()) == 1
    assert re.search(r"table2 takes about [\d,]+ hours", error) and "YES=1" in error


def test_long_jobs_ask_for_confirmation_on_a_terminal(monkeypatch, capsys):
    monkeypatch.delenv("YES", raising=False)
    confirm("table2", 0.9, unknown=10)
    with pytest.raises(ConfigError, match="YES=1 starts it"):
        confirm("table2", 1.1)
    with pytest.raises(ConfigError, match="not counting 11 runs or trials .* YES=1 starts it"):
        confirm("table2", 0.0, unknown=11)
    for answer, starts in {"yes\n": True, "n\n": False, "": False}.items():
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=lambda a=answer: a))
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        with contextlib.nullcontext() if starts else pytest.raises(ConfigError, match="not started"):
            confirm("table2", 1234.5)
        assert "1,234 hours" in capsys.readouterr().err
    monkeypatch.setenv("YES", "1")
    monkeypatch.setattr(sys, "stdin", None)
    confirm("table2", 1e6)
