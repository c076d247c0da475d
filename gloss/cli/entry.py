"""The console scripts: each loads its command when it is called, and says how to install a missing package."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib import import_module

from gloss.errors import ConfigError
from gloss.runtime.terminal import announced, run_with_exit_code


def main(name: str) -> int:
    """Run a command with the process's arguments and return its exit status (gloss.cli.command)."""
    # Read when torch is loaded: waiting threads sleep instead of spinning, which is much faster beside busy processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    return run_with_exit_code(partial(_run, name))


def _run(name: str) -> int:
    try:
        with announced("starting"):
            command, runner = (import_module(f"gloss.cli.{module}") for module in (name, "command"))
        return runner.run_command(command, sys.argv[1:])
    except ModuleNotFoundError as error:
        if str(error.name).startswith("gloss"):
            raise
        message = f"this needs the package {error.name}, which is not installed: pip install 'gloss[train]' brings it"
        raise ConfigError(message) from None


COMMANDS = "train tune predict export plot report reproduce runs data bench gpu_check".split()
train, tune, predict, export, plot, report, reproduce, runs, data, bench, gpu_check = (
    partial(main, name) for name in COMMANDS
)
