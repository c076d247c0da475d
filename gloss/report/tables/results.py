"""Tables 2, 3, 4 and 6: ours above the paper's, each number with its verdict."""

from __future__ import annotations

from collections.abc import Sequence

from gloss.config import STANDALONE
from gloss.paper import published as paper
from gloss.paper.names import dataset_name, loss_name, model_name
from gloss.report.seed_groups import RELEASED, Group, departures, is_comparable, mean_std, mixed, setting, timed
from gloss.report.statistics import mean, std, verdict
from gloss.report.table import MISSING, Entry, Part, Table, entry, mark, rank

DIGITS = {"accuracy": 2, "macro_f1": 2, "macro_silhouette": 4, "epochs": 0}
OURS = (
    "Ours: test split, mean ± standard deviation (n - 1), in brackets the number of seeds; a dash is not measured yet."
)
VERDICTS = (
    "Verdict on the difference to the paper's mean and its 95 % interval (Welch, with the deviation that the paper "
    "prints, taken as that of 5 runs). Bounds in points, ok and near: accuracy 0.5 and 1.5, macro-F1 1 and 3; "
    "silhouette 0.05 and 0.15. Off: the interval lies wholly outside the bound of near; ok and near: the difference "
    "lies within their bound, and half the interval is at most the bound of near; else, and with fewer than 3 seeds, "
    "unresolved. (released): the variant of the released code. Cells that leave the paper's protocol, and models that "
    "it has not, bear none."
)
RANKS = (
    "Bold is the best, underlined the second of its block, among cells of one protocol and variant; ours and the "
    "paper's ranked apart."
)


def table2(groups: Sequence[Group]) -> Table:
    """Integrated mode: accuracy / macro-F1 of each model and loss, a column a data set."""
    title = "Table 2: integrated mode, accuracy / macro-F1 (%)"
    return _by_model("table2", title, groups, ("accuracy", "macro_f1"), [])


def table6(groups: Sequence[Group]) -> Table:
    """The two GLUE sets: accuracy of each model and loss."""
    notes = [
        "Test split: the official development split of SST-2 and QNLI, since GLUE's test labels are not public.",
        paper.TABLE6_NOTE,
        paper.SECTION53_NOTE,
    ]
    return _by_model("table6", "Table 6: SST-2 and QNLI, integrated mode, accuracy (%)", groups, ("accuracy",), notes)


def _by_model(name: str, title: str, groups: Sequence[Group], metrics: tuple[str, ...], notes: list[str]) -> Table:
    datasets = list(dict.fromkeys(g.dataset for g in groups))
    by_key = {(g.model, g.loss, g.mode, point_text(g), g.dataset): g for g in groups}
    rows, data = [], []
    for model in dict.fromkeys(g.model for g in groups):
        keys = list(dict.fromkeys((g.loss, g.mode, point_text(g)) for g in groups if g.model == model))
        ours, theirs = [], []
        for dataset in datasets:
            found = [by_key.get((model, *key, dataset)) for key in keys]
            column = [_scores(name, g, metrics) for g in found]
            ours.append(_rank(column, found, metrics))
            printed, spread = (
                [[paper.published(name, dataset, model, x, m + end, mode) for m in metrics] for x, mode, _ in keys]
                for end in ("", "_std")
            )
            theirs.append(_paper_column(printed, spread, metrics))
            data += [row for g in found if g for row in tidy(name, g, metrics)]
        for i, key in enumerate(keys):
            label = _label(name, *key)
            rows.append([entry(model_name(model)), entry(label), entry("ours"), *(c[i] for c in ours)])
            if any(c[i].plain() != MISSING for c in theirs):
                rows.append([entry(""), entry(""), entry("paper"), *(c[i] for c in theirs)])
    columns = ["Model", "Loss", "", *map(dataset_name, datasets)]
    notes = [OURS, VERDICTS, RANKS, *common_notes(groups), *notes]
    return Table(name, title, columns, rows, data, notes, missing(groups), num_keys=3)


