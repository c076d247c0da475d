"""The page and the written files as a whole."""

import json
import re

import pytest
from synthetic import result, write_run

from gloss.report import build

DPI = 40  # small pictures, so that the tests are quick


@pytest.fixture
def outputs(tmp_path):
    for loss, scores in {"ce": (80.0, 82.0), "gloss_sqrt": (84.0, 86.0)}.items():
        for seed, accuracy in enumerate(scores, start=1):
            write_run(tmp_path, dataset="docstrings", model="minilm", loss=loss, seed=seed, accuracy=accuracy)
    return tmp_path


def test_runs_without_an_experiment_make_a_table_a_figure_and_a_page(outputs):
    report = build(outputs, dpi=DPI)
    text = (outputs / "report" / "runs.md").read_text()
    assert "| G-Loss-SQRT + CE |   2 | **85.00 ± 1.41** |" in text
    assert "81.00 ± 1.41" in text
    page = report.page.read_text()
    assert "85.00 ± 1.41" in page and "data:image/png;base64," in page
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
    assert "<script>" not in page and "&lt;script&gt;" in page
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
    assert "schema_version is 99" in page and "not finished" in page and "cannot be used" in page
    assert "scl_ce" not in (outputs / "report" / "runs.csv").read_text()
