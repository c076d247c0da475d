"""One loss against another, paired by data set and seed: Table 9 and the claims; and Table 5, against other systems."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gloss.config import INTEGRATED, STANDALONE
from gloss.paper import published as paper
from gloss.paper.names import dataset_name, loss_name, model_name, paper_order
from gloss.records.reading import number
from gloss.report.seed_groups import Group, departures, is_comparable
from gloss.report.statistics import MAX_PAIRS, claim, holm, mean, paired_t, sign_flip, smallest_p, t_interval
from gloss.report.table import MISSING, Entry, Part, Table, entry, mark, rank
from gloss.report.tables.results import common_notes, missing

Pairs = dict[tuple[str, str], dict[int, tuple[float, float]]]  # by (data set, model): by seed: (ours, the rival's)
RIVALS = ("scl", "cosine", "triplet")


@dataclass(frozen=True)
class Claim:
    """A sentence of the summary, and the paired differences in points that speak for or against it."""

    source: str
    text: str
    where: str
    differences: list[float]
    is_comparable: bool = True  # False: runs off the paper's protocol, which bear no verdict

    @property
    def verdict(self) -> str:
        return claim(self.differences) if self.is_comparable else ""


def pairs(groups: Sequence[Group], ours: str, rival: str, metric: str = "accuracy") -> Pairs:
    """The test scores of two losses where both ran the same data set, model and seed. groups: of one mode."""
    found: Pairs = {}
    plain = {(g.dataset, g.model, g.loss): g for g in groups if not g.point}
    for dataset, model in dict.fromkeys((g.dataset, g.model) for g in groups):
        a, b = plain.get((dataset, model, ours)), plain.get((dataset, model, rival))
        if a and b:
            left, right = a.test(metric), b.test(metric)
            if both := {seed: (left[seed], right[seed]) for seed in left if seed in right}:
                found[dataset, model] = both
    return found


def table9(groups: Sequence[Group]) -> list[Table]:
    """Paired tests of G-Loss-O against each rival on the accuracies of Table 3's runs: pooled, and within data sets."""
    groups = [g for g in groups if g.mode == STANDALONE]
    by_rival = {rival: pairs(groups, "gloss_o", rival) for rival in RIVALS}
    pooled = {rival: [x for block in found.values() for x in block.values()] for rival, found in by_rival.items()}
    off = {(g.loss, g.dataset, g.model) for g in groups if not g.point and not is_comparable(g.config)}
    within = {(r, d, m): list(by_rival[r][d, m].values()) for r in RIVALS for d, m in by_rival[r]}
    unjudged = {(r, d, m) for r, d, m in within if {(r, d, m), ("gloss_o", d, m)} & off}
    table = _tests(pooled, {r for r, _, _ in unjudged})
    rows = []
    for (rival, tested), published in zip(table.items(), _published9(), strict=True):
        rows.append([entry(f"G-Loss-O against {loss_name(rival)}"), entry("ours"), *_entries(tested)])
        printed = [f"{float(published[k]):.2f}" for k in ("gloss_mean", "baseline_mean", "difference")]
        p = f"{float(published['p_value']):.4f}"
        rows.append([entry(""), entry("paper"), *map(entry, printed), Entry(), entry(p), *[Entry()] * 5])
    columns = ["Comparison", "", *_HEADS]
    data = [{"rival": rival, **_row(tested)} for rival, tested in table.items()]
    relevant = [g for g in groups if g.loss == "gloss_o" or g.loss in RIVALS]
    notes = [
        "Accuracy in points, paired by data set and seed. t: paired t-test, as in the paper; sign-flip: exact "
        "two-sided permutation test; Holm: its p adjusted for the rows of this table; least p: the smallest that so "
        "many pairs can reach.",
        "Claim: supported if the 95 % interval of the difference lies above 0, contradicted if below, no practical "
        "difference if within ± 0.5 points, else inconclusive; runs off the paper's protocol bear none.",
        "Pooling takes the pairs of all data sets as exchangeable; the second table does not.",
        *paper.table9_notes(),
        *common_notes(relevant),
    ]
    title = "Table 9: paired tests of G-Loss-O on Table 3's runs"
    first = Table("table9", title, columns, rows, data, notes, missing(relevant), num_keys=2)
    tests = _tests(within, unjudged)
    rows = [
        [entry(f"G-Loss-O against {loss_name(r)}"), entry(dataset_name(d)), entry(model_name(m)), *_entries(tested)]
        for (r, d, m), tested in tests.items()
    ]
    data = [{"rival": r, "dataset": d, "model": m, **_row(tested)} for (r, d, m), tested in tests.items()]
    second = Table(
        "table9_within", "Within each data set", ["Comparison", "Data set", "Model", *_HEADS], rows, data, num_keys=3
    )
    return [first, second] if rows else [first]


