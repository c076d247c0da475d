"""Selection of runs, predictions, neighbours, maps of embeddings and scripts, with a small trained run."""

import copy
import csv
import dataclasses
import gzip
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY, composed, run_script

from gloss.cli.command import show_messages
from gloss.config import ModelConfig
from gloss.data.files import Row
from gloss.errors import ConfigError, DataError, RunError
from gloss.inference import predictor as predict_module
from gloss.inference.embedding_plot import embedding_map, map_of_run
from gloss.inference.prediction_files import rows_of_file
from gloss.inference.predictor import Run, find_run, load_run
from gloss.models.pretrained import load_tokenizer
from gloss.records.run_folder import write_json
from gloss.report.figure import styled
from gloss.training.run import train
from gloss.training.texts import log_once


def train_tiny(folder, *overrides, columns=("text",)):
    """Train a run with weights on 63 short texts of three classes; return its record."""
    words = {"red": "apple cherry rose", "green": "grass leaf frog", "blue": "sea sky jeans"}
    rows = [
        [f"{'very ' * (i % 7)}{word} {i}", *["the other text"] * (len(columns) - 1), label]
        for label, text in words.items() for i, word in enumerate(text.split() * 7)
    ]  # fmt: skip
    with open(folder / "texts.csv", "w", newline="") as file:
        csv.writer(file).writerows([[*columns, "label"], *rows])
    data = "dataset.name=colours", f"dataset.path={folder / 'texts.csv'}", f"dataset.text=[{','.join(columns)}]"
    own = "trainer.save_model=true", "trainer.batch_size=16", f"paths.outputs={folder / 'outputs'}"
    return train(composed(*TINY, *data, *own, *overrides))


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def run(record):
    return Run(record, device="cpu")


def test_predictions_equal_the_record(record, run):
    recorded = torch.from_numpy(record.predictions()["test_logits"]).softmax(dim=1).numpy()
    split = run.split("test")
    found = run.predict(split.texts)
    np.testing.assert_allclose([list(p.probabilities.values()) for p in found], recorded, atol=1e-5)
    assert [run.labels.index(p.label) for p in found] == recorded.argmax(axis=1).tolist()
    assert all(p.probability == max(p.probabilities.values()) for p in found)


def test_predictions_do_not_depend_on_order_or_window(run, monkeypatch):
    texts = [f"{'very ' * (i % 9)}frog {i}" for i in range(50)]
    expected, embeddings = run.predict(texts), run.embed(texts)
    monkeypatch.setattr(predict_module, "WINDOW", 7)
    for one, other in zip(run.predict(texts[::-1])[::-1], expected, strict=True):
        assert one.label == other.label and one.probability == pytest.approx(other.probability, abs=1e-5)
    np.testing.assert_allclose(run.embed(texts), embeddings, atol=1e-5)
    assert run.embed([]).shape == (0, 64) and run.predict([]) == []
    np.testing.assert_allclose(run.classify(embeddings.astype(np.float16)), run.classify(embeddings), atol=1e-3)


def test_stream_reads_at_most_one_window_ahead(run, monkeypatch):
    monkeypatch.setattr(predict_module, "WINDOW", 8)
    num_read = 0

    def endless():
        nonlocal num_read
        while True:
            num_read += 1
            yield Row(num_read, ("a frog",))

    stream = run.stream(endless())
    for expected in range(1, 20):
        row, _ = next(stream)
        assert row.number == expected and num_read <= 8 * (1 + (expected - 1) // 8)


def test_neighbours_equal_a_double_loop(run):
    texts = ["a green frog", "the sky 3", "very very apple"]
    split = run.split("train")
    z, train_z = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (run.embed(texts), run.embed(split.texts)))
    for i, prediction in enumerate(run.predict(texts, neighbours=5)):
        weights = [np.exp(-(np.linalg.norm(z[i] - other) ** 2) / (2 * run.sigma**2)) for other in train_z]
        best = np.argsort(weights)[::-1][:5]
        np.testing.assert_allclose([n.weight for n in prediction.neighbours], np.array(weights)[best], rtol=2e-3)
        assert prediction.neighbours[0].texts == split.texts[best[0]]
        for n in prediction.neighbours:
            (at,) = np.flatnonzero(split.rows == n.row)
            assert n.texts == split.texts[at] and n.label == run.labels[split.labels[at]]
    run = Run(run.record, device="cpu")  # for a loss without a graph the weight is the cosine
    run.record = dataclasses.replace(run.record, result={**run.record.result, "hyperparameters": {"sigma": None}})
    (prediction,) = run.predict(texts[:1], neighbours=1000)
    np.testing.assert_allclose([n.weight for n in prediction.neighbours], np.sort(train_z @ z[0])[::-1], atol=1e-5)


