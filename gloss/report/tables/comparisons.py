"""One loss against another, paired by data set and seed: Table 9 and the claims; and Table 5, against other systems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gloss.config import INTEGRATED, STANDALONE
from gloss.paper import published as paper
from gloss.paper.names import dataset_name, loss_name, model_name, paper_order
from gloss.records.reading import number
from gloss.report.seed_groups import Group, is_comparable, protocol_deviations
from gloss.report.statistics import MAX_PAIRS, claim, holm, mean, paired_t, sign_flip, smallest_p, t_interval
from gloss.report.table import MISSING, Entry, Part, Table, entry, number_text, rank
from gloss.report.tables.results import common_notes, missing

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


def difference_texts(differences: Sequence[float]) -> list[str]:
    """The mean difference and its 95 % interval, as printed; dashes where there is none."""
    low, high = t_interval(differences) or (None, None)
    shown = MISSING if low is None else f"{low:+.2f} to {high:+.2f}"
    return [f"{mean(differences):+.2f}" if differences else MISSING, shown]


def difference_numbers(differences: Sequence[float]) -> dict[str, float | None]:
    """As `difference_texts`, for a CSV file."""
    low, high = t_interval(differences) or (None, None)
    return {"difference": mean(differences) if differences else None, "low": low, "high": high}


def scores(groups: Sequence[Group]) -> pd.DataFrame:
    """Return the test accuracies of the cells without swept settings: a row a data set, model and seed, a column a
    loss; NaN where a loss did not run. groups: of one mode."""
    plain, keys = [g for g in groups if not g.point], ["dataset", "model", "seed"]
    rows = [(g.dataset, g.model, seed, g.loss, x) for g in plain for seed, x in g.test("accuracy").items()]
    frame = pd.DataFrame(rows, columns=[*keys, "loss", "accuracy"]).drop_duplicates([*keys, "loss"], keep="last")
    order = frame[keys].drop_duplicates()
    return frame.pivot(index=keys, columns="loss", values="accuracy").reindex(pd.MultiIndex.from_frame(order))


def table9(groups: Sequence[Group]) -> list[Table]:
    """Paired tests of G-Loss-O against each rival on the accuracies of Table 3's runs: pooled, and within data sets."""
    groups = [g for g in groups if g.mode == STANDALONE and (g.loss == "gloss_o" or g.loss in RIVALS)]
    found = scores(groups).reindex(columns=["gloss_o", *RIVALS])
    off = {(g.dataset, g.model, g.loss) for g in groups if not g.point and not is_comparable(g.config)}
    pooled: dict[Any, tuple[pd.DataFrame, bool]] = {}
    within: dict[Any, tuple[pd.DataFrame, bool]] = {}
    for rival in RIVALS:
        pairs = found[["gloss_o", rival]].dropna()
        blocks = dict(list(pairs.groupby(["dataset", "model"], sort=False)))
        unjudged = {block for block in blocks if {(*block, "gloss_o"), (*block, rival)} & off}
        pooled[rival,] = (pairs, not unjudged)
        within |= {(rival, *block): (mine, block not in unjudged) for block, mine in blocks.items()}
    published = {row["comparison"].split(" vs ")[1]: row for row in paper.rows("table9")}
    rows, first, second = [], *map(_tests, (pooled, within))
    for (rival,), tested in first.items():
        rows.append([f"G-Loss-O against {loss_name(rival)}", "ours", *_shown(tested)])
        printed = [f"{float(published[rival][key]):.2f}" for key in ("gloss_mean", "baseline_mean", "difference")]
        p = f"{float(published[rival]['p_value']):.4f}"
        rows.append(["", "paper", *printed, MISSING, p, *[MISSING] * 5])
    notes = [
        "Accuracy in points, paired by data set and seed. t: paired t-test, as in the paper; sign-flip: exact "
        "two-sided permutation test; Holm: its p adjusted for the rows of this table; least p: the smallest that so "
        "many pairs can reach.",
        "Claim: supported if the 95 % interval of the difference lies above 0, contradicted if below, no practical "
        "difference if within ± 0.5 points, else inconclusive; runs off the paper's protocol bear none.",
        "Pooling takes the pairs of all data sets as exchangeable; the second table does not.",
        *paper.table9_notes(),
        *common_notes(groups),
    ]
    title = "Table 9: paired tests of G-Loss-O on Table 3's runs"
    data = [{"rival": rival, **tested} for (rival,), tested in first.items()]
    tables = [Table("table9", title, ["Comparison", "", *_HEADS], rows, data, notes, missing(groups), num_keys=2)]
    if second:
        rows = [
            [f"G-Loss-O against {loss_name(r)}", dataset_name(d), model_name(m), *_shown(tested)]
            for (r, d, m), tested in second.items()
        ]
        data = [{"rival": r, "dataset": d, "model": m, **tested} for (r, d, m), tested in second.items()]
        columns = ["Comparison", "Data set", "Model", *_HEADS]
        tables.append(Table("table9_within", "Within each data set", columns, rows, data, num_keys=3))
    return tables


