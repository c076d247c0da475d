"""Plans: states of runs, operations against a count by hand, the sources of speeds and epochs, searches."""

from __future__ import annotations

import fcntl
import json
import subprocess

import pytest
import yaml
from conftest import held
from synthetic import result, write_run

from gloss.cli.reproduce import Task, save_selection, status
from gloss.data.datasets import read_manifest
from gloss.errors import ConfigError
from gloss.experiments.cost import START_SECONDS, epoch_flops, lengths
from gloss.experiments.grid import expand_grid
from gloss.experiments.status import searches_left, state
from gloss.report.plan import failures, make_plan, show

CE = ["dataset=mr", "model=bert", "loss=ce"]


def cells_in(outputs, name="table2", given=CE, seeds="1,2,3,4,5"):
    return expand_grid(name, [*given, f"seed={seeds}", f"paths.outputs={outputs}"])


def put_run(root, cell, seed=1, gpu=None, **changes):
    """Write a run on the texts of MR; gpu: the name of its GPU, or None for a CPU."""
    config = {"trainer": {"max_epochs": 200, "patience": 10, "batch_size": 128}, "dataset": {}, "model": {}}
    texts = {"num_rows": {"train": 6397, "val": 711, "test": 3554}, "tokens_per_epoch": 175_406}
    where = {"device": "cuda", "device_name": gpu, "precision": "bf16"} if gpu else {"device": "cpu"}
    names = {key: getattr(cell, key) for key in ("dataset", "model", "mode", "loss", "config_hash")}
    return write_run(root, result(**names, **{"config": config, "seed": seed, **texts, **where, **changes}))


def test_states_of_runs_are_detected(tmp_path):
    (cell,) = cells_in(tmp_path)
    put_run(tmp_path, cell, 1)
    for seed, name in ((2, "lock"), (3, "error.json"), (4, "checkpoint/1-0/state.json")):
        path = cell.folder(seed) / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"message": "the disk is full\nand more"}))
    with held(cell.folder(2) / "lock"):
        plan = make_plan([cell], "a100", 2)
        found = ["done", "running", "failed", "interrupted", "to do"]
        assert list(plan.lines[0].states.values()) == found == [state(cell.folder(s)) for s in cell.seeds]
        assert failures(plan.lines) == [f"{cell.folder(3)}: the disk is full"]
        assert "1 done, 1 running, 1 failed, 1 interrupted of 5" in show(plan)
        assert len(plan.runs_to_do()) == 4
    assert state(cell.folder(2)) == "to do"  # the lock is released when its process ends