def test_predictions_for_pairs_use_both_texts(tmp_path):
    run = Run(train_tiny(tmp_path, columns=("question", "answer")), device="cpu")
    assert run.columns == ["question", "answer"]
    (one,), (other,) = run.predict([("frog", "leaf")]), run.predict([("frog", "a sea and a sky")])
    assert one.probabilities != other.probabilities
    with pytest.raises(DataError, match="must hold question and answer"):
        run.predict(["frog"])


def test_invalid_arguments_and_damaged_weights_give_an_error(run):
    with pytest.raises(TypeError, match="list of texts"):
        run.predict("a frog")
    with pytest.raises(DataError, match=r"texts\[1\] must hold text"):
        run.predict(["a frog", ("a", "pair")])
    with pytest.raises(DataError, match=r"texts\[0\] must hold text, got \(None,\)"):
        run.embed([None])
    with pytest.raises(DataError, match=r"texts\[1\] holds half a character \(\\ud83d\)"):
        run.predict(["a frog", "cut \ud83d"])
    with pytest.raises(ConfigError, match="neighbours=-1 is not allowed: expected"):
        run.predict(["a frog"], neighbours=-1)
    with pytest.raises(RunError, match="split=dev"):
        run.split("dev")
    for part, kind, number in (("encoder", "embeddings", torch.nan), ("head", "probabilities", torch.inf)):
        damaged = Run(run.record, device="cpu")
        torch.nn.init.constant_(list(getattr(damaged.model, part).parameters())[-1], number)
        with pytest.raises(RunError, match=f"expected finite {kind}, got NaN .* train the run again"):
            damaged.predict(["a frog"])


def test_moved_training_texts_are_found_and_changed_ones_are_refused(tmp_path):
    record = train_tiny(tmp_path)
    folder, expected = tmp_path / "moved", Run(record, device="cpu").split("test").texts
    folder.mkdir()
    (tmp_path / "texts.csv").rename(folder / "texts.csv")
    with pytest.raises(DataError, match=r"texts.csv is not there: if it has moved, give its folder, paths.data=…"):
        Run(record, device="cpu").split("test")
    assert Run(record, device="cpu", data=folder).split("test").texts == expected
    shutil.copy(folder / "texts.csv", tmp_path)
    with open(tmp_path / "texts.csv", "a") as file:
        file.write("one more,red\n")
    with pytest.raises(RunError, match="have changed since"):
        Run(record, device="cpu").predict(["a frog"], neighbours=1)


