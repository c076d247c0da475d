"""The checks that a composed configuration passes before anything is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gloss.config import Config, DatasetConfig, ModelConfig, TuneConfig, config_file, forward_passes, is_csv_file
from gloss.errors import ConfigError
from gloss.losses.registry import CE, GLOSS_O, GLOSS_SQRT, INTEGRATED, LOSSES, SCL_CE, STANDALONE, is_graph, name_in


def resolve(cfg: DictConfig | Config) -> Config:
    """A composed configuration as typed, checked objects.

    Raises ConfigError, with a line for every value out of range, every key without effect for the chosen loss and
    mode, and every contradictory combination.
    """
    if isinstance(cfg, DictConfig) and OmegaConf.is_missing(cfg.model, "name"):
        raise ConfigError(f"model={cfg.model.alias} needs model.name=…: an encoder of the hub, or its folder")
    try:
        cfg = cast(Config, cfg if isinstance(cfg, Config) else OmegaConf.to_object(cfg))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    cfg.paths.data = cfg.paths.data or "data"  # GLOSS_DATA_DIR may be set and empty
    if cfg.experiment.name and cfg.trainer.save_model == "auto":
        cfg.trainer.save_model = False  # hundreds of runs
    if isinstance(cfg.loss.sigma, int):
        cfg.loss.sigma = float(cfg.loss.sigma)  # 1 and 1.0 are one run
    check_ranges(cfg)
    cfg.model.sha256 = weights_sha256(cfg.model)
    cfg.loss.name = name_in(cfg.mode, cfg.loss.name)
    if cfg.mode not in (row := LOSSES[cfg.loss.name]).modes:
        others = ", ".join(name for name, other in LOSSES.items() if cfg.mode in other.modes)
        use = f"loss={row.other}" if row.other else f"mode=integrated, or one of {others}"
        why = "standalone mode trains without a classifier, and cross-entropy needs one"
        raise ConfigError(f"loss={cfg.loss.name} mode={cfg.mode} is not allowed: {why}. Use {use}")
    given = ((key, attrgetter(key)(cfg), off, why) for key, off, why in _unread(cfg))
    unread = [f"{key}={value} has no effect {why}: leave it out" for key, value, off, why in given if value != off]
    _raise([*unread, *_contradictions(cfg)])
    return cfg


def weights_sha256(cfg: ModelConfig | DictConfig) -> str | None:
    """`cfg.sha256`, else the sha256 of the weights in a folder, which its name does not identify."""
    weights = Path(cfg.name) / "model.safetensors"
    return _sha256(weights, weights.stat().st_mtime_ns) if cfg.sha256 is None and weights.is_file() else cfg.sha256


@cache
def _sha256(path: Path, changed: int) -> str:
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_ranges(cfg: Any) -> None:
    """Raise ConfigError with a line for every value of a schema's object that is out of its range."""
    _raise(list(_out_of_range(cfg, "")))


def _raise(problems: list[str]) -> None:
    if problems:
        raise ConfigError("\nerror: ".join(problems))


def _out_of_range(node: Any, prefix: str) -> Iterator[str]:
    for f in fields(node):
        value, key = getattr(node, f.name), prefix + f.name
        if is_dataclass(value):
            yield from _out_of_range(value, key + ".")
        elif value is not None and "accepts" in f.metadata and not f.metadata["accepts"](value):
            yield f"{key}={value} is not allowed: expected {f.metadata['allowed']}"


