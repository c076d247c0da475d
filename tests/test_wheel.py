"""The wheel: its content, its use without the checkout, its console scripts, its dependencies."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import run_python

from gloss.cli.entry import COMMANDS
from gloss.config import ROOT

DATA_FILES = """
from gloss.data.datasets import read_manifest
from gloss.runtime.compose import composed
print(composed(["loss=ce", "dataset=r8"]).dataset.name, "mr" in read_manifest()["sets"])
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, because building leaves files beside the sources
    ignored = "--exclude=.git", "--exclude=.venv", "--exclude=outputs", "--exclude=./build"
    source.mkdir()
    archive = subprocess.run(["tar", "-C", ROOT, *ignored, "-c", "."], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-C", source, "-x"], input=archive, check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("gloss-*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def test_wheel_contains_all_modules_and_data_files(unpacked):
    tracked = subprocess.run(["git", "ls-files", "gloss", "configs"], cwd=ROOT, capture_output=True, text=True).stdout
    expected = {name if name.startswith("gloss/") else f"gloss/{name}" for name in tracked.split()}
    if not expected:
        pytest.skip("not a git checkout")
    found = {str(path.relative_to(unpacked)) for path in (unpacked / "gloss").rglob("*") if path.is_file()}
    assert found == expected
    assert (unpacked / "gloss" / "py.typed").is_file()


def test_wheel_works_outside_the_checkout(unpacked, tmp_path):
    done = run_python("-c", DATA_FILES, cwd=tmp_path, PYTHONPATH=str(unpacked))
    assert done.stdout == "r8 True\n", done.stderr


def script(unpacked: Path, name: str, before: str = "") -> str:
    """The program that pip makes for an entry point; it starts with the code `before`."""
    (folder,) = unpacked.glob("gloss-*.dist-info")
    entries = configparser.ConfigParser()
    entries.read(folder / "entry_points.txt")
    module, function = entries["console_scripts"][name].split(":")
    return f"import sys; {before}\nfrom {module} import {function}; sys.exit({function}())"


def test_console_scripts_run_and_name_the_missing_extra(unpacked, tmp_path):
    place = {"cwd": tmp_path, "PYTHONPATH": str(unpacked)}
    words = "loss=gloss_o", "loss.sigma=0.5", "--cfg", "job"
    done = run_python("-c", script(unpacked, "gloss-train"), *words, **place)
    assert done.returncode == 0 and yaml.safe_load(done.stdout)["loss"]["sigma"] == 0.5, done.stderr
    done = run_python("-c", script(unpacked, "gloss-predict"), "--help", **place)
    assert done.returncode == 0 and "\n  gloss-predict run=best" in done.stdout, done.stderr
    without = script(unpacked, "gloss-runs", "sys.modules['hydra'] = None")
    done = run_python("-c", without, **place)
    assert done.returncode == 2 and "needs the package hydra" in done.stderr and "gloss[train]" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_is_a_console_script_and_a_script():
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert entries == {f"gloss-{name.replace('_', '-')}": f"gloss.cli.entry:{name}" for name in COMMANDS}
    scripts = {path.stem: path.read_text() for path in (ROOT / "scripts").glob("*.py")}
    assert scripts.keys() == {*COMMANDS}
    assert all(f"from gloss.cli.entry import {name}\n" in scripts[name] for name in COMMANDS)


def test_torch_is_the_only_required_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [word.split(">")[0] for word in project["dependencies"]] == ["torch"]
