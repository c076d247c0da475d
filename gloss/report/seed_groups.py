"""The runs that belong to each cell of a table, and their measured numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any

from gloss.paper.names import dataset_name, loss_name, model_name, paper_order
from gloss.records.reading import number
from gloss.report.protocol import other_settings

CELL = ["dataset", "model", "mode", "loss", "variant", "config_hash"]  # they distinguish configurations
WORDS = {  # swept settings that have a name in tables and legends; the default has none
    ("ablation.graph_shuffle", "False"): "",
    ("ablation.graph_shuffle", "True"): "shuffled graph",
    ("dataset.unlabeled", "None"): "",
    ("dataset.unlabeled", "rest"): "with unlabeled",
}


def _word(key: str, value: Any) -> str:
    """`word_of` without Hydra, which a report does not need."""
    return f"{key}={'null' if value is None else value}"


@dataclass(frozen=True)
class Group:
    """The finished runs of one configuration (seed aside), by seed; none where the cell is still empty.

    point: the swept keys of the experiment, such as {"loss.lam": 0.3}; seeds: the requested ones; config: as a nested
    dict, from the cell or, for loose runs, from their record; failed: the reasons of failed runs, by seed.
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
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The cell's keys, as on the command line."""
        return " ".join(_word(key, value) for key, value in (self.keys | self.point).items())

    @property
    def keys(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("dataset", "model", "mode", "loss")}

    @property
    def place(self) -> str:
        return f"{dataset_name(self.dataset)}, {model_name(self.model)}"

    @property
    def loss_name(self) -> str:
        return loss_name(self.loss, self.mode)

    def others(self, *swept: str) -> str:
        """The swept settings other than `swept`: " (trainer.lr=1e-05)", or empty; a line of a figure shares them."""
        found = (WORDS.get((k, str(value)), _word(k, value)) for k, value in self.point.items() if k not in swept)
        rest = ", ".join(text for text in found if text)
        return f" ({rest})" if rest else ""

    def label(self, mode: str, *swept: str) -> str:
        """ "G-Loss-O + CE", with the mode where it is not the given one, and with `others`."""
        return self.loss_name + (f" ({self.mode})" if self.mode != mode else "") + self.others(*swept)

    def values(self, *path: str | tuple[str, ...]) -> dict[int, float]:
        """A number of result.json by seed, such as values("metrics", "test", "accuracy"); runs without it are left out.

        Seconds compare only between groups that `timed` returned.
        """
        found = {seed: number(run.result, *path) for seed, run in self.runs.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def test(self, metric: str) -> dict[int, float]:
        return self.values("metrics", "test", metric)


def identity(x: Any) -> tuple:
    """The keys that a group, a cell and a run must share to belong together, without the seed and the variant, which
    config_hash covers."""
    return x.dataset, x.model, x.mode, x.loss, x.config_hash


def blocks(groups: Iterable[Group], *keys: str) -> dict[tuple, list[Group]]:
    """The groups by these attributes, in the order of their first appearance."""
    found: dict[tuple, list[Group]] = defaultdict(list)
    for g in groups:
        found[tuple(getattr(g, key) for key in keys)].append(g)
    return dict(found)


def timed(groups: Sequence[Group]) -> tuple[list[Group], list[str]]:
    """The groups with only the runs whose seconds compare, in the same order; and notes about the runs left out.

    The kept runs had their device to themselves, and all ran on one device: the device of most cells.
    """
    alone = [{seed: run for seed, run in g.runs.items() if not run.result.get("shared_device")} for g in groups]
    cells_on = Counter(name for runs in alone for name in {device_of(run) for run in runs.values()})
    chosen = min(cells_on, key=lambda name: (-cells_on[name], name), default="")
    kept = [{seed: run for seed, run in runs.items() if device_of(run) == chosen} for runs in alone]
    totals = [sum(map(len, found)) for found in ([g.runs for g in groups], alone, kept)]
    notes = []
    if shared := totals[0] - totals[1]:
        notes.append(f"Times are left out where runs shared their device ({shared}).")
    if elsewhere := totals[1] - totals[2]:
        others = ", ".join(sorted(cells_on.keys() - {chosen}))
        notes.append(f"Times are those on {chosen}: the times of {elsewhere} runs on {others} are left out.")
    return [replace(g, runs=runs) for g, runs in zip(groups, kept, strict=True)], notes


def device_of(run: Any) -> str:
    return str(run.result.get("device_name") or run.result.get("device"))


def ungrouped_runs(records: Sequence[Any]) -> list[Group]:
    """All records, grouped by configuration, in the paper's order."""
    cells: dict[tuple, dict[int, Any]] = defaultdict(dict)
    for record in records:
        cells[tuple(record.result["identity"][key] for key in CELL)][record.identity.seed] = record
    groups = []
    for key, found in cells.items():
        runs = dict(sorted(found.items()))
        cell: dict[str, Any] = dict(zip(CELL, key, strict=True))
        groups.append(Group(**cell, runs=runs, seeds=tuple(runs), config=runs[min(runs)].result.get("config", {})))
    return sorted(
        groups, key=lambda g: (*paper_order(g.dataset, g.model), g.mode, *paper_order(loss=g.loss), g.config_hash)
    )


def gather(
    specs: Iterable[Any], records: Sequence[Any], failures: Mapping[tuple[str, ...], str] | None = None
) -> tuple[list[Group], list[Group]]:
    """An experiment's specs as cells with their runs, and the other runs of the same data set, model, mode and loss.

    A run belongs to a cell only if its config_hash, and so its whole configuration, are the cell's. failures: the
    reasons of failed runs, by the parts of their folders' names.
    """
    specs = list(specs)
    points = [dict(c.point) for c in specs]
    varies = {key for p in points for key in p if len({str(q.get(key)) for q in points}) > 1}
    groups = []
    for c in specs:
        runs = {r.identity.seed: r for r in records if identity(r.identity) == identity(c)}
        runs = {seed: runs[seed] for seed in sorted(runs) if seed in c.seeds}
        point = {k: v for k, v in c.point.items() if k in varies}  # one value for all cells distinguishes none
        cell: dict[str, Any] = {name: getattr(c, name) for name in CELL}
        folder = c.dataset, c.model, f"{c.mode}-{c.loss}", c.config_hash
        found = {seed: (failures or {}).get((*folder, f"seed={seed}")) for seed in c.seeds}
        failed = {seed: reason for seed, reason in found.items() if reason}
        groups.append(
            Group(**cell, runs=runs, seeds=tuple(c.seeds), point=point, config=asdict(c.config), failed=failed)
        )
    used = {id(run) for g in groups for run in g.runs.values()}
    kinds = {identity(g)[:4] for g in groups}
    others = [r for r in records if id(r) not in used and identity(r.identity)[:4] in kinds]
    return groups, ungrouped_runs(others)


def setting(g: Group) -> tuple[str, ...]:
    """The settings that two groups must share for a comparison of scores; the budget of their searches may differ."""
    return g.mode, g.variant, *other_settings(g.config)


def mixed(group: Group) -> list[str]:
    """Differences among runs of a cell, or parts of a run, that should not exist: precision, texts, and the machine or
    code after an interruption. For devices see `timed`."""
    found = []
    for key, word in (("precision", "precisions"), ("fingerprint", "texts")):
        values = sorted({str(run.result.get(key)) for run in group.runs.values()})
        if len(values) > 1:
            found.append(f"{group.name} mixes {word}: {', '.join(v[:12] for v in values)}")
    settings = [dict((run.result.get("config") or {}).get("trainer") or {}) for run in group.runs.values()]
    for mine in settings:
        if (mine.get("grad_cache_chunk") or 0) >= mine.get("batch_size", inf):  # a chunk of the whole batch is none
            mine["grad_cache_chunk"] = None
    for key in ("grad_cache_chunk", "num_length_buckets"):  # other masks of dropout
        values = sorted({str(mine.get(key)) for mine in settings})
        if len(values) > 1:
            found.append(f"{group.name} mixes values of trainer.{key}: {', '.join(values)}")
    for seed, run in group.runs.items():
        if changes := run.result.get("resumed_on"):
            found.append(f"{group.name}, seed {seed}, went on otherwise than it began: {'; '.join(map(str, changes))}")
    return found


def unlike(groups: Sequence[Group]) -> list[str]:
    """Differences between the losses of a data set and model that may explain a difference of their scores: code,
    precision and device, with the losses of each. None where all losses have the same by seed."""
    found = []
    for block in blocks(groups, "dataset", "model").values():
        for key, word in (("code", "versions of the code"), ("precision", "precisions"), ("device_name", "devices")):
            losses: dict[str, dict[str, None]] = defaultdict(dict)
            seeds: dict[str, set[tuple[int, str]]] = defaultdict(set)
            for g in block:
                for seed, run in g.runs.items():
                    losses[value := str(run.result.get(key) or "not recorded")][g.loss_name] = None
                    seeds[g.loss_name].add((seed, value))
            if len(losses) > 1 and len(set(map(frozenset, seeds.values()))) > 1:
                values = "; ".join(f"{value} ({', '.join(names)})" for value, names in losses.items())
                found.append(f"{block[0].place}: the runs are of {len(losses)} {word}: {values}")
    return found
