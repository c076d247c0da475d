"""The claims of the paper's text, against its own tables and our runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product
from statistics import median
from typing import NamedTuple

from gloss.losses.registry import STANDALONE
from gloss.paper import published as paper
from gloss.paper.names import dataset_name, loss_name, model_name
from gloss.report.protocol import is_comparable
from gloss.report.seed_groups import Group, blocks, timed
from gloss.report.statistics import PRACTICAL, claim, mean
from gloss.report.table import MISSING, Table, entry
from gloss.report.tables.comparisons import RIVALS, choose_on_validation
from gloss.report.tables.results import TABLE3

METRICS = {m.name: m for m in TABLE3}
GLOSS = ("gloss_o", "gloss_sqrt")
SETS, MODELS = ("mr", "r8", "r52", "20ng", "ohsumed"), ("bert", "roberta_large", "distilbert")
LISTS = ("left", "right", "datasets", "models")  # columns of claims.csv
ROUNDING = 0.01 + 1e-9


class Contest(NamedTuple):
    """In a cell of a table of runs: the best of some losses against the best of others."""

    table: str
    dataset: str
    model: str
    losses: Sequence[str]
    rivals: Sequence[str]
    metric: str


class Comparison(NamedTuple):
    """Two published numbers: `left` is claimed to be better than `right`, or the same.

    sign: 1 where more is better, else -1. slack: how far left may be worse, or apart. contest: the cell that our runs
    can decide, too.
    """

    label: str
    left: float
    right: float
    sign: int = 1
    slack: float = 0.0
    is_same: bool = False
    contest: Contest | None = None

    @property
    def margin(self) -> float:
        """By how much left is better."""
        return self.sign * (self.left - self.right)

    @property
    def holds(self) -> bool:
        if self.is_same:
            return abs(self.margin) <= self.slack
        return self.margin > 0 or (self.slack > 0 and self.margin >= -self.slack)

    @property
    def shown(self) -> str:
        digits = 4 if max(self.left, self.right) < 1 else 0 if self.left % 1 == self.right % 1 == 0 else 2
        return f"{self.label}: {self.left:.{digits}f} against {self.right:.{digits}f}"


class PaperClaim(NamedTuple):
    """A claim of the text. in_most: said of most cells, not of all."""

    where: str
    text: str
    comparisons: list[Comparison]
    in_most: bool = False

    @property
    def verdict(self) -> str:
        held = sum(c.holds for c in self.comparisons)
        is_true = 2 * held > len(self.comparisons) if self.in_most else held == len(self.comparisons)
        return "supported" if is_true else "contradicted"


def contests(
    table: str,
    metric: str,
    losses: Sequence[str],
    rivals: Sequence[str],
    datasets: Sequence[str],
    models: Sequence[str],
) -> list[Comparison]:
    """A comparison for each cell (data set and model) of table2, table3 or table6."""
    found, sign = [], 1 if METRICS[metric].higher_is_better else -1
    for dataset, model in product(datasets or SETS, ("bert",) if table == "table3" else models or MODELS):
        printed = {x: paper.published(table, dataset, model, x, metric) for x in (*losses, *rivals)}
        best, rival = (max(names, key=lambda x: sign * printed[x]) for names in (losses, rivals))  # noqa: B023
        label = f"{dataset_name(dataset)}, {model_name(model)}, {loss_name(rival, paper.MODES[table])}"
        contest = Contest(table, dataset, model, losses, rivals, metric)
        found.append(Comparison(label, printed[best], printed[rival], sign, contest=contest))
    return found


def systems(ours: str, others: Sequence[str], datasets: Sequence[str], slack: float) -> list[Comparison]:
    """The paper's Table 5: one of its own rows against the best of others."""
    rows = {row.pop("model"): {d: float(x) for d, x in row.items() if x} for row in map(dict, paper.rows("table5"))}
    best = {d: max(others, key=lambda x: rows[x][d]) for d in datasets or rows[ours]}  # noqa: B023
    return [Comparison(f"{dataset_name(d)}, {x}", rows[ours][d], rows[x][d], slack=slack) for d, x in best.items()]


def table5_against_table2() -> list[Comparison]:
    """Each G-Loss cell of Table 5 against the higher mean of the two variants in Table 2."""
    rows = {row["model"]: row for row in paper.rows("table5")}
    return [
        Comparison(f"{dataset_name(d)}, {model_name(model)}", float(rows[system][d]), c.left)
        for model, system in (("bert", "G-Loss + BERT-base"), ("roberta_large", "G-Loss + RoBERTa-large"))
        for c in contests("table2", "accuracy", GLOSS, ("ce",), SETS, [model])
        for d in [c.contest.dataset]
    ]


def table9_against_table3() -> list[Comparison]:
    """The means of Table 9 against the means of Table 3."""
    printed = {r["comparison"].split(" vs ")[1]: float(r["baseline_mean"]) for r in paper.rows("table9")}
    printed["gloss_o"] = float(paper.rows("table9")[0]["gloss_mean"])
    found = {x: [float(r["accuracy"]) for r in paper.rows("table3") if r["loss"] == x] for x in (*RIVALS, "gloss_o")}
    return [Comparison(loss_name(x), printed[x], mean(y), slack=ROUNDING, is_same=True) for x, y in found.items()]


