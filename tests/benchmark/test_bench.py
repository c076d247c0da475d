"""The benchmark: correctness of its measurements and ratios, independent of speed."""

from __future__ import annotations

import json
import time
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import transformers

from gloss.benchmark.baselines import TrainerSteps
from gloss.benchmark.peers import _peak_bytes, beside_peers, candidates
from gloss.benchmark.settings import MEASURED, Settings
from gloss.benchmark.steps import BASELINE_ROUNDS, Bench, bench, distance, gradient, step_arguments, step_flops, summary
from gloss.benchmark.turns import interval
from gloss.cli.bench import Benchmark
from gloss.config import known_options
from gloss.errors import ConfigError
from gloss.report.build import build
from gloss.report.tables.speed import read_bench, speed_table
from gloss.training.trainer import Fit

TINY = Settings(
    **{"lengths": "4-12", "classes": 3, "model": "tiny", "losses": ("ce", "gloss_o"), "batch": 16, "rounds": 2},
    **{"baselines": False, "device": "cpu", "precision": "float32"},
)


def rounds(**seconds: list[float]) -> list[dict]:
    """Measured rounds with 100 tokens and 2000 operations per step."""
    turns = [dict(zip(seconds, values, strict=True)) for values in zip(*seconds.values(), strict=True)]
    return [{"tokens": 100, "flops": 2000, "turns": {k: {"seconds": v} for k, v in t.items()}} for t in turns]


def test_a_benchmark_writes_a_result_and_the_report_shows_it(tmp_path):
    given = Benchmark(**vars(replace(TINY, baselines=True)))  # as the command line passes it, with keys of its own
    result, path = bench(given, str(tmp_path))
    assert set(result["settings"]) == {key.name for key in fields(Settings)}
    assert json.loads(path.read_text()) == json.loads(json.dumps(result))
    found = result["candidates"]
    assert list(found) == ["ce", "gloss_o", "ce_repeat", "trainer", "released"]
    assert found["gloss_o"]["overhead"][0] > 1 and all(x["seconds"][0] > 0 for x in found.values())
    assert 0 < found["ce"]["mfu"][0] < 1.5 and found["ce"]["peak_memory_bytes"] > 1e6
    results, problems = read_bench(tmp_path)
    table = speed_table(results)
    assert problems == [] and len(table.rows) == 5 and "CE, Hugging Face Trainer" in table.markdown()
    assert table.data["ratio_median"].isna().sum() == 1  # CE has no ratio to itself
    median, low, high = found["ce"]["seconds"]
    page = build(tmp_path, dpi=20).page.read_text()
    assert "<code>make bench</code>" in page and f"{median:.4g} ({low:.4g} – {high:.4g})" in page
    for changes in ({"candidates": {"ce": {}}}, {"machine": None}):
        path.write_text(json.dumps(result | changes))
        (problem,) = build(tmp_path, dpi=20).problems
        assert problem.startswith("bench: the results cannot be used")
    (tmp_path / "bench" / "half.json").write_text('{"schema_version": 1')
    assert len(read_bench(tmp_path)[1]) == 1


def test_candidates_of_a_round_get_equal_batches_in_rotating_order(monkeypatch):
    ours, seen = Bench.build(replace(TINY, baselines=True)), []

    def note(self, fit, batches):
        seen.append((fit.cfg.loss.name, np.concatenate(batches).tolist()))
        return {"seconds": 1.0}

    monkeypatch.setattr(Bench, "_ours", note)
    for number, order in enumerate((["ce", "gloss_o", "ce"], ["gloss_o", "ce", "ce"])):
        seen.clear()
        measured = ours.round(number)
        turns = seen[3:] if number == 0 else seen  # the first round starts with a warm-up
        assert [name for name, _ in turns] == order
        assert all(indices == turns[0][1] and len(indices) == 16 for _, indices in turns)
        assert measured["tokens"] == ours.fits["ce"].tables["train"].host_lengths[turns[0][1]].sum()
    names = [set(ours.round(number)["turns"]) for number in (BASELINE_ROUNDS - 1, BASELINE_ROUNDS)]
    assert names[0] - names[1] == {"trainer", "released"}


