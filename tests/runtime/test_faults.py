"""Faults: full disks, no memory, signals, two at once. Nothing half is taken for whole; messages say what to do."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest
import torch
from conftest import folder_of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gloss.training.run
from gloss.cli.hydra_main import main
from gloss.config import ROOT, Config
from gloss.errors import DataError, RunError
from gloss.models.encoder import TokenTable
from gloss.records.reading import read_record, read_records
from gloss.records.run_folder import clear, is_done, locked
from gloss.runtime.device import choose_device
from gloss.runtime.signals import Interrupted, noted, raise_on_signal
from gloss.training.callbacks import Callback
from gloss.training.checkpoint import Progress
from gloss.training.checkpoint import load as load_checkpoint
from gloss.training.checkpoint import save as save_checkpoint
from gloss.training.run import train
from gloss.training.trainer import Diverged, Fit, out_of_memory

EVERY_EPOCH = ["loss=ce", "trainer.max_epochs=3", "trainer.checkpoint_minutes=1e-9"]


def outcome(folder: Path) -> dict[str, object]:
    """What two runs must share to be the same: metrics, predictions to the last bit, epochs but for their seconds."""
    record = read_record(folder)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in record.epochs()]
    arrays = {k: v.tobytes() for k, v in record.predictions().items()}
    return {"metrics": record.result["metrics"], "rows": rows, "arrays": arrays}


def undisturbed(cfg: Config) -> tuple[Path, dict[str, object]]:
    """Train once, remember the outcome, and take it away again."""
    folder = train(cfg).folder
    expected = outcome(folder)
    shutil.rmtree(folder)
    return folder, expected


@contextmanager
def after_step(monkeypatch: pytest.MonkeyPatch, epoch: int, act: Callable[[], None]) -> Iterator[None]:
    """Call `act` before the first step of an epoch."""
    step = Fit._step

    def acting(self: Fit, number: int, *arguments: object) -> None:
        if (self.progress.epoch, number) == (epoch, 0):
            act()
        step(self, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_step", acting)
        yield


# ------------------------------------------------------------------------------------------------ what gets in the way


def test_a_disk_that_fills_up_keeps_the_last_checkpoint_and_the_run_goes_on_later(small_disk, tiny_config, monkeypatch):
    cfg = tiny_config(f"paths.outputs={small_disk}/outputs", *EVERY_EPOCH)
    folder, expected = undisturbed(cfg)
    filler = small_disk / "filler"

    def fill() -> None:
        with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(2**16))
                file.flush()

    with after_step(monkeypatch, 2, fill), pytest.raises(OSError, match="No space left") as caught:
        train(cfg)
    assert caught.value.errno == errno.ENOSPC and str(folder) in str(caught.value.filename)
    [kept] = (folder / "checkpoint").iterdir()  # the one of epoch 1, and nothing half
    assert kept.name == "00002-0000000" and not is_done(folder)
    filler.unlink()
    assert outcome(train(cfg).folder) == expected


@pytest.mark.parametrize("limit, number", [("RLIMIT_FSIZE", errno.EFBIG), ("RLIMIT_NOFILE", errno.EMFILE)])
def test_limits_of_the_system_keep_the_last_checkpoint(tiny_config, monkeypatch, limit, number):
    cfg = tiny_config(*EVERY_EPOCH)
    folder, expected = undisturbed(cfg)
    kind = getattr(resource, limit)
    soft, hard = resource.getrlimit(kind)
    os.close(free := os.dup(0))  # the lowest number there is, which the run's lock will take
    least = {"RLIMIT_FSIZE": 2**20, "RLIMIT_NOFILE": free + 1}[limit]
    try:
        with (
            after_step(monkeypatch, 2, lambda: resource.setrlimit(kind, (least, hard))),
            pytest.raises(OSError) as caught,
        ):
            train(cfg)
    finally:
        resource.setrlimit(kind, (soft, hard))
    assert caught.value.errno == number and caught.value.filename
    assert [p.name for p in folder.glob("checkpoint/[0-9]*")] == ["00002-0000000"] and not is_done(folder)
    assert outcome(train(cfg).folder) == expected


def test_a_read_only_folder_is_told_and_finished_runs_there_are_still_read(small_disk, tiny_config, capsys):
    outputs = f"paths.outputs={small_disk}/outputs"
    record = train(tiny_config(outputs, "loss=ce"))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert train(tiny_config(outputs, "loss=ce")).result == record.result
    with pytest.raises(OSError, match="Read-only"):
        train(tiny_config(outputs, "loss=ce", "seed=2"))
    assert len(read_records(small_disk / "outputs")[0]) == 1


def test_one_full_disk_does_not_end_a_sweep(tmp_path, toy_csv, capsys):
    def task(cfg: Config, is_sweep: bool) -> None:
        done.append(cfg.seed)
        if cfg.seed == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/result.json")

    done: list[int] = []
    sweep = ["-m", "dataset=csv", f"dataset.path={toy_csv}", "loss=ce", "seed=1,2,3", f"paths.outputs={tmp_path}"]
    assert main(task, sweep) == 1
    told = capsys.readouterr().err
    assert done == [1, 2, 3]
    assert "/somewhere/result.json: No space left on device: make room there" in told and "1 run failed" in told


def test_a_job_that_a_launcher_lost_is_told_in_a_line(capsys):
    from submitit.core.utils import UncompletedJobError

    def task(cfg, is_sweep):
        raise UncompletedJobError("Job 7 (task: 0) with path … has not produced any output (state: CANCELLED by 0)")

    assert main(task, ["dataset=mr", "model=tiny", "loss=ce"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: a job was cancelled or killed") and told.count("\n") == 1


def test_no_memory_names_batch_length_and_micro_batch(tiny_config, monkeypatch):
    def starved(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    def no_room(*arguments: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    cfg = tiny_config("loss=ce", "trainer.max_epochs=1")
    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_backward", starved)
        message = r"out of memory with batches of 32 texts of up to 16 tokens: set trainer.grad_cache_chunk=16"
        with pytest.raises(RunError, match=message):
            train(cfg)
    for where in ("gloss.training.trainer.embed", "gloss.training.run._sigma", "gloss.models.encoder.Classifier.to"):
        with monkeypatch.context() as patch, pytest.raises(RunError, match=message):
            patch.setattr(where, no_room)
            train(cfg)
    folder = folder_of(cfg)
    assert json.loads((folder / "error.json").read_text())["error"] == "RunError"
    train(cfg)  # the folder is as good as new
    assert not (folder / "error.json").exists()


def test_no_memory_on_a_cpu_is_recognised(tiny_config, monkeypatch):
    monkeypatch.setattr(Fit, "_backward", lambda *arguments: torch.zeros(10**14))
    with pytest.raises(RunError, match="cpu is out of memory with batches"):
        train(tiny_config("loss=ce"))
    monkeypatch.setattr(Fit, "_backward", lambda *arguments: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size") as caught:  # any other error stays what it is
        train(tiny_config("loss=ce"))
    assert not isinstance(caught.value, RunError)


@pytest.mark.parametrize(
    "options, advised",
    [
        (["loss=ce"], "trainer.grad_cache_chunk=16"),
        (["loss=ce", "trainer.grad_cache_chunk=2"], "trainer.grad_cache_chunk=1"),
        (["loss=ce", "trainer.grad_cache_chunk=1"], None),
        (["loss=gloss_sqrt", "variant=released"], None),
    ],
)
def test_what_is_advised_without_memory_is_allowed(tiny_config, options, advised):
    told = str(out_of_memory(torch.OutOfMemoryError("out of memory"), tiny_config(*options), torch.device("cpu")))
    assert re.findall(r"\S+=\S+", told) == ([advised] if advised else [])
    tiny_config(*options, *([advised] if advised else []))


def test_micro_batch_limits_an_evaluation_too(tiny_config, monkeypatch):
    sizes, encode = [], TokenTable.encode

    def watched(self: TokenTable, model: object, rows, *arguments: object):
        sizes.append(len(rows))
        return encode(self, model, rows, *arguments)

    monkeypatch.setattr(TokenTable, "encode", watched)
    options = ["loss=gloss_sqrt", "trainer.grad_cache_chunk=8", "trainer.embeddings_at=[0,1]", "trainer.max_epochs=1"]
    train(tiny_config(*options))
    assert max(sizes) == 8


# ------------------------------------------------------------------------------------------------------------- numbers


def test_weights_made_huge_by_the_last_step_do_not_make_a_record(tiny_config):
    cfg = tiny_config("loss=ce", "trainer.lr=1e38", "trainer.batch_size=128", "trainer.max_epochs=1")  # one step
    with pytest.raises(Diverged, match="embeddings of val are not finite at epoch 1, step 1"):
        train(cfg)
    folder = folder_of(cfg)
    details = json.loads((folder / "error.json").read_text())["details"]
    assert not is_done(folder) and details["lr"] == 1e38 and float(details["loss"]) > 0 and details["texts"]


def test_logits_that_are_not_finite_make_no_record(tiny_config, monkeypatch):
    def huge(self: Fit, split: str) -> torch.Tensor:
        return 3e38 * self.model.head.weight[:1].sign().expand(len(self.tables[split]), -1)

    monkeypatch.setattr(Fit, "embed", huge)
    with pytest.raises(Diverged, match="logits are not finite"):
        train(tiny_config("loss=ce", "trainer.max_epochs=1"))


@pytest.mark.parametrize("loss", ["loss=ce", "loss=gloss_sqrt", "loss=gloss_o"])
def test_a_run_that_diverged_names_only_keys_that_its_loss_has(tiny_config, loss):
    options = [loss, "trainer.lr=1e38", "trainer.batch_size=128", "trainer.max_epochs=1"]
    options += ["loss.sigma=0.5"] * (loss == "loss=gloss_o")
    with pytest.raises(Diverged) as caught:
        train(tiny_config(*options))
    advised = re.findall(r"(?:trainer|loss)\.\w+", str(caught.value))
    assert len(advised) == 1 + (loss == "loss=gloss_o")
    tiny_config(*options, *(f"{key}=0.7" for key in advised))


def test_embeddings_that_give_no_sigma_end_the_run_with_what_to_do(tiny_config, monkeypatch):
    monkeypatch.setattr(gloss.training.run, "embed", lambda *arguments: torch.ones(5, 3))
    with pytest.raises(RunError, match=r"loss=gloss_sqrt cannot compute σ with model=tiny: .*collapsed"):
        train(tiny_config("loss=gloss_sqrt"))


# ------------------------------------------------------------------------------------------------------------- signals


def test_a_signal_during_the_last_evaluation_keeps_the_training(tiny_config, monkeypatch):
    cfg = tiny_config("loss=scl", "mode=standalone", "trainer.checkpoint_minutes=60")
    folder, expected = undisturbed(cfg)

    def stop(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    with monkeypatch.context() as patch, raise_on_signal(), pytest.raises(Interrupted, match="SIGTERM"):
        patch.setattr(gloss.training.run, "logistic_probe", stop)
        train(cfg)
    assert len(list((folder / "checkpoint").iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_step", stop)  # no step is made again
        assert outcome(train(cfg).folder) == expected


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """SIGINT as a terminal leaves it; a job in the background is started ignoring it."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


