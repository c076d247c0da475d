"""Tables and intervals of the pages on results against the records in outputs/reference, and links between pages."""

import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from scipy import stats

import gloss
from gloss.config import ROOT
from gloss.losses.registry import LOSSES
from gloss.paper.names import DATASETS, MODELS, dataset_name, loss_name, model_name
from gloss.records.reading import read_each, read_json

OUTPUTS = ROOT / "outputs" / "reference"
BASELINES = ("TF-IDF", "frozen encoder")
TITLES = [
    sorted({loss_name(x, mode) for x, row in LOSSES.items() for mode in row.modes} | {*BASELINES}, key=len)[::-1],
    list(DATASETS.values()),
    list(MODELS.values()),
]
COLUMNS = {  # a word of a heading: the column of load_runs, and its decimal places
    "at the tested epoch": ("graph_at_best_propagated_accuracy", 1),  # all before "accuracy" hold it in their headings
    "before training %": ("graph_at_start_propagated_accuracy", 1),
    "best epoch": ("best_epoch", 1),
    "other set": ("test_on_accuracy", 1),
    "nearest neighbours": ("test_knn_accuracy", 1),
    "accuracy": ("test_accuracy", 1),
    "macro-F1": ("test_macro_f1", 1),
    "silhouette": ("test_macro_silhouette", 2),
    "homophily": ("graph_at_best_homophily", 2),
}
NUMBER = re.compile(r"(?:(\d+\.\d+), )?(−?\d+(?:\.\d+)?)(?: ± (\d+\.\d+))?(?: \(\d\))?")
DIFFERENCES = [column for column, _ in COLUMNS.values()]
BOUND = r"([−+]?\d+\.\d+|[−+]\d+)"
INTERVAL = re.compile(rf"(?<=[( ]){BOUND} to {BOUND}(?=[^()]*\))")  # in parentheses
NOT_RECOMPUTED = {
    ("1.6", "3.2"): "the gap of the classifier minus the gap of nearest neighbours",
    ("2.7", "17.9"): "a difference of two differences",
    ("1.4", "12.7"): "a difference of two differences",
    ("0.4", "3.5"): "runs of earlier code, not kept",
}


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def named(*texts: str) -> list[str]:
    """The loss, the data set and the encoder of the first text that names one; empty where none does."""
    found = [[x for t in texts for x in kind if re.search(rf"\b{re.escape(x)}\b", t, re.IGNORECASE)] for kind in TITLES]
    return [next(iter(names), "") for names in found]


Found = tuple[list[str], dict[str, set[str]], pd.DataFrame | None]


@functools.cache
def configurations() -> list[Found]:
    """Of each configuration and each baseline: the names of its loss, data set and encoder, the text that a column of
    each kind may print (the mean over the seeds, alone or with the standard deviation), and the runs by seed."""
    found: list[Found] = []
    keys = ["dataset", "model", "mode", "loss", "config_hash"]
    for (dataset, model, mode, loss, _), runs in gloss.load_runs(OUTPUTS).groupby(keys):
        texts = {}
        for kind, (column, places) in COLUMNS.items():
            mean = f"{runs[column].mean():.{places}f}"
            texts[kind] = {mean, f"{mean} ± {runs[column].std():.{places}f}"}
        texts["best epoch"].add(f"{runs['best_epoch'].mean():.0f}")
        found.append(([loss_name(loss, mode), dataset_name(dataset), model_name(model)], texts, runs.set_index("seed")))
    baselines, problems = read_each(OUTPUTS, "baselines/*.json", read_json)
    assert not problems
    for record in baselines:
        numbers = {f"test_{key}": value for key, value in record.get("test", {}).items()}
        at_rule = [g["homophily"] for g in record.get("graph", ()) if g["scale"] == 1]  # at the σ of G-Loss-SQRT
        numbers["graph_at_best_homophily"] = at_rule[0] if at_rule else float("nan")
        names = [BASELINES["model" in record], dataset_name(record["dataset"]), model_name(record.get("model", ""))]
        texts = {kind: {f"{numbers.get(key, float('nan')):.{n}f}"} for kind, (key, n) in COLUMNS.items()}
        found.append((names, texts, None))
    return found


def matching(names: list[str], scores: dict[str, str]) -> list[Found]:
    """The configurations with these scores and, where both sides have one, with these names."""
    return [
        found
        for found in configurations()
        if all(x == y or not (x and y) for x, y in zip(names, found[0], strict=True))
        and all(text in found[1][kind] for kind, text in scores.items())
    ]