def test_a_batch_with_one_text_more_is_cut_to_the_size(monkeypatch):
    epochs = iter([[np.arange(17)]])  # as the sampler joins a last single text to the batch before it
    monkeypatch.setattr("gloss.benchmark.steps.epoch_batches", lambda *arguments: next(epochs))
    assert len(next(Bench.build(TINY).batches)) == 16
    batch = known_options(Benchmark)["batch"]
    assert batch.problem("batch", 1) and not batch.problem("batch", 2)


def test_step_flops_equal_a_count_by_hand():
    encoder = Bench.build(TINY).fits["ce"].model.encoder
    width, inner, layers = 64, 128, 2
    parameters = layers * (4 * width * (width + 1) + 2 * width * inner + inner + width + 4 * width)
    attention = sum(4 * n * n * width * layers * 3 for n in (5, 9))  # QKᵀ and the product with V, forward and backward
    assert step_flops(encoder, np.array([5, 9])) == 6 * parameters * 14 + attention


def test_ratios_are_within_a_round_and_shares_count_real_tokens():
    measured = rounds(ce=[0.5, 10, 2], ce_repeat=[1.5, 10, 2], gloss_o=[1, 10, 2], released=[5, 60, 7])
    del measured[2]["turns"]["released"]
    found = summary(measured, peak=4000, alone={"ce": 0.1, "gloss_o": 0.4})
    assert found["ce_repeat"]["ratio"] == [1, 1, 3] and found["gloss_o"]["ratio"] == [1, 1, 2]
    assert (found["released"]["under"], found["released"]["ratio"]) == ("gloss_o", [5.5, 5, 6])
    assert found["released"]["rounds"] == 2 and found["ce"]["seconds"] == [2, 0.5, 10]
    assert found["ce"]["tokens_per_second"] == [50, 10, 200] and found["ce"]["mfu"] == [0.25, 0.05, 1]
    assert found["gloss_o"]["overhead"] == pytest.approx([1.15, 1.03, 1.6])


def test_equal_steps_have_ratio_1_under_noise():
    """A mean of the two CE steps as denominator would be biased: it exceeds the median of a single step."""
    rng = np.random.default_rng(0)
    measured = rounds(**{name: 1 + rng.exponential(0.2, size=2001) for name in ("ce", "ce_repeat", "gloss_o")})
    _, low, high = summary(measured, 1, {})["gloss_o"]["ratio"]
    assert low <= 1 <= high and high - low < 0.03


@pytest.mark.parametrize(("size", "ends"), [(1, [1, 1]), (5, [1, 5]), (6, [1, 6]), (12, [3, 10])])
def test_interval_of_the_median_is_of_order_statistics(size, ends):
    assert interval(np.random.default_rng(size).permutation(size) + 1.0) == [(size + 1) / 2, *ends]


def test_equal_steps_have_equal_gradients_and_their_distance_is_relative():
    fit = Bench.build(TINY).fits["ce"]
    once, again = (gradient(fit, *step_arguments(fit, np.arange(16), torch.Generator())) for _ in range(2))
    assert distance(again, once) == 0.0  # on a CPU sums are deterministic
    assert distance([1.5 * g for g in once], once) == pytest.approx(0.5)


def test_trainer_baseline_pads_to_the_longest_text_and_skips_its_first_step(monkeypatch):
    fit = Bench.build(TINY).fits["ce"]
    table, labels = fit.tables["train"], fit.labels["train"]
    trainer = TrainerSteps(fit.model.encoder, table, labels, fit.device, time.perf_counter, "float32")
    indices = [3, 1, 7]
    batch, lengths = trainer._join([trainer.texts[i] for i in indices]), table.host_lengths[indices]
    assert batch["input_ids"].shape == (3, lengths.max())
    assert batch["attention_mask"].sum(1).tolist() == lengths.tolist()
    assert torch.equal(batch["labels"], labels[indices])
    for ids, row, n in zip(batch["input_ids"], indices, lengths, strict=True):
        assert torch.equal(ids[:n], table.input_ids[row, :n]) and (ids[n:] == trainer.pad_id).all()
    step, took = transformers.Trainer.training_step, iter([0.5, 0.1, 0.1])

    def slow(self, *arguments, **options):
        time.sleep(next(took))
        return step(self, *arguments, **options)

    monkeypatch.setattr(transformers.Trainer, "training_step", slow)
    assert 0.1 <= trainer.run([np.arange(16), np.arange(16)]) < 0.5


