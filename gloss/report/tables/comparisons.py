"""Comparisons: losses paired by seed (Table 9, the claims), variants, domains, and other systems (Table 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from gloss.config import INTEGRATED, STANDALONE, AblationConfig
from gloss.paper import published as paper
from gloss.paper.names import dataset_name, loss_name, model_name, paper_order
from gloss.records.reading import number
from gloss.report.protocol import is_comparable, protocol_deviations
from gloss.report.seed_groups import Group, blocks, setting
from gloss.report.statistics import claim, holm, mean, paired_t, sign_flip, smallest_p, std, t_interval
from gloss.report.table import MISSING, Entry, Table, entry, mean_std, number_text, rank, scored
from gloss.report.tables.reference import TFIDF
from gloss.report.tables.results import RANKS, common_notes, missing, seeds_text, swept_note

RIVALS = ("scl", "cosine", "triplet")
MEASURED = f"{TFIDF} (measured here)"
CLAIMS = (
    "supported if the 95 % t interval of the difference lies above 0, contradicted if below, no practical difference "
    "if within ± 0.5 points, else inconclusive; runs off the paper's protocol bear none."
)


def paired(pair: pd.DataFrame, is_fair: bool) -> dict[str, Any]:
    """Tests of the first column's accuracies against the second's, paired by row; None where there is no number.

    is_fair: whether they bear a claim: runs off the paper's protocol bear none.
    """
    left, right = (column.tolist() for _, column in pair.dropna().items())
    d = [a - b for a, b in zip(left, right, strict=True)]
    low, high = t_interval(d) or (None, None)
    return {
        "pairs": len(d),
        "gloss_mean": mean(left),
        "rival_mean": mean(right),
        "difference": mean(d) if d else None,
        "low": low,
        "high": high,
        "p_t": paired_t(d),
        "p_sign_flip": sign_flip(d),
        "p_holm": None,
        "smallest_p": smallest_p(len(d)) if d else None,
        "claim": claim(d) if d and is_fair else None,
    }


def difference_texts(found: dict[str, Any]) -> list[str]:
    """The difference and its interval, of `paired`, as printed; dashes where there is none."""
    shown = MISSING if found["low"] is None else f"{found['low']:+.2f} to {found['high']:+.2f}"
    return [number_text(found["difference"], sign="+"), shown]


def scores(groups: Sequence[Group]) -> pd.DataFrame:
    """Return the test accuracies of the cells without swept settings: a row a data set, model and seed, a column a
    loss; NaN where a loss did not run. groups: of one mode."""
    plain, keys = [g for g in groups if not g.point], ["dataset", "model", "seed"]
    rows = [(g.dataset, g.model, seed, g.loss, x) for g in plain for seed, x in g.test("accuracy").items()]
    frame = pd.DataFrame(rows, columns=[*keys, "loss", "accuracy"]).drop_duplicates([*keys, "loss"], keep="last")
    order = frame[keys].drop_duplicates()
    return frame.pivot(index=keys, columns="loss", values="accuracy").reindex(pd.MultiIndex.from_frame(order))


def table9(groups: Sequence[Group]) -> Table:
    """Paired tests of G-Loss-O against each rival on the accuracies of Table 3's runs: pooled, and within data sets."""
    groups = [g for g in groups if g.mode == STANDALONE and (g.loss == "gloss_o" or g.loss in RIVALS)]
    found = scores(groups).reindex(columns=["gloss_o", *RIVALS])
    off = {(g.dataset, g.model, g.loss) for g in groups if not g.point and not is_comparable(g.config)}
    variant_of = {(g.dataset, g.model, g.loss): g.variant for g in groups if g.runs and not g.point}
    pooled: dict[tuple[str, ...], dict[str, Any]] = {}
    within: dict[tuple[str, ...], dict[str, Any]] = {}
    for rival in RIVALS:
        pairs = found[["gloss_o", rival]].dropna()
        by_set = dict(list(pairs.groupby(["dataset", "model"], sort=False)))
        both = {place: [(*place, "gloss_o"), (*place, rival)] for place in by_set}
        variants = {place: {variant_of[key] for key in keys} for place, keys in both.items()}
        fair = {place: len(variants[place]) == 1 and not off.intersection(keys) for place, keys in both.items()}
        pooled[rival,] = paired(pairs, all(fair.values()) and len(set().union(*variants.values())) == 1)
        within |= {(rival, *place): paired(mine, fair[place]) for place, mine in by_set.items()}
    published = {row["comparison"].split(" vs ")[1]: row for row in paper.rows("table9")}
    rows, data = [], []
    for family in (pooled, within):
        adjusted = holm([tested["p_sign_flip"] for tested in family.values()])
        for ((rival, *place), tested), p in zip(family.items(), adjusted, strict=True):
            tested["p_holm"] = p
            dataset, model = place or (None, None)
            where = f"{dataset_name(dataset)}, {model_name(model)}" if place else "all"
            rows.append([f"G-Loss-O against {loss_name(rival)}", where, "ours", *_shown(tested)])
            data.append({"rival": rival, "dataset": dataset, "model": model, **tested})
            if not place:
                printed = [f"{float(published[rival][x]):.2f}" for x in ("gloss_mean", "baseline_mean", "difference")]
                p_t = f"{float(published[rival]['p_value']):.4f}"
                rows.append(["", "", "paper", *printed, MISSING, p_t, *[MISSING] * 5])
    notes = [
        "Accuracy in points, paired by data set and seed. t: paired t-test, as in the paper; sign-flip: exact "
        "two-sided permutation test; Holm: its p adjusted for the pooled rows, and for the rows of single data sets; "
        "smallest p: the least that so many pairs can reach.",
        f"Claim: {CLAIMS}",
        "Pooling takes the pairs of all data sets as exchangeable; the lines of single data sets do not.",
        paper.TABLE9_NOTE,
        *swept_note(groups),
        *common_notes(groups),
    ]
    columns = ["Comparison", "On", "", "G-Loss", "Baseline", "Δ", "95 % interval"]
    columns += ["p (t)", "p (sign-flip)", "Holm", "Smallest p", "Pairs", "Claim"]
    title = "Table 9: paired tests of G-Loss-O on Table 3's runs"
    return Table("table9", title, columns, rows, data, notes, missing(groups), num_keys=3)


