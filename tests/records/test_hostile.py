"""Manipulated records, studies and model folders: valid ones are used, others are refused with a reason."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from synthetic import result, write_run, write_study

import gloss.experiments.status
import gloss.inference.predictor
import gloss.records.reading
import gloss.report.plan
import gloss.report.tables.speed
from gloss.errors import ConfigError, DataError, RunError
from gloss.experiments.requested import selections
from gloss.inference.predictor import load_run
from gloss.records.reading import read_records
from gloss.records.study import read_studies
from gloss.report.build import build
from gloss.search.best_values import read_tuned
from gloss.training.run import train

SCRIPT = "<script>alert(1)</script>"
HOSTILE = (
    *(None, True, -1, 0, 10**400, 1e308, -1e308, 1e-320, [], {}, [[[]]], {"a": {"b": 1}}),
    *("", "1", "NaN", SCRIPT, "../../../etc/passwd", "\ud800", "\x1b[31m\u202e", "a|b\\n$x_{", "x" * 5000),
)
GONE = object()
LINE = '{"epoch": 1, "score": 50.0, "loss": 1.0, "seconds": {"total": 1.0, "evaluation": 1.0}}'


def places(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values in a tree."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield (*path, key)
        yield from places(tree[key], (*path, key))


def changed(tree: Any, path: tuple, value: Any) -> Any:
    tree = node = copy.deepcopy(tree)
    for key in path[:-1]:
        node = node[key]
    if value is GONE:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return tree


def valid_record(**changes: Any) -> dict[str, Any]:
    config = {
        "dataset": {"name": "mr", "source": "prepared", "text": ["text"], "train_limit": None},
        "trainer": {"max_epochs": 200, "lr": 2e-5},
        "ablation": {"test_on": None},
        "paths": {"data": "data"},
    }
    tuned = {"file": "outputs/tuned/x.yaml", "study": "s", "value": 1.0, "trials": 3}
    return result(config=config, tuned=tuned, **changes)


def folder_of(root: Path, config_hash: str, seed: int = 1) -> Path:
    folder = root / "runs" / "mr" / "bert" / "integrated-ce" / config_hash / f"seed={seed}"
    folder.mkdir(parents=True)
    (folder / "DONE").touch()
    (folder / "epochs.jsonl").write_text(LINE + "\n")
    return folder


def check_page(root: Path) -> str:
    """Build a report and check that its page escapes all values; return the page."""
    page = build(root, dpi=20).page.read_text(encoding="utf-8")
    assert "<script>alert" not in page and "\x1b" not in page and "\u202e" not in page and "<img src=x" not in page
    return page


def test_one_wrong_value_anywhere_in_a_record_is_refused_or_shown_as_text(tmp_path):
    """A record is valid only in the folder of its identity; only the variant may be any text."""
    wrong = [(path, value) for path in places(valid_record()) for value in (*HOSTILE, GONE)]
    for number, (path, value) in enumerate(wrong):
        record = changed(valid_record(config_hash=f"{number:08x}"), path, value)
        (folder_of(tmp_path, f"{number:08x}") / "result.json").write_text(json.dumps(record))
    records, problems = read_records(tmp_path)
    assert len(records) + len(problems) == len(wrong) > 1000
    assert len(records) > 100 and len(problems) > 800  # enough records of both kinds
    assert all(r.folder.parts[-2] == r.identity.config_hash and r.identity.dataset == "mr" for r in records)
    page = check_page(tmp_path)
    listed = (tmp_path / "report" / "runs.csv").read_text()
    assert all(record.identity.config_hash in listed for record in records)
    assert page.count("cannot be used") >= min(len(problems), 20)


DAMAGE = {
    "pipe": os.mkfifo,  # reading it would block
    "folder": Path.mkdir,
    "link": lambda path: path.symlink_to(SOUND),
    "huge": lambda path: (path.touch(), os.truncate(path, gloss.records.reading.MAX_BYTES + 1)),
    "infinite": lambda path: path.write_text('{"x": 1e999}'),
}
SOUND = Path(__file__).parents[1] / "golden" / "losses.json"  # valid JSON


def test_foreign_files_in_run_folders_are_problems(tmp_path):
    secret = tmp_path / "elsewhere"
    secret.mkdir()
    other = write_run(secret, valid_record(config_hash="00000000"))
    root = tmp_path / "outputs"
    cut = json.dumps(valid_record(config_hash="00000004"))[:-40]
    contents = ["", "null", cut, '{"identity": NaN}', "\ufeff{}", '"' + SCRIPT, "9" * 5000]
    for number, content in enumerate(contents):
        (folder_of(root, f"1000000{number}") / "result.json").write_text(content)
    (folder_of(root, "20000000") / "result.json").write_bytes(b"\xff\xfe\x00")
    for number, damage in enumerate(DAMAGE.values()):
        damage(folder_of(root, f"3000000{number}") / "result.json")
    failed = folder_of(root, "0000000f")
    (failed / "DONE").unlink()
    (failed / "error.json").write_text(json.dumps({"message": SCRIPT}))
    (root / "runs" / "mr" / "bert" / "integrated-ce" / "00000000").symlink_to(other.parent)
    (root / "runs" / "<img src=x onerror=x>" / "b" / "c" / "d" / "seed=1").mkdir(parents=True)
    (root / "runs" / "mr" / "bert" / "integrated-ce" / "11111111").mkdir()
    itself = root / "runs" / "mr" / "bert" / "integrated-ce" / "11111111" / "seed=1"
    itself.symlink_to(itself)
    records, problems = read_records(root)
    assert not records and len(problems) == 17
    check_page(root)


@pytest.mark.parametrize("damage", DAMAGE)
def test_files_that_are_not_plain_json_are_problems_in_every_reader(tmp_path, damage):
    root = tmp_path.resolve()
    failed = folder_of(root, "00000001")
    (failed / "DONE").unlink()
    study = f"mr-bert-integrated-ce-paper-fair-{damage}"
    paths = [failed / "error.json", root / "studies" / study / "study.json"]
    paths += [root / "bench" / "x.json", root / "baselines" / "texts-mr.json"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        DAMAGE[damage](path)
    problems = build(root, only=["table1"], dpi=20).problems + gloss.report.tables.speed.read_bench(root)[1]
    output = [problem for problem in problems if "cannot be used" in problem]
    assert len(output) == 3 and all("study.json" in p or "x.json" in p or "texts-mr.json" in p for p in output)
    if damage != "pipe" and damage != "folder":  # these do not count as error.json
        assert gloss.records.reading.failure(failed) == "its error.json cannot be read"


TUNED, SELECTED = "tuned/mr-bert-integrated-ce.yaml", "selections.yaml"
INVALID_YAML = {
    "cut": "{",
    "code": "x: !!python/object/apply:os.system ['touch pwned']",
    "zero": "\x00",
    "nan": "trainer: {lr: .nan}\ntuned: {}",
    "large": "trainer: {lr: 1" + "0" * 400 + "}\ntuned: {}",
    "huge": "#" * 2**23,
    "link": None,
}
NO_OVERLAY = ["", "trainer: {lr: 1.0e-5}", "trainer: {lr: fast}\ntuned: {}", "seed: {x: 1}\ntuned: {}"]


@pytest.mark.parametrize(("name", "text"), [
    *(pytest.param(name, text, id=f"{key} {name}") for name in (TUNED, SELECTED) for key, text in INVALID_YAML.items()),
    *((TUNED, text) for text in NO_OVERLAY),
])  # fmt: skip
def test_invalid_or_hostile_yaml_is_refused(tmp_path, name, text):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(SOUND) if text is None else path.write_text(text)
    with pytest.raises(ConfigError, match="repair or remove it") as caught:
        selections(tmp_path) if name == SELECTED else read_tuned(path)
    assert len(str(caught.value)) < len(str(path)) + 700 and not Path("pwned").exists()


def test_reasons_are_truncated_and_contain_no_control_characters(tmp_path):
    failed = folder_of(tmp_path, "00000001")
    (failed / "DONE").unlink()
    (failed / "error.json").write_text(json.dumps({"message": "\x1b[31m" + "x" * 10**6}))
    long = valid_record(config_hash="00000002") | {"labels": ["a"], "metrics": {"y" * 10**6: None}}
    (folder_of(tmp_path, "00000002") / "result.json").write_text(json.dumps(long))
    assert all(len(problem.reason) < 1000 for problem in read_records(tmp_path)[1])
    line = SimpleNamespace(spec=SimpleNamespace(folder=lambda seed: failed), states={1: "failed"})
    (output,) = gloss.report.plan.failures([line])
    assert len(output) < 1000 and "\x1b" not in output
    check_page(tmp_path)


QUALITY = {"homophily": 0.5, "homophily_chance": 0.5, "propagated_accuracy": 50.0, "majority_accuracy": 50.0}
EPOCHS = (
    *("null", "{}]", "[]", "\x00", "{" * 50_000, LINE[:-5], '{"epoch": "1", "score": "<b>", "seconds": []}'),
    *('{"seconds": null}', LINE.replace("50.0", f'"{SCRIPT}"'), LINE.replace("1.0", "1e400")),
    LINE.replace("1.0", "-1"),
    LINE.replace("}}", '}, "val": {"graph_quality": ' + json.dumps(QUALITY | {"homophily": 10}) + "}}"),
)
ARRAYS = (
    *({"test_labels": np.array(x)} for x in ([object()], [[0] * 3] * 2, [0, 7], [0, -1], ["<b>", SCRIPT])),
    *({"test_labels": np.array([0, 1]), "test_logits": x} for x in (np.zeros((3, 2)), np.full((2, 2), np.nan))),
    {"sample_labels": np.array([0, 1]), "epoch_0_embeddings": np.zeros((1, 2))},
)


def test_invalid_epochs_and_predictions_are_refused(tmp_path):
    for number, content in enumerate(EPOCHS):
        folder = write_run(tmp_path, valid_record(config_hash=f"0{number:07x}"))
        (folder / "epochs.jsonl").write_text(content)
    for number, arrays in enumerate(ARRAYS):
        write_run(tmp_path, valid_record(config_hash=f"1{number:07x}"), arrays=arrays)
    for number, damage in enumerate((b"", b"PK\x03\x04", b"\x93NUMPY")):
        (write_run(tmp_path, valid_record(config_hash=f"2{number:07x}")) / "predictions.npz").write_bytes(damage)
    records, problems = read_records(tmp_path)
    assert len(records) == len(EPOCHS) + len(ARRAYS) + 3 and not problems
    for record in records:
        bad, good = record.epochs, record.predictions
        if record.identity.config_hash[0] != "0":
            bad, good = good, bad
        assert good()
        with pytest.raises(RunError, match="cannot be read"):
            bad()
    check_page(tmp_path)


def test_hostile_studies_and_selections_are_refused_or_escaped(tmp_path):
    write_run(tmp_path, valid_record())
    study = json.loads(write_study(tmp_path).read_text())
    count = 0
    for path in places(study):
        for value in (None, SCRIPT, [], {}, 10**400, -1, "\ud800", GONE):
            count += 1
            folder = tmp_path / "studies" / f"s{count}"
            folder.mkdir(parents=True)
            wrong = changed(study | {"name": folder.name}, path, value)
            (folder / "study.json").write_text(json.dumps(wrong))
    studies, problems = read_studies(tmp_path)
    for other in studies:  # drawing takes seconds per study; a single one with every text replaced is enough
        shutil.rmtree(other.folder)
    assert 250 < len(problems) < count - 50
    texts = dict.fromkeys(("dataset", "model", "mode", "loss", "variant", "search"), SCRIPT)
    write_study(tmp_path, "s0", **texts, trials=[trial | {"reason": SCRIPT} for trial in study["trials"]])
    page = check_page(tmp_path)
    assert "&lt;script&gt;" in page and "study.json cannot be used" in page
    run_code = "a: !!python/object/apply:os.system ['touch pwned']"
    for text in ("- a", "table2: 7", "table2: [7]", f"table2: ['{SCRIPT}']", run_code, "{", "\x00"):
        (tmp_path / "selections.yaml").write_text(text)
        check_page(tmp_path)
    assert not Path("pwned").exists()


# ------------------------------------------------------------------------------------------------------------- predict


def test_predict_accepts_or_refuses_a_manipulated_run_folder(tiny_config, monkeypatch):
    folder = train(tiny_config("loss=gloss_sqrt", "trainer.save_model=true", "trainer.max_epochs=1")).folder
    loaded = gloss.inference.predictor.load_model(folder / "model")
    monkeypatch.setattr(gloss.inference.predictor, "load_model", lambda path: loaded)
    original = json.loads((folder / "result.json").read_text())
    parts = {key: original[key] for key in ("hyperparameters", "labels", "precision")}
    parts["config"] = {key: original["config"][key] for key in ("dataset", "paths")}
    outcomes = []
    for path in places(parts):
        for value in (None, True, -1, 10**400, [], {"a": 1}, SCRIPT, "../../etc/passwd", "/etc/passwd", GONE):
            (folder / "result.json").write_text(json.dumps(changed(original, path, value)))
            try:
                run = load_run(str(folder), device="cpu")
                run.predict(["rain and hail"] if len(run.columns) == 1 else [("rain", "hail")])
                run.split("train")
                outcomes.append(True)
            except (RunError, DataError, ConfigError):
                outcomes.append(False)
    assert len(outcomes) > 200 and 30 < sum(outcomes) < len(outcomes) - 30
