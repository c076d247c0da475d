"""The DataFrame of runs from gloss.load_runs."""

import re

import pytest
from synthetic import result, write_run

import gloss
from gloss.config import ROOT
from gloss.errors import RunError


def test_a_row_of_load_runs_equals_the_record(tmp_path):
    graph = {key: {"homophily": x, "homophily_chance": 0.5, "propagated_accuracy": 70.0, "majority_accuracy": 50.0}
             for key, x in (("at_start", 0.6), ("at_best", 0.9))}  # fmt: skip
    graph |= {"sigma": 1, "gamma": 1}
    record = result(accuracy=81.5, macro_f1=80.5, silhouette=0.25, val=79.0, graph_quality=graph)
    record["metrics"]["test_on"] = {"accuracy": 60.0, "macro_f1": 59.0}
    record["hyperparameters"]["epochs"] = 999  # a name that is also a key of the record
    folder = write_run(tmp_path, record)
    write_run(tmp_path, seed=2, loss="gloss_o")
    runs = gloss.load_runs(tmp_path)
    assert list(runs.columns[:7]) == ["dataset", "model", "mode", "loss", "variant", "config_hash", "seed"]
    assert len(runs) == 2
    row = runs[runs["loss"] == "ce"].iloc[0]
    expected = {"seed": 1, "config_hash": "0123abcd", "test_accuracy": 81.5, "test_macro_f1": 80.5}
    expected |= {"test_macro_silhouette": 0.25, "test_on_accuracy": 60.0, "seconds_per_epoch": 10.0, "epochs": 5}
    expected |= {"graph_at_best_homophily": 0.9, "graph_at_start_homophily": 0.6, "lam": 0.8, "lr": 2e-5}
    expected |= {"trainer.max_epochs": 200, "precision": "float32", "folder": str(folder), "val_accuracy": 79.0}
    assert {key: row[key] for key in expected} == expected
    other = runs[runs["loss"] == "gloss_o"].iloc[0]
    assert other[["test_on_accuracy", "graph_at_best_homophily"]].isna().all()  # missing values stay missing


def test_load_runs_counts_omitted_folders_and_refuses_a_wrong_folder(tmp_path):
    write_run(tmp_path)
    (write_run(tmp_path, seed=2) / "DONE").unlink()
    with pytest.warns(UserWarning, match="left out under .*: 1 of its folders; the first, .*seed=2: is not finished"):
        assert list(gloss.load_runs(tmp_path)["seed"]) == [1]
    with pytest.raises(RunError, match="has no runs/: expected the folder that runs write to"):
        gloss.load_runs(tmp_path / "runs")
    (tmp_path / "empty" / "runs").mkdir(parents=True)
    assert gloss.load_runs(tmp_path / "empty").empty and "dataset" in gloss.load_runs(tmp_path / "empty")


def test_readme_code_computes_a_cell_of_table_2(tmp_path, monkeypatch, capsys):
    found = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    (code,) = (text for text in found if "load_runs" in text)
    assert len(code.splitlines()) == 5
    for seed, accuracy in ((1, 81.0), (2, 83.5)):
        write_run(tmp_path / "outputs" / "reference", model="mpnet", seed=seed, accuracy=accuracy)
    write_run(tmp_path / "outputs" / "reference", model="mpnet", mode="standalone", loss="scl", silhouette=0.5)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    (cell,) = names["table"].to_dict("records")
    assert cell == {"mean": pytest.approx(82.25), "std": pytest.approx(2.5 / 2**0.5), "count": 2}
    assert "82.25" in capsys.readouterr().out
