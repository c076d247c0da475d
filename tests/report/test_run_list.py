"""The lists of runs on the terminal: by run, by cell, and the comparison of two runs."""

from __future__ import annotations

import statistics
from pathlib import Path

import pandas as pd
import pytest
from synthetic import write_run

from gloss.cli import runs as command
from gloss.cli.command import run_command
from gloss.records.frame import load_runs
from gloss.report import run_list
from gloss.report.seed_groups import CELL

FIXED = {
    **{"dataset": "mr", "model": "minilm", "mode": "integrated", "loss": "ce", "variant": "paper", "seed": 1},
    **{"val_macro_f1": 60.0, "test_accuracy": 61.0, "test_macro_f1": 62.0, "test_macro_silhouette": 0.1},
    **{"best_epoch": 2, "epochs": 3, "trainer.lr": 1e-5, "trainer.patience": None, "folder": "x"},
    "config_hash": "a" * 8,
}


def frame(*changes: dict) -> pd.DataFrame:
    return pd.DataFrame([FIXED | change for change in changes])


def test_by_configuration_shows_mean_and_deviation():
    values = [61.0, 63.0, 68.0]
    seeds = [{"seed": s, "test_accuracy": x} for s, x in enumerate(values, start=1)]
    other = {"loss": "gloss_sqrt", "test_accuracy": 64.5, "config_hash": "b" * 8}
    header, ce, gloss, _ = run_list.by_configuration(frame(*seeds, other)).splitlines()
    assert f" {statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} " in ce and " 64.50 " in gloss
    assert "Settings" not in header and "Variant" not in header


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([{"trainer.lr": lr} for lr in (1e-5, 2e-5, 3e-5)], ["lr=1e-05", "lr=2e-05", "lr=3e-05"]),
        ([{"trainer.patience": x} for x in (10, 10, 10, None)], ["", "", "", "patience=null"]),
        ([{}, {"loss": "scl", "trainer.lr": 7e-5}], ["", ""]),  # the loss is not a setting
        ([{"trainer.tensorboard": x, "dataset.separator": str(x)} for x in (True, False)], ["", ""]),  # not in the hash
        ([{"dataset.path": x} for x in "ab"], ["path=a", "path=b"]),  # of other texts
    ],
)
def test_settings_are_the_keys_that_differ_between_configurations(changes, expected):
    found = run_list.settings(frame(*({"config_hash": f"{i:08}", **x} for i, x in enumerate(changes))))
    assert list(found.values()) == expected


def test_compared_lists_the_differing_values_of_two_runs():
    hidden = {"folder": "y", "trainer.save_model": True, "tuned.trials": 3, "paths.data": "z"}
    rows = frame({}, {"trainer.lr": 3e-5, "test_accuracy": 60.25, **hidden})
    lines = run_list.compared(rows.iloc[0], rows.iloc[1]).splitlines()[-2:]
    assert [line.split() for line in lines] == [
        ["trainer.lr", "1e-05", "3e-05", "+2e-05"],
        ["test_accuracy", "61", "60.25", "-0.75"],
    ]
    assert run_list.compared(rows.iloc[0], rows.iloc[0]).endswith("nothing differs")


def test_whole_numbers_of_a_column_with_a_null_keep_all_their_digits():
    rows = frame(*({"dataset.train_limit": x, "config_hash": f"{i:08}"} for i, x in enumerate((12345, 12349, None))))
    found = [*run_list.settings(rows).values()]
    assert found == ["train_limit=12345", "train_limit=12349", "train_limit=null"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("outputs")
    for dataset, loss in (("mr", "ce"), ("mr", "scl_ce"), ("mr", "triplet"), ("r8", "cosine")):
        for seed in (1, 2):
            run = {"config_hash": f"{len(loss) + (dataset == 'r8'):08d}", "accuracy": 60.0 + seed + len(loss)}
            write_run(root, dataset=dataset, loss=loss, seed=seed, **run)
    return root


def test_the_command_filters_sorts_and_compares_runs(outputs, capsys):
    def shown(*words: str) -> str:
        assert run_command(command, [f"paths.outputs={outputs}", *words]) == 0
        return capsys.readouterr().out

    runs = load_runs(outputs)
    chosen = runs[(runs.dataset == "mr") & runs.loss.isin(["ce", "scl_ce"])]
    selected = chosen.sort_values("test_accuracy", kind="stable")
    names = [f"{x.config_hash}/{x.seed}" for x in selected.itertuples()]
    listed = shown("dataset=mr", "loss=ce,scl", "sort=-test_accuracy").splitlines()[1:]
    assert [line.split()[0] for line in listed] == names
    both = shown(f"compare={names[0]},'{selected.iloc[-1].folder}'")
    difference = selected.iloc[-1].test_accuracy - selected.iloc[0].test_accuracy
    assert f"{difference:+.4g}" in both and str(selected.iloc[0].folder) in both
    assert len(shown().splitlines()) == len(runs) + 1
    assert len(shown("by=configuration").splitlines()) == runs.groupby(CELL).ngroups + 2


def test_an_unfinished_run_is_a_line_beside_the_list(tmp_path, capsys):
    """Of the command alone; `load_runs` gives a Python warning."""
    for seed in (1, 2):
        folder = write_run(tmp_path, seed=seed)
    (folder / "DONE").unlink()
    assert run_command(command, [f"paths.outputs={tmp_path}"]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 2 and shown.err.count("\n") == 1
    assert shown.err.startswith(f"left out under {tmp_path}: 1 of its folders; the first, {folder}: is not finished")
    (folder.parent / "seed=1" / "DONE").unlink()
    assert run_command(command, [f"paths.outputs={tmp_path}"]) == 2
    assert f"error: no finished run under {tmp_path}/runs yet\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("datset=mr", "there is no key datset (did you mean dataset?)"),
        ("dataset=nowhere", "/runs fits"),
        ("dataset=nowhere loss=scl mode=integrated", "/runs fits"),
        ("sort=accuracy", "sort=accuracy is not allowed: expected one of "),
        ("compare=x", "expected two runs, compare=A,B"),
        ("compare=x,y", "no finished run named x"),
    ],
)
def test_invalid_arguments_of_the_command_give_one_line(outputs, argument, message, capsys):
    assert run_command(command, [f"paths.outputs={outputs}", *argument.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
