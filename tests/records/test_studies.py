"""Searches as reports read and show them."""

import json

import pytest
from searching import finished

from gloss.config import HYPERPARAMETERS
from gloss.records.study import read_studies
from gloss.report.figures.search import importances, study_figure, trials_table
from gloss.report.tables.datasets_and_search import NAMES


def test_studies_are_read_back_and_damaged_ones_are_refused(settings, monkeypatch, tmp_path):
    study = finished(settings, monkeypatch)
    assert read_studies(tmp_path / "out") == ([study], [])
    assert study.space["sigma"] == (0.1, 10.0, True) and study.space["gamma"] == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert study.is_finished and len(study.trials) == 5
    assert read_studies(tmp_path / "nothing") == ([], [])
    path = study.folder / "study.json"
    good = json.loads(path.read_text())
    huge, row = 10**400, {"low": 0.0, "high": 1.0, "log": False, "step": 0.5}
    ranges = [row | change for change in ({"low": huge}, {"step": 0}, {"step": huge})]
    trials = [good["trials"][0] | change for change in ({"value": huge}, {"params": {"sigma": huge}}, {"params": [1]})]
    changes = [{"space": {"gamma": row}} for row in ranges] + [{"trials": [trial]} for trial in trials]
    changes += [{"trials": [{"number": 0}]}, {"trials": None}, {"schema_version": 99}, {"surplus": 1}]
    for change in changes:
        path.write_text(json.dumps(good | change))
        found, (problem,) = read_studies(tmp_path / "out")
        assert not found and "study.json cannot be used" in problem


def test_a_study_is_shown_as_table_and_figure(settings, monkeypatch):
    study = finished(settings, monkeypatch, "search.trials=12")
    table = trials_table(study)
    assert len(table.rows) == 12 and table.rows[0][0].plain() == f"{study.best['number'] + 1} (best)"
    assert set(NAMES) == set(HYPERPARAMETERS)  # every key that a search may have
    shares = importances(study)
    assert max(shares, key=shares.get) == "gamma" and sum(shares.values()) == pytest.approx(1)  # the score is 60 + γ
    drawing = study_figure(study)
    assert len(drawing.figure.axes) == 2 + 4
    values = {t["number"] + 1: t["value"] for t in study.trials if t["duplicate_of"] is None}
    assert {row["trial"]: row["value"] for row in drawing.data if "trial" in row} == values
