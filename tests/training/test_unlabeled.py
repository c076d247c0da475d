"""Unlabeled texts: they take part in the propagation, are not scored, and do not prevent exact resumption."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from conftest import folder_of, outcome
from test_fit import stopped_after

from gloss.data.datasets import load_dataset
from gloss.data.sampler import unlabeled_batches
from gloss.data.tokens import tokenize
from gloss.errors import DataError
from gloss.models.encoder import Encoder, TokenTable
from gloss.models.pretrained import load_tokenizer
from gloss.training.objective import Objective
from gloss.training.run import train
from gloss.training.trainer import LOG, Fit

GRAPH = ["loss=gloss_o", "loss.sigma=0.5"]
REST = ["dataset.train_limit=60", "dataset.unlabeled=rest"]


def batch(dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(14, 5, dtype=dtype, generator=generator)
    labels = torch.arange(14) % 3
    is_labeled = torch.arange(14) % 7 < 4  # every class has a labeled member
    labels[[5, 6, 13]] = -1
    return x, labels, is_labeled


def test_the_objective_counts_and_classifies_labeled_texts_only(tiny_config):
    objective = Objective.of(tiny_config(*GRAPH), 3, 0.7)
    x, labels, is_labeled = batch(torch.float32)
    logits = torch.randn(14, 3, generator=torch.Generator().manual_seed(0))
    parts = objective(x, logits, labels, is_labeled)
    known = labels >= 0
    torch.testing.assert_close(parts.ce, torch.nn.functional.cross_entropy(logits[known], labels[known]))
    assert int(parts.num_unscorable) == 0
    alone = is_labeled & (labels == 0)  # the other classes have no labeled text
    parts = objective(x, logits, labels, alone, lambda part: None)
    assert int(parts.num_unscorable) == int((known & (labels != 0)).sum())


def test_unlabeled_batches_use_all_texts_before_repeating_one():
    batches = unlabeled_batches(10, 7, 4, seed=1, epoch=1)
    counts = Counter(np.concatenate(batches[:5]).tolist())
    assert set(counts.values()) == {2} and len(counts) == 10 and all(len(set(b.tolist())) == 4 for b in batches)
    again, other = (unlabeled_batches(10, 7, 4, seed=1, epoch=e) for e in (1, 2))
    assert np.array_equal(batches, again) and not np.array_equal(batches, other)
    assert [len(b) for b in unlabeled_batches(3, 2, 8, seed=1, epoch=1)] == [3, 3]


def test_unlabeled_rest_is_the_training_set_beyond_the_limit(tiny_config):
    cfg = tiny_config(*GRAPH, *REST)
    full = load_dataset(tiny_config(*GRAPH).dataset, "", 1).splits["train"]
    dataset = load_dataset(cfg.dataset, "", 1)
    assert set(dataset.unlabeled.labels.tolist()) == {-1} and set(dataset.splits) == {"train", "val", "test"}
    assert len(dataset.splits["train"]) == 60 and len(dataset.unlabeled) == len(full) - 60
    assert sorted([*dataset.splits["train"].texts, *dataset.unlabeled.texts]) == sorted(full.texts)
    assert sorted([*dataset.splits["train"].rows, *dataset.unlabeled.rows]) == sorted(full.rows)
    with pytest.raises(DataError, match="leaves no text out"):
        load_dataset(tiny_config(*GRAPH, "dataset.train_limit=120", "dataset.unlabeled=rest").dataset, "", 1)


def test_unlabeled_file_changes_fingerprint_and_folder(tiny_config, tmp_path):
    paths = [tmp_path / f"{name}.csv" for name in "ab"]
    for path in paths:
        path.write_text(f"text\nan apple {path.stem}\nthe old saw\n")
    configs = [tiny_config(*GRAPH), *(tiny_config(*GRAPH, f"dataset.unlabeled_path={path}") for path in paths)]
    assert len({folder_of(cfg) for cfg in configs}) == 3
    assert len({load_dataset(cfg.dataset, "", 1).fingerprint for cfg in configs}) == 3
    copy = tmp_path / "copy.csv"
    copy.write_text("text,label\nthe old saw,x\n,z\nan apple a,y\n")  # the same texts in another order and file
    assert folder_of(tiny_config(*GRAPH, f"dataset.unlabeled_path={copy}")) == folder_of(configs[1])
    record = train(tiny_config(*GRAPH, f"dataset.unlabeled_path={copy}", "trainer.max_epochs=1"))
    assert record.result["num_rows"]["unlabeled"] == 2
    assert "unlabeled: 1 row left out, without 'text' (row 3)" in record.result["notes"]


def test_unlabeled_texts_that_are_tested_are_noted(tiny_config, tmp_path):
    splits = load_dataset(tiny_config(*GRAPH).dataset, "", 1).splits
    texts = [splits["test"].texts[0][0], splits["val"].texts[0][0].upper(), splits["train"].texts[0][0], "an apple"]
    path = tmp_path / "more.csv"
    path.write_text("\n".join(["text", *texts]))
    notes = load_dataset(tiny_config(*GRAPH, f"dataset.unlabeled_path={path}").dataset, "", 1).notes
    assert [x for x in notes if "unlabeled" in x] == ["unlabeled: validation or test texts among them: 2 of 4"]


def test_token_tables_are_joined_row_by_row(tiny_config):
    tokenizer = load_tokenizer(tiny_config("loss=ce").model)

    def table(*texts):
        return TokenTable.build(tokenize(texts, tokenizer, 16), 0, torch.device("cpu"))

    short, pair = table(("a saw",), ("rain",)), table(("saw", "rain"))
    long = table(("the old red apple pear and plum",))
    for first, second in ((short, long), (long, short), (long, pair), (pair, short)):
        joined = first.joined(second)
        rows = [(part, row) for part in (first, second) for row in range(len(part))]
        assert len(joined) == len(rows) and joined.lengths.tolist() == joined.host_lengths.tolist()
        for i, (part, row) in enumerate(rows):
            length = int(part.lengths[row])
            assert joined.lengths[i] == length
            assert torch.equal(joined.input_ids[i, :length], part.input_ids[row, :length])
            if joined.token_type_ids is not None:
                own = torch.zeros(1, 16, dtype=torch.uint8) if part.token_type_ids is None else part.token_type_ids
                assert torch.equal(joined.token_type_ids[i, :length], own[row % len(own), :length])


def test_each_batch_has_the_given_number_of_unlabeled_texts(tiny_config, monkeypatch):
    seen, counts = [], []
    step = Fit.step

    def kept(self, number, rows, device_indices, is_labeled):
        seen.append((np.sort(rows), self.step_labels[device_indices], is_labeled, len(self.step_labels)))
        step(self, number, rows, device_indices, is_labeled)
        counts.append(int(self.log[number, LOG.index("num_unlabeled")]))

    monkeypatch.setattr(Fit, "step", kept)
    record = train(tiny_config(*GRAPH, *REST, "trainer.unlabeled_per_batch=8", "trainer.max_epochs=1"))
    assert [len(rows) for rows, *_ in seen] == [40, 36]  # 32 and 28 labeled
    total = record.result["num_rows"]["train"] + record.result["num_rows"]["unlabeled"]
    for rows, labels, is_labeled, num_rows in seen:
        assert num_rows == total and ((rows >= 60).sum(), (labels == -1).sum()) == (8, 8)
        assert not (is_labeled & (labels < 0)).any() and int(is_labeled.sum()) == -(-6 * int((labels >= 0).sum()) // 10)
    assert folder_of(tiny_config(*GRAPH, "dataset.train_limit=60", "trainer.max_epochs=1")) != record.folder
    assert counts == [int((~is_labeled & (labels >= 0)).sum()) for _, labels, is_labeled, _ in seen]  # to be predicted


def test_a_resumed_run_with_unlabeled_texts_equals_an_uninterrupted_run(tiny_config, monkeypatch):
    options = [*GRAPH, *REST, "trainer.unlabeled_per_batch=20", "trainer.max_epochs=3"]
    folder = train(tiny_config(*options, "rerun=true")).folder
    expected = outcome(folder)
    with stopped_after(monkeypatch, 2, 1):
        train(tiny_config(*options, "rerun=true"))
    assert not (folder / "DONE").exists()
    assert outcome(train(tiny_config(*options)).folder) == expected


def test_a_process_that_resumes_a_run_warms_up_too(tiny_config, monkeypatch):
    epochs = []
    monkeypatch.setattr(Fit, "_warm_up", lambda fit, *batches: epochs.append(fit.progress.epoch))
    monkeypatch.setattr(Encoder, "compile_layers", lambda encoder: None)
    options = "trainer.compile=true", "trainer.max_epochs=3"
    with stopped_after(monkeypatch, 2, 1):
        train(tiny_config(*options))
    train(tiny_config(*options))
    assert epochs == [1, 2]


def test_warm_up_accepts_batches_larger_than_the_training_set(tiny_config, monkeypatch):
    class Stop(Exception):
        pass

    warm_up, sizes = Fit._warm_up, []

    def warmed(fit, batches, labeled):
        sizes.append((max(map(len, batches)), len(fit.labels["train"])))
        monkeypatch.setattr(fit, "encode", lambda rows, *rest: torch.zeros(len(rows), 3, requires_grad=True))
        warm_up(fit, batches, labeled)
        raise Stop

    monkeypatch.setattr(Fit, "_warm_up", warmed)
    cfg = tiny_config(*GRAPH, *REST, "trainer.unlabeled_per_batch=150")
    cfg.trainer.compile = True  # a compiled run has a warm-up, like a run on a GPU
    monkeypatch.setattr(Encoder, "compile_layers", lambda encoder: None)
    with pytest.raises(Stop):
        train(cfg)
    [(largest, num_texts)] = sizes
    assert largest > num_texts
