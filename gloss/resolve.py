"""The checks that a composed configuration passes before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gloss.config import CONFIG_DIR, Config, DatasetConfig, TuneConfig, forward_passes
from gloss.errors import ConfigError
from gloss.losses.registry import CE, GLOSS_O, GLOSS_SQRT, INTEGRATED, LOSSES, SCL_CE, STANDALONE, is_graph, name_in

MAX_EPOCHS = 5000  # a line each in epochs.jsonl, which a report must still read (gloss.records.reading.MAX_BYTES)


def resolve(cfg: DictConfig | Config) -> Config:
    """A composed configuration as typed, checked objects.

    Raises ConfigError, naming key, value and what is allowed, for a value out of range, a key that the chosen loss or
    mode would ignore, and a combination that makes no sense.
    """
    try:
        cfg = cast(Config, cfg if isinstance(cfg, Config) else OmegaConf.to_object(cfg))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    cfg.paths.data = os.path.expanduser(cfg.paths.data or "data")  # GLOSS_DATA_DIR may be set and empty
    if cfg.experiment.name and cfg.trainer.save_model == "auto":
        cfg.trainer.save_model = False  # hundreds of runs
    if isinstance(cfg.loss.sigma, int):
        cfg.loss.sigma = float(cfg.loss.sigma)  # 1 and 1.0 are one run
    check_ranges(cfg)
    if isinstance(cfg, TuneConfig) and cfg.search.trials == 0:
        raise ConfigError("search.trials=0 is not allowed here: expected a whole number of at least 1")
    _check_combination(cfg)
    return cfg


def check_ranges(cfg: Any) -> None:
    """Raise ConfigError with a line for every value of a schema's object that is out of its range."""
    problems = list(_out_of_range(cfg, ""))
    if problems:
        raise ConfigError("\nerror: ".join(problems))


def _out_of_range(node: Any, prefix: str) -> Iterator[str]:
    for f in fields(node):
        value, key = getattr(node, f.name), prefix + f.name
        if is_dataclass(value):
            yield from _out_of_range(value, key + ".")
        elif value is not None and "accepts" in f.metadata and not f.metadata["accepts"](value):
            yield f"{key}={value} is not allowed: expected {f.metadata['allowed']}"


def _check_combination(cfg: Config) -> None:
    """Values that are each allowed, and not together, or that nothing would read."""
    for check in (_check_loss, _check_variant, _check_ablation, _check_trainer, _check_model, _check_dataset):
        check(cfg)


def _check_loss(cfg: Config) -> None:
    loss, mode = cfg.loss, cfg.mode
    loss.name = name_in(mode, loss.name)
    if mode not in (row := LOSSES[loss.name]).modes:
        others = ", ".join(name for name, other in LOSSES.items() if mode in other.modes)
        use = f"loss={row.other}" if row.other else f"mode=integrated, or one of {others}"
        raise ConfigError(
            f"loss={loss.name} mode={mode} is not allowed: standalone mode trains without a classifier, and "
            f"cross-entropy needs one. Use {use}"
        )
    for f in fields(loss):
        value = getattr(loss, f.name)
        if f.name == "name":
            continue
        if f.name == "lam" and mode == STANDALONE:
            if value is not None:
                raise ConfigError(
                    f"loss.lam={value} has no effect in mode=standalone, where no loss is mixed: leave it out"
                )
        elif f.name not in row.keys and value is not None:
            readers = ", ".join(name for name, other in LOSSES.items() if f.name in other.keys)
            raise ConfigError(
                f"loss.{f.name}={value} has no effect with loss={loss.name}; it belongs to {readers}: leave it out"
            )
        elif f.name in row.keys and value is None and not (f.name == "sigma" and loss.name == GLOSS_O):
            raise ConfigError(f"loss.{f.name}=null is not allowed: loss={loss.name} needs a value")
    if loss.name == GLOSS_SQRT and loss.sigma != "sqrt":
        raise ConfigError(
            f"loss.sigma={loss.sigma} is not allowed with loss=gloss_sqrt, which computes σ: use loss=gloss_o"
        )
    if loss.name == GLOSS_O and loss.sigma == "sqrt":
        raise ConfigError("loss.sigma=sqrt is not allowed with loss=gloss_o, whose σ is a number: use loss=gloss_sqrt")
    if loss.name == SCL_CE and cfg.variant.scl_lam not in (None, loss.lam):
        raise ConfigError(
            f"loss.lam={loss.lam} is not allowed with variant={cfg.variant.name}, fixed at {cfg.variant.scl_lam}"
        )