def _label(experiment: str, loss: str, mode: str, point: str) -> str:
    """ "G-Loss-O + CE", with the mode where it is not the table's own, and what else was swept."""
    other = "" if mode == paper.MODES[experiment] else f"({mode})"
    return " ".join(x for x in (loss_name(loss, mode), other, point) if x)


def point_text(g: Group) -> str:
    return " ".join(f"{key}={value}" for key, value in g.point.items())


def seeds_text(g: Group, num: int) -> str:
    """ "(5)", or "(3 of 5)" while runs are missing."""
    return f"({num})" if num >= len(g.seeds) else f"({num} of {len(g.seeds)})"


def _scores(experiment: str, g: Group | None, metrics: Sequence[str]) -> Entry:
    if g is None or not g.runs:
        return Entry()
    parts = []
    for metric in metrics:
        values = list(g.test(metric).values())
        text = mean_std(values, DIGITS[metric]) if values else MISSING
        parts.append(Part(text, verdict=judge(experiment, g, metric)))
    return Entry(tuple(parts), seeds_text(g, len(g.runs)))


def judge(experiment: str, g: Group, metric: str) -> str:
    """The verdict of a cell; none where it leaves the paper's protocol or mode, or the paper has no such cell."""
    return judge_values(experiment, g, metric, list(g.test(metric).values())) if not g.point else ""


def judge_values(experiment: str, g: Group, metric: str, values: Sequence[float]) -> str:
    """As `judge`, for some of a cell's values. A cell of the released code's variant is marked: "ok (released)"."""
    if not is_comparable(g.config):
        return ""
    published, spread = (
        paper.published(experiment, g.dataset, g.model, g.loss, metric + end, g.mode) for end in ("", "_std")
    )
    judged = verdict(values, published, metric, spread)
    return f"{judged} (released)" if judged and departures(g.config) else judged


def rank_alike(
    groups: Sequence[Group | None], values: Sequence[float | None], *, higher_is_better: bool = True, digits: int = 2
) -> list[int]:
    """As `rank`, but among the groups of one setting (`cells.setting`) only: others are no rivals of theirs."""
    ranks = [0] * len(values)
    settings = [g and setting(g) for g in groups]
    for one in dict.fromkeys(settings):
        mine = [i for i, x in enumerate(settings) if x == one]
        found = rank([values[i] for i in mine], higher_is_better=higher_is_better, digits=digits)
        for i, place in zip(mine, found, strict=True):
            ranks[i] = place
    return ranks


def _rank(entries: list[Entry], groups: Sequence[Group | None], metrics: Sequence[str]) -> list[Entry]:
    for k, metric in enumerate(metrics):
        values = [list(g.test(metric).values()) if g else [] for g in groups]
        means = [mean(v) if v else None for v in values]
        entries = mark(entries, rank_alike(groups, means, digits=DIGITS[metric]), k)
    return entries


def _paper_column(printed: list[list], spread: list[list], metrics: Sequence[str]) -> list[Entry]:
    entries = []
    for numbers, stds in zip(printed, spread, strict=True):
        if None in numbers:
            entries.append(Entry())
            continue
        texts = [
            f"{x:.{DIGITS[m]}f}" + (f" ± {s:.{DIGITS[m]}f}" if s is not None else "")
            for x, s, m in zip(numbers, stds, metrics, strict=True)
        ]
        entries.append(entry(*texts))
    for k, metric in enumerate(metrics):
        entries = mark(entries, rank([numbers[k] for numbers in printed], digits=DIGITS[metric]), k)
    return entries