def test_states_are_detected_in_a_read_only_folder(small_disk, capsys):
    (cell,) = cells_in(small_disk)
    save_selection(small_disk, "table2", [*CE, "seed=1,2"])
    for seed in (1, 2):
        put = cell.folder(seed) / "lock"
        put.parent.mkdir(parents=True)
        put.touch()
    with (cell.folder(1) / "lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        assert [state(cell.folder(seed)) for seed in (1, 2)] == ["running", "to do"]
        assert status(small_disk, "cpu", 2) and "1 running" in capsys.readouterr().out


def test_operations_of_an_epoch_equal_a_count_of_matrix_products():
    """For texts of one length: 2 m n k per matrix product in the forward pass, and three times that for a step."""
    tokens, width, rows = 16, 64, 10

    def product(m, n, k):
        return 2 * m * n * k

    layer = 4 * product(tokens, width, width) + 2 * product(tokens, width, 4 * width)  # without attention
    last = 2 * product(tokens, width, width)  # keys and values of all tokens; the rest is for the first token
    counted = epoch_flops(3, width, 1, rows * tokens, 0)
    assert counted == pytest.approx(3 * rows * (2 * layer + last))
    assert epoch_flops(3, width, 2, rows * tokens, rows * tokens) == pytest.approx(counted * (2 + 1 / 3))


def test_text_lengths_agree_with_the_manifest():
    sets = read_manifest()["sets"]
    assert lengths().keys() == {*sets, "docstrings"}
    for name, (train, val, tokens) in lengths().items():
        assert 0 < tokens <= 128
        if name in ("sst2", "qnli"):  # validation is cut from train
            assert train + val == sets[name]["splits"]["train"]["rows"]
        elif name in sets:
            assert (train, val) == tuple(sets[name]["splits"][part]["rows"] for part in ("train", "val"))


def test_without_runs_the_speed_is_from_the_data_sheet(tmp_path):
    (cell,) = cells_in(tmp_path)
    (line,) = make_plan([cell], "a100", 2).lines
    flops = epoch_flops(12, 768, 1, 6397 * 27.42, 711 * 27.42)
    launches = 50 * 12 * 3e-3  # 6,397 texts are 50 batches
    assert line.epoch_seconds == pytest.approx(max(flops / (312e12 * 0.25), launches))
    assert (line.speed_from, line.epochs_from, line.epochs) == ("data sheet", "assumed", 25)
    assert line.run_hours == pytest.approx((25 * line.epoch_seconds + START_SECONDS) / 3600)
    (slower,) = make_plan([cell], "cpu", 4).lines
    assert slower.epoch_seconds == pytest.approx(flops / (2 * 60e9))


def test_runs_on_the_device_replace_the_data_sheet(tmp_path):
    r8 = cells_in(tmp_path, given=["dataset=r8", "model=bert", "loss=ce"])[0]
    texts = {"num_rows": {"train": 4936, "val": 549, "test": 2189}, "tokens_per_epoch": 400_850, "epochs": 10}
    put_run(tmp_path, r8, 1, **texts, gpu="NVIDIA A100-SXM4-80GB")
    path = r8.folder(1) / "result.json"
    times = {"total": 250.0, "training": 200.0, "evaluation": 20.0, "per_epoch": 20.0, "to_best": 100.0}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": times}))
    (line,) = make_plan([r8], "a100", 2).lines
    assert line.epoch_seconds == pytest.approx(22.0, rel=1e-3)  # (200 + 20) / 10
    assert (line.speed_from, line.epochs, line.epochs_from) == ("measured", 10, "ours")
    mr, distil = cells_in(tmp_path, given=["dataset=mr", "model=bert,distilbert", "loss=ce"])
    plan = make_plan([mr, distil], "a100", 2)
    assert [line.speed_from for line in plan.lines] == ["measured", "data sheet"]
    (elsewhere,) = make_plan([r8], "h100", 2).lines
    assert (elsewhere.speed_from, elsewhere.epochs_from) == ("data sheet", "ours")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shared_device": True}))
    assert make_plan([r8], "a100", 2).lines[0].speed_from == "data sheet"


def test_the_cost_follows_the_maximum_length(tmp_path):
    def tokens(cut):
        (cell,) = cells_in(tmp_path, given=["dataset=r8", "model=bert", "loss=ce", f"model.max_length={cut}"])
        plan = make_plan([cell], "cpu", 2)
        return plan.lines[0].epoch_seconds / epoch_flops(12, 768, 1, 4936, 549) * 60e9, show(plan), cell

    usual = lengths()["r8"][2]
    assert [round(tokens(cut)[0], 2) for cut in (16, 128, 512)] == [16, usual, usual]
    assert ["count at most 128 tokens" in tokens(cut)[1] for cut in (16, 128, 512)] == [False, False, True]
    texts = {"num_rows": {"train": 4936, "val": 549, "test": 2189}, "tokens_per_epoch": 4936 * 150}
    put_run(tmp_path, tokens(512)[2], 1, **texts, config={"model": {"max_length": 512}}, gpu="NVIDIA H100")
    assert [round(tokens(cut)[0], 2) for cut in (16, 128, 512)] == [16, usual, 150]


def test_an_unknown_device_has_an_estimate_only_after_a_run(tmp_path):
    (cell,) = cells_in(tmp_path)
    for name in ("NVIDIA GeForce RTX 4090", "NVIDIA RTX A1000"):  # not an A100
        plan = make_plan([cell], name, 2)
        assert plan.lines[0].run_hours is None and plan.hours() == (0.0, 0.0, 5, 0)
        assert f"Speed on {name}: 1 configurations unknown. It is none of a100, h100, h200, cpu" in show(plan)
        assert "5 runs or trials are not counted" in show(plan)
        assert "repeats, an unknown number of hours.\nIn all an unknown number of hours, one" in show(plan)
    assert make_plan([cell], "NVIDIA A100-SXM4-80GB", 2).speeds.data_sheet == "a100"
    for name, gpu in (("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090"), ("cpu", None)):
        put_run(tmp_path, cell, 1 if gpu else 2, gpu=gpu)
        assert make_plan([cell], name, 2).lines[0].speed_from == "measured"
    (other,) = cells_in(tmp_path, given=["dataset=mr", "model=roberta_large", "loss=ce"])
    assert "its runs are of other encoders or texts" in show(make_plan([other], "NVIDIA GeForce RTX 4090", 2))


def test_rerun_is_priced_like_new_runs(tmp_path):
    (cell,) = cells_in(tmp_path, seeds="1")
    put_run(tmp_path, cell, 1)
    assert [make_plan([cell], "a100", 2, given).hours()[0] > 0 for given in ([], ["rerun=true"])] == [False, True]


def test_released_variant_counts_its_passes_and_float32_speed(tmp_path):
    """One pass for one loss, a fifth of the bf16 speed on a GPU; runs in bf16 do not change the estimate."""
    flops = {n: epoch_flops(12, 768, n, 6397 * 27.42, 711 * 27.42) for n in (1, 2)}
    given = ["dataset=mr", "model=bert", "variant=released", "seed=1", f"paths.outputs={tmp_path}"]
    for name, loss, passes in (("table3", "scl", 1), ("table2", "ce", 1), ("table2", "scl_ce", 2)):
        (cell,) = expand_grid(name, [*given, f"loss={loss}"])
        for device, speed in (("cpu", 60e9), ("a100", 0.25 * 312e12 / 5)):
            assert make_plan([cell], device, 2).lines[0].epoch_seconds == pytest.approx(flops[passes] / speed), loss
    paper, released = cells_in(tmp_path, seeds="1")[0], expand_grid("table2", [*given, "loss=ce"])[0]
    put_run(tmp_path, paper, 1, gpu="NVIDIA A100-SXM4-80GB")
    plan = make_plan([paper, released], "a100", 2)
    assert [line.speed_from for line in plan.lines] == ["measured", "data sheet"]
    assert "25 % of 312 TFLOP/s in bf16, a 5th of it in float32 is assumed" in show(plan)


def test_epochs_are_from_the_paper_where_published(tmp_path):
    def epochs(name, *given):
        line = make_plan(expand_grid(name, [*given, f"paths.outputs={tmp_path}"])[:1], "a100", 2).lines[0]
        return line.epochs, line.epochs_from

    assert epochs("table3", "dataset=r8", "loss=cosine") == (200, "paper")
    assert epochs("table3", "dataset=r8", "loss=cosine", "trainer.max_epochs=5") == (5, "paper")
    assert epochs("table3", "dataset=r8", "loss=cosine", "trainer.patience=3") == (18, "assumed")
    assert epochs("table2", "dataset=r8", "loss=ce", "trainer.max_epochs=7") == (7, "assumed")
    assert epochs("fig6") == (3, "fixed")


def test_shared_runs_are_counted_once(tmp_path):
    given = ["dataset=mr", "loss=gloss_sqrt", "seed=1", f"paths.outputs={tmp_path}"]
    cells = [*expand_grid("graph_noise", given), *expand_grid("label_noise", given)]
    assert len(cells) == 12  # both experiments have the run without noise
    assert len(make_plan(cells, "a100", 2).runs_to_do()) == 11


def test_unlabeled_texts_add_the_cost_of_encoding(tmp_path):
    given = ["dataset=mr", "loss=gloss_sqrt", "seed=1", "dataset.train_limit=1000", f"paths.outputs={tmp_path}"]
    plain, unlabeled = make_plan(expand_grid("few_shot", given), "cpu", 2).lines
    training_hours = [line.run_hours - START_SECONDS / 3600 for line in (plain, unlabeled)]
    assert 1.5 < training_hours[1] / training_hours[0] < 2.0  # twice as many texts per batch, the same validation


def put_overlay(outputs, name, source, **values):
    path = outputs / "tuned" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({"trainer": {"lr": 1e-5}, **values, "tuned": source}))