def test_notes_are_recorded_and_files_are_read_with_the_settings_of_the_run(tmp_path, monkeypatch, capsys):
    log_once.cache_clear()
    record = train_tiny(tmp_path, "dataset.encoding=cp1252", "model.max_length=6", "seed=3")
    err = capsys.readouterr().err
    assert "colours: 51 train, 6 val, 6 test texts; 3 classes: 'blue', 'green', 'red'\n" in err
    about_texts = [note for note in record.result["notes"] if " of the 63 " in note]  # others: about the training
    truncated = about_texts[-1]
    tokenizer = load_tokenizer(ModelConfig(**record.result["config"]["model"]))
    with (tmp_path / "texts.csv").open() as file:
        num_long = sum(len(tokenizer.encode(row["text"])) > 6 for row in csv.DictReader(file))
    assert truncated == f"{num_long} of the 63 texts ({num_long / 63:.0%}) are truncated at model.max_length=6 tokens"
    assert 0 < num_long < 63 and all(f"colours: note: {note}\n" in err for note in about_texts)

    lines = ["nr;text", "1;grün", f"2;{'very ' * 20}red", "", "3;größer"]
    (tmp_path / "x.csv").write_bytes("\n".join(lines).encode("cp1252"))
    arguments = (f"run={record.folder}", "trainer.device=cpu", f"file={tmp_path / 'x.csv'}")
    assert run_script(monkeypatch, "predict.py", *arguments, f"to={tmp_path / 'out.csv.gz'}") == 0
    err = capsys.readouterr().err
    assert "blank rows skipped: 1" in err and "1 of 3 texts are truncated: the run reads 6 tokens" in err
    with gzip.open(tmp_path / "out.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["number"], row["text"]) for row in rows] == [("2", "grün"), ("3", lines[2][2:]), ("5", "größer")]
    assert run_script(monkeypatch, "predict.py", *arguments, "encoding=utf-8") == 1
    assert "row 2: column 'text' is not in the encoding expected (byte 0xfc)" in capsys.readouterr().err
    assert run_script(monkeypatch, "predict.py", *arguments, "separator=,") == 2
    assert "no column 'text' in the header, which has 'nr;text': set dataset.text=" in capsys.readouterr().err


def test_files_in_the_utf_16_of_the_run_need_no_encoding(run, tmp_path):
    other = copy.copy(run)
    other.dataset = dataclasses.replace(run.dataset, encoding="utf-16-le")
    path = tmp_path / "x.csv"
    for encoding in ("utf-16-le", "utf-16", "utf-8", "utf-8-sig"):  # with and without a byte order mark
        path.write_bytes("text\nan äpple\n".encode(encoding))
        assert [row.texts for row in rows_of_file(other, str(path), "csv", ["text"])] == [("an äpple",)], encoding
    other.dataset = dataclasses.replace(run.dataset, encoding="klingon")  # a record may come from anywhere
    with pytest.raises(DataError, match="encoding=klingon is unknown: try utf-8"):
        list(rows_of_file(other, str(path), "csv", ["text"]))
    other.dataset = dataclasses.replace(run.dataset, encoding="utf-16-le")
    (tmp_path / "x.txt").write_text("an apple\n")
    assert [row.texts for row in rows_of_file(other, str(tmp_path / "x.txt"), "txt", ["text"])] == [("an apple",)]


# -- choosing a run ----------------------------------------------------------------------------------------------------


@pytest.fixture
def outputs(tmp_path, record):
    """Three records with different losses, validation scores and weights."""
    scores = {"ce": (80.0, 99.0, True), "gloss_sqrt": (90.0, 50.0, True), "scl_ce": (95.0, 60.0, False)}
    for loss, (val, test, has_model) in scores.items():
        folder = tmp_path / "runs" / "colours" / "tiny" / f"integrated-{loss}" / "0000abcd" / "seed=1"
        shutil.copytree(record.folder, folder, ignore=shutil.ignore_patterns("model") if not has_model else None)
        result = json.loads((folder / "result.json").read_text())
        result["identity"] |= {"loss": loss, "config_hash": "0000abcd"}
        result["metrics"]["val"]["macro_f1"], result["metrics"]["test"]["macro_f1"] = val, test
        write_json(folder / "result.json", result)
    return tmp_path


def test_best_is_chosen_by_validation_among_runs_with_weights(outputs, capsys):
    show_messages()  # like scripts/predict.py
    assert find_run("best dataset=colours", outputs).identity.loss == "gloss_sqrt"
    assert "best of 2 (1 more without weights) by macro-F1 on validation, 90.00" in capsys.readouterr().err
    assert find_run("best", outputs, dataset="colours", loss="scl").identity.loss == "scl_ce"
    record = find_run("dataset=colours loss=gloss_sqrt", outputs)
    write_json(record.folder / "result.json", record.result | {"fingerprint": "0" * 32})
    with pytest.raises(RunError, match="runs fit dataset=colours, of different texts, whose scores do not compare"):
        find_run("best dataset=colours", outputs)
    assert find_run("best dataset=colours loss=gloss_sqrt", outputs).folder == record.folder
    shutil.rmtree(find_run("loss=ce", outputs).folder / "model")
    assert find_run("dataset=colours", outputs).identity.loss == "gloss_sqrt"
    with pytest.raises(RunError, match="needs a data set"):
        find_run("best", outputs)


def test_runs_are_selected_by_keys_and_folder(outputs):
    chosen = find_run("dataset=colours loss=ce mode=integrated seed=1", outputs)
    assert find_run(str(chosen.folder), outputs, loss="ce", seed=1).folder == chosen.folder
    with pytest.raises(RunError, match="holds the run .*loss=ce.*, not loss=scl"):
        find_run(str(chosen.folder), outputs, loss="scl")
    assert chosen.identity.loss == "ce" and find_run(str(chosen.folder)).result == chosen.result
    assert find_run("", outputs, loss="ce", seed=1).folder == chosen.folder
    with pytest.raises(RunError, match="2 runs fit dataset=colours(.|\n)*loss=ce(.|\n)*loss=gloss_sqrt"):
        find_run("dataset=colours", outputs)
    with pytest.raises(RunError, match="no finished run(.|\n)*fits dataset=mr; there are(.|\n)*loss=ce"):
        find_run("dataset=mr", outputs)
    with pytest.raises(RunError, match="'outputs/typo' is no key of a run"):
        find_run("outputs/typo", outputs)
    for run in ("", str(chosen.folder)):
        with pytest.raises(RunError, match="'datset' is no key of a run.*: expected .*, or dataset=…, model=…"):
            find_run(run, outputs, datset="colours")
    with pytest.raises(RunError, match="runs/colours is no run, as …/seed=1 is: it has no DONE"):
        find_run(str(outputs / "runs" / "colours"))
    with pytest.raises(RunError, match="trainer.save_model=true"):
        load_run("loss=scl", outputs, device="cpu")
    (chosen.folder / "DONE").unlink()
    with pytest.raises(RunError, match="not finished"):
        find_run(str(chosen.folder))


# -- maps --------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("names", "has_legend"), [
    ([f"class {i}" for i in range(51)], True),
    ([f"class {i}" for i in range(151)], False),
    (["a very long name of a class " * 20, "$formula_", "x\x1b[31m", "天気", "\u202eabc"], True),
])  # fmt: skip
def test_a_map_has_room_for_any_number_and_length_of_class_names(names, has_legend, tmp_path):
    labels = np.repeat(np.arange(len(names)), 3)
    embeddings = np.random.default_rng(0).normal(size=(len(labels), 4))
    drawing = embedding_map(embeddings, labels, labels, names, "pca", "map", "a set, " * 30)
    ax = drawing.figure.axes[0]
    assert (ax.get_legend() is not None) is has_legend
    assert any("No legend" in note for note in drawing.notes) is not has_legend
    drawing.save(tmp_path)
    with styled():
        drawing.figure.draw_without_rendering()
    assert ax.get_position().width * drawing.figure.get_figwidth() > 1.5  # inches, after the layout
    if has_legend:
        assert max(len(text.get_text()) for text in ax.get_legend().get_texts()) < 40
    assert {row["label"] for row in drawing.data} == set(names)  # the CSV has the full names


