"""The device a run uses: its choice, precision, clock, peak memory, and whether another run shares it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from filelock import Timeout

from gloss.config import ROOT, ConfigError, TrainerConfig
from gloss.locks import FileLock
from gloss.workers import meeting_folder

NVIDIA_VERSION, NVIDIA_CONTROL = Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl")


def choose_device(name: str) -> torch.device:
    """auto: CUDA where there is one, else the CPU; Apple's mps on request. ConfigError for one that is not there.

    A GPU becomes the current one: events and Triton's kernels go to that, whatever device the tensors are on. auto says
    why a GPU that is there is not used, and raises ConfigError where one of the A100's generation or newer would idle.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and (told := unused_gpu()):
            if told.must_stop:
                raise ConfigError(f"{told.reason}; or trainer.device=cpu to train without it")
            print(f"trainer.device=auto is the CPU: {told.reason}", file=sys.stderr, flush=True)
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        told = unused_gpu() if not torch.cuda.is_available() else None
        why = f" ({told.reason})" if told else ""
        raise ConfigError(f"trainer.device={name} is not there: found {torch.cuda.device_count()} CUDA devices{why}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("trainer.device=mps is not there on this machine")
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        torch.cuda.set_device(device)
        # On Hopper PyTorch takes cuDNN's attention first. It builds a plan for each new shape, about half a second, and
        # up to torch 2.11 it rounds dropout to a multiple of 1/16. Attention is 3 % of a step: nothing is lost.
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


@dataclass(frozen=True)
class UnusedGPU:
    """Why PyTorch cannot use a GPU that is there, with the remedy; must_stop: it is too fast to be left idle."""

    reason: str
    must_stop: bool


DRIVER_OF_CUDA = {"12": 525, "13": 580}  # the oldest that runs a PyTorch built with it (NVIDIA's release notes)
OLD_BUILD = "https://download.pytorch.org/whl/cu126"


def unused_gpu() -> UnusedGPU | None:
    """What keeps PyTorch from an NVIDIA GPU of this machine; None where there is none, or the user hides it."""
    driver = NVIDIA_VERSION.read_text() if NVIDIA_VERSION.is_file() else ""
    if not (driver or NVIDIA_CONTROL.exists()) or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    names, is_new = "an NVIDIA GPU", False
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
        shown = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
        if gpus := re.findall(r"^(.+), (\d+\.\d+), (\d.+)$", shown, re.MULTILINE):
            names, driver = ", ".join(sorted({name for name, _, _ in gpus})), driver or gpus[0][2]
            is_new = any(float(capability) >= 8.0 for _, capability, _ in gpus)
    found = re.search(r"\b(\d{3})\.\d+", driver)
    cuda = torch.version.cuda
    if cuda is None:
        reason = (
            f"{names} is there, but this PyTorch is built without CUDA: `make setup` in a new .venv installs one with"
        )
        return UnusedGPU(reason, False)
    needed = DRIVER_OF_CUDA.get(cuda.partition(".")[0], 0)
    if found is None or int(found[1]) >= needed:
        return UnusedGPU(
            f"{names} is there, but PyTorch {torch.__version__} finds none it may use: see `nvidia-smi`", False
        )
    reason = (
        f"the driver of {names} is {found[0]}, and PyTorch {torch.__version__} (CUDA {cuda}) needs {needed} or newer"
    )
    if int(found[1]) >= DRIVER_OF_CUDA["12"]:
        return UnusedGPU(f"{reason}: `make setup TORCH_INDEX={OLD_BUILD}` installs a build for it", is_new)
    return UnusedGPU(f"{reason}: update the driver", is_new)


def choose_precision(cfg: TrainerConfig, device: torch.device) -> str:
    """auto: bf16 autocast around the encoder on a device that computes in it, float32 elsewhere."""
    return ("bf16" if has_bf16(device) else "float32") if cfg.precision == "auto" else cfg.precision


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies in bf16: emulated, a step takes 3 times as long as in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpuinfo("flags").split())