def rows(page: str) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """The configurations in a page's tables, one a row or, where the columns are data sets or losses, one a cell: the
    row's text, the names of the loss, data set and encoder, and the numbers by kind of column."""
    for section in re.split(r"^(?=## )", page, flags=re.MULTILINE):
        title = section.partition("\n")[0]
        for table in re.findall(r"(?:^\|.*\|\n)+", section, re.MULTILINE):
            heading, _, *lines = ([x.strip() for x in line.strip("|\n").split("|")] for line in table.splitlines())
            for row in lines:
                text, joint = " | ".join(row), {}
                for name, cell in zip(heading, row, strict=True):
                    number = NUMBER.fullmatch(cell)
                    if number and "validation" not in name:
                        start, *parts = number.groups()
                        shown = " ± ".join(filter(None, parts)).replace("−", "-")
                        kind = next((word for word in COLUMNS if word in name), None)
                        if kind:
                            joint |= {kind: shown} | ({"before training %": start} if start else {})
                        elif number[3]:
                            yield text, named(name, text, title), {"accuracy": shown}
                if joint:
                    yield text, named(text, title), joint


def test_tables_print_what_the_records_hold():
    num_checked = 0
    for path in (ROOT / "docs" / "EVIDENCE.md", ROOT / "README.md"):
        for text, names, scores in rows(prose(path)):
            assert matching(names, scores), f"{path.name}: {text}: {names}, {scores}"
            num_checked += len(scores)
    assert num_checked > 600


@functools.cache
def differences(tables: str) -> list[tuple[float, float, float, bool]]:
    """Mean and 95 % interval of every difference, paired by seed, between two configurations in these tables, and
    whether a signed interval may print it: G-Loss minus other losses minus cross-entropy, never the other way round."""
    found, all_runs = [], {}
    for _, names, scores in rows(tables):
        for (loss, *_), _, runs in matching(names, scores):
            if runs is not None:
                all_runs[id(runs)] = 0 if "G-Loss" in loss else 2 if loss == "CE" else 1, runs
    for (first, a), (second, b) in itertools.combinations(sorted(all_runs.values(), key=lambda x: x[0]), 2):
        paired = a[DIFFERENCES] - b[DIFFERENCES]
        for x, y in ((a, b), (b, a)):  # a set's test texts after training on another set, and on itself
            paired[len(paired.columns)] = x["test_on_accuracy"] - y["test_accuracy"]
        half = stats.t.ppf(0.975, paired.count() - 1) * paired.sem()
        for mean, h in zip(paired.mean(), half, strict=True):  # not a number where fewer than two seeds are shared
            found += [(mean, mean - h, mean + h, True), (-mean, -mean - h, -mean + h, first == second)]
    return found


def is_rounded(value: float, text: str) -> bool:
    places = len(text.partition(".")[2])
    return abs(value - float(text.replace("−", "-"))) <= 0.5 * 10**-places + 1e-9


def check_intervals(text: str, tables: str, met: set[tuple[str, str]]) -> int:
    """Check that each interval in `text` is a difference of two configurations in `tables` in some score, and that its
    mean stands before it, with a sign if the interval has signs. Return the number of intervals."""
    candidates, num_checked, end, text = differences(tables), 0, 0, re.sub(r"\s+", " ", text)
    for found in INTERVAL.finditer(text):
        low, high = found.groups()
        before, end = text[max(end, found.start() - 140) : found.start()], found.end()
        if found.groups() in NOT_RECOMPUTED:
            met.add(found.groups())
            continue
        sign = "[−+]" if {"−", "+"} & set(low + high) else ""
        means = re.findall(rf"(?<![\d.,−+])({sign}\d+(?:\.\d+)?|0\.0+)(?![\d.])", before)
        assert any(
            (is_ordered or not sign) and is_rounded(a, low) and is_rounded(b, high) and is_rounded(mean, shown)
            for (mean, a, b, is_ordered), shown in itertools.product(candidates, means)
        ), f"{before}{found[0]}"
        num_checked += 1
    return num_checked


def test_intervals_are_differences_of_the_records():
    sections, num_checked, met = {}, 0, set()
    for section in re.split(r"^(?=## )", prose(ROOT / "docs" / "EVIDENCE.md"), flags=re.MULTILINE)[1:]:
        sections[anchor(section.partition("\n")[0][3:])] = section
        num_checked += check_intervals(section, section, met)
    for paragraph in prose(ROOT / "docs" / "FINDINGS.md").split("\n\n"):
        linked = re.findall(r"EVIDENCE\.md#([^)]+)\)", paragraph)
        num_checked += check_intervals(paragraph, "\n".join(sections[name] for name in linked), met)
    assert num_checked > 125 and met == NOT_RECOMPUTED.keys()


def anchor(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_links_between_pages_lead_to_a_heading():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    anchors = {}
    for page in pages:
        anchors[page] = {anchor(x) for x in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)}
    num_links = 0
    for page in pages:
        for name, part in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8")):
            if "://" not in name:
                target = (page.parent / name).resolve() if name else page
                assert target.exists(), f"{page.name}: {name}"
                assert not part or part in anchors[target], f"{page.name}: {name}#{part}"
                num_links += 1
    assert num_links > 60