@pytest.mark.parametrize(("change", "message"), [
    ({"lengths": "0"}, "expected n or n-m"),
    ({"lengths": "9-4"}, "expected n or n-m"),
    ({"model": "brt"}, "model=brt is not allowed"),
    ({"lengths": None, "dataset": "mrr"}, "dataset=mrr is not allowed"),
    ({"clock": "cpu", "threads": 2}, "threads=1"),
])  # fmt: skip
def test_invalid_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        bench(replace(TINY, **change))


def test_cpu_clock_excludes_waiting(monkeypatch):
    step = Fit.step
    monkeypatch.setattr(Fit, "step", lambda *arguments: (time.sleep(0.5), step(*arguments)))
    benches = [Bench.build(replace(TINY, clock=clock)) for clock in ("wall", "cpu")]
    batch = [np.arange(4)]
    wall, cpu = ([b._ours(b.fits["ce"], batch)["seconds"] for _ in range(2)][1] for b in benches)
    assert cpu < 0.5 < wall


def test_peer_losses_give_equal_values_and_have_time_and_memory(monkeypatch):
    ours, peers = candidates()
    x, labels = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 2
    assert len(peers) == 3
    for name, (our, loss) in peers.items():
        torch.testing.assert_close(loss(x, labels), ours[our](x, labels), rtol=1e-5, atol=0, msg=name)
    monkeypatch.setattr("gloss.benchmark.peers.BATCHES", (8, 64))
    monkeypatch.setattr("gloss.benchmark.peers.MOST_TRIPLETS", 8**3)
    rows = list(beside_peers(torch.device("cpu"), time.perf_counter, rounds=2, width=4))
    # Peers with more than 8³ triplets are left out.
    assert [sum(row["batch"] == num for row in rows) for num in (8, 64)] == [6, 4]
    assert all(row["seconds"] > 0 for row in rows) and all(row["memory_ratio"] > 0 for row in rows if "ratio" in row)
    x = torch.zeros(100, 10)
    # The intermediate sum is freed before the gradient is allocated.
    peak = _peak_bytes(lambda x, y: (x + 1).exp().sum(), x, x)
    assert peak == pytest.approx(2 * x.nbytes, rel=0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only CUDA reports a wait of the host: needs a GPU")
@pytest.mark.parametrize(("lengths", "batch", "grad_cache_chunk"), [
    ("16", 16, None), ("4-12", 16, None), ("4-12", 16, 4), ("128", 128, None),
])  # fmt: skip
def test_a_training_step_does_not_synchronize_with_the_gpu(lengths, batch, grad_cache_chunk):
    """Only synchronisations that PyTorch detects."""
    sizes = {"lengths": lengths, "batch": batch, "grad_cache_chunk": grad_cache_chunk}
    ours = Bench.build(replace(TINY, device="cuda", losses=MEASURED, **sizes))
    for loss, fit in ours.fits.items():
        indices = np.sort(next(ours.batches))
        device_indices = torch.from_numpy(indices).cuda()
        is_labeled = fit.objective.draw_labeled(len(indices), torch.Generator())
        fit.step(0, indices, device_indices, is_labeled)  # creates the state of the optimizer
        torch.cuda.synchronize()
        try:
            torch.cuda.set_sync_debug_mode("error")
            fit.step(0, indices, device_indices, is_labeled)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.isfinite(fit.log[0]).all(), loss