def tidy(experiment: str, g: Group, metrics: Sequence[str]) -> list[dict[str, object]]:
    """One row of the CSV file for each metric of a cell, also for a cell without runs."""
    rows = []
    for metric in metrics:
        values = list(g.test(metric).values())
        published = paper.published(experiment, g.dataset, g.model, g.loss, metric, g.mode)
        rows.append(
            {
                **{key: getattr(g, key) for key in ("dataset", "model", "mode", "loss", "variant", "digits")},
                **g.point,
                "metric": metric,
                "n": len(values),
                "mean": mean(values) if values else None,
                "std": std(values) if len(values) > 1 else None,
                "seeds": " ".join(map(str, g.test(metric))),
                "paper": published,
                "difference": mean(values) - published if values and published is not None else None,
                "verdict": judge(experiment, g, metric) or None,
                "departures": ", ".join(departures(g.config)) or None,
            }
        )
    return rows


def common_notes(groups: Sequence[Group], swept: Sequence[str] = ()) -> list[str]:
    """What a reader must know about these cells: departures from the protocol, mixtures, values not searched for.

    swept: settings such as "loss.lam" that the experiment itself changes.
    """
    notes = []
    for what, kinds in (("Not the paper's protocol", False), ("The released code's variant", True)):
        own = [
            ", ".join(x for x in departures(g.config) if (x == RELEASED) == kinds and x.partition("=")[0] not in swept)
            for g in groups
        ]
        for text in dict.fromkeys(own):
            if text:
                which = "all cells" if set(own) == {text} else f"{own.count(text)} of {len(groups)} cells"
                notes.append(f"{what} ({which}): {text}.")
    unknown = sorted({model_name(g.model) for g in groups} - {model_name(r["model"]) for r in paper.rows("table2")})
    if unknown:
        notes.append(f"Not in the paper: {', '.join(unknown)}.")
    notes += [f"Attention: {text}." for g in groups for text in mixed(g)]
    if with_runs := [g for g in groups if g.runs]:
        unsaid = [g for g in with_runs if "search.trials=0" not in departures(g.config)]
        default = [g for g in unsaid if any(not run.result.get("tuned") for run in g.runs.values())]
        if default:
            names = sorted({loss_name(g.loss, g.mode) for g in default})
            which = "all" if len(default) == len(with_runs) else f"{len(default)} of {len(with_runs)}"
            notes.append(f"Hyperparameters were not searched for in {which} measured cells ({', '.join(names)}).")
        notes += _search_notes(with_runs)
    return notes


def _search_notes(groups: Sequence[Group]) -> list[str]:
    """Which cells run with values that were searched for on other amounts of data, as their records say."""
    said: dict[str, dict[str, None]] = {}
    for g in groups:
        for tuned in [run.result.get("tuned") or {} for run in g.runs.values()]:
            if note := tuned.get("note"):
                text = str(note).replace(f"the values of {tuned.get('file')} were ", "")
                cell = f"{dataset_name(g.dataset)}, {model_name(g.model)}, {loss_name(g.loss, g.mode)}"
                said.setdefault(text, {})[cell] = None
    return [f"Values of the search ({'; '.join(cells)}): {text}." for text, cells in said.items()]


def missing(groups: Sequence[Group]) -> list[str]:
    """The runs that the cells still lack."""
    lines = []
    for g in groups:
        if g.missing_seeds:
            first = " (σ has to be searched for first)" if g.digits is None else ""
            lines.append(f"{g.name} seed={','.join(map(str, g.missing_seeds))}{first}")
    return lines


STANDALONE_COLUMNS = (  # heading, path in result.json, column of the paper's table, digits, larger is better
    ("Accuracy %", ("metrics", "test", "accuracy"), "accuracy", 2, True),
    ("Macro-F1 %", ("metrics", "test", "macro_f1"), "macro_f1", 2, True),
    ("Silhouette", ("metrics", "test", "macro_silhouette"), "macro_silhouette", 4, True),
    ("Total s", ("seconds", ("training", "evaluation")), "total_seconds", 1, False),
    ("s / epoch", ("seconds", "per_epoch"), "seconds_per_epoch", 2, False),
    ("Epochs", ("epochs",), "epochs", 0, False),
)


