"""Which runs belong to which cell of a table, and what they measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

import pandas as pd
import yaml

from gloss.config import CONFIG_DIR, HYPERPARAMETERS
from gloss.losses.registry import SCL_CE
from gloss.paper.names import paper_order
from gloss.records.reading import number
from gloss.report.statistics import mean, std
from gloss.report.table import number_text

CELL = ["dataset", "model", "mode", "loss", "variant", "config_hash"]  # what tells configurations apart


@dataclass(frozen=True)
class Group:
    """The finished runs of one configuration (seed aside), by seed; none where the cell is still empty.

    point: the swept keys of the experiment, such as {"loss.lam": 0.3}; seeds: those asked for; config: as a nested
    dict, from the cell or, for loose runs, from their record.
    """

    dataset: str
    model: str
    mode: str
    loss: str
    variant: str
    config_hash: str | None  # None: its values are not searched for yet
    runs: dict[int, Any]
    seeds: tuple[int, ...]
    point: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        swept = " ".join(f"{key}={value}" for key, value in self.point.items())
        return f"dataset={self.dataset} model={self.model} mode={self.mode} loss={self.loss} {swept}".strip()

    @property
    def missing_seeds(self) -> tuple[int, ...]:
        return tuple(seed for seed in self.seeds if seed not in self.runs)

    def values(self, *path: str | tuple[str, ...]) -> dict[int, float]:
        """A number of result.json by seed, such as values("metrics", "test", "accuracy"); runs without it are left out.

        Seconds compare only between groups that `timed` gave.
        """
        found = {seed: number(run.result, *path) for seed, run in self.runs.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def test(self, metric: str) -> dict[int, float]:
        return self.values("metrics", "test", metric)


def timed(groups: Sequence[Group]) -> tuple[list[Group], list[str]]:
    """The groups with only the runs whose seconds compare, in the same order; and notes about the runs left out.

    They had their device to themselves, and it is one device for all: that of most cells.
    """
    alone = [{seed: run for seed, run in g.runs.items() if not run.result.get("shared_device")} for g in groups]
    cells_on = Counter(name for runs in alone for name in {_device(run) for run in runs.values()})
    chosen = min(cells_on, key=lambda name: (-cells_on[name], name), default="")
    kept = [{seed: run for seed, run in runs.items() if _device(run) == chosen} for runs in alone]
    num_shared = sum(len(g.runs) - len(runs) for g, runs in zip(groups, alone, strict=True))
    num_elsewhere = sum(len(a) - len(b) for a, b in zip(alone, kept, strict=True))
    notes = [f"Times are left out where runs shared their device ({num_shared})."] if num_shared else []
    if num_elsewhere:
        others = ", ".join(sorted(cells_on.keys() - {chosen}))
        notes.append(f"Times are those on {chosen}: the times of {num_elsewhere} runs on {others} are left out.")
    return [replace(g, runs=runs) for g, runs in zip(groups, kept, strict=True)], notes


def _device(run: Any) -> str:
    return str(run.result.get("device_name") or run.result.get("device"))


def ungrouped_runs(records: Sequence[Any]) -> list[Group]:
    """All records, grouped by configuration, in the paper's order. Two records of one seed: see `refuse_doubles`."""
    groups = []
    for key, runs in _identities(records).sort_values("seed").groupby(CELL, sort=False):
        by_seed = dict(zip(runs["seed"].tolist(), runs["record"], strict=True))
        config = runs["record"].iloc[0].result.get("config", {})
        cell: dict[str, Any] = dict(zip(CELL, key, strict=True))
        groups.append(Group(**cell, runs=by_seed, seeds=tuple(by_seed), config=config))
    return sorted(
        groups, key=lambda g: (*paper_order(g.dataset, g.model), g.mode, *paper_order(loss=g.loss), g.config_hash)
    )


