"""scripts/reproduce.py: selections, the commands that it runs, plans and status."""

from __future__ import annotations

import pytest
import yaml
from synthetic import write_run

from gloss.cli import reproduce
from gloss.cli.reproduce import Task, experiments_of, grouped, save_selection, status
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
    (tmp_path / "selections.yaml").write_text(
        "table2: [dataset=mr, model=bert]\nfig6: []\n"
    )  # one selection per experiment
    assert selections(tmp_path) == {"table2": [["dataset=mr", "model=bert"]], "fig6": [[]]}
    for text in ("- what\n", "table2: {", "table2: mr\n"):
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
    save_selection(tmp_path, "table2", [*smaller, "seed=1"])
    assert len(same_settings("table2", selections(tmp_path)["table2"])[-1]) == 4
    save_selection(tmp_path, "fig2", ["loss.lam=0.1,0.2", "dataset=mr"])
    save_selection(tmp_path, "fig2", ["loss.lam=0.2,0.3", "dataset=mr"])
    (group,) = same_settings("fig2", selections(tmp_path)["fig2"])
    assert [c.point["loss.lam"] for c in requested_runs("fig2", group, tmp_path)] == [0.1, 0.2, 0.3]


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
    task = Task("table2", [*given, url, "search.trials=2"])
    assert task.run() == 1  # the run is missing
    assert [(name, url in words) for name, *words in called] == [("tune", True), ("train", False), ("report", False)]
    assert "search.trials=2" in called[0]
    shown = capsys.readouterr().out
    assert "$ python scripts/tune.py -m dataset=mr" in shown and "secret" not in shown
    assert not any("secret" in path.read_text() for path in tmp_path.rglob("*.yaml"))
    Task("all", [f"paths.outputs={tmp_path / 'empty'}"]).report()
    assert not any("only" in x for x in called[-1])


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


def test_status_works_without_texts_and_names_unknown_cells(tmp_path, capsys):
    given = ["dataset=csv", "dataset.name=mine", f"dataset.path={tmp_path / 'gone.csv'}", "model=tiny", "loss=ce"]
    source = {"train_limit": None, "max_epochs": 200, "search": "fair", "trials": 15, "fingerprint": "f" * 64}
    overlay = (
        tmp_path / "tuned" / "mine-tiny-integrated-ce.yaml"
    )  # searched values for the same texts, which cannot be read
    overlay.parent.mkdir()
    overlay.write_text(yaml.safe_dump({"trainer": {"lr": 1e-5}, "tuned": source}))
    (cell,) = expand_grid("table2", [*given, "seed=1", f"paths.outputs={tmp_path}"])
    write_run(
        tmp_path, dataset="mine", model="tiny", loss="ce", config_hash=config_hash(cell.config, "f" * 64), accuracy=77.0
    )
    save_selection(tmp_path, "table2", [*given, "seed=1"])
    save_selection(tmp_path, "table6", [*given, "seed=1", "model.max_length=16"])
    assert status(tmp_path, "cpu", 2)
    shown = capsys.readouterr().out
    assert "1 done of 1" in shown and "77.00 (1)" in shown
    assert "gone.csv" in shown and "no run of it" in shown