def test_signals_are_noted_then_raised_and_left_as_they_were(heeds_ctrl_c):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with raise_on_signal():
        with noted() as pending:
            os.kill(os.getpid(), signal.SIGTERM)
            assert pending == [signal.SIGTERM]
            with pytest.raises(Interrupted):  # the second at once
                os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGINT") as caught:
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert pickle.loads(pickle.dumps(caught.value)).number == signal.SIGINT  # a worker's reaches its parent
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with raise_on_signal():
            os.kill(os.getpid(), signal.SIGTERM)  # ignored by who started us: stays ignored
    finally:
        signal.signal(signal.SIGTERM, before[0])


def start(*overrides: str, **options: object) -> subprocess.Popen:
    """scripts/train.py in a process group of its own, with signals as a shell leaves them."""
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **options,
    )


def command_of(toy_csv: Path, outputs: Path, *overrides: str) -> list[str]:
    return [
        "dataset=csv",
        f"dataset.path={toy_csv}",
        "model=tiny",
        "model.max_length=16",
        "trainer.batch_size=32",
        "trainer.lr=1e-3",
        "trainer.device=cpu",
        "trainer.precision=float32",
        f"paths.outputs={outputs}",
        *overrides,
    ]


def test_the_command_stops_with_the_signals_status_while_it_starts_and_while_it_trains(toy_csv, tmp_path):
    arguments = command_of(toy_csv, tmp_path, "loss=ce", "trainer.max_epochs=500", "trainer.patience=null")
    for moment, number in (("runs", signal.SIGINT), ("trains", signal.SIGTERM)):
        process = start(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        pattern = {"runs": "config.yaml", "trains": "epochs.jsonl"}[moment]
        while process.poll() is None and not list(tmp_path.glob(f"runs/*/*/*/*/*/{pattern}")):
            time.sleep(0.02)
        process.send_signal(number)
        told = process.communicate(timeout=120)[1]
        assert process.returncode == 128 + number, told
        assert f"stopped by {number.name}; the same command goes on" in told and "Traceback" not in told
    [folder] = tmp_path.glob("runs/*/*/*/*/*")
    assert len(list((folder / "checkpoint").iterdir())) == 1 and not is_done(folder)


# --------------------------------------------------------------------------------------------------------- two at once


def test_who_comes_second_waits_or_goes_on_and_a_dead_ones_lock_is_free(tiny_config, tmp_path, capsys):
    cfg = tiny_config("loss=ce")
    folder = folder_of(cfg)
    code = "import sys, time\nfrom pathlib import Path\nfrom gloss.records.run_folder import locked\n"
    code += "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(float(sys.argv[2]))\n"

    def holder(seconds: float) -> subprocess.Popen:
        other = subprocess.Popen([sys.executable, "-c", code, folder, str(seconds)], stdout=subprocess.PIPE, cwd=ROOT)
        assert other.stdout.readline() == b"held\n"
        return other

    other = holder(600)
    assert train(cfg, wait=False) is None and "left to it" in capsys.readouterr().err
    other.kill()  # no chance to clean up
    other.wait()
    other = holder(3)
    record = train(cfg)
    assert record is not None and other.poll() == 0 and "waiting for it" in capsys.readouterr().err
    with locked(folder, wait=False) as mine:
        assert mine


def test_the_gpu_that_is_named_becomes_the_current_one(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert choose_device("cuda:1") == torch.device("cuda:1") and chosen == [torch.device("cuda:1")]


# ------------------------------------------------------------------------------------------------------ the last write


class Gone:
    """A pipe that nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    flush = lambda self: self.write("")  # noqa: E731
    isatty = lambda self: False  # noqa: E731
    fileno = lambda self: os.open(os.devnull, os.O_WRONLY)  # noqa: E731


def test_a_reader_that_leaves_does_not_fail_the_run(tiny_config, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Gone())
    record = train(tiny_config("loss=ce"))
    assert is_done(record.folder) and not (record.folder / "error.json").exists()


def test_a_reader_that_leaves_does_not_end_a_sweep(monkeypatch, tmp_path, toy_csv):
    def task(cfg: Config, is_sweep: bool) -> None:
        print("a note", file=sys.stderr, flush=True)
        done.append(cfg.seed)
        if cfg.seed == 1:
            raise RunError("a reason")

    done: list[int] = []
    monkeypatch.setattr(sys, "argv", ["train.py"])
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, Gone())
    sweep = ["-m", "dataset=csv", f"dataset.path={toy_csv}", "loss=ce", "seed=1,2", f"paths.outputs={tmp_path}"]
    assert main(task, sweep) == 1 and done == [1, 2]


def test_a_finished_run_counts_whatever_an_error_left_beside_it(tiny_config):
    record = train(tiny_config("loss=ce"))
    (record.folder / "error.json").write_text('{"message": "old"}')
    records, problems = read_records(Path(record.folder).parents[5])
    assert len(records) == 1 and not problems


def test_what_a_kill_after_the_last_write_left_is_removed(tiny_config):
    record = train(tiny_config("loss=ce"))
    (record.folder / "checkpoint" / "00003-0000000").mkdir(parents=True)
    with locked(record.folder):  # by who is just removing it
        train(tiny_config("loss=ce"))
    assert (record.folder / "checkpoint").is_dir()
    train(tiny_config("loss=ce"))
    assert not (record.folder / "checkpoint").exists() and is_done(record.folder)


@pytest.mark.parametrize("error", [DataError("no network"), OSError(errno.ENOSPC, "full")])
def test_a_run_that_cannot_be_trained_again_keeps_its_record(tiny_config, monkeypatch, error):
    record = train(tiny_config("loss=ce"))

    def fails(*arguments: object) -> None:
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(gloss.training.run, "load_encoder", fails)
        train(tiny_config("loss=ce", "rerun=true"))
    assert read_record(record.folder).result == record.result
    train(tiny_config("loss=ce", "rerun=true", "trainer.embeddings_at=[0]"))


def test_a_run_is_no_longer_finished_once_it_is_being_cleared(tmp_path, monkeypatch):
    for name in ("result.json", "DONE", "epochs.jsonl"):
        (tmp_path / name).touch()

    def killed(self: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "iterdir", killed)
    with pytest.raises(KeyboardInterrupt):
        clear(tmp_path)
    assert not is_done(tmp_path)


def test_the_embeddings_of_an_epoch_are_there_even_if_it_was_the_last_before_a_stop(tiny_config, monkeypatch):
    cfg = tiny_config(*EVERY_EPOCH, "trainer.embeddings_at=[0,1,2]")
    folder, expected = undisturbed(cfg)
    save = Fit.save

    def killed(self: Fit) -> None:
        save(self)
        raise KeyboardInterrupt  # stands for kill -9: nothing after the checkpoint of epoch 1

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Fit, "save", killed)
        train(cfg)
    assert outcome(train(cfg).folder) == expected
    assert {f"epoch_{n}_embeddings" for n in (0, 1, 2)} <= read_record(folder).predictions().keys()


def test_a_checkpoint_is_never_taken_away_before_its_successor_is_there(tmp_path, monkeypatch):
    state = {"x": torch.arange(3.0)}

    def save() -> None:
        save_checkpoint(tmp_path, {"lr": 1}, Progress(epoch=2, step=1), state, None, {}, torch.zeros(1, 1))

    save()
    monkeypatch.setattr(shutil, "rmtree", lambda *arguments, **options: pytest.fail("removed"))
    save()  # of the same moment
    progress, model, *_ = load_checkpoint(tmp_path, {"lr": 1})
    assert progress.epoch == 2 and torch.equal(model["x"], state["x"])


def test_what_a_killed_process_was_writing_is_removed(tiny_config):
    cfg = tiny_config("loss=ce")
    folder = folder_of(cfg)
    folder.mkdir(parents=True)
    (folder / "checkpoint" / ".00001-0000001.01234567").mkdir(parents=True)
    (folder / ".result.json.89abcdef").write_text("{")
    seen = []
    callback = Callback()
    callback.on_epoch = lambda row: seen.append(list(folder.rglob(".*")))
    train(cfg, callbacks=[callback])
    assert seen[0] == []  # from the start: a checkpoint needs the room


# ------------------------------------------------------------------------------------------------------------- the code


def test_the_requirements_are_whole_pinned_and_agree_with_each_other():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pins = {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in requirements}
    assert all(re.fullmatch(r"==[\w.]+", str(r.specifier)) for r in requirements)
    named = "torch transformers datasets hydra-core omegaconf optuna scikit-learn pandas matplotlib"
    assert list(pins)[:9] == named.split()
    wanted = [(name, Requirement(text)) for name in pins for text in metadata.requires(name) or []]
    wanted = [(name, r) for name, r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    assert len(wanted) > 100
    for name, r in wanted:
        if name == "torch" and r.name.startswith(("nvidia", "cuda", "triton")):
            continue  # torch's own pins, of a CUDA build alone
        assert canonicalize_name(r.name) in pins, f"{name} needs {r}, which is not pinned"
        assert r.specifier.contains(pins[canonicalize_name(r.name)]), f"{name} needs {r}"


def test_nothing_of_ours_is_instantiated_from_a_name_or_unpickled():
    files = [p for group in ("gloss", "scripts", "configs") for p in (ROOT / group).rglob("*") if p.is_file()]
    text = {p.relative_to(ROOT): p.read_text(encoding="utf-8") for p in files if p.suffix in (".py", ".yaml")}
    assert len(text) > 50
    named = {str(p) for p, t in text.items() if re.search(r"\b_target_\b|hydra\.utils|\binstantiate\(", t)}
    assert not named
    bad = r"(import|from) pickle|yaml\.(load|unsafe_load)\(|weights_only=False|allow_pickle=True|"
    bad += r"trust_remote_code=True|(?<!\.)\beval\(|\bexec\("
    assert not {str(p) for p, t in text.items() if re.search(bad, t)}