def _cpuinfo(key: str) -> str:
    """What Linux says of the first processor; empty where it says nothing."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else ():
        if line.partition(":")[0].strip() == key:
            return line.partition(":")[2].strip()
    return ""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which the encoder runs; no more than the encoder belongs into it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def device_name(device: torch.device) -> str:
    """The name for tables: of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = _cpuinfo("model name") if device.type == "cpu" else ""
    return name or platform.processor() or platform.machine()


class Stopwatch:
    """Seconds by part of a step. On CUDA it drops events into the stream, so that measuring never waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.is_cuda = device.type == "cuda"
        self._laps: list[tuple[str, object]] = []
        self._seconds: dict[str, float] = defaultdict(float)
        self._last = 0.0

    def start(self) -> None:
        """What came before belongs to no part."""
        self.lap("")

    def lap(self, name: str) -> None:
        """The time since the last call belongs to `name`."""
        if self.is_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._laps.append((name, event))
        else:
            now = time.perf_counter()
            if name:
                self._seconds[name] += now - self._last
            self._last = now

    def read(self) -> dict[str, float]:
        """Seconds of each part since the last reading; waits for the device."""
        if self.is_cuda and self._laps:
            self._laps[-1][1].synchronize()
            for (_, before), (name, event) in zip(self._laps, self._laps[1:], strict=False):
                if name:
                    self._seconds[name] += before.elapsed_time(event) / 1000
            self._laps.clear()
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # Linux: start the process's high-water mark again
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """Since the reset: what PyTorch allocated on CUDA, else the process's resident memory (weights, texts and all)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Presence:
    """Tells runs on the same device of each other, so that their timings can be flagged."""

    def __init__(self, device: torch.device) -> None:
        name = f"{device.type}{device.index or 0}"
        if device.type == "cuda":
            name = str(torch.cuda.get_device_properties(device).uuid)
        self.folder = meeting_folder(name)
        # Without a folder to meet in nobody can say that the device was ours alone: rather a timing too few in a table.
        self.was_shared = self.folder is None

    @contextlib.contextmanager
    def here(self) -> Iterator[Presence]:
        """Mark the device as used while the context lasts; the mark of a process that died does not count."""
        if self.folder is None:
            told = "no folder of our own in the temp directory: this run's timings count as those of a shared device"
            print(told, file=sys.stderr, flush=True)
            yield self
            return
        path = self.folder / f"{os.getpid()}-{time.monotonic_ns()}"
        with FileLock(path):
            try:
                self.look(path)
                yield self
                self.look(path)
            finally:
                path.unlink(missing_ok=True)

    def look(self, mine: Path | None = None) -> bool:
        """Whether another run is, or ever was, on the device during this one."""
        for path in self.folder.iterdir() if self.folder else ():
            if path == mine or path.name.startswith(f"{os.getpid()}-") or not re.fullmatch(r"\d+-\d+", path.name):
                continue
            try:
                with FileLock(path, timeout=0):
                    path.unlink(missing_ok=True)  # its owner died
            except Timeout:
                self.was_shared = True
            except OSError:
                continue
        return self.was_shared


_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scikit-learn", "hydra-core", "optuna")


def environment(device: torch.device, precision: str) -> dict[str, object]:
    """What environment.json holds: versions, commit and whether the tree was clean, device, precision, threads."""
    commit, clean = commit_of(ROOT)
    return {
        "commit": commit,
        "commit_clean": clean,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cuda": torch.version.cuda,
        "device": device.type,
        "device_name": device_name(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    with contextlib.suppress(ImportError):
        return version(package)
    return None


def commit_of(folder: Path) -> tuple[str | None, bool | None]:
    """The git commit of `folder`, and whether its tracked files are unchanged; (None, None) outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), not git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None, None