_HEADS = ["G-Loss", "Rival", "Δ", "95 % interval", "p (t)", "p (sign-flip)", "Holm", "Least p", "Pairs", "Claim"]


def _tests(pairs: dict[Any, tuple[pd.DataFrame, bool]]) -> dict[Any, dict[str, Any]]:
    """A row of tests for each key. pairs: our accuracies and the rival's, and whether they bear a claim."""
    rows: dict[Any, dict[str, Any]] = {}
    for key, (found, is_fair) in pairs.items():
        ours, rival = (found[column].tolist() for column in found)
        d = [a - b for a, b in zip(ours, rival, strict=True)]
        rows[key] = {"pairs": len(d), "gloss_mean": mean(ours) if d else None, "rival_mean": mean(rival) if d else None}
        rows[key] |= {**difference_numbers(d), "p_t": paired_t(d)}
        rows[key] |= {"p_sign_flip": sign_flip(d) if len(d) <= MAX_PAIRS else None, "p_holm": None}
        rows[key] |= {"smallest_p": smallest_p(len(d)) if d else None, "claim": claim(d) if d and is_fair else None}
    for row, p in zip(rows.values(), holm([row["p_sign_flip"] for row in rows.values()]), strict=True):
        row["p_holm"] = p
    return rows


def _shown(t: dict[str, Any]) -> list[str]:
    interval = MISSING if t["low"] is None else f"{t['low']:+.2f} to {t['high']:+.2f}"
    difference = MISSING if t["difference"] is None else f"{t['difference']:+.2f}"
    ps = [t[key] for key in ("p_t", "p_sign_flip", "p_holm", "smallest_p")]
    texts = [MISSING if p is None else f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}" for p in ps]
    means = [number_text(t["gloss_mean"]), number_text(t["rival_mean"])]
    return [*means, difference, interval, *texts, str(t["pairs"]), t["claim"] or MISSING]


def claims(experiment: str, groups: Sequence[Group]) -> list[Claim]:
    """ "A beats B" for each G-Loss variant and rival of an experiment: accuracy, per model, over its data sets."""
    found = []
    for model, mode in dict.fromkeys((g.model, g.mode) for g in groups):
        mine = [g for g in groups if (g.model, g.mode) == (model, mode)]
        accuracies, losses = scores(mine), list(dict.fromkeys(g.loss for g in mine))
        for ours in (x for x in losses if x.startswith("gloss") and x in accuracies):
            for rival in (x for x in losses if not x.startswith("gloss") and x in accuracies):
                pairs = accuracies[[ours, rival]].dropna()
                if pairs.empty:
                    continue
                datasets = list(dict.fromkeys(pairs.index.get_level_values("dataset")))
                both = [g for g in mine if g.loss in (ours, rival) and g.dataset in datasets and not g.point]
                fair = all(is_comparable(g.config) for g in both)
                released = any(protocol_deviations(g.config) for g in both)
                mark = (" (released)" if released else "") if fair else " (not the paper's protocol)"
                text = f"{loss_name(ours, mode)} beats {loss_name(rival, mode)}"
                where = f"{model_name(model)} on {', '.join(map(dataset_name, datasets))}{mark}"
                found.append(Claim(experiment, text, where, (pairs[ours] - pairs[rival]).tolist(), fair))
    return found


