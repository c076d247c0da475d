"""Our own experiments: what the paper leaves unanswered."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from gloss.config import CE, INTEGRATED, AblationConfig
from gloss.losses.registry import is_graph
from gloss.paper.names import dataset_name, loss_name, model_name, paper_order
from gloss.report.figure import Drawing
from gloss.report.figures.sweeps import by_loss, others, setting
from gloss.report.seed_groups import Group, is_comparable, mean_std, off_protocol
from gloss.report.seed_groups import setting as protocol_of
from gloss.report.statistics import mean, std, t_interval
from gloss.report.table import MISSING, Entry, Part, Table, entry, mark, rank
from gloss.report.tables.comparisons import Claim, difference_numbers, difference_texts
from gloss.report.tables.results import common_notes, missing, seeds_text


def few_shot(groups: Sequence[Group]) -> Drawing | None:
    return by_loss(
        "few_shot", "Few training texts", groups, "dataset.train_limit", "Training texts (log scale)", log=True
    )


def label_noise(groups: Sequence[Group]) -> Drawing | None:
    label = "Training labels changed (%)"
    return by_loss("label_noise", "Wrong training labels", groups, "ablation.label_noise", label, percent=True)


def graph_noise(groups: Sequence[Group]) -> Drawing | None:
    """Test accuracy against noise, with cross-entropy alone and shuffled graphs, and what of the gain these keep."""
    label = "Noise on the graph's unit embeddings (std)"
    drawing = by_loss("graph_noise", "A noisy graph", groups, "ablation.graph_noise", label, across=True)
    if drawing is not None:
        drawing.notes[:0] = shuffle_notes(groups)
    return drawing


def shuffle_notes(groups: Sequence[Group]) -> list[str]:
    """A sentence a data set, model, mode and graph loss: the share of its gain over cross-entropy that is there with a
    shuffled graph too, paired by seed. No share where the gain itself is not resolved: it would divide by noise."""

    def scores(loss: str, mode: str, is_shuffled: bool) -> dict[int, float]:
        found = [g for g in block if (g.loss, g.mode) == (loss, mode) and not setting(g, "ablation.graph_noise")]
        found = [g for g in found if bool((g.config.get("ablation") or {}).get("graph_shuffle")) is is_shuffled]
        return found[0].test("accuracy") if found else {}

    notes = []
    for dataset, model in dict.fromkeys((g.dataset, g.model) for g in groups):
        block = [g for g in groups if (g.dataset, g.model) == (dataset, model)]
        ce = scores(CE, INTEGRATED, False)
        for loss, mode in dict.fromkeys((g.loss, g.mode) for g in block if is_graph(g.loss)):
            own, shuffled = scores(loss, mode, False), scores(loss, mode, True)
            seeds = [seed for seed in own if seed in shuffled and seed in ce]
            if not seeds:
                continue
            gains = [own[s] - ce[s] for s in seeds]
            kept = [shuffled[s] - ce[s] for s in seeds]
            interval = t_interval(gains)
            fair = not any(off_protocol(g) for g in block if g.runs)
            where = f"{dataset_name(dataset)}, {model_name(model)}, {loss_name(loss, mode)} ({mode}, n={len(seeds)})"
            gain = f"{mean(gains):+.2f} points" + (
                f", 95 % {interval[0]:+.2f} to {interval[1]:+.2f}" if interval else ""
            )
            if not fair:
                survives = f"gain over CE {gain}; runs off the paper's protocol bear no verdict"
            elif interval and interval[0] > 0:
                survives = f"{100 * mean(kept) / mean(gains):.0f} % of its gain over CE ({gain}) survives the shuffle"
            else:
                survives = f"its gain over CE ({gain}) is not above 0 beyond doubt, so no share of it can be named"
            notes.append(f"{where}: {survives}; shuffled it is {mean(kept):+.2f} from CE.")
    return notes


def graph_size(groups: Sequence[Group]) -> Drawing | None:
    label = "Texts a batch, so nodes of the graph (log scale)"
    return by_loss("graph_size", "Larger graphs", groups, "trainer.batch_size", label, log=True, with_time=True)


def shift(groups: Sequence[Group]) -> Table:
    """Trained on one set, tested on its own test split and on others'; a line a set and loss, a column a tested set."""
    splits = {id(g): {g.dataset: "test", **_other_splits(g)} for g in groups}
    tested = list(dict.fromkeys(x for g in groups for x in (g.dataset, *splits[id(g)])))
    tested.sort(key=paper_order)
    rows, data = [], []
    has_modes = len({g.mode for g in groups}) > 1
    for dataset, model in dict.fromkeys((g.dataset, g.model) for g in groups):
        block = [g for g in groups if (g.dataset, g.model) == (dataset, model)]
        scores = {
            (id(g), name): g.values("metrics", split, "accuracy")
            for g in block
            for name, split in splits[id(g)].items()
        }
        columns = []
        for name in tested:
            values = [list(scores.get((id(g), name), {}).values()) for g in block]
            shown = [
                Entry((Part(mean_std(v)),), seeds_text(g, len(v))) if v else Entry()
                for g, v in zip(block, values, strict=True)
            ]
            means = pd.Series([mean(v) if v else math.nan for v in values])
            columns.append(mark(shown, list(means.groupby([" ".join(protocol_of(g)) for g in block]).transform(rank))))
        for i, g in enumerate(block):
            inside = scores[id(g), dataset]
            outside = [scores[id(g), name] for name in splits[id(g)] if name != dataset]
            seeds = [seed for seed in inside if outside and all(seed in found for found in outside)]
            drop = [inside[seed] - mean([found[seed] for found in outside]) for seed in seeds]
            label = loss_name(g.loss, g.mode) + (f" ({g.mode})" if has_modes else "") + others(g, "ablation.test_on")
            keys = [dataset_name(dataset), model_name(model), label]
            drops = entry(mean_std(drop) if drop else MISSING)
            rows.append([*map(entry, keys), *(column[i] for column in columns), drops])
            for name in splits[id(g)]:
                found = list(scores[id(g), name].values())
                where = {"trained_on": dataset, "tested_on": name, "model": model, "mode": g.mode, "loss": g.loss}
                data.append({**where, **g.point, "n": len(found), "accuracy": mean(found) if found else None})
    notes = [
        "Accuracy (%), mean ± standard deviation (n - 1), in brackets the number of seeds. Drop: from the own test "
        "split to the mean of the other columns, paired by seed.",
        *common_notes(groups),
    ]
    heads = ["Trained on", "Model", "Loss", *(f"on {dataset_name(name)}" for name in tested), "Drop"]
    return Table("shift", "Another domain", heads, rows, data, notes, missing(groups), num_keys=3)