_HEADS = ["G-Loss", "Rival", "Δ", "95 % interval", "p (t)", "p (sign-flip)", "Holm", "Least p", "Pairs", "Claim"]


def _published9() -> list[dict[str, str]]:
    by_rival = {row["comparison"].split(" vs ")[1]: row for row in paper.rows("table9")}
    return [by_rival[rival] for rival in RIVALS]


@dataclass(frozen=True)
class _Tested:
    values: list[tuple[float, float]]
    p_t: float | None
    p_flip: float | None
    p_holm: float | None
    is_comparable: bool

    @property
    def differences(self) -> list[float]:
        return [a - b for a, b in self.values]

    @property
    def claim(self) -> str:
        return claim(self.differences) if self.is_comparable else ""


def _tests(values: Mapping[Any, list[tuple[float, float]]], unjudged: Collection[Any]) -> dict[Any, _Tested]:
    differences = {key: [a - b for a, b in v] for key, v in values.items()}
    flips = [sign_flip(d) if len(d) <= MAX_PAIRS else None for d in differences.values()]
    adjusted = holm(flips)
    return {
        key: _Tested(values[key], paired_t(d), flip, p, key not in unjudged)
        for (key, d), flip, p in zip(differences.items(), flips, adjusted, strict=True)
    }


def _entries(t: _Tested) -> list[Entry]:
    if not t.values:
        return [Entry()] * 8 + [entry(0), Entry()]
    interval = t_interval(t.differences)
    shown = f"{interval[0]:+.2f} to {interval[1]:+.2f}" if interval else MISSING
    means = [f"{mean([pair[k] for pair in t.values]):.2f}" for k in (0, 1)]
    ps = [MISSING if p is None else _p(p) for p in (t.p_t, t.p_flip, t.p_holm, smallest_p(len(t.values)))]
    texts = [*means, f"{mean(t.differences):+.2f}", shown, *ps, str(len(t.values)), t.claim or MISSING]
    return [entry(text) for text in texts]


def _p(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}"


def _row(t: _Tested) -> dict[str, object]:
    interval = t_interval(t.differences) or (None, None)
    return {
        "pairs": len(t.values),
        "gloss_mean": mean([a for a, _ in t.values]) if t.values else None,
        "rival_mean": mean([b for _, b in t.values]) if t.values else None,
        "difference": mean(t.differences) if t.values else None,
        "low": interval[0],
        "high": interval[1],
        "p_t": t.p_t,
        "p_sign_flip": t.p_flip,
        "p_holm": t.p_holm,
        "smallest_p": smallest_p(len(t.values)) if t.values else None,
        "claim": t.claim or None if t.values else None,
    }


def claims(experiment: str, groups: Sequence[Group]) -> list[Claim]:
    """ "A beats B" for each G-Loss variant and rival of an experiment: accuracy, per model, over its data sets."""
    found = []
    for model, mode in dict.fromkeys((g.model, g.mode) for g in groups):
        mine = [g for g in groups if (g.model, g.mode) == (model, mode)]
        losses = list(dict.fromkeys(g.loss for g in mine))
        for ours in (x for x in losses if x.startswith("gloss")):
            for rival in (x for x in losses if not x.startswith("gloss")):
                blocks = pairs(mine, ours, rival)
                differences = [a - b for block in blocks.values() for a, b in block.values()]
                if not differences:
                    continue
                both = [g for g in mine if g.loss in (ours, rival) and (g.dataset, g.model) in blocks and not g.point]
                fair = all(is_comparable(g.config) for g in both)
                released = any(departures(g.config) for g in both)
                mark = (" (released)" if released else "") if fair else " (not the paper's protocol)"
                text = f"{loss_name(ours, mode)} beats {loss_name(rival, mode)}"
                where = f"{model_name(model)} on {', '.join(dataset_name(d) for d, _ in blocks)}{mark}"
                found.append(Claim(experiment, text, where, differences, fair))
    return found


def claims_table(found: Sequence[Claim]) -> Table:
    """What the runs say about each claim."""
    rows, data = [], []
    for c in found:
        interval = t_interval(c.differences)
        shown = f"{interval[0]:+.2f} to {interval[1]:+.2f}" if interval else MISSING
        texts = [c.where, f"{mean(c.differences):+.2f}", shown, str(len(c.differences))]
        rows.append([entry(c.source), entry(c.text), Entry((Part("", verdict=c.verdict),)), *map(entry, texts)])
        low, high = interval or (None, None)
        data.append({"source": c.source, "claim": c.text, "where": c.where, "difference": mean(c.differences)})
        data[-1] |= {"low": low, "high": high, "pairs": len(c.differences), "verdict": c.verdict or None}
    notes = [
        "Difference of test accuracies in points, paired by data set and seed, and its 95 % t interval. Supported: "
        "interval above 0; contradicted: below; no practical difference: within ± 0.5; else inconclusive. Runs off the "
        "paper's protocol bear no verdict."
    ]
    columns = ["From", "Claim", "Verdict", "Where", "Δ", "95 % interval", "Pairs"]
    return Table("claims", "What the numbers say", columns, rows, data, notes, num_keys=4)


