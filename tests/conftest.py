"""Fixtures and helpers of all tests: the environment, small configurations, toy data sets, locks."""

from __future__ import annotations

import io
import os
import pty
import random
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in parallel
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test downloads from a hub

import pytest

from gloss.cli.command import show_messages
from gloss.cli.hydra_main import configured
from gloss.config import ROOT, Config, TuneConfig, known_options
from gloss.experiments.grid import own_fingerprint
from gloss.records.reading import read_record
from gloss.records.run_folder import run_folder
from gloss.runtime.overrides import prepared

for _name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):  # set by `make test`; with them a make inside a test prints more
    os.environ.pop(_name, None)

TINY = "dataset=csv model=tiny model.max_length=16 trainer.batch_size=32 trainer.max_epochs=2 trainer.lr=1e-3".split()
TINY += ["trainer.device=cpu", "trainer.save_model=false", "trainer.precision=float32"]  # auto is bf16 on some machines
ASCII_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
WORDS = {
    "fruit": "apple pear plum cherry grape melon",
    "tool": "hammer saw drill wrench file chisel",
    "weather": "rain snow wind storm fog hail",
}


def folder_of(cfg: Config) -> Path:
    """The run folder; for the user's own texts it depends on their fingerprint."""
    return run_folder(cfg, own_fingerprint(cfg))


def composed(*overrides: str, config_name: str = "train") -> Config:
    """The configuration of `python scripts/train.py <overrides>`, or of tune.py."""
    schema = TuneConfig if config_name == "tune" else Config
    return configured(prepared(overrides, known_options(schema)), config_name)


def run_python(
    *words: str, cwd: Path = ROOT, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with one thread, by default in the root of the checkout; the output is text."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=variables, timeout=timeout)


def run_script(monkeypatch: pytest.MonkeyPatch, name: str, *words: str, stdin: bytes = b"") -> int:
    """Run scripts/<name>, or the script of a path, in this process, which saves imports; return its exit status."""
    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin))))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
    return end.value.code


def on_terminal(*words: str) -> tuple[int, list[str]]:
    """Run Python on a pseudo-terminal; return its exit status and the lines that it shows, without colours."""
    main, side = pty.openpty()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color", "COLUMNS": "160"}
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), side)
    process = subprocess.Popen([sys.executable, *words], **streams, cwd=ROOT, env=environment)
    os.close(side)
    shown = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the process closed its end
            break
        shown += part
    status = process.wait(timeout=60)
    os.close(main)
    lines = shown.decode().replace("\r", "\n").splitlines()
    return status, [re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", line) for line in lines if line]


def outcome(folder: Path) -> dict[str, object]:
    """The parts of a record that are equal for equal runs: metrics, best epoch, predictions, epochs without seconds."""
    record = read_record(folder)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in record.epochs()]
    arrays = {k: v.tobytes() for k, v in record.predictions().items()}
    return {"metrics": record.result["metrics"], "best": record.result["best_epoch"], "rows": rows, "arrays": arrays}


@pytest.fixture(autouse=True)
def _messages() -> None:
    """Show messages like scripts/train.py."""
    show_messages(has_progress=True)


@pytest.fixture(scope="session")
def toy_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 150 short texts in three classes with different words."""
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
    """tiny_config(*overrides): the configuration of a run of about one second in a temporary folder."""

    def make(*overrides: str) -> Config:
        return composed(*TINY, f"dataset.path={toy_csv}", f"paths.outputs={tmp_path / 'outputs'}", *overrides)

    return make


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 60 texts in two classes with different words."""
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
    """A separate file system of 100 MB, the size of three checkpoints of the tiny model."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def held(lock: Path, seconds: float = 600) -> Iterator[subprocess.Popen]:
    """A second process that holds a lock for some seconds."""
    code = "import sys, time\nfrom filelock import FileLock\n"
    code += "with FileLock(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(float(sys.argv[2]))\n"
    process = subprocess.Popen([sys.executable, "-c", code, lock, str(seconds)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
