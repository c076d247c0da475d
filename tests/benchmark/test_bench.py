"""The benchmark measures what it says: never how fast it is."""

from __future__ import annotations

import dataclasses
import json
import math
import time

import numpy as np
import pytest
import torch
import transformers
from scipy import stats

import gloss.benchmark.compare
from gloss.benchmark.baselines import TrainerSteps
from gloss.benchmark.compare import is_met, ratios, run_ratio, spread, summary, targets
from gloss.benchmark.peers import _peak_bytes, beside_peers, candidates
from gloss.benchmark.run import bench
from gloss.benchmark.scaling import objective_seconds
from gloss.benchmark.steps import BASELINE_ROUNDS, MEASURED, Bench, Settings, difference_of_equal_steps, held_bytes
from gloss.errors import ConfigError
from gloss.report.figures import speed as report
from gloss.training.run import train
from gloss.training.trainer import Fit

TINY = Settings(
    lengths="4-12",
    classes=3,
    model="tiny",
    losses=("ce", "gloss_o"),
    batch=16,
    rounds=2,
    baselines=False,
    device="cpu",
    precision="float32",
)


def rounds(**seconds: list[float]) -> list[dict]:
    """Rounds of steps with 100 tokens and 2000 operations each."""
    turns = [dict(zip(seconds, values, strict=True)) for values in zip(*seconds.values(), strict=True)]
    turn = {"parts": None, "peak_memory_bytes": 5}
    return [{"tokens": 100, "flops": 2000, "turns": {k: {"seconds": v, **turn} for k, v in t.items()}} for t in turns]


def test_a_benchmark_leaves_a_whole_result_and_the_report_shows_it(tmp_path):
    result, path = bench(dataclasses.replace(TINY, baselines=True, outputs=str(tmp_path)))
    assert json.loads(path.read_text()) == json.loads(json.dumps(result))
    assert set(result["candidates"]) == {"ce", "gloss_o", "ce_repeat", "trainer", "released"}
    assert result["same_step_twice"] == {"ce": 0.0, "gloss_o": 0.0}  # on a CPU; a difference would be worth knowing
    parts = result["candidates"]["gloss_o"]["parts"]
    assert set(parts) == {"data", "forward", "graph", "propagation", "loss", "backward", "optimizer"}
    assert sum(parts.values()) <= 1.5 * result["candidates"]["gloss_o"]["seconds"]["high"]
    found, problems = report.read_bench(tmp_path)
    steps, compared = report.tables(found)
    assert problems == [] and len(steps.rows) == 5 and len(compared.rows) == 5
    assert [d.name for d in report.drawings(found)] == [f"bench_parts_{result['name']}"]
    (tmp_path / "bench" / "half.json").write_text('{"schema_version": 1')
    assert len(report.read_bench(tmp_path)[1]) == 1


def test_every_contender_of_a_round_gets_the_same_batches_in_changing_order(monkeypatch):
    ours, seen = Bench.build(TINY), []

    def note(self, loss):
        def turn(batches):
            seen.append((loss, np.concatenate(batches).tolist()))
            return {"seconds": 1.0, "parts": {}, "peak_memory_bytes": 0}

        return turn

    monkeypatch.setattr(Bench, "_ours", note)
    for number in range(2):
        seen.clear()
        measured = ours.round(number)
        turns = seen[3:] if number == 0 else seen  # the first round is warmed up before
        assert [name for name, _ in turns] == [["ce", "gloss_o", "ce"], ["gloss_o", "ce", "ce"]][number]
        assert all(rows == turns[0][1] and len(rows) == 16 for _, rows in turns)
        lengths = ours.fits["ce"].tables["train"].host_lengths[turns[0][1]]
        assert measured["tokens"] == lengths.sum()


def test_operations_are_those_of_the_layers_counted_by_hand():
    ours = Bench.build(TINY)
    width, inner, layers = 64, 128, 2
    parameters = layers * (4 * width * (width + 1) + 2 * width * inner + inner + width + 4 * width)
    assert ours.layers == (layers, width, parameters)
    attention = sum(4 * n * n * width * layers * 3 for n in (5, 9))  # QKᵀ and its product with V, forward and backward
    assert ours._flops(np.array([5, 9])) == 6 * parameters * 14 + attention