def _check_variant(cfg: Config) -> None:
    loss, mode, has_graph = cfg.loss, cfg.mode, is_graph(cfg.loss.name)
    unread = {  # keys of the variant -> whether nothing looks at them in this mode with this loss
        "gloss_objective": not has_graph,
        "divide_by_unlabeled": not has_graph or mode == STANDALONE,
        "sqrt_rule": loss.name != GLOSS_SQRT,
        "class_weights": mode == STANDALONE and not has_graph and cfg.variant.probe != "adam",
        "supcon": name_in(INTEGRATED, loss.name) != SCL_CE,
        "scl_lam": loss.name != SCL_CE,
        "forward_passes": mode == STANDALONE or loss.name == CE,
        "early_stopping_min_delta": mode == INTEGRATED,
        "probe": mode == INTEGRATED,
    }
    overlay: Any = _variants().get(cfg.variant.name, {})  # sets all keys for all losses; what differs was set by hand
    for key, is_unread in unread.items():
        value = getattr(cfg.variant, key)
        if is_unread and value != overlay.get(key, value):
            raise ConfigError(f"variant.{key}={value} has no effect with loss={loss.name} mode={mode}: leave it out")


def _check_ablation(cfg: Config) -> None:
    loss, mode = cfg.loss, cfg.mode
    for key, offset in (("gamma", cfg.ablation.gamma_offset), ("lam", cfg.ablation.lam_offset)):
        if offset:
            value = getattr(loss, key)
            if value is None:
                raise ConfigError(
                    f"ablation.{key}_offset={offset} has no effect: loss={loss.name} mode={mode} uses no {key}"
                )
            if key == "lam" and not 0 <= round(value + offset, 9) <= 1:
                raise ConfigError(
                    f"ablation.{key}_offset={offset} is not allowed: loss.{key} would become {value + offset:g}"
                )
    graph_only = {"sigma_scale": 1.0, "graph_noise": 0.0, "graph_shuffle": False}
    for key, off in graph_only.items():
        value = getattr(cfg.ablation, key)
        if value != off and not is_graph(loss.name):
            raise ConfigError(f"ablation.{key}={value} has no effect with loss={loss.name}, which builds no graph")


def _check_trainer(cfg: Config) -> None:
    trainer = cfg.trainer
    if trainer.max_epochs > MAX_EPOCHS:
        raise ConfigError(f"trainer.max_epochs={trainer.max_epochs} is not allowed: expected at most {MAX_EPOCHS}")
    if trainer.device == "mps" and cfg.variant.loss_dtype == "float64":
        raise ConfigError("variant.loss_dtype=float64 is not allowed with trainer.device=mps, which has no float64")
    if bad := [epoch for epoch in trainer.embeddings_at if not 0 <= epoch <= trainer.max_epochs]:
        raise ConfigError(
            f"trainer.embeddings_at={bad} is not allowed: expected epochs from 0 to "
            f"trainer.max_epochs={trainer.max_epochs}"
        )
    if trainer.sampler == "balanced":
        if trainer.classes_per_batch is None or trainer.batch_size % trainer.classes_per_batch:
            raise ConfigError(
                f"trainer.classes_per_batch={trainer.classes_per_batch} is not allowed with trainer.sampler=balanced: "
                f"expected a divisor of trainer.batch_size={trainer.batch_size}"
            )
    elif trainer.classes_per_batch is not None:
        raise ConfigError(
            f"trainer.classes_per_batch={trainer.classes_per_batch} has no effect with trainer.sampler=random"
        )
    if not (trainer.device in ("auto", "cpu", "cuda", "mps") or trainer.device.removeprefix("cuda:").isdigit()):
        raise ConfigError(f"trainer.device={trainer.device} is not allowed: expected auto, cpu, cuda, cuda:N or mps")
    if trainer.grad_cache_chunk and forward_passes(cfg.mode, cfg.loss.name, cfg.variant.forward_passes) == 2:
        raise ConfigError(
            "trainer.grad_cache_chunk is not allowed with variant.forward_passes=2 (variant=released): leave one out"
        )