def _other_splits(g: Group) -> dict[str, str]:
    """The split of a record by the name of the other set that it is of."""
    found = AblationConfig(test_on=(g.config.get("ablation") or {}).get("test_on")).tested_on
    return {name: split for split, name in found.items()}


def variant(groups: Sequence[Group]) -> tuple[Table, list[Claim]]:
    """The paper's formulas against the released code's, paired by seed; a line a data set and loss."""
    rows, data, claims = [], [], []
    by_key: dict[tuple[str, ...], dict[str, Group]] = {}
    for g in groups:
        by_key.setdefault((g.dataset, g.model, g.mode, g.loss, others(g, "variant")), {})[g.variant] = g
    for (dataset, model, mode, loss, rest), found in by_key.items():
        pair = [found.get(name) for name in ("paper", "released")]
        left, right = ({} if g is None else g.test("accuracy") for g in pair)
        differences = [left[seed] - right[seed] for seed in right if seed in left]
        where = f"{loss_name(loss, mode)}{rest}, {model_name(model)} on {dataset_name(dataset)}"
        fair = all(is_comparable(g.config) for g in found.values())
        claim = Claim("Variants", "The paper's formulas beat the released code's", where, differences, fair)
        claims += [claim] if differences else []
        means = [mean([*x.values()]) if x else None for x in (left, right)]
        shown = [
            entry(mean_std([*x.values()]), suffix=seeds_text(g, len(x))) if x else Entry()
            for g, x in zip(pair, (left, right), strict=True)
        ]
        names = [dataset_name(dataset), model_name(model), mode, loss_name(loss, mode) + rest]
        rows.append([*names, *mark(shown, rank(means)), *difference_texts(differences), claim.verdict or MISSING])
        data.append({"dataset": dataset, "model": model, "mode": mode, "loss": loss, "pairs": len(differences)})
        data[-1] |= {"paper": means[0], "released": means[1], **difference_numbers(differences)}
        data[-1]["difference_std"] = std(differences) if len(differences) > 1 else None
    notes = [
        "Accuracy (%), in brackets the number of seeds; Δ: paper minus released, paired by seed.",
        "Claim: whether the paper's formulas do better; runs off the paper's protocol bear none.",
        *common_notes(groups, swept=["variant"]),
    ]
    heads = ["Data set", "Model", "Mode", "Loss", "variant=paper", "variant=released", "Δ", "95 % interval", "Claim"]
    title = "The paper's formulas and the released code"
    return Table("variant", title, heads, rows, data, notes, missing(groups), num_keys=4), claims