def test_a_map_shows_the_predictions_and_keeps_the_distances_of_a_plane(record, tmp_path):
    drawing = map_of_run(record, "test", "pca", "cpu")
    shutil.copytree(record.folder, tmp_path / "run")
    (tmp_path / "run" / "predictions.npz").unlink()  # the weights encode the texts again
    assert map_of_run(dataclasses.replace(record, folder=tmp_path / "run"), "test", "pca", "cpu").data == drawing.data
    drawing.save(tmp_path / "map")
    assert {path.suffix for path in (tmp_path / "map").iterdir()} == {".pdf", ".png", ".csv"}
    rows = list(csv.DictReader((tmp_path / "map" / f"{drawing.name}.csv").open()))
    recorded = record.predictions()
    names = record.result["labels"]
    assert [row["predicted"] for row in rows] == [names[i] for i in recorded["test_logits"].argmax(axis=1)]
    assert [row["label"] for row in rows] == [names[i] for i in recorded["test_labels"]]

    # PCA keeps the distances of points in a plane.
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 40)
    plane = np.stack([np.cos(angle), np.sin(angle)], axis=1) @ np.linalg.qr(rng.normal(size=(8, 8)))[0][:2] * 5
    labels = rng.integers(0, 3, 40)
    drawing = embedding_map(plane, labels, labels, ["$a", "b_$", "c\x1b"], "pca", "plane", "$")
    xy = np.array([[float(row["x"]), float(row["y"])] for row in drawing.data])
    apart = np.linalg.norm(xy[:, None] - xy, axis=2)
    np.testing.assert_allclose(apart, np.linalg.norm(plane[:, None] - plane, axis=2) / 5, atol=1e-3)
    drawing.save(tmp_path)


