"""bf16 on a CPU: the automatic choice, the distance to float32 in every parameter, the dropout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from test_encoder import ARCHITECTURES, table

import gloss.runtime.device
from gloss.config import TrainerConfig
from gloss.models.dropout import fast_dropout
from gloss.models.encoder import Encoder
from gloss.runtime.device import autocast, choose_precision
from gloss.training.run import train
from gloss.training.texts import log_once

CPU = torch.device("cpu")


@pytest.mark.parametrize(("flags", "auto"), [
    ("fpu avx512f avx512_bf16 avx512_vnni", "bf16"),
    ("fpu avx512f amx_bf16 amx_tile", "bf16"),
    ("fpu avx512f avx512_vnni avx512_bf16x", "float32"),
    ("", "float32"),
])  # fmt: skip
def test_auto_precision_is_bf16_on_processors_with_bf16_units(monkeypatch, flags, auto):
    monkeypatch.setattr(gloss.runtime.device, "_cpuinfo", {"flags": flags}.get)
    assert choose_precision(TrainerConfig(), CPU) == auto
    for given in ("float32", "bf16"):
        assert choose_precision(TrainerConfig(precision=given), CPU) == given


@pytest.mark.parametrize("has_units", [False, True])
def test_a_run_prints_and_records_the_precision_chosen_by_auto(tiny_config, monkeypatch, capsys, has_units):
    monkeypatch.setattr(gloss.runtime.device, "_cpuinfo", {"flags": "avx512_bf16" * has_units, "model name": "x"}.get)
    log_once.cache_clear()
    for loss in ("triplet", "ce"):
        result = train(tiny_config(f"loss={loss}", "trainer.max_epochs=1", "trainer.precision=auto")).result
    assert result["precision"] == ("bf16" if has_units else "float32")
    assert result["config"]["trainer"]["precision"] == "auto"
    assert capsys.readouterr().err.count("precision=auto is bf16") == has_units  # once a process


@pytest.mark.parametrize("num_groups", [None, 0, 1, 9])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "mpnet"])
def test_bf16_embeddings_and_gradients_are_near_float32(name: str, num_groups: int | None):
    torch.manual_seed(0)
    encoder = Encoder(transformers.AutoModel.from_config(ARCHITECTURES[name])).eval()
    texts = table(400)  # 3,000 tokens: bf16 loses most precision in sums over tokens
    indices = np.argsort(texts.host_lengths, kind="stable")
    towards = torch.randn(400, 16)
    embeddings, gradients = [], []
    for precision in ("float32", "bf16"):
        encoder.zero_grad()
        with autocast(CPU, precision):
            embeddings.append(texts.encode(encoder, indices, torch.from_numpy(indices), num_groups))
        (embeddings[-1] * towards).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None})
    plain, got = embeddings
    assert got.dtype == torch.float32 and not torch.equal(got, got.bfloat16().float())
    assert 0 < (got - plain).norm() < 0.02 * plain.norm()
    for n, grad in gradients[0].items():
        if not n.endswith((".key.bias", ".k_lin.bias", ".k.bias")):  # they do not change the softmax: rounding error
            assert (gradients[1][n] - grad).norm() < 0.06 * grad.norm(), n


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_dropout_has_the_right_rate_and_mean(dtype):
    torch.manual_seed(0)
    x = torch.full((1001, 999), 3.0, dtype=dtype, requires_grad=True)  # the number of elements is not a multiple of 4
    y = fast_dropout(x, 0.1)
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad != 0, y != 0) and y.dtype == x.grad.dtype == dtype
    kept = torch.tensor(3 / 0.9).to(dtype).item()  # it would be 3.328 if 1 / 0.9 were rounded to bf16 first
    assert y[y != 0].unique().tolist() == pytest.approx([kept], rel=1e-4)
    for part in range(4):  # the four 16-bit parts of 64 random bits
        assert (y.flatten()[part::4] == 0).float().mean().item() == pytest.approx(0.1, abs=0.003)
    torch.manual_seed(0)
    assert torch.equal(fast_dropout(x, 0.1), y) and not torch.equal(fast_dropout(x, 0.1), y)
    assert fast_dropout(x, 0.0) is x


def test_bf16_training_applies_hidden_and_attention_dropout():
    """The variance over seeds is 0 without dropout, and above 0 with either kind of dropout."""
    texts, indices = table(64), np.arange(64)
    torch.manual_seed(0)
    encoder = Encoder(transformers.AutoModel.from_config(ARCHITECTURES["bert"])).train()

    def variance(hidden: float, attention: float) -> float:
        for name, module in encoder.named_modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = attention if name.endswith("self.dropout") else hidden
        seen = []
        for seed in range(8):
            torch.manual_seed(seed)
            with autocast(CPU, "bf16"), torch.no_grad():
                seen.append(texts.encode(encoder, indices, torch.from_numpy(indices)))
        return torch.stack(seen).var(0).mean().item()

    assert variance(0, 0) == 0
    assert variance(0.1, 0) > 1e-3 and variance(0, 0.5) > 1e-6