def refuse_doubles(records: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """The records, without pairs that claim one configuration and seed, and a message for each such pair.

    A run's folder follows from its configuration, so a second candidate was copied or renamed: neither is believed.
    """
    runs, key = _identities(records), [name for name in (*CELL, "seed") if name != "variant"]
    doubled = runs[runs.duplicated(key, keep=False)]
    problems = [
        f"{len(same)} runs claim the same configuration and seed, none is used: "
        + ", ".join(sorted(str(record.folder) for record in same["record"]))
        for _, same in doubled.groupby(key, sort=False)
    ]
    return runs.drop(doubled.index)["record"].tolist(), problems


def _identities(records: Sequence[Any]) -> pd.DataFrame:
    """A row a record: its identity, and the record."""
    rows = [record.result["identity"] | {"record": record} for record in records]
    return pd.DataFrame(rows, columns=[*CELL, "seed", "record"])


def gather(cells: Iterable[Any], records: Sequence[Any]) -> tuple[list[Group], list[Group]]:
    """The cells of an experiment with their runs, and the other runs of the same data set, model, mode and loss.

    A run belongs to a cell only if its config_hash, and so its whole configuration, are the cell's.
    """
    cells = list(cells)
    points = [dict(c.point) for c in cells]
    varies = {key for p in points for key in p if len({str(q.get(key)) for q in points}) > 1}
    groups = []
    for c in cells:
        runs = {r.identity.seed: r for r in records if _key(r.identity) == _key(c) and r.identity.seed in c.seeds}
        point = {k: v for k, v in c.point.items() if k in varies}  # one value for all cells tells none apart
        cell: dict[str, Any] = {name: getattr(c, name) for name in CELL}
        groups.append(
            Group(**cell, runs=dict(sorted(runs.items())), seeds=tuple(c.seeds), point=point, config=asdict(c.config))
        )
    used = {id(run) for g in groups for run in g.runs.values()}
    kinds = {(g.dataset, g.model, g.mode, g.loss) for g in groups}
    others = [r for r in records if id(r) not in used and _key(r.identity)[:4] in kinds]
    return groups, ungrouped_runs(others)


def _key(x: Any) -> tuple:
    return x.dataset, x.model, x.mode, x.loss, x.config_hash


# What the paper's protocol sets where it compares; anything else makes another experiment of a run. To these come the
# longest gradient, a mode's own, and the margin, a loss's own. trainer.precision is not among them: the paper names
# none, and auto is bf16 or float32 by device, so either is what the protocol runs somewhere; `mixed` tells of both.
_PROTOCOL = {
    "dataset.source": "prepared",  # a file of the user's own may bear the name of a paper's set
    "dataset.train_limit": None,
    "dataset.unlabeled": None,
    "dataset.unlabeled_path": None,
    "trainer.unlabeled_per_batch": None,
    "model.num_layers": None,
    "model.dropout": None,
    "model.max_length": 128,
    "trainer.max_epochs": 200,
    "trainer.batch_size": 128,
    "trainer.patience": 10,
    "trainer.lr_decay_epoch": 30,
    "trainer.lr_decay_factor": 0.1,
    "trainer.sampler": "random",
    "ablation.sigma_scale": 1.0,
    "ablation.gamma_offset": 0.0,
    "ablation.lam_offset": 0.0,
    "ablation.graph_noise": 0.0,
    "ablation.graph_shuffle": False,
    "ablation.label_noise": 0.0,
}
RELEASED = "variant=released"


def protocol_deviations(config: dict[str, Any]) -> list[str]:
    """Where a configuration leaves the paper's protocol: ["dataset.train_limit=500", "search.trials=2"].

    A key that an older record lacks counts as the protocol's.
    """
    return [*_other_code(config), *_other_protocol(config), *_smaller_search(config)]


def is_comparable(config: dict[str, Any]) -> bool:
    """Whether runs of this configuration bear a verdict, and speak for or against a claim.

    They keep the paper's protocol. The released code's variant does: the paper's numbers most likely come from it.
    """
    return not set(protocol_deviations(config)) - {RELEASED}


def off_protocol(g: Group) -> list[str]:
    """`protocol_deviations` of a cell, but for the variant and for what its experiment itself sets or sweeps."""
    its_own = _choice("experiment", str((g.config.get("experiment") or {}).get("name")))
    as_set = {
        f"{section}.{key}={'null' if value is None else value}"
        for section in ("dataset", "model", "trainer", "ablation")
        for key, value in its_own.get(section, {}).items()
    }
    found = [x for x in protocol_deviations(g.config) if x not in as_set]
    return [x for x in found if x != RELEASED and x.partition("=")[0] not in g.point]


_SMOKE_EPOCHS = 10  # at most so many, and early stopping hardly had its say
_SMOKE_TEXTS = 1000  # fewer training texts


def reductions(config: dict[str, Any]) -> list[str]:
    """What makes a smoke run of a run: few training texts, epochs or layers, unless its experiment is made so."""
    experiment = config.get("experiment") or {}
    its_own = _choice("experiment", str(experiment.get("name")))
    swept = its_own["hydra"]["sweeper"]["params"] if its_own else {}
    found = ["model=tiny"] if (config.get("model") or {}).get("alias") == "tiny" else []
    for path in ("dataset.train_limit", "model.num_layers", "trainer.max_epochs"):
        section, key = path.split(".")
        value = number(config, section, key)
        if value is None or key == "train_limit" and value >= _SMOKE_TEXTS:
            continue
        if key == "max_epochs" and value > min(_SMOKE_EPOCHS, 2 * (number(config, "trainer", "patience") or value)):
            continue
        if value != its_own.get(section, {}).get(key) and path not in swept:
            found.append(f"{path}={value:g}")
    return found


def setting(g: Group) -> tuple[str, ...]:
    """What two groups must have in common for their scores to be a contest; the budget of their searches may differ."""
    return g.mode, g.variant, *_other_code(g.config), *_other_protocol(g.config)


def _other_protocol(config: dict[str, Any]) -> list[str]:
    own = _choice("mode", str(config.get("mode"))).get("trainer", {}).get("max_grad_norm")
    expected = dict(_PROTOCOL) if own is None else _PROTOCOL | {"trainer.max_grad_norm": own}
    if margin := _choice("loss", str((config.get("loss") or {}).get("name"))).get("margin"):
        expected["loss.margin"] = margin
    found = []
    for path, protocol in expected.items():
        section, key = path.split(".")
        value = (config.get(section) or {}).get(key, protocol)
        if value != protocol:
            found.append(f"{path}={'null' if value is None else value}")
    return found


def _other_code(config: dict[str, Any]) -> list[str]:
    """Another encoder under the alias of a known one, another variant, and single keys that its file sets otherwise."""
    model, variant = config.get("model") or {}, config.get("variant") or {}
    expected = _choice("model", str(model.get("alias")))
    found = [
        f"model.{key}={model[key]}"
        for key in ("name", "revision")
        if key in model and expected.get("name", "???") != "???" and model[key] != expected.get(key)
    ]
    name = str(variant.get("name", "paper"))
    found += [f"variant={name}"] * (name != "paper")
    own = _choice("variant", name).get("variant", {})
    return found + [f"variant.{key}={value}" for key, value in variant.items() if own.get(key, value) != value]


@cache
def _choice(group: str, name: str) -> dict[str, Any]:
    """The file of configs/<group> with this name; empty where there is none."""
    known = {path.stem: path for path in (CONFIG_DIR / group).glob("*.yaml")}
    return yaml.safe_load(known[name].read_text(encoding="utf-8")) if name in known else {}


def _smaller_search(config: dict[str, Any]) -> list[str]:
    """Fewer trials than the protocol has (0: no value comes from a search), or values given by hand beside searched."""
    tuned, loss = config.get("tuned"), str((config.get("loss") or {}).get("name"))
    if not isinstance(tuned, dict) or not (config.get("experiment") or {}).get("search", True):
        return []  # an older record; a timing, which needs no search
    search = _choice("search", str(tuned.get("search", "fair")))
    names = [*search.get("space", {}).get(str(config.get("mode")), {}).get(loss, {})]
    if loss == SCL_CE and number(config, "variant", "scl_lam") is not None:  # the variant fixes λ
        names = [name for name in names if name != "lam"]
    keys = [HYPERPARAMETERS[name] for name in names]
    applied = tuned.get("applied")
    overridden = [key for key in keys if isinstance(applied, list) and key not in applied]
    trials = number(tuned, "trials") or 0
    if keys and (overridden == keys or not trials):
        return ["search.trials=0"]
    budgets = search.get("budget", {})
    budget = budgets.get(loss, budgets.get("any", 0))
    found = [f"search.trials={trials:.0f}"] if keys and trials < budget else []
    values = {key: (config.get(key.split(".")[0]) or {}).get(key.split(".")[1]) for key in overridden}
    return found + [f"{key}={value} by hand" for key, value in values.items()]


def mixed(group: Group) -> list[str]:
    """In which respects runs of a cell, or parts of a run, differ that should not: precision, texts, and what was
    another machine or code after an interruption. As to devices, see `timed`."""
    found = []
    for key, word in (("precision", "precisions"), ("fingerprint", "texts")):
        values = sorted({str(run.result.get(key)) for run in group.runs.values()})
        if len(values) > 1:
            found.append(f"{group.name} mixes {word}: {', '.join(v[:12] for v in values)}")
    for seed, run in group.runs.items():
        if changes := run.result.get("resumed_on"):
            found.append(f"{group.name}, seed {seed}, went on otherwise than it began: {'; '.join(map(str, changes))}")
    return found


def mean_std(values: Sequence[float], digits: int = 2) -> str:
    """ "85.64 ± 0.81"; "85.64" for a single run, a dash for none."""
    centre, spread = (mean(values) if values else None), (std(values) if len(values) > 1 else None)
    return number_text(centre, spread, digits)
