"""What all tests share: a small run, and no surprise from the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run beside each other
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for a hub

import pytest
from hydra import compose, initialize_config_dir

from gloss.config import CONFIG_DIR, Config, resolve
from gloss.tuned import apply_tuned

TINY = ["dataset=docstrings", "model=tiny", "model.max_length=24", "dataset.train_limit=96", "trainer.batch_size=32",
        "trainer.max_epochs=2", "trainer.lr=1e-3", "trainer.device=cpu"]


def composed(*overrides: str) -> Config:
    """The configuration that `python scripts/train.py <overrides>` would run."""
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return resolve(apply_tuned(compose("train", list(overrides)), overrides))


@pytest.fixture
def tiny_config(tmp_path: Path) -> Callable[..., Config]:
    """tiny_config(*overrides): a run of a second or two, in a folder of its own."""

    def make(*overrides: str, base: Sequence[str] = TINY) -> Config:
        return composed(*base, f"paths.outputs={tmp_path / 'outputs'}", *overrides)

    return make
