"""Versions, commit, device and threads of a run."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from gloss.config import ROOT
from gloss.runtime.device import device_name

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scikit-learn", "hydra-core", "optuna")


def environment(device: torch.device, precision: str) -> dict[str, object]:
    """The content of environment.json: versions, commit, whether the tree was clean, device, precision, threads."""
    commit, clean = commit_of(ROOT)
    return {
        "commit": commit,
        "commit_clean": clean,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in _PACKAGES},
        "cuda": torch.version.cuda,
        "device": device.type,
        "device_name": device_name(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
    }


def commit_of(folder: Path) -> tuple[str | None, bool | None]:
    """The git commit of the repository with its root at `folder`, and whether its tracked files are unchanged.

    Files in outputs do not count: a committed record that is made again would make all runs after it unclean.
    (None, None) elsewhere, as in an environment that lies within another project's repository.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        if git("rev-parse", "--show-prefix"):
            return None, None
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)outputs")
        return git("rev-parse", "HEAD"), not changed
    except (OSError, subprocess.SubprocessError):
        return None, None