def _unread(cfg: Config) -> Iterator[tuple[str, Any, str]]:
    """Keys without effect in this configuration: the key, its value when it is not set, and the reason."""
    loss, mode, row, has_graph = cfg.loss.name, cfg.mode, LOSSES[cfg.loss.name], is_graph(cfg.loss.name)
    no_graph = f"with loss={loss}, which builds no graph"
    for key in (f.name for f in fields(cfg.loss) if f.name != "name"):
        if key == "lam" and mode == STANDALONE:
            yield "loss.lam", None, "in mode=standalone, where no loss is mixed"
        elif key not in row.keys:
            readers = ", ".join(name for name, other in LOSSES.items() if key in other.keys)
            yield f"loss.{key}", None, f"with loss={loss}; it belongs to {readers}"

    variant = {
        "gloss_objective": has_graph,
        "divide_by_unlabeled": has_graph and mode == INTEGRATED,
        "sqrt_rule": loss == GLOSS_SQRT,
        "class_weights": mode == INTEGRATED or has_graph or cfg.variant.probe == "adam",
        "supcon": name_in(INTEGRATED, loss) == SCL_CE,
        "scl_lam": loss == SCL_CE,
        "forward_passes": mode == INTEGRATED and loss != CE,
        "early_stopping_min_delta": mode == STANDALONE,
        "probe": mode == STANDALONE,
    }
    # It sets all keys for all losses; another value was set by hand.
    overlay = config_file("variant", cfg.variant.name, is_optional=True).get("variant", {})
    for key in (key for key, is_read in variant.items() if not is_read):
        yield f"variant.{key}", overlay.get(key, getattr(cfg.variant, key)), f"with loss={loss} mode={mode}"

    for key in ("gamma", "lam"):
        if getattr(cfg.loss, key) is None:
            yield f"ablation.{key}_offset", 0.0, f"with loss={loss} mode={mode}, which use no {key}"
    if not has_graph:
        for key, off in (("sigma_scale", 1.0), ("graph_noise", 0.0), ("graph_shuffle", False)):
            yield f"ablation.{key}", off, no_graph
        for key in ("dataset.unlabeled", "dataset.unlabeled_path"):
            yield key, None, no_graph

    if cfg.trainer.sampler != "balanced":
        yield "trainer.classes_per_batch", None, f"with trainer.sampler={cfg.trainer.sampler}"
    if cfg.dataset.unlabeled is None and cfg.dataset.unlabeled_path is None:
        yield "trainer.unlabeled_per_batch", None, "without dataset.unlabeled_path or dataset.unlabeled=rest"
    if cfg.dataset.train_limit is None:
        yield "dataset.unlabeled", None, "without dataset.train_limit, which leaves texts out"
    if cfg.model.name.startswith("package:") or cfg.model.name == "random" or Path(cfg.model.name).is_dir():
        yield "model.revision", None, f"with model.name={cfg.model.name}"
    if cfg.model.name == "random":
        yield "model.sha256", None, "with model.name=random"
    if cfg.dataset.source == "hub" and Path(cfg.dataset.path or "").expanduser().is_dir():
        yield "dataset.revision", None, "with a folder"
    reads_csv = cfg.dataset.unlabeled_path is not None or any(map(is_csv_file, cfg.ablation.tested_on.values()))
    not_read_from = {
        "prepared": ("path", "val_path", "test_path", "revision", "separator", "encoding", "group"),
        "docstrings": ("path", "val_path", "test_path", "revision", "text", "label", "separator", "encoding", "group"),
        "csv": ("revision",),
        "hub": ("val_path", "test_path", "separator", "encoding"),
    }
    own = config_file("dataset", cfg.dataset.name, is_optional=True) if cfg.dataset.source == "prepared" else {}
    if cfg.experiment.name != "shift" and (own or cfg.dataset.source != "prepared"):
        yield "dataset.shift_to", own.get("shift_to"), "without experiment=shift"
    for key in not_read_from[cfg.dataset.source]:
        if key in ("separator", "encoding") and reads_csv:
            continue
        yield f"dataset.{key}", getattr(DatasetConfig(), key), f"with dataset={cfg.dataset.name}"