def table3(groups: Sequence[Group]) -> Table:
    """Standalone mode: quality, times and epochs, a line a data set and loss."""
    rows, data = [], []
    clocked, times = timed(groups)
    blocks = dict.fromkeys((g.dataset, g.model) for g in groups)
    for dataset, model in blocks:
        block, on_time = ([g for g in gs if (g.dataset, g.model) == (dataset, model)] for gs in (groups, clocked))
        ours, theirs = [], []
        for _, path, column, digits, higher in STANDALONE_COLUMNS:
            values = [list(g.values(*path).values()) for g in (on_time if path[0] == "seconds" else block)]
            printed = [paper.published("table3", dataset, model, g.loss, column, g.mode) for g in block]
            entries = [_standalone(g, v, p, path, digits) for g, v, p in zip(block, values, printed, strict=True)]
            means = [mean(v) if v else None for v in values]
            ours.append(mark(entries, rank_alike(block, means, higher_is_better=higher, digits=digits)))
            shown = [entry(MISSING if p is None else f"{p:.{digits}f}") for p in printed]
            theirs.append(mark(shown, rank(printed, higher_is_better=higher, digits=digits)))
            data += [_tidy3(g, column, v, p) for g, v, p in zip(block, values, printed, strict=True)]
        for i, g in enumerate(block):
            label = _label("table3", g.loss, g.mode, point_text(g))
            keys = [entry(dataset_name(dataset)), entry(model_name(model)), entry(label), entry("ours")]
            rows.append([*keys, *(column[i] for column in ours)])
            if any(column[i].plain() != MISSING for column in theirs):
                rows.append([entry(""), entry(""), entry(""), entry("paper"), *(column[i] for column in theirs)])
    columns = ["Data set", "Model", "Loss", "", *(heading for heading, *_ in STANDALONE_COLUMNS)]
    notes = [
        OURS,
        VERDICTS,
        "Total s: training and validation of all epochs, in every cell; no start, test or probe. The paper's totals "
        "are another quantity: its code draws a picture each epoch and counts loading. s / epoch: of training; × is "
        "ours over the paper's (one A100 80 GB).",
        RANKS,
        *times,
        *common_notes(groups),
    ]
    title = "Table 3: standalone mode"
    return Table("table3", title, columns, rows, data, notes, missing(groups), num_keys=4)


def _standalone(g: Group, values: list[float], published: float | None, path: tuple[str, ...], digits: int) -> Entry:
    if not values:
        return Entry()
    metric = path[-1] if path[0] == "metrics" else ""
    part = Part(mean_std(values, digits), verdict=judge("table3", g, metric) if metric else "")
    suffix = seeds_text(g, len(values)) if path[-1] == "accuracy" or len(values) < len(g.runs) else ""
    if path[-1] == "per_epoch" and published and is_comparable(g.config):
        suffix = f"{suffix} ×{mean(values) / published:.2f}".strip()
    return Entry((part,), suffix)


def _tidy3(g: Group, column: str, values: list[float], published: float | None) -> dict[str, object]:
    is_time = column in ("total_seconds", "seconds_per_epoch", "epochs")
    has_ratio = is_time and column != "total_seconds"  # the paper's is another quantity
    centre = mean(values) if values else None
    known = centre is not None and published is not None
    return {
        **{key: getattr(g, key) for key in ("dataset", "model", "mode", "loss", "variant", "digits")},
        **g.point,
        "metric": column,
        "n": len(values),
        "mean": centre,
        "std": std(values) if len(values) > 1 else None,
        "paper": published,
        "difference": centre - published if known and not is_time else None,
        "ratio": centre / published if known and has_ratio else None,
        "verdict": None if is_time else judge("table3", g, column) or None,
        "departures": ", ".join(departures(g.config)) or None,
    }