def test_ratios_are_formed_within_a_round():
    measured = rounds(ce=[0.5, 10, 2], ce_repeat=[1.5, 10, 2], gloss_o=[1, 10, 2])
    found = {r["over"]: r for r in ratios(measured, Bench.build(TINY))}
    assert (found["ce_repeat"]["median"], found["ce_repeat"]["high"]) == (1, 3)
    assert (found["gloss_o"]["median"], found["gloss_o"]["low"], found["gloss_o"]["high"]) == (1, 1, 2)
    assert found["gloss_o"]["met"] == "unclear" and found["ce_repeat"]["met"] == ""


def test_equal_steps_have_a_ratio_of_one_however_others_disturb_them():
    """The mean of CE's two turns would lie above the median of one, and flatter every other step."""
    rng = np.random.default_rng(0)
    measured = rounds(**{name: 1 + rng.exponential(0.2, size=2001) for name in ("ce", "ce_repeat", "gloss_o")})
    (found,) = (r for r in ratios(measured, Bench.build(TINY)) if r["over"] == "gloss_o")
    assert found["low"] <= 1 <= found["high"] and found["high"] - found["low"] < 0.03


def test_few_rounds_decide_nothing():
    for number, expected in ((5, "unclear"), (6, "yes")):
        same = [1.0] * number
        (found,) = (r for r in ratios(rounds(ce=same, ce_repeat=same, gloss_o=same), Bench.build(TINY)) if r["target"])
        assert found["met"] == expected


def test_rivals_take_part_in_the_first_rounds_only():
    ours = Bench.build(dataclasses.replace(TINY, baselines=True, losses=("gloss_o",)))
    names = [set(ours.round(number)["turns"]) for number in (BASELINE_ROUNDS - 1, BASELINE_ROUNDS)]
    assert names[0] - names[1] == {"trainer", "released"}
    measured = rounds(ce=[1, 1, 1], ce_repeat=[1, 1, 1], gloss_o=[1, 1, 1], released=[5, 6, 7])
    del measured[2]["turns"]["released"]
    (found,) = (r for r in ratios(measured, ours) if r["over"] == "released")
    assert (found["median"], found["rounds"]) == (5.5, 2)
    assert summary(measured, peak=1)["released"]["seconds"]["median"] == 5.5


def test_summaries_count_real_tokens_and_the_share_of_the_peak():
    got = summary(rounds(ce=[1, 4, 2]), peak=4000)["ce"]
    assert got["seconds"] == {"median": 2, "low": 1, "high": 4}
    assert got["tokens_per_second"]["median"] == 50 and got["share_of_peak"]["median"] == 0.25


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 12, 40, 101])
def test_the_interval_of_a_median_agrees_with_scipy(size):
    values = np.random.default_rng(size).lognormal(size=size)
    found = spread(values.tolist())
    expected = stats.quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    low, high = expected if size >= 6 else (values.min(), values.max())  # scipy: none, below six
    assert (found["low"], found["high"]) == (low, high) and found["median"] == np.median(values)


def test_what_a_loss_takes_more_than_cross_entropy_is_added_to_its_step(monkeypatch):
    alone = {"ce": 0.1, "gloss_o": 0.4}
    monkeypatch.setattr(gloss.benchmark.compare, "objective_seconds", lambda cfg, *size: alone[cfg.loss.name])
    (found,) = targets({"ce": {"seconds": {"low": 20.0, "median": 30.0, "high": 60.0}}}, Bench.build(TINY))
    assert (found["step"], found["low"], found["median"], found["high"]) == ("gloss_o", 1.005, 1.01, 1.015)
    assert found["met"] == "yes"


def test_memory_and_share_of_the_peak_are_judged_where_the_goals_are_set(monkeypatch):
    spread = {"low": 0.3, "median": 0.4, "high": 0.5}
    candidates = {"ce": {"share_of_peak": spread, "peak_memory_bytes": 15e9, "seconds": spread}}
    ours = Bench.build(dataclasses.replace(TINY, losses=("ce",)))
    assert targets(candidates, ours) == []
    monkeypatch.setattr(gloss.benchmark.compare, "objective_seconds", lambda *size: 0.0)
    ours.device = torch.device("cuda")
    ours.settings = dataclasses.replace(TINY, lengths="128", model="bert_shape")
    (found,) = targets(candidates, ours)
    assert (found["what"], found["median"], found["met"]) == ("share of peak", 0.4, "unclear")
    ours.settings = dataclasses.replace(TINY, lengths="128", model="roberta_large_shape", batch=128, grad_cache_chunk=8)
    (found,) = targets(candidates, ours)
    assert (found["what"], found["median"], found["met"]) == ("memory (GB)", 15.0, "yes")


