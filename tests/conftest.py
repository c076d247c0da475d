"""What all tests share: a small run, and no surprise from the environment."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run beside each other
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for a hub

import pytest

from gloss.cli.command import show_messages
from gloss.cli.hydra_main import configured
from gloss.config import Config, TuneConfig, known_options
from gloss.experiments.grid import own_fingerprint
from gloss.records.run_folder import run_folder
from gloss.runtime.overrides import prepared

for _of_make in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):  # of `make test`: with them a make of a test prints its folder
    os.environ.pop(_of_make, None)

TINY = [
    "dataset=csv",
    "model=tiny",
    "model.max_length=16",
    "trainer.batch_size=32",
    "trainer.max_epochs=2",
    "trainer.lr=1e-3",
    "trainer.device=cpu",
    "trainer.save_model=false",
    "trainer.precision=float32",  # auto would be bf16 on some machines, with other numbers
]
WORDS = {
    "fruit": "apple pear plum cherry grape melon",
    "tool": "hammer saw drill wrench file chisel",
    "weather": "rain snow wind storm fog hail",
}


def folder_of(cfg: Config) -> Path:
    """The run's folder, with the fingerprint of the texts where these are the user's own."""
    return run_folder(cfg, own_fingerprint(cfg))


def composed(*overrides: str, config_name: str = "train") -> Config:
    """The configuration that `python scripts/train.py <overrides>` would run, or tune.py."""
    schema = TuneConfig if config_name == "tune" else Config
    return configured(prepared(overrides, known_options(schema)), config_name)


@pytest.fixture(autouse=True)
def _messages() -> None:
    """Messages are shown as scripts/train.py shows them."""
    show_messages(has_progress=True)


@pytest.fixture(scope="session")
def toy_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 150 short texts in three classes that a few words tell apart."""
    rng = random.Random(0)
    rows = ["text,label"]
    for i in range(150):
        label = sorted(WORDS)[i % 3]
        words = [
            *rng.choices(WORDS[label].split(), k=2),
            *rng.choices("the a some old new big".split(), k=rng.randint(1, 8)),
        ]
        rng.shuffle(words)
        rows.append(f"{' '.join(words)} {i},{label}")
    path = tmp_path_factory.mktemp("toy") / "toy.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def tiny_config(toy_csv: Path, tmp_path: Path) -> Callable[..., Config]:
    """tiny_config(*overrides): a run of a second or so, in a folder of its own."""

    def make(*overrides: str) -> Config:
        return composed(*TINY, f"dataset.path={toy_csv}", f"paths.outputs={tmp_path / 'outputs'}", *overrides)

    return make


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 texts of two classes with different words."""
    words = {"sea": "boat wave fish salt harbour", "sky": "cloud wind bird star plane"}
    rng = random.Random(0)
    rows = [f"{' '.join(rng.choices(words[label].split(), k=5))} {i},{label}" for i in range(30) for label in words]
    path = tmp_path_factory.mktemp("toy") / "toy.csv"
    path.write_text("\n".join(["text,label", *rows, ""]))
    return path


@pytest.fixture
def settings(toy: Path, tmp_path: Path) -> list[str]:
    """Overrides of a small search on the toy texts."""
    words = ["dataset=csv", f"dataset.path={toy}", "model=tiny", "trainer.batch_size=24", *TINY[-2:]]
    return [*words, "trainer.max_epochs=2", "search.trials=5", f"paths.outputs={tmp_path / 'out'}"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 MB of its own; three checkpoints of the tiny model fill it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def held(lock: Path, seconds: float = 600) -> Iterator[subprocess.Popen]:
    """Another process that holds a lock."""
    code = "import sys, time\nfrom filelock import FileLock\n"
    code += "with FileLock(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(float(sys.argv[2]))\n"
    process = subprocess.Popen([sys.executable, "-c", code, lock, str(seconds)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
