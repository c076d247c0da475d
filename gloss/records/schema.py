"""The content of result.json and epochs.jsonl, with types and ranges: checked by the run and by every reader."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, create_model, model_validator
from typing_extensions import TypeAliasType

from gloss.config import Config, known_options
from gloss.errors import ConfigError

SCHEMA_VERSION = 1
MANY = 10**15  # more than any count or number of seconds, and no sum of such numbers overflows
# Characters that control a terminal or change the direction of a text.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def _not_newer(version: int) -> int:
    if version > SCHEMA_VERSION:
        raise ValueError(f"it is {version}, newer than this code's {SCHEMA_VERSION}: update the code")
    return version


def _plain(text: str) -> str:
    if _STEERING.search(text):
        raise ValueError(f"{text!r:.50} has control characters")
    return text


Version = Annotated[int, AfterValidator(_not_newer)]
Count = Annotated[int, Field(ge=0, le=MANY)]
Amount = Annotated[float, Field(ge=0, le=MANY)]
Number = Annotated[int, Field(ge=-MANY, le=MANY)] | Annotated[float, Field(ge=-MANY, le=MANY)]
Percent = Annotated[float, Field(ge=0, le=100)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, AfterValidator(_plain)]
Json = TypeAliasType(
    "Json", "None | bool | Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | Text | list[Json] | dict[Text, Json]"
)


class Part(BaseModel):
    """A part of a record: types are exact, numbers finite, and keys that are not named here are left out."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


_KEYS: dict[str, Any] = {
    f.name: (dict[Text, Json], {}) if is_dataclass(f.default_factory) else (Json, None) for f in fields(Config)
}
Configuration: Any = create_model("Configuration", __base__=Part, **_KEYS)


class Identity(Part):
    """The keys that distinguish runs."""

    dataset: Text
    model: Text
    mode: Text
    loss: Text
    variant: Text
    config_hash: Text
    seed: int


class Metrics(Part):
    """The metrics of a split; the last three where they were measured."""

    accuracy: Percent
    macro_f1: Percent
    macro_silhouette: Annotated[float, Field(ge=-1, le=1)] | None = None
    knn_accuracy: Percent | None = None
    grouped_accuracy: Percent | None = None


class Graph(Part):
    """The measures of gloss.training.graph_quality."""

    homophily: Fraction
    homophily_chance: Fraction
    propagated_accuracy: Percent
    majority_accuracy: Percent


class GraphQuality(Part):
    """The graph quality of the validation texts, before training and with the best weights."""

    sigma: Amount
    gamma: Amount
    at_start: Graph
    at_best: Graph


class RunRecord(Part):
    """The content of result.json."""

    schema_version: Version
    identity: Identity
    config: Configuration
    labels: Annotated[list[str], Field(min_length=1)]  # a user's own
    num_rows: dict[Text, Count]  # by split
    fingerprint: Text | None = None  # of the texts
    notes: list[Text] | None = None  # on the data, and on signs of a collapse
    hyperparameters: dict[Text, bool | Number | None]
    metrics: dict[Text, Metrics]  # by split
    graph_quality: GraphQuality | None = None
    best_epoch: Count
    epochs: Count
    stopped: Text | None = None
    seconds: dict[Text, Amount]
    num_parameters: Count | None = None
    tokens_per_epoch: Count | None = None
    peak_memory_bytes: Count | None = None
    device: Text
    device_name: Text | None = None
    precision: Text
    shared_device: bool | None = None
    counts: dict[Text, Number | None] | None = None
    tuned: dict[Text, Json] | None = None  # the source of the hyperparameters
    code: Text | None = None
    commit: Text | None = None
    commit_clean: bool | None = None
    resumed_on: list[Json] | None = None
    finished_at: Text | None = None
    is_trial: bool | None = None  # of a search: without test texts

    @model_validator(mode="after")
    def _is_whole(self) -> RunRecord:
        if missing := {"val", *(() if self.is_trial else ("test",))} - self.metrics.keys():
            raise ValueError(f"metrics.{min(missing)} is missing")
        return self


class _Measured(Part):
    graph_quality: Graph | None = None


class Epoch(Part):
    """A line of epochs.jsonl, as far as it is read; null where a part was not measured."""

    epoch: Number | None = None
    score: Number | None = None
    loss: Number | None = None
    seconds: dict[str, Amount | None] = {}
    val: _Measured | None = None


EPOCHS = TypeAdapter(list[Epoch])
_JSON: Any = TypeAdapter(Json)
_HYPERPARAMETER: Any = TypeAdapter(Number | Text | None)  # "sqrt" becomes a number


def check_config(cfg: Config) -> None:
    """Raise ConfigError for a value that no record can hold: before the training, which would be lost."""
    for key in known_options():
        value = attrgetter(key)(cfg)
        is_hyperparameter = key.startswith("loss.") or key == "trainer.batch_size"  # such a trainer.lr diverges
        try:
            (_HYPERPARAMETER if is_hyperparameter else _JSON).validate_python(value, strict=True)
        except ValueError:
            expected = "at most 1e15" if isinstance(value, (int, float)) else "no control characters"
            raise ConfigError(f"{key}={value!r:.50} is not allowed: expected {expected}") from None


def checked_result(content: Any, is_new: bool = False) -> dict[str, Any]:
    """The keys of `RunRecord` in `content`. Raises ValueError unless all are valid.

    Args:
        content: of result.json.
        is_new: a run writes it; a key that `RunRecord` does not name is then an error.
    """
    record = RunRecord.model_validate(content, extra="forbid" if is_new else "ignore")
    return record.model_dump(exclude_unset=True)