def test_what_a_device_adds_in_another_order_is_seen(monkeypatch):
    fit, step, calls = Bench.build(TINY).fits["ce"], Fit._backward, []

    def perturbed(self, *arguments, **options):
        step(self, *arguments, **options)
        calls.append([p.grad for p in self.parameters])
        if len(calls) == 2:
            for g in calls[1]:
                g *= 1.5

    monkeypatch.setattr(Fit, "_backward", perturbed)
    assert difference_of_equal_steps(fit, np.arange(16)) == pytest.approx(0.5)


def test_a_run_holds_its_weights_and_twice_as_much_for_adam():
    ours = Bench.build(TINY)
    fit, weights = ours.fits["ce"], sum(p.nbytes for p in ours.fits["ce"].model.parameters())
    texts = fit.tables["train"].input_ids.nbytes + fit.tables["train"].lengths.nbytes
    before = held_bytes(fit)
    ours._ours("ce")([np.arange(16)])
    num_steps = 4 * len(list(fit.model.parameters()))  # Adam counts them, in float32
    assert before - texts - weights == sum(b.nbytes for b in fit.model.buffers())
    assert held_bytes(fit) == before + 2 * weights + num_steps


@pytest.mark.parametrize(("low", "high", "target", "answer"), [
    (1.0, 1.1, ("at most", 1.2), "yes"), (1.1, 1.3, ("at most", 1.2), "unclear"), (1.3, 1.4, ("at most", 1.2), "no"),
    (1.3, 1.4, ("at least", 1.2), "yes"), (1.0, 1.1, ("at least", 1.2), "no"), (1.0, 1.1, None, ""),
])  # fmt: skip
def test_a_goal_within_the_range_of_measurements_is_unclear(low, high, target, answer):
    assert is_met(low, high, target) == answer


def test_the_trainers_clock_leaves_the_first_step_out(monkeypatch):
    """Each of its steps is made to take a known time."""
    ours = Bench.build(dataclasses.replace(TINY, baselines=True))
    step, took = transformers.Trainer.training_step, iter([0.5, 0.1, 0.1])

    def slow(self, *arguments, **options):
        time.sleep(next(took))
        return step(self, *arguments, **options)

    monkeypatch.setattr(transformers.Trainer, "training_step", slow)
    rows = np.arange(16)
    assert 0.1 <= ours.baselines["trainer"].run([rows, rows]) < 0.5


def test_the_trainer_pads_to_the_longest_of_the_batch_and_trains_on_our_texts():
    ours = Bench.build(TINY)
    fit = ours.fits["ce"]
    table, labels = fit.tables["train"], fit.labels["train"]
    trainer = TrainerSteps(fit.model.encoder, table, labels, ours.device, time.perf_counter, "float32")
    rows = [3, 1, 7]
    batch, lengths = trainer._join([trainer.texts[i] for i in rows]), table.host_lengths[rows]
    assert batch["input_ids"].shape == (3, lengths.max())
    assert batch["attention_mask"].sum(1).tolist() == lengths.tolist()
    assert torch.equal(batch["labels"], labels[rows])
    for ids, row, n in zip(batch["input_ids"], rows, lengths, strict=True):
        assert torch.equal(ids[:n], table.input_ids[row, :n])


def test_the_cost_of_a_loss_alone_is_finite_and_positive():
    cfg = Bench.build(TINY).fits["gloss_o"].cfg
    assert 0 < objective_seconds(cfg, 8, 3, 16, torch.device("cpu"), time.perf_counter) < math.inf


def test_a_run_is_compared_with_its_training_steps(tiny_config):
    record = train(tiny_config("loss=ce"))
    found, seconds = run_ratio(record.folder), record.result["seconds"]
    assert found["ratio"] == seconds["total"] / seconds["training"] > 1
    assert found["met"] == ""  # two epochs are too few to judge