def claims_table(found: Sequence[Claim]) -> Table:
    """What the runs say about each claim."""
    rows, data = [], []
    for c in found:
        judged = Entry((Part("" if c.verdict else MISSING, verdict=c.verdict),))
        rows.append([c.source, c.text, judged, c.where, *difference_texts(c.differences), len(c.differences)])
        data.append({"source": c.source, "claim": c.text, "where": c.where, **difference_numbers(c.differences)})
        data[-1] |= {"pairs": len(c.differences), "verdict": c.verdict or None}
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
    measured = {r["dataset"]: number(r, "test", "accuracy") for r in tfidf}
    known = {s: {d: float(x) for d, x in published[s].items() if d in datasets and x} for s in paper.SYSTEMS}
    known["TF-IDF + linear classifier (measured here)"] = measured
    pairs = [(system, d) for system in known for d in datasets]
    found: list[dict[str, Any]] = [
        {"system": s, "dataset": d, "accuracy": known[s].get(d), "is_ranked": True} for s, d in pairs
    ]
    best: dict[str, list[Entry]] = {}
    for model in dict.fromkeys(g.model for g in groups):
        name = f"G-Loss + {model_name(model)} (ours, mean)"
        best[name] = []
        for dataset in datasets:
            chosen = choose_on_validation([g for g in groups if (g.dataset, g.model) == (dataset, model)])
            scores = chosen.test("accuracy") if chosen else {}
            found.append({"system": name, "dataset": dataset, "accuracy": mean([*scores.values()]) if scores else None})
            found[-1] |= {"n": len(scores), "is_ranked": not (chosen and scores and protocol_deviations(chosen.config))}
            if chosen and scores:
                seed = max(scores, key=lambda seed: (scores[seed], -seed))
                suffix = f"{loss_name(chosen.loss).removeprefix('G-Loss-')} ({len(scores)})"
                found[-1] |= {"chosen": chosen.loss, "best_seed_accuracy": scores[seed], "suffix": suffix}
            best[name].append(entry(f"{scores[seed]:.2f}", suffix=f"[seed {seed}]") if scores else Entry())
    rows = []
    if datasets:
        frame = pd.DataFrame(found)
        ranked = frame["accuracy"].astype(float).where(frame["is_ranked"]).groupby(frame["dataset"])
        places = ranked.transform(lambda column: rank(column))
        cells = [
            Entry((Part(number_text(x["accuracy"]), place),), x.get("suffix", ""))
            for x, place in zip(found, places, strict=True)
        ]
        for i, name in enumerate(frame["system"].unique()):
            row = cells[i * len(datasets) : (i + 1) * len(datasets)]
            if name not in paper.SYSTEMS or any(e != Entry() for e in row):
                rows.append([name, *row])
            if name in best:
                rows.append([name.replace("mean", "best seed"), *best[name]])
    for system in ("G-Loss + BERT-base", "G-Loss + RoBERTa-large"):
        printed = [published[system].get(d) for d in datasets]
        if any(printed):
            rows.append([f"{system} (paper)", *(p or MISSING for p in printed)])
    relevant = [g for g in groups if g.loss.startswith("gloss")]
    unranked = not all(x["is_ranked"] for x in found)
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
    data = [{key: x for key, x in row.items() if key not in ("is_ranked", "suffix")} for row in found]
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