def table5(groups: Sequence[Group], tfidf: Sequence[dict[str, Any]]) -> Table:
    """Published systems, a TF-IDF classifier measured here, and G-Loss: variant chosen on validation, mean and best.

    groups: Table 2's; tfidf: the measured baselines. Ours is ranked where it keeps the paper's protocol.
    """
    groups = [g for g in groups if g.mode == INTEGRATED]
    datasets = sorted({g.dataset for g in groups}, key=lambda d: paper_order(d))
    published = {row["model"]: row for row in paper.rows("table5")}
    values: dict[str, list[float | None]] = {
        system: [number({k: float(v) for k, v in published[system].items() if k in datasets}, d) for d in datasets]
        for system in paper.SYSTEMS
    }
    measured = {r["dataset"]: number(r, "test", "accuracy") for r in tfidf}
    values["TF-IDF + linear classifier (measured here)"] = [measured.get(d) for d in datasets]
    suffix: dict[tuple[str, str], str] = {}
    unranked: set[tuple[str, str]] = set()
    best: dict[str, list[tuple[float, int] | None]] = {}
    data = [
        {"system": s, "dataset": d, "accuracy": v}
        for s, vs in values.items()
        for d, v in zip(datasets, vs, strict=True)
    ]
    for model in dict.fromkeys(g.model for g in groups):
        name = f"G-Loss + {model_name(model)} (ours, mean)"
        values[name], best[name] = [], []
        for dataset in datasets:
            chosen = choose_on_validation([g for g in groups if (g.dataset, g.model) == (dataset, model)])
            scores = chosen.test("accuracy") if chosen else {}
            centre = mean(list(scores.values())) if scores else None
            top = max(scores.items(), key=lambda x: (x[1], -x[0])) if scores else None
            values[name].append(centre)
            best[name].append(top and (top[1], top[0]))
            if chosen and scores:
                unranked |= {(name, dataset)} if departures(chosen.config) else set()
                suffix[name, dataset] = f"{loss_name(chosen.loss).removeprefix('G-Loss-')} ({len(scores)})"
            data.append(
                {
                    **{"system": name, "dataset": dataset, "accuracy": centre, "n": len(scores)},
                    **{"chosen": chosen.loss if chosen and scores else None, "best_seed_accuracy": top and top[1]},
                }
            )
    columns = []
    for i, dataset in enumerate(datasets):
        numbers = [v[i] for v in values.values()]
        entries = [
            Entry() if v is None else Entry((Part(f"{v:.2f}"),), suffix.get((name, dataset), ""))
            for name, v in zip(values, numbers, strict=True)
        ]
        ranked = [None if (name, dataset) in unranked else v for name, v in zip(values, numbers, strict=True)]
        columns.append(mark(entries, rank(ranked)))
    rows = []
    for j, name in enumerate(values):
        row = [column[j] for column in columns]
        if name not in paper.SYSTEMS or any(e != Entry() for e in row):
            rows.append([entry(name), *row])
        if name in best:
            tops = [Entry() if b is None else entry(f"{b[0]:.2f}", suffix=f"[seed {b[1]}]") for b in best[name]]
            rows.append([entry(name.replace("mean", "best seed")), *tops])
    for system in ("G-Loss + BERT-base", "G-Loss + RoBERTa-large"):
        printed = [published[system].get(d) for d in datasets]
        if any(printed):
            rows.append([entry(f"{system} (paper)"), *(entry(p or MISSING) for p in printed)])
    relevant = [g for g in groups if g.loss.startswith("gloss")]
    notes = [
        "Ours: O or SQRT is the G-Loss variant, chosen by mean validation accuracy; in brackets the number of seeds.",
        "Best seed: the highest test accuracy among the seeds, so chosen on the test split: an optimistic number, "
        "shown because the paper prints one number a cell. It and the paper's own rows are not ranked.",
        *(["Runs of ours that leave the paper's protocol are not ranked."] if unranked else []),
        paper.table5_note(),
        "Systems from their own publications, as the paper quotes them.",
        *([] if measured else ["TF-IDF: not measured yet."]),
        *common_notes(relevant),
    ]
    title = "Table 5: against published systems, accuracy (%)"
    return Table("table5", title, ["System", *map(dataset_name, datasets)], rows, data, notes, missing(relevant))


def choose_on_validation(groups: Sequence[Group]) -> Group | None:
    """Of the G-Loss groups, the one with the highest mean validation accuracy; first on a tie, None if none ran."""
    scored = []
    for g in groups:
        values = list(g.values("metrics", "val", "accuracy").values())
        if g.loss.startswith("gloss") and values and not g.point:
            scored.append((mean(values), g))
    return max(scored, key=lambda x: x[0])[1] if scored else None
