"""The wheel is whole: it works without the checkout, and its losses with torch alone."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from gloss.cli.entry import COMMANDS
from gloss.config import ROOT

COMPOSED = "from gloss.runtime.compose import composed; print(composed(['loss=ce', 'dataset=r8']).dataset.name)"
DATA = "from gloss.data.datasets import read_manifest; print('mr' in read_manifest()['sets'])"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building leaves files beside the sources
    ignored = "--exclude=.git", "--exclude=.venv", "--exclude=outputs"
    source.mkdir()
    archive = subprocess.run(["tar", "-C", ROOT, *ignored, "-c", "."], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-C", source, "-x"], input=archive, check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("gloss-*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def test_it_holds_every_module_and_data_file(unpacked):
    tracked = subprocess.run(["git", "ls-files", "gloss", "configs"], cwd=ROOT, capture_output=True, text=True).stdout
    expected = {name if name.startswith("gloss/") else f"gloss/{name}" for name in tracked.split()}
    if not expected:
        pytest.skip("not a git checkout")
    found = {str(path.relative_to(unpacked)) for path in (unpacked / "gloss").rglob("*") if path.is_file()}
    assert found == expected
    assert (unpacked / "gloss" / "py.typed").is_file()


@pytest.mark.parametrize(("code", "printed"), [(COMPOSED, "r8"), (DATA, "True")])
def test_it_works_outside_the_checkout(unpacked, tmp_path, code, printed):
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == printed, done.stderr


def script(unpacked: Path, name: str, before: str = "") -> str:
    """The program that pip makes of an entry point, after the code `before`."""
    (folder,) = unpacked.glob("gloss-*.dist-info")
    entries = configparser.ConfigParser()
    entries.read(folder / "entry_points.txt")
    module, function = entries["console_scripts"][name].split(":")
    return f"import sys; {before}\nfrom {module} import {function}; sys.exit({function}())"


def run(unpacked: Path, folder: Path, code: str, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_a_console_script_runs_and_says_which_extra_it_needs(unpacked, tmp_path):
    done = run(unpacked, tmp_path, script(unpacked, "gloss-train"), "loss=gloss_o", "loss.sigma=0.5", "--cfg", "job")
    assert done.returncode == 0 and yaml.safe_load(done.stdout)["loss"]["sigma"] == 0.5, done.stderr
    done = run(unpacked, tmp_path, script(unpacked, "gloss-predict"), "--help")
    assert done.returncode == 0 and "\n  gloss-predict run=best" in done.stdout, done.stderr
    without = script(unpacked, "gloss-runs", "sys.modules['hydra'] = None")
    done = run(unpacked, tmp_path, without)
    assert done.returncode == 2 and "needs the package hydra" in done.stderr and "gloss[train]" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_is_a_console_script_and_a_script():
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert entries == {f"gloss-{name.replace('_', '-')}": f"gloss.cli.entry:{name}" for name in COMMANDS}
    assert {path.stem for path in (ROOT / "scripts").glob("*.py")} == {*COMMANDS, "lengths"}


def test_the_losses_ask_for_torch_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [word.split(">")[0] for word in project["dependencies"]] == ["torch"]