def _shown(t: dict[str, Any]) -> list[str]:
    ps = [t[key] for key in ("p_t", "p_sign_flip", "p_holm", "smallest_p")]
    texts = [MISSING if p is None else f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}" for p in ps]
    means = [number_text(t["gloss_mean"]), number_text(t["rival_mean"])]
    return [*means, *difference_texts(t), *texts, str(t["pairs"]), t["claim"] or MISSING]


def claims(experiment: str, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """ "A beats B" for each G-Loss variant and rival of an experiment: accuracy, per model, over its data sets.

    Each is the result of `paired` with source, text and where.
    """
    found = []
    for (model, mode, _), mine in blocks(groups, "model", "mode", "variant").items():
        accuracies = scores(mine)
        losses = [x for x in dict.fromkeys(g.loss for g in mine) if x in accuracies]
        for ours in (x for x in losses if x.startswith("gloss")):
            for rival in (x for x in losses if not x.startswith("gloss")):
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
                found.append({"source": experiment, "text": text, "where": where} | paired(pairs, fair))
    return found


def claims_table(found: Sequence[dict[str, Any]]) -> Table:
    """The verdict of the runs on each claim."""
    rows = []
    for c in found:
        judged = entry("" if c["claim"] else MISSING, verdict=c["claim"] or "")
        rows.append([c["source"], c["text"], judged, c["where"], *difference_texts(c), c["pairs"]])
    data = pd.DataFrame(found, columns=["source", "text", "where", "difference", "low", "high", "pairs", "claim"])
    data = data.rename(columns={"text": "claim", "claim": "verdict"})
    notes = [
        f"Difference of test accuracies in points, paired by data set and seed. Verdict: {CLAIMS}",
        "Pooling takes the pairs of all data sets as exchangeable.",
    ]
    columns = ["Experiment", "Claim", "Verdict", "Where", "Δ", "95 % interval", "Pairs"]
    return Table("claims", "What the numbers say", columns, rows, data, notes, num_keys=4)


def table5(groups: Sequence[Group], tfidf: Sequence[dict[str, Any]]) -> Table:
    """Published systems, a TF-IDF classifier measured here, and G-Loss: variant chosen on validation, mean and best.

    groups: Table 2's; tfidf: the measured baselines. Ours is ranked where it keeps the paper's protocol.
    """
    groups = [g for g in groups if g.mode == INTEGRATED]
    datasets = sorted({g.dataset for g in groups}, key=lambda d: paper_order(d))
    published = {row["model"]: row for row in paper.rows("table5")}
    known = {s: {d: float(x) for d, x in published[s].items() if d in datasets and x} for s in paper.SYSTEMS}
    known = {s: found for s, found in known.items() if found}
    known[MEASURED] = {r["dataset"]: number(r, "test", "accuracy") for r in tfidf}
    relevant = [g for g in groups if g.loss.startswith("gloss")]
    models = {f"G-Loss + {model_name(g.model)} (ours, mean)": g.model for g in groups}
    columns: list[list[Entry]] = []
    best: dict[str, list[Entry]] = {name: [] for name in models}
    data = []
    for d in datasets:
        found: list[dict[str, Any]] = [{"system": s, "dataset": d, "accuracy": known[s].get(d)} for s in known]
        ranked, suffixes = [x["accuracy"] for x in found], [""] * len(found)
        for name, model in models.items():
            chosen = choose_on_validation([g for g in relevant if (g.dataset, g.model) == (d, model)])
            scores = chosen.test("accuracy") if chosen else {}
            found.append({"system": name, "dataset": d, "accuracy": mean(scores.values()), "n": len(scores)})
            if scores:
                suffixes.append(f"{loss_name(chosen.loss).removeprefix('G-Loss-')} ({len(scores)})")
                ranked.append(None if protocol_deviations(chosen.config) else found[-1]["accuracy"])
                seed = max(scores, key=scores.get)
                best[name].append(entry(f"{scores[seed]:.2f}", f"[seed {seed}]"))
                found[-1] |= {"chosen": chosen.loss, "best_seed_accuracy": scores[seed]}
            else:
                suffixes.append("")
                ranked.append(None)
                best[name].append(Entry())
        numbers = zip(found, suffixes, rank(ranked), strict=True)
        columns.append([entry(number_text(x["accuracy"]), suffix, place) for x, suffix, place in numbers])
        data += found
    rows = []
    for name, row in zip((*known, *models), zip(*columns, strict=True), strict=False):  # none without a data set
        rows.append([name, *row])
        if name in best:
            rows.append([name.replace("(ours, mean)", "(ours, best seed)"), *best[name]])
    for system in ("G-Loss + BERT-base", "G-Loss + RoBERTa-large"):
        printed = [published[system].get(d) for d in datasets]
        if any(printed):
            rows.append([f"{system} (paper)", *(p or MISSING for p in printed)])
    notes = [
        "Ours: O or SQRT is the G-Loss variant, chosen by mean validation accuracy; in brackets the number of seeds.",
        "Best seed: the highest test accuracy among the seeds, so chosen on the test split: an optimistic number, "
        "shown because the paper prints one number a cell. It and the paper's own rows are not ranked.",
        "Runs of ours that leave the paper's protocol are not ranked.",
        paper.TABLE5_NOTE,
        "Systems from their own publications, as the paper quotes them.",
        *common_notes(relevant),
    ]
    title = "Table 5: against published systems, accuracy (%)"
    return Table("table5", title, ["System", *map(dataset_name, datasets)], rows, data, notes, missing(relevant))


def choose_on_validation(groups: Sequence[Group]) -> Group | None:
    """The group with the highest mean validation accuracy; the first on a tie, None if none ran."""
    rated = [
        (mean(values.values()), g) for g in groups if not g.point and (values := g.values("metrics", "val", "accuracy"))
    ]
    return max(rated, key=lambda x: x[0])[1] if rated else None


def shift(groups: Sequence[Group]) -> Table:
    """Trained on one set, tested on its own test split and on others'; a line a set and loss, a column a tested set."""
    keys = ["cell", "line", "trained", "tested", "seed", "accuracy", "texts"]
    lines = [(g.model, g.variant, g.label(INTEGRATED, "ablation.test_on")) for g in groups]
    cells = [
        (i, lines[i], g.dataset, name, seed, x, number(g.runs[seed].result, "num_rows", split))
        for i, g in enumerate(groups)
        for name, split in _splits(g).items()
        for seed, x in g.values("metrics", split, "accuracy").items()
    ]
    found = pd.DataFrame(cells, columns=keys)
    tested = sorted(found["tested"].unique(), key=paper_order)
    is_own = found["trained"] == found["tested"]
    there = found[is_own][["line", "tested", "seed", "accuracy"]]
    both = found[~is_own].merge(there, on=["line", "tested", "seed"], suffixes=("", "_there"))
    both["lost"] = both["accuracy_there"] - both["accuracy"]
    lost = both.groupby(["cell", "seed"])["lost"].agg(["mean", "size"]).reset_index()
    rows, data = [], []
    for block in blocks(groups, "dataset", "model").values():
        mine = [found[found["cell"] == groups.index(g)] for g in block]
        columns = []
        for name in tested:
            values = [part.loc[part["tested"] == name, "accuracy"].tolist() for part in mine]
            suffixes = [seeds_text(g, len(x)) for g, x in zip(block, values, strict=True)]
            columns.append(scored(values, suffixes, [" ".join(setting(g)) for g in block]))
        for i, (g, part) in enumerate(zip(block, mine, strict=True)):
            own = lost[lost["cell"] == groups.index(g)]
            names = [dataset_name(g.dataset), model_name(g.model), lines[groups.index(g)][-1]]
            whole = own[own["size"] == own["size"].max()]  # seeds with all the other sets
            rows.append([*names, *(column[i] for column in columns), mean_std(whole["mean"].tolist())])
            for name, x in part.groupby("tested", sort=False)["accuracy"]:
                where = {"trained_on": g.dataset, "tested_on": name, "model": g.model, "mode": g.mode, "loss": g.loss}
                data.append({**where, **g.point, "n": len(x), "accuracy": x.mean()})
    sizes = found[~is_own].groupby(["trained", "tested"], sort=False)["texts"].agg(["min", "max"]).dropna()
    counts = [
        f"{dataset_name(trained)} to {dataset_name(name)} {low:,.0f}" + (f" to {high:,.0f}" if high > low else "")
        for (trained, name), low, high in sizes.itertuples()
    ]
    notes = [
        "Accuracy (%), mean ± standard deviation (n - 1), in brackets the number of seeds. Lost by training elsewhere: "
        "against the same loss trained on the tested set, paired by seed, mean over the other sets.",
        *([f"Texts tested, without those that a run trains or validates on: {'; '.join(counts)}."] if counts else []),
        RANKS,
        *common_notes(groups),
    ]
    heads = ["Trained on", "Model", "Loss", *(f"on {dataset_name(name)}" for name in tested), "Lost"]
    return Table("shift", "Another domain", heads, rows, data, notes, missing(groups), num_keys=3)


def _splits(g: Group) -> dict[str, str]:
    """By the name of a tested set, its own first, the split of the record."""
    others = AblationConfig(test_on=(g.config.get("ablation") or {}).get("test_on")).tested_on
    return {g.dataset: "test", **{name: split for split, name in others.items()}}


def variant(groups: Sequence[Group]) -> tuple[Table, list[dict[str, Any]]]:
    """The paper's formulas against the released code's, paired by seed; a line a data set and loss."""
    rows, data, claims = [], [], []
    by_key: dict[tuple[str, ...], dict[str, Group]] = {}
    for g in groups:
        by_key.setdefault((g.dataset, g.model, g.mode, g.loss, g.others("variant")), {})[g.variant] = g
    for found in by_key.values():
        pair = [found.get(name) for name in ("paper", "released")]
        left, right = ({} if g is None else g.test("accuracy") for g in pair)
        both = pd.DataFrame({"paper": left, "released": right})
        tested = paired(both, all(is_comparable(g.config) for g in found.values()))
        g = next(iter(found.values()))
        label = g.loss_name + g.others("variant")
        where = f"{label}, {model_name(g.model)} on {dataset_name(g.dataset)}"
        said = {"source": "Variants", "text": "The paper's formulas beat the released code's", "where": where}
        claims += [said | tested] if tested["pairs"] else []
        samples = [list(x.values()) for x in (left, right)]
        shown = scored(
            samples, ["" if g is None else seeds_text(g, len(x)) for g, x in zip(pair, samples, strict=True)]
        )
        names = [dataset_name(g.dataset), model_name(g.model), g.mode, label]
        rows.append([*names, *shown, *difference_texts(tested), tested["claim"] or MISSING])
        means = dict(zip(("paper", "released"), map(mean, samples), strict=True))
        numbers = {key: tested[key] for key in ("difference", "low", "high")}
        numbers["difference_std"] = std((both["paper"] - both["released"]).dropna().tolist())
        data.append({**g.keys, "pairs": tested["pairs"], **means, **numbers})
    notes = [
        "Accuracy (%), in brackets the number of seeds; Δ: paper minus released, paired by seed.",
        "Claim: whether the paper's formulas do better; runs off the paper's protocol bear none.",
        *common_notes(groups, swept=["variant"]),
    ]
    heads = ["Data set", "Model", "Mode", "Loss", "variant=paper", "variant=released", "Δ", "95 % interval", "Claim"]
    title = "The paper's formulas and the released code"
    return Table("variant", title, heads, rows, data, notes, missing(groups), num_keys=4), claims