def table4(groups: Sequence[Group]) -> Table:
    """G-Loss-O against SCL, from table3's runs: silhouette and seconds per epoch, with the change in percent.

    Only seeds that both ran are compared; of the times, only where both had the same device to themselves.
    """
    rows, data, apart = [], [], []
    sources = (
        ("macro_silhouette", ("metrics", "test", "macro_silhouette"), 4),
        ("seconds_per_epoch", ("seconds", "per_epoch"), 2),
    )
    losses = ("gloss_o", "scl")
    plain = [g for g in groups if not g.point and g.loss in losses and g.mode == STANDALONE]
    clocked, times = timed(plain)
    for dataset, model in dict.fromkeys((g.dataset, g.model) for g in plain):
        pair, on_time = ({g.loss: g for g in gs if (g.dataset, g.model) == (dataset, model)} for gs in (plain, clocked))
        is_alike = len({setting(g) for g in pair.values()}) == 1
        if not is_alike:
            where = f"{dataset_name(dataset)}, {model_name(model)}"
            apart.append(f"{where}: the two losses differ in protocol or variant, so they are not compared.")
        ours: list[Entry] = []
        theirs: list[Entry] = []
        for metric, path, digits in sources:
            source = on_time if path[0] == "seconds" else pair
            found = {loss: source[loss].values(*path) if loss in source else {} for loss in losses}
            seeds = sorted(found["gloss_o"].keys() & found["scl"].keys()) if is_alike else []
            values = {loss: [found[loss][seed] for seed in seeds] for loss in losses}
            means = [mean(values[loss]) if seeds else None for loss in losses]
            printed = [paper.published("table3", dataset, model, loss, metric) for loss in losses]
            verdicts = [""] * 2
            if metric == "macro_silhouette" and seeds:
                verdicts = [judge_values("table3", pair[loss], metric, values[loss]) for loss in losses]
            shown = [
                Entry((Part(mean_std(values[loss], digits), verdict=v),), f"({len(seeds)})") if seeds else Entry()
                for loss, v in zip(losses, verdicts, strict=True)
            ]
            published = [entry(MISSING if x is None else f"{x:.{digits}f}") for x in printed]
            for numbers, entries, row in ((means, shown, ours), (printed, published, theirs)):
                change = _change(*numbers)
                row += mark(entries, rank(numbers, higher_is_better=metric == "macro_silhouette", digits=digits))
                row.append(entry(MISSING if change is None else f"{change:+.1f} %"))
            spread = [std(values[loss]) if len(seeds) > 1 else None for loss in losses]
            data.append(
                {
                    **{"dataset": dataset, "model": model, "metric": metric},
                    **{"pairs": len(seeds), "seeds": " ".join(map(str, seeds))},
                    **{"gloss_o": means[0], "gloss_o_std": spread[0], "scl": means[1], "scl_std": spread[1]},
                    "change_percent": _change(*means),
                    **{"paper_gloss_o": printed[0], "paper_scl": printed[1], "paper_change_percent": _change(*printed)},
                    **{"gloss_o_verdict": verdicts[0] or None, "scl_verdict": verdicts[1] or None},
                }
            )
        rows.append([entry(dataset_name(dataset)), entry(model_name(model)), entry("ours"), *ours])
        if any(e.plain() != MISSING for e in theirs):
            rows.append([entry(""), entry(""), entry("paper"), *theirs])
    heads = ["Silhouette G-Loss-O", "SCL", "change", "s / epoch G-Loss-O", "SCL", "change"]
    notes = [
        "Ours: mean ± standard deviation (n - 1) over the seeds that both losses ran, in brackets their number; from "
        "the runs of Table 3. Change: of the means, G-Loss-O against SCL.",
        VERDICTS,
        *apart,
        *times,
        *common_notes(plain),
    ]
    title = "Table 4: G-Loss-O against SCL, standalone mode"
    return Table("table4", title, ["Data set", "Model", "", *heads], rows, data, notes, missing(plain), num_keys=3)


def _change(new: float | None, old: float | None) -> float | None:
    # A negative or zero silhouette has no meaningful percentage.
    return None if new is None or old is None or old <= 0 else 100 * (new - old) / old