@pytest.mark.parametrize(("change", "message"), [
    ({"lengths": "0"}, "expected n or n-m"),
    ({"lengths": "9-4"}, "expected n or n-m"),
    ({"model": "brt"}, "bert_shape"),
])  # fmt: skip
def test_settings_that_cannot_be_used_are_told(change, message):
    with pytest.raises(ConfigError, match=message):
        Bench.build(dataclasses.replace(TINY, **change))


def test_the_processors_seconds_do_not_count_a_wait(monkeypatch):
    with pytest.raises(ConfigError, match="threads=1"):
        bench(dataclasses.replace(TINY, clock="cpu", threads=2))
    step = Fit._step
    monkeypatch.setattr(Fit, "_step", lambda *arguments: (time.sleep(0.5), step(*arguments)))
    wall, cpu = (Bench.build(dataclasses.replace(TINY, clock=clock))._ours("ce") for clock in ("wall", "cpu"))
    batch = [np.arange(4)]
    cpu(batch)  # makes the optimizer's state
    assert cpu(batch)["seconds"] < 0.5 < wall(batch)["seconds"]


def test_the_growth_has_a_point_for_each_loss_and_size(monkeypatch, tmp_path):
    monkeypatch.setattr("gloss.benchmark.scaling.BATCHES", (4, 8))
    monkeypatch.setattr("gloss.benchmark.scaling.CLASSES", (2,))
    monkeypatch.setattr("gloss.benchmark.scaling.LENGTHS", (4,))
    result, _ = bench(dataclasses.replace(TINY, rounds=1, scaling=True, outputs=str(tmp_path)))
    points = [(row["axis"], row["loss"], row["size"]) for row in result["scaling"]]
    sizes = {"batch": (4, 8), "classes": (2,), "length": (4,)}
    assert sorted(points) == sorted((axis, x, s) for axis in sizes for x in ("ce", "gloss_o") for s in sizes[axis])
    assert any(d.name.startswith("bench_growth") for d in report.drawings([result]))


def test_peers_compute_what_our_losses_do():
    ours, peers = candidates()
    x, labels = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 2
    assert len(peers) == 3
    for name, (our, loss) in peers.items():
        torch.testing.assert_close(loss(x, labels), ours[our](x, labels), rtol=1e-5, atol=0, msg=name)


def test_losses_beside_peers_have_a_time_and_a_memory(monkeypatch):
    monkeypatch.setattr("gloss.benchmark.peers.BATCHES", (8, 64))
    monkeypatch.setattr("gloss.benchmark.peers.MOST_TRIPLETS", 8**3)
    rows = list(beside_peers(torch.device("cpu"), time.perf_counter, rounds=2, width=4))
    assert [sum(row["batch"] == num for row in rows) for num in (8, 64)] == [6, 4]  # no peer makes 64³ triplets here
    assert all(row["seconds"] > 0 for row in rows) and all(row["memory_ratio"] > 0 for row in rows if "ratio" in row)
    x = torch.zeros(100, 10)
    peak = _peak_bytes(lambda x, y: (x + 1).exp().sum(), x, x)  # the sum is gone when the gradient comes
    assert peak == pytest.approx(2 * x.nbytes, rel=0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("lengths", "batch", "grad_cache_chunk"), [
    ("16", 16, None), ("4-12", 16, None), ("4-12", 16, 4), ("128", 128, None),
])  # fmt: skip
def test_a_training_step_never_waits_for_the_gpu(lengths, batch, grad_cache_chunk):
    """As far as PyTorch notices."""
    sizes = {"lengths": lengths, "batch": batch, "grad_cache_chunk": grad_cache_chunk}
    ours = Bench.build(dataclasses.replace(TINY, device="cuda", losses=MEASURED, **sizes))
    for loss, fit in ours.fits.items():
        rows = np.sort(next(ours.batches))
        device_rows, visible = torch.from_numpy(rows).cuda(), fit.objective.draw_labeled(len(rows), torch.Generator())
        fit._step(0, rows, device_rows, visible)  # makes the optimizer's state
        torch.cuda.synchronize()
        try:
            torch.cuda.set_sync_debug_mode("error")
            fit._step(0, rows, device_rows, visible)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.isfinite(fit.log[0]).all(), loss