@pytest.mark.parametrize("method", ["tsne", "pca"])
@pytest.mark.parametrize(("count", "message"), [(2, "at least 3 texts, got 2"), (4, "all 4 texts are the same")])
def test_a_map_of_too_few_or_equal_embeddings_is_refused(method, count, message):
    labels = np.zeros(count, dtype=int)
    with pytest.raises(RunError, match=message):
        embedding_map(np.ones((count, 4)), labels, labels, ["a"], method, "map", "a set")


# -- the scripts -------------------------------------------------------------------------------------------------------


def test_script_predicts_valid_lines_and_names_invalid_ones(record, monkeypatch, capsys, tmp_path):
    chosen = (f"run={record.folder}", "trainer.device=cpu")
    assert run_script(monkeypatch, "predict.py", *chosen, "file=-", "format=jsonl", stdin=b"frog\n\n\xff\nsky\n") == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["number"] for line in out.splitlines()] == [1, 4]
    for output in ("row 2: without 'text'", "row 3: column 'text' is not in the enc", "2 predicted, 2 left out"):
        assert output in err
    (tmp_path / "header.csv").write_text("text\n")
    assert run_script(monkeypatch, "predict.py", *chosen, f"file={tmp_path / 'header.csv'}") == 0
    assert "0 predicted, 0 left out" in capsys.readouterr().err

    assert run_script(monkeypatch, "predict.py", *chosen, "split=test", f"to={tmp_path / 'out.csv'}") == 0
    assert f"accuracy {record.result['metrics']['test']['accuracy']:.2f} %" in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "out.csv").open(newline="")))
    assert len(rows) == record.result["num_rows"]["test"]
    with open(record.result["config"]["dataset"]["path"]) as file:
        lines = file.read().splitlines()
    assert all(lines[int(row["number"]) - 1] == f"{row['text']},{row['truth']}" for row in rows)


@pytest.mark.parametrize("arguments, message", [
    (["text=a", "file=b"], "expected one of text="),
    (["file=a.csv", "pair=b"], "pair= has no effect with file="),
    (["split=test", "separator=;"], "separator= has no effect with split="),
    (["text=a", "format=xml"], "format=xml is not allowed"),
    (["text=a", "neighbours=-1"], "neighbours=-1 is not allowed"),
    (["text=a", "pair=b"], "expected text= alone"),
    (["text=a", "columns=a,b"], "the run reads text"),
    (["text=a", "to=x.xlsx"], "to=x.xlsx is not allowed: expected a name ending in .csv"),
    (["file=x.parquet"], "No such file"),
    (["file=x.docx"], "file=x.docx has an unknown ending"),
    (["file=x.csv", "separator=;;"], "separator=;; is not allowed"),
    (["file=x.jsonl", "separator=;"], "separator=; has no effect"),
])  # fmt: skip
def test_script_refuses_invalid_arguments(record, monkeypatch, capsys, arguments, message):
    assert run_script(monkeypatch, "predict.py", f"run={record.folder}", "trainer.device=cpu", *arguments) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: ")
