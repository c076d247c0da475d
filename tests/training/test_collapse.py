"""Signs of a collapse give one note, which is kept in the record. Normal runs have no such note."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from test_callbacks import Diary

from gloss.training import collapse
from gloss.training.run import train
from gloss.training.trainer import Fit

CHANCE = np.log(3)


def rows(*losses: float, score: float = 60.0, part: str = "ce") -> list[dict]:
    found = [dict.fromkeys(("ce", "embedding_loss")) | {"loss": x, part: x, "score": score} for x in losses]
    return [row | {"epoch": i, "batches_without_signal": 0, "steps": 9} for i, row in enumerate(found, start=1)]


def noted(cfg, epochs: list[dict]) -> list[str]:
    """The notes of a run, collected after each epoch."""
    return [line for n in range(1, len(epochs) + 1) for line in collapse.after_epoch(cfg, epochs[:n], 3, 24.2)]


def test_an_exploding_loss_gives_one_note(tiny_config):
    cfg = tiny_config("loss=ce")
    (line,) = noted(cfg, rows(1.0, 0.9, 3.1, 3.5, 8.0))
    assert line.startswith("the loss explodes: it is 3.1 at epoch 3, and was 1 at the first")
    assert noted(cfg, rows(1.0, 1.5, 2.9)) == noted(cfg, rows(0.5, 1e-4, 0.4)) == []  # it rises, but not enough
    (line,) = noted(cfg, rows(10.1 * CHANCE, 1.0, 0.5))
    assert "at epoch 1 cross-entropy is 11.1, where guessing has 1.1" in line
    assert noted(cfg, rows(9.9 * CHANCE, 1.0)) == []
    sqrt, given = tiny_config("loss=gloss_sqrt"), tiny_config("loss=gloss_o", "loss.sigma=0.5")
    for cfg, hint in ((sqrt, "lr, or loss=gloss_o with a larger loss.sigma"), (given, "lr, or a larger loss.sigma")):
        (line,) = noted(cfg, rows(1234.0, 1005.0, part="embedding_loss"))
        assert "G-Loss is 1234" in line and line.endswith(hint)
    assert noted(tiny_config("loss=triplet", "mode=standalone"), rows(1234.0, 5.0, part="embedding_loss")) == []


@pytest.mark.parametrize(("score", "is_noted"), [(24.2, True), (20.0, True), (25.4, True), (25.5, False)])
def test_scores_of_the_majority_class_after_three_epochs_give_a_note(tiny_config, score, is_noted):
    lines = noted(tiny_config("loss=ce"), rows(*[1.0] * 6, score=score))
    assert [("no better than the majority class's 24.2" in line) for line in lines] == [True] * is_noted
    assert noted(tiny_config("loss=ce"), rows(1.0, 1.0, score=score)) == []  # too early
    standalone = tiny_config("loss=cosine", "mode=standalone")  # its score is a silhouette
    assert noted(standalone, rows(*[1.0] * 6, score=0.1)) == []


def test_ties_of_the_best_score_give_a_note_unless_the_last_weights_are_tested():
    epochs = rows(3.0, 2.0, 1.0, 1.5) + [rows(9.0, score=50.0)[0]]
    (line,) = collapse.ties(epochs, 3, "best")
    assert line.startswith("the best validation score, 60, is that of epochs 1, 2, 3, 4: the weights of 3 are kept")
    assert collapse.ties(epochs, 3, "last") == [] and collapse.ties(epochs[-1:] * 1, 1, "best") == []


def test_a_kernel_with_nearly_equal_edge_weights_gives_a_note(tiny_config):
    cfg, sqrt = tiny_config("loss=gloss_o", "loss.sigma=0.5"), tiny_config("loss=gloss_sqrt")
    z = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    pairs = [float((z[i] - z[j]).norm()) for i in range(40) for j in range(i)]  # a plain loop
    for sigma, is_noted in ((0.5, False), (4.0, False), (8.0, True), (1e5, True)):
        weights = [np.exp(-(d**2) / (2 * sigma**2)) for d in pairs]
        assert (min(weights) >= 0.95 * max(weights)) == is_noted
        lines = collapse.wide_kernel(cfg, 3 * z, sigma)  # σ applies to unit vectors: the scale has no effect
        assert len(lines) == is_noted
        if lines:
            below_1 = [float(x) for x in re.findall(r"lie (\S+) to (\S+) below 1:", lines[0])[0]]
            assert below_1 == pytest.approx([1 - max(weights), 1 - min(weights)], rel=1e-3, abs=0)
    for given, hint in ((cfg, "Try a smaller loss.sigma"), (sqrt, "Try loss=gloss_o with a smaller loss.sigma")):
        assert collapse.wide_kernel(given, torch.ones(4, 8), 1.0)[0].endswith(hint)  # gloss_sqrt takes no loss.sigma
    assert collapse.wide_kernel(cfg, z[:1], 1.0) == []


def test_notes_are_recorded_and_printed_once_after_an_interruption(tiny_config, monkeypatch, capsys):
    """With a learning rate near 0 the run predicts the majority class, and all epochs tie."""
    options = ["loss=gloss_o", "loss.sigma=10", "trainer.lr=1e-12", "trainer.max_epochs=4"]
    options += ["trainer.checkpoint_minutes=0", "trainer.batch_size=4"]
    monkeypatch.setattr(Fit, "majority", property(lambda self: 50.0))
    with pytest.raises(KeyError):
        train(tiny_config(*options), callbacks=[Diary(stop_after=3)])
    first = capsys.readouterr()
    record = train(tiny_config(*options))
    second = capsys.readouterr()
    rare, wide, majority, tie = record.result["notes"][-4:]
    assert rare.startswith("rare for G-Loss: ")
    assert "σ=10 is so wide" in wide and "no better than the majority class's 50" in majority
    assert "is that of epochs 1, 2, 3, 4" in tie
    assert (first.err + second.err).count(" seed 1 · note:") == 3 and "going on from epoch 4" in second.out
    assert "going on" not in first.out and (first.err + second.err).count("note: rare for G-Loss") == 1
    short = (*options, "trainer.max_epochs=1")
    trial = train(tiny_config(*short), is_trial=True)  # a search would repeat it sixty times
    small = train(tiny_config(*short, "loss.lam=0.6", "ablation.lam_offset=-0.2"))  # G-Loss weighs 0.4
    assert not any(line.startswith("rare for G-Loss") for x in (trial, small) for line in x.result["notes"])


def test_classes_too_rare_for_random_batches_give_a_note(tiny_config):
    cfg = tiny_config("loss=gloss_sqrt", "trainer.batch_size=20")
    counts = [60, 30, 8, 2, 0]
    (line,) = collapse.rare_classes(cfg, 0.8, 0.6, counts)
    labels, draws = np.repeat(range(5), counts), np.random.default_rng(0)
    others = np.delete(labels, np.flatnonzero(labels == 2)[0])  # than one unlabeled text of the third class
    missed = np.mean([2 not in draws.choice(others, 12, replace=False) for _ in range(4000)])  # 60 % of 20 are labeled
    share = float(re.search(r"In at least (\d+)% of random batches", line)[1]) / 100
    assert missed == pytest.approx(share, abs=0.03)
    assert line.startswith("rare for G-Loss: 2 of 5 classes, with at most 8 training texts each. ")
    assert line.endswith("trainer.sampler=balanced trainer.classes_per_batch=2, or a smaller loss.lam")
    assert collapse.rare_classes(cfg, 0.8, 0.6, [40, 30, 30]) == []
    assert collapse.rare_classes(cfg, 0.5, 0.6, counts) == []  # cross-entropy has half of the weight
    assert collapse.rare_classes(cfg, 0.8, 0.1, counts)[0].endswith("or a larger loss.gamma, or a smaller loss.lam")
    for words in ("variant=released", "trainer.sampler=balanced trainer.classes_per_batch=5"):
        other = tiny_config("loss=gloss_sqrt", "trainer.batch_size=20", *words.split())
        assert collapse.rare_classes(other, 0.8, 0.6, counts) == []
    alone = tiny_config("loss=gloss_sqrt", "mode=standalone", "trainer.batch_size=20")
    assert "loss.lam" not in collapse.rare_classes(alone, 1.0, 0.6, counts)[0]
    (line,) = collapse.rare_classes(alone, 1.0, 0.6, [1, 1])  # each text is alone in its class
    assert "In at least 100% of" in line and line.endswith("Try more texts of these classes")