def _contradictions(cfg: Config) -> Iterator[str]:
    """Messages about values that are allowed alone but not together."""
    loss, dataset, trainer, variant = cfg.loss, cfg.dataset, cfg.trainer, cfg.variant
    for key in LOSSES[loss.name].keys:
        is_searched = key == "sigma" and loss.name == GLOSS_O
        if getattr(loss, key) is None and not is_searched and not (key == "lam" and cfg.mode == STANDALONE):
            yield f"loss.{key}=null is not allowed: loss={loss.name} needs a value"
    if loss.name == GLOSS_SQRT and loss.sigma != "sqrt":
        yield f"loss.sigma={loss.sigma} is not allowed with loss=gloss_sqrt, which computes σ: use loss=gloss_o"
    if loss.name == GLOSS_O and loss.sigma == "sqrt":
        yield "loss.sigma=sqrt is not allowed with loss=gloss_o, whose σ is a number: use loss=gloss_sqrt"
    if loss.name == SCL_CE and variant.scl_lam not in (None, loss.lam):
        yield f"loss.lam={loss.lam} is not allowed with variant={variant.name}, fixed at {variant.scl_lam}"
    if loss.lam is not None and (lam := round(loss.lam + cfg.ablation.lam_offset, 9)) < 0:
        yield f"ablation.lam_offset={cfg.ablation.lam_offset} is not allowed: loss.lam would become {lam:g}"

    if dataset.source in ("csv", "hub") and dataset.label in dataset.text:
        yield f"dataset.text={','.join(dataset.text)} is not allowed: it holds the label's column, {dataset.label}"

    if isinstance(cfg, TuneConfig) and cfg.search.trials == 0:
        yield "search.trials=0 is not allowed here: expected a whole number of at least 1"
    if bad := [epoch for epoch in trainer.embeddings_at if not 0 <= epoch <= trainer.max_epochs]:
        allowed = f"epochs from 0 to trainer.max_epochs={trainer.max_epochs}"
        yield f"trainer.embeddings_at={bad} is not allowed: expected {allowed}"
    num_classes = trainer.classes_per_batch
    if trainer.sampler == "balanced" and (num_classes is None or trainer.batch_size % num_classes):
        divisor = f"expected a divisor of trainer.batch_size={trainer.batch_size}"
        yield f"trainer.classes_per_batch={num_classes} is not allowed with trainer.sampler=balanced: {divisor}"
    if not (trainer.device in ("auto", "cpu", "cuda", "mps") or trainer.device.removeprefix("cuda:").isdigit()):
        yield f"trainer.device={trainer.device} is not allowed: expected auto, cpu, cuda, cuda:N or mps"
    if trainer.device == "mps" and variant.loss_dtype == "float64":
        yield "variant.loss_dtype=float64 is not allowed with trainer.device=mps, which has no float64"
    if trainer.grad_cache_chunk and forward_passes(cfg.mode, loss.name, variant.forward_passes) == 2:
        yield "trainer.grad_cache_chunk is not allowed with variant.forward_passes=2 (variant=released): leave one out"

    if dataset.source in ("csv", "hub") and dataset.path is None:
        yield f"dataset.path=null is not allowed with dataset={dataset.name}: give the file or name"
    if not 1 <= len(set(dataset.text)) == len(dataset.text) <= 2:
        yield f"dataset.text={dataset.text} is not allowed: expected one column, or two for sentence pairs"
    if dataset.unlabeled and dataset.unlabeled_path:
        yield "dataset.unlabeled and dataset.unlabeled_path are not allowed together: leave one out"
    if is_graph(loss.name) and variant.divide_by_unlabeled and (dataset.unlabeled or dataset.unlabeled_path):
        yield "unlabeled texts are not allowed with variant.divide_by_unlabeled=true, which counts them: leave one out"
    if cfg.experiment.name == "shift" and cfg.ablation.test_on is None:
        known = "expected snippets_movie (product, news, tweets), mr or sst2, or another test set in ablation.test_on"
        yield f"experiment=shift is not for dataset={dataset.name}, of which no other domain is known: {known}"