def evaluation_seconds() -> list[Comparison]:
    """Seconds of an epoch beside training, from the paper's Table 3: G-Loss-O against the median of its rivals."""
    rest: dict[str, dict[str, float]] = {}
    for r in paper.rows("table3"):
        total, epochs, training = (float(r[key]) for key in ("total_seconds", "epochs", "seconds_per_epoch"))
        rest.setdefault(r["dataset"], {})[r["loss"]] = (total - epochs * training) / epochs
    return [
        Comparison(dataset_name(d), x["gloss_o"], median(x[r] for r in RIVALS), slack=1.0, is_same=True)
        for d, x in rest.items()
    ]


OTHERS = {
    "best numbers": table5_against_table2,
    "means": table9_against_table3,
    "evaluation": evaluation_seconds,
    "p-values": lambda: [Comparison(r["comparison"], float(r["p_value"]), 0.05, sign=-1) for r in paper.rows("table9")],
}


def paper_claims() -> list[PaperClaim]:
    """Every claim of the text that the paper's own tables can decide, in the order of the text; from claims.csv."""
    claims: dict[str, PaperClaim] = {}
    for row in paper.rows("claims"):
        source = row["source"]
        left, right, datasets, models = ([x for x in row[key].split(";") if x] for key in LISTS)
        if source in paper.MODES:
            found = contests(source, row["metric"], left, right, datasets, models)
        elif source == "table5":
            found = systems(row["left"], right, datasets, slack=float(row["slack"] or 0))
        else:
            found = OTHERS[source]()
        claim = PaperClaim(row["where"], row["claim"], [], row["in_most"] == "yes")
        claims.setdefault(row["claim"], claim).comparisons.extend(found)
    return list(claims.values())


def paper_claims_table(groups: Sequence[Group]) -> Table:
    """A line a claim: the number of cells where the paper's own numbers bear it out, the others, our runs' verdicts.

    groups: of tables 2, 3 and 6; those that keep the paper's protocol count.
    """
    groups = [g for g in groups if is_comparable(g.config) and not g.point]
    by_variant = [  # claims on time are on Table 3: the device of the other tables must not decide which runs are timed
        (v, mine, timed([g for g in mine if g.mode == STANDALONE])[0])
        for (v,), mine in blocks(groups, "variant").items()
    ]
    rows, data = [], []
    for said in paper_claims():
        held = [c.holds for c in said.comparisons]
        against = [c.shown for c in said.comparisons if not c.holds]
        runs = Counter(
            word if variant == "paper" else f"{word} ({variant})"
            for variant, *mine in by_variant
            for c in said.comparisons
            if c.contest and (word := _by_runs(c, *mine))
        )
        verdicts = ", ".join(f"{n} {word}" for word, n in runs.items())
        count = f"{sum(held)} of {len(held)}"
        low, high = (pick(c.margin for c in said.comparisons) for pick in (min, max))
        judged = entry("", verdict=said.verdict)
        texts = [count, f"{low:+.3g} to {high:+.3g}", "; ".join(against) or MISSING, verdicts or MISSING]
        rows.append([said.where, said.text, judged, *texts])
        data.append({"where": said.where, "claim": said.text, "verdict": said.verdict, "held": sum(held)})
        data[-1] |= {"cells": len(held), "least_margin": low, "largest_margin": high}
        data[-1] |= {"against": "; ".join(against) or None, "ours": verdicts or None}
    notes = [
        "Verdict: whether the paper's own numbers bear the claim out, in every cell, or in most where it says most. "
        "Margins: by how much the number that is claimed to be better is better, over the cells. Against: the cells "
        "where it is not, that number first.",
        "Ours: the same cells by our runs, paired by seed: what the 95 % interval of the difference says, as among the "
        "claims. Of several losses that are claimed to be better, one is chosen on validation; of several others, the "
        "best on the test split is taken, which favours them. Runs off the paper's protocol do not count.",
    ]
    columns = ["Where", "Claim of the paper", "Its tables", "Holds in", "Margins", "Against", "Our runs"]
    return Table("paper_claims", "Claims of the paper", columns, rows, data, notes, num_keys=len(columns))


def _by_runs(comparison: Comparison, groups: Sequence[Group], clocked: Sequence[Group]) -> str:
    """The verdict of our runs on a cell, by `statistics.claim`; empty where losses are missing."""
    contest, sign = comparison.contest, comparison.sign
    path = METRICS[contest.metric].path
    place = (contest.dataset, contest.model, paper.MODES[contest.table])
    mine = blocks(clocked if path[0] == "seconds" else groups, "dataset", "model", "mode").get(place, ())
    cells = {g.loss: g for g in mine if g.values(*path)}
    if not {*contest.losses, *contest.rivals} <= cells.keys():
        return ""

    def score(g: Group) -> float:
        return sign * mean(g.values(*path).values())

    ours, rivals = ([cells[x] for x in losses] for losses in (contest.losses, contest.rivals))
    chosen = (choose_on_validation(ours) if len(ours) > 1 else None) or max(ours, key=score)
    left, right = chosen.values(*path), max(rivals, key=score).values(*path)
    differences = [sign * (left[seed] - right[seed]) for seed in left if seed in right]
    return claim(differences, PRACTICAL if contest.metric in ("accuracy", "macro_f1") else 0.0)
