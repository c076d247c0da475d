"""Compiled layers compute the same as plain layers, and their dropout uses one mask in both passes."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
from test_encoder import table

from gloss.config import ModelConfig
from gloss.errors import ConfigError
from gloss.models.encoder import Encoder, TokenTable
from gloss.models.pretrained import load_encoder
from gloss.training.run import train

COMPILER = os.environ.get("CXX", "g++")
pytestmark = pytest.mark.skipif(
    shutil.which(COMPILER) is None, reason=f"torch.compile on a CPU needs {COMPILER}, or CXX"
)


@pytest.fixture(scope="module")
def encoders() -> tuple[Encoder, Encoder]:
    """A plain and a compiled tiny encoder in float64 with the same weights."""
    plain = load_encoder(ModelConfig(alias="tiny", name="random", num_layers=2)).double()
    compiled = load_encoder(ModelConfig(alias="tiny", name="random", num_layers=2)).double()
    compiled.load_state_dict(plain.state_dict())
    compiled.compile_layers()
    return plain, compiled


def encode(encoder: Encoder, texts: TokenTable, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    indices = np.argsort(texts.host_lengths, kind="stable")
    return texts.encode(encoder, indices, torch.from_numpy(indices))


def test_compiled_layers_have_the_same_embeddings_and_gradients(encoders):
    for num in (5, 9, 1):  # one compilation serves any number of tokens
        found = []
        for encoder in encoders:
            encoder.eval()
            z = encode(encoder, table(num, num))
            found.append([z, *torch.autograd.grad(z.square().sum(), encoder.transformer.encoder.layer.parameters())])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_compiled_dropout_uses_one_mask_per_step_at_the_right_rate(encoders):
    """The gradient equals the difference quotient at one seed. The variance over seeds equals the plain encoder's."""
    texts, spread = table(9), []
    towards = torch.randn(9, encoders[0].embedding_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for encoder in encoders:
        encoder.train()
        for module in encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.25
        weight = encoder.transformer.encoder.layer[0].intermediate.dense.weight
        step = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        (gradient,) = torch.autograd.grad((encode(encoder, texts) * towards).sum(), weight)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(step, alpha=sign * 1e-5)
                values.append((encode(encoder, texts) * towards).sum())
                weight.add_(step, alpha=-sign * 1e-5)
        torch.testing.assert_close((gradient * step).sum(), (values[0] - values[1]) / 2e-5, rtol=1e-6, atol=1e-8)
        with torch.no_grad():
            spread.append(torch.stack([encode(encoder, texts, seed) for seed in range(100)]).var(0).mean())
    assert 0.9 < spread[1] / spread[0] < 1.1


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_run_trains_with_compiled_layers(tiny_config, precision):
    options = ["loss=gloss_sqrt", "trainer.device=cpu", f"trainer.precision={precision}"]
    record, plain = train(tiny_config(*options, "trainer.compile=true")), train(tiny_config(*options))
    assert record.result["identity"]["config_hash"] != plain.result["identity"]["config_hash"]
    assert [row["loss"] for row in record.epochs()] != [row["loss"] for row in plain.epochs()]  # other dropout masks


def test_compile_refuses_other_architectures():
    encoder = Encoder.__new__(Encoder)
    torch.nn.Module.__init__(encoder)
    encoder.kind, encoder.is_packed = "electra", False
    with pytest.raises(ConfigError, match="trainer.compile=true is for bert, roberta, .*, not for electra"):
        encoder.compile_layers()