def left(cells, given, *search):
    return {path.stem: n for path, (_, n) in searches_left(cells, given, search).items()}


def test_searches_left_are_those_missing_for_the_cells(tmp_path):
    given = ["dataset=mr", "model=bert", "seed=1", f"paths.outputs={tmp_path}"]
    cells = expand_grid("table2", given)
    all_searches = {f"mr-bert-integrated-{loss}": 15 for loss in ("ce", "scl_ce", "gloss_sqrt", "gloss_o")}
    assert left(cells, given) == all_searches
    assert set(left(cells, given, "search.trials=2").values()) == {2}
    assert left(cells, given, "search.trials=0") == {}
    assert set(left(cells, given, "search.trials=null", "++search.budget.any=3").values()) == {3}
    assert set(left(cells, given, "search.budget={any:3}").values()) == {3}
    with pytest.raises(ConfigError, match="search.trials=2,4 is not allowed here: expected one whole number"):
        left(cells, given, "search.trials=2,4")
    overridden = [*given, "trainer.lr=1e-5"]
    assert "mr-bert-integrated-ce" not in left(expand_grid("table2", overridden), overridden)  # nothing to search
    put_run(tmp_path, cells[0])
    assert left(cells, given) == all_searches  # the run has default values, so the search is still missing
    source = {"train_limit": None, "max_epochs": 200, "search": "fair", "trials": 15}
    put_overlay(tmp_path, "mr-bert-integrated-gloss_o", source, loss={"sigma": 0.5})
    expected = set(all_searches) - {"mr-bert-integrated-gloss_o"}
    assert set(left(expand_grid("table2", given), given)) == expected
    assert left(expand_grid("fig6", given), given) == {}  # measurements of time need no search
    with pytest.raises(ConfigError, match="expected one of authors, fair"):
        left(cells, given, "search=authers")
    other = {**source, "fingerprint": "f" * 64, "model_name": "another/encoder"}
    put_overlay(tmp_path, "mr-bert-integrated-ce", other)
    assert "mr-bert-integrated-ce" in left(cells, given)
    put_overlay(tmp_path, "mr-bert-integrated-ce", source | {"settings": {"trainer.batch_size": 8}})
    assert "mr-bert-integrated-ce" in left(cells, given)
    put_overlay(tmp_path, "mr-bert-integrated-ce", source | {"settings": {"trainer.batch_size": 128}})
    assert "mr-bert-integrated-ce" not in left(cells, given)
    put_overlay(tmp_path, "mr-bert-integrated-ce", source)  # with more trials or another search it is missing again
    ce = [c for c in cells if c.loss == "ce"]
    assert left(ce, given, "search.trials=15") == {} != left(ce, given, "search.trials=16")
    assert left(ce, given, "search=authors") == {"mr-bert-integrated-ce": 15}
    for changed in ("search.space.integrated.ce.lr.high=1e-3", "search.sampler={n_startup_trials:1}"):
        assert left(ce, given, changed) == {"mr-bert-integrated-ce": 15}
    released = ["variant=released", "loss=scl_ce", "trainer.lr=2e-5", "loss.temperature=0.1"]  # which fixes λ
    released = ["dataset=mr", "model=bert", "seed=1", f"paths.outputs={tmp_path}", *released]
    assert left(expand_grid("table2", released), released) == {}