def _check_model(cfg: Config) -> None:
    if cfg.model.revision and (cfg.model.name.startswith("package:") or Path(cfg.model.name).is_dir()):
        raise ConfigError(f"model.revision={cfg.model.revision} has no effect with model.name={cfg.model.name}")
    if cfg.model.name == "random" and (cfg.model.revision or cfg.model.sha256):
        raise ConfigError("model.revision and model.sha256 have no effect with random weights (model=tiny)")


def _check_dataset(cfg: Config) -> None:
    if cfg.dataset.source in ("csv", "hub") and cfg.dataset.path is None:
        raise ConfigError(f"dataset.path=null is not allowed with dataset={cfg.dataset.name}: give the file or name")
    ignored = {
        "prepared": ("path", "val_path", "test_path", "revision", "separator", "encoding", "group"),
        "docstrings": ("path", "val_path", "test_path", "revision", "text", "label", "separator", "encoding", "group"),
        "csv": ("revision",),
        "hub": ("val_path", "test_path", "separator", "encoding"),
    }
    for key in ignored[cfg.dataset.source]:
        if (value := getattr(cfg.dataset, key)) != getattr(DatasetConfig(), key):
            raise ConfigError(f"dataset.{key}={value} has no effect with dataset={cfg.dataset.name}: leave it out")
    _check_unlabeled(cfg)
    if not 1 <= len(set(cfg.dataset.text)) == len(cfg.dataset.text) <= 2:
        raise ConfigError(
            f"dataset.text={cfg.dataset.text} is not allowed: expected one column, or two for sentence pairs"
        )


def _check_unlabeled(cfg: Config) -> None:
    """Examples without a label need a loss that propagates through them."""
    dataset, count = cfg.dataset, cfg.trainer.unlabeled_per_batch
    given = {key: getattr(dataset, key) for key in ("unlabeled", "unlabeled_path") if getattr(dataset, key) is not None}
    if count is not None and not given:
        raise ConfigError(
            f"trainer.unlabeled_per_batch={count} has no effect without dataset.unlabeled_path or "
            "dataset.unlabeled=rest: give one of them, or leave it out"
        )
    if len(given) > 1:
        raise ConfigError("dataset.unlabeled and dataset.unlabeled_path are not allowed together: leave one out")
    for key, value in given.items():
        if not is_graph(cfg.loss.name):
            raise ConfigError(f"dataset.{key}={value} has no effect with loss={cfg.loss.name}, which builds no graph")
        if cfg.variant.divide_by_unlabeled:
            raise ConfigError(
                f"dataset.{key}={value} is not allowed with variant.divide_by_unlabeled=true (variant=released), which "
                "counts all unlabeled texts: use variant=paper"
            )
    if dataset.unlabeled and dataset.train_limit is None:
        raise ConfigError("dataset.unlabeled=rest has no effect without dataset.train_limit, which leaves texts out")


@cache
def _variants() -> dict[str, DictConfig]:
    """What each file of configs/variant sets of VariantConfig."""
    return {path.stem: OmegaConf.load(path).variant for path in (CONFIG_DIR / "variant").glob("*.yaml")}
