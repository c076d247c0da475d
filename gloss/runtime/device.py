"""The device of a run: its choice, precision and name."""

from __future__ import annotations

import logging
import os
import platform
import re
import subprocess
from pathlib import Path

import torch

from gloss.config import TrainerConfig
from gloss.errors import ConfigError

log = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """The device of a name; auto: CUDA, else the CPU, never Apple's mps. Raises ConfigError for a missing device.

    A GPU becomes the current device: events and Triton's kernels use that one, whatever device the tensors are on. auto
    logs why it does not use an existing GPU, and raises ConfigError where the driver of one as new as the A100 is too
    old.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and (unused := unused_gpu()):
            why, must_stop = unused
            if must_stop:
                raise ConfigError(f"{why}; or trainer.device=cpu to train without it")
            log.warning("trainer.device=auto is the CPU: %s", why)
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError
    except RuntimeError:
        raise ConfigError(f"trainer.device={name} is not allowed: expected auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        unused = unused_gpu() if not torch.cuda.is_available() else None
        why = f" ({unused[0]})" if unused else ""
        raise ConfigError(
            f"trainer.device={name} is not available: found {torch.cuda.device_count()} CUDA devices{why}"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("trainer.device=mps is not available on this machine")
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        torch.cuda.set_device(device)
        # On Hopper PyTorch takes cuDNN's attention first. It builds a plan for each new shape, about half a second, and
        # up to torch 2.11 it rounds dropout to a multiple of 1/16. Attention is 3 % of a step: nothing is lost.
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


DRIVER_OF_CUDA = {"12": 525, "13": 580}  # the oldest that runs a PyTorch built with it (NVIDIA's release notes)
OLD_BUILD = "https://download.pytorch.org/whl/cu126"


def unused_gpu() -> tuple[str, bool] | None:
    """Why PyTorch cannot use an NVIDIA GPU of this machine, with the remedy, and whether one is too fast to be idle.

    None without a GPU, or if the user hides it.
    """
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    gpus = re.findall(r"^(.+), (\d+\.\d+), ((\d+)\..+)$", shown, re.MULTILINE)
    if not gpus or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    names, cuda, (*_, version, driver) = ", ".join(sorted({gpu[0] for gpu in gpus})), torch.version.cuda, gpus[0]
    if cuda is None:
        why = "but this PyTorch is built without CUDA: `make setup` in a new .venv installs one with"
        return f"{names} is there, {why}", False
    needed = DRIVER_OF_CUDA.get(cuda.partition(".")[0], 0)
    if int(driver) >= needed:
        return f"{names} is there, but PyTorch {torch.__version__} finds none it may use: see `nvidia-smi`", False
    has_build = int(driver) >= DRIVER_OF_CUDA["12"]
    remedy = f"`make setup TORCH_INDEX={OLD_BUILD}` installs a build for it" if has_build else "update the driver"
    versions = f"{version}, and PyTorch {torch.__version__} (CUDA {cuda}) needs {needed} or newer"
    return f"the driver of {names} is {versions}: {remedy}", any(float(gpu[1]) >= 8.0 for gpu in gpus)


def choose_precision(cfg: TrainerConfig, device: torch.device) -> str:
    """The encoder's precision; auto: bf16 autocast on a device that computes in it, float32 elsewhere."""
    return ("bf16" if has_bf16(device) else "float32") if cfg.precision == "auto" else cfg.precision


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies in bf16; with emulated bf16 a step takes 3 times as long as in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpuinfo("flags").split())


def _cpuinfo(key: str) -> str:
    """A field of the first processor in /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else ():
        if line.partition(":")[0].strip() == key:
            return line.partition(":")[2].strip()
    return ""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast context of the encoder; nothing else should run in it."""
    if device.type == "cpu" and precision == "bf16" and "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:
        # In bf16 oneDNN compiles a product for each new shape, and unpadded batches always bring new ones. By default
        # it keeps 1,024 of them scattered over the heap, so that freed memory between them is not returned. It reads
        # these variables once, at its first product; DNNL_… is the older name.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def device_name(device: torch.device) -> str:
    """The name for tables: of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = _cpuinfo("model name") if device.type == "cpu" else ""
    return name or platform.processor() or platform.machine()