def test_reduced_and_full_searches_are_separate(tmp_path):
    given = ["dataset=mr", "model=bert", "loss=ce", "seed=1", f"paths.outputs={tmp_path}"]
    reduced = [*given, "dataset.train_limit=500", "trainer.max_epochs=3"]
    assert set(left(expand_grid("table2", reduced), reduced)) == {"mr-bert-integrated-ce-n500-e3"}
    source = {"train_limit": 500, "max_epochs": 3, "search": "fair", "trials": 15, "train_examples": 500}
    put_overlay(tmp_path, "mr-bert-integrated-ce-n500-e3", source)
    assert left(expand_grid("table2", reduced), reduced) == {}
    full = expand_grid("table2", given)
    assert full[0].config.tuned is True and set(left(full, given)) == {"mr-bert-integrated-ce"}

    put_overlay(tmp_path, "mr-bert-integrated-ce", {**source, "train_limit": None, "max_epochs": 200})
    assert expand_grid("table2", reduced)[0].config.tuned["file"] == "mr-bert-integrated-ce-n500-e3.yaml"
    # a sweep over amounts of data uses the search on all texts, unless there is a search on its amount
    few = ["loss=ce", "dataset=mr", f"paths.outputs={tmp_path}"]
    assert left(expand_grid("few_shot", few), few) == {}
    put_overlay(tmp_path, "mr-bert-integrated-ce-n20", {**source, "train_limit": 20, "max_epochs": 200})
    files = {c.point["dataset.train_limit"]: c.config.tuned["file"] for c in expand_grid("few_shot", few)}
    assert files == {n: f"mr-bert-integrated-ce{'-n20' * (n == 20)}.yaml" for n in (20, 100, 1000)}
    fewer = [*few, "trainer.max_epochs=3"]  # it needs the search on all texts with three epochs
    assert set(left(expand_grid("few_shot", fewer), fewer)) == {"mr-bert-integrated-ce-e3"}
    put_overlay(tmp_path, "mr-bert-integrated-ce-e3", {**source, "train_limit": None})
    assert expand_grid("few_shot", fewer)[1].config.tuned["file"] == "mr-bert-integrated-ce-e3.yaml"


def test_the_cost_of_a_search_is_the_cost_of_its_trials(tmp_path):
    given = ["dataset=mr", "loss=ce", "seed=1", f"paths.outputs={tmp_path}"]
    plan = make_plan(expand_grid("few_shot", given), "a100", 2, given, ["search.trials=1"])
    full_hours = make_plan(expand_grid("table2", [*given, "model=bert"]), "a100", 2).hours()[0]
    assert plan.hours()[1] == pytest.approx(full_hours)


def test_table2_can_be_planned_without_texts_or_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOSS_DATA_DIR", str(tmp_path / "nothing"))
    task = Task("table2", [f"paths.outputs={tmp_path}", f"paths.tuned={tmp_path}"])
    plan = task.plan("a100", 2)
    runs, searches, *unknown = plan.hours()
    assert unknown == [0, 0] and 1 < runs < searches == pytest.approx(3 * runs)  # 15 trials of a search, then 5 seeds
    text = show(plan)
    assert "Runs: 300" in text and "900 trials" in text and "25 % of 312 TFLOP/s" in text
