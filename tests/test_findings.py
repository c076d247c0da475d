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
from gloss.records.reading import read_each, read_json

OUTPUTS = ROOT / "outputs" / "reference"
COLUMNS = {  # a word of a heading: the column of load_runs, and its decimal places
    "other set": ("test_on_accuracy", 1),  # this and the next before "accuracy": their headings hold it too
    "nearest neighbours": ("test_knn_accuracy", 1),
    "accuracy": ("test_accuracy", 1),
    "macro-F1": ("test_macro_f1", 1),
    "silhouette": ("test_macro_silhouette", 2),
    "homophily": ("graph_at_best_homophily", 2),
}
NUMBER = re.compile(r"(−?\d+\.\d+)(?: ± (\d+\.\d+))?(?: \(\d\))?")
DIFFERENCES = [column for column, _ in COLUMNS.values()] + ["graph_at_best_propagated_accuracy", "best_epoch"]
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


@functools.cache
def configurations() -> list[tuple[dict[str, set[str]], pd.DataFrame | None]]:
    """The text that a row about one configuration, or about one baseline, may print in a column of each kind (the mean
    over the seeds, alone or with the standard deviation), and the runs by seed."""
    found: list[tuple[dict[str, set[str]], pd.DataFrame | None]] = []
    for _, runs in gloss.load_runs(OUTPUTS).groupby(["dataset", "model", "mode", "loss", "config_hash"]):
        texts = {}
        for kind, (column, places) in COLUMNS.items():
            mean = f"{runs[column].mean():.{places}f}"
            texts[kind] = {mean, f"{mean} ± {runs[column].std():.{places}f}"}
        found.append((texts, runs.set_index("seed")))
    baselines, problems = read_each(OUTPUTS, "baselines/*.json", read_json)
    assert not problems
    for record in baselines:
        numbers = {f"test_{key}": value for key, value in record.get("test", {}).items()}
        at_rule = [g["homophily"] for g in record.get("graph", ()) if g["scale"] == 1]  # at the σ of G-Loss-SQRT
        numbers["graph_at_best_homophily"] = at_rule[0] if at_rule else float("nan")
        found.append(({kind: {f"{numbers.get(key, float('nan')):.{n}f}"} for kind, (key, n) in COLUMNS.items()}, None))
    return found


def rows(page: str) -> Iterator[tuple[str, dict[str, str], list[str]]]:
    """Rows of a page's tables: their text, their numbers by kind of column, and, where the columns are data sets or
    losses, their accuracies of a configuration each."""
    for table in re.findall(r"(?:^\|.*\|\n)+", page, re.MULTILINE):
        heading, _, *lines = ([cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines())
        for row in lines:
            joint, alone = {}, []
            for name, cell in zip(heading, row, strict=True):
                number = NUMBER.fullmatch(cell)
                if number and not re.search("validation|propagated", name):
                    shown = " ± ".join(filter(None, number.groups())).replace("−", "-")
                    kind = next((word for word in COLUMNS if word in name), None)
                    if kind:
                        joint[kind] = shown
                    elif number[2]:
                        alone.append(shown)
            yield " | ".join(row), joint, alone


def test_tables_print_what_the_records_hold():
    num_checked = 0
    for path in (ROOT / "docs" / "EVIDENCE.md", ROOT / "README.md"):
        for text, joint, alone in rows(prose(path)):
            where = f"{path.name}: {text}"
            assert any(all(x in texts[kind] for kind, x in joint.items()) for texts, _ in configurations()), where
            assert all(any(x in texts["accuracy"] for texts, _ in configurations()) for x in alone), where
            num_checked += len(joint) + len(alone)
    assert num_checked > 100


@functools.cache
def differences(tables: str) -> list[tuple[float, float, float]]:
    """Mean and 95 % interval of every difference, paired by seed, between two configurations in these tables."""
    found, all_runs = [], {}
    for _, joint, alone in rows(tables):
        for i, (texts, runs) in enumerate(configurations()):
            is_row = bool(joint) and all(x in texts[kind] for kind, x in joint.items())
            if runs is not None and (is_row or any(x in texts["accuracy"] for x in alone)):
                all_runs[i] = runs
    for a, b in itertools.combinations(all_runs.values(), 2):
        paired = a[DIFFERENCES] - b[DIFFERENCES]
        for x, y in ((a, b), (b, a)):  # a set's test texts after training on another set, and on itself
            paired[len(paired.columns)] = x["test_on_accuracy"] - y["test_accuracy"]
        half = stats.t.ppf(0.975, paired.count() - 1) * paired.sem()
        for mean, h in zip(paired.mean(), half, strict=True):  # not a number where fewer than two seeds are shared
            found += [(mean, mean - h, mean + h), (-mean, -mean - h, -mean + h)]
    return found


def is_rounded(value: float, text: str) -> bool:
    places = len(text.partition(".")[2])
    return abs(value - float(text.replace("−", "-"))) <= 0.5 * 10**-places + 1e-9


def check_intervals(text: str, tables: str, met: set[tuple[str, str]]) -> int:
    """Check that each interval in `text` is a difference, either way round, of two configurations in `tables` in some
    score, and that its mean stands before it, with a sign if the interval has signs. Return the number of intervals."""
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
            is_rounded(a, low) and is_rounded(b, high) and is_rounded(mean, shown)
            for (mean, a, b), shown in itertools.product(candidates, means)
        ), f"{before}{found[0]}"
        num_checked += 1
    return num_checked


def test_intervals_are_differences_of_the_records():
    sections, num_checked, met = {}, 0, set()
    for section in re.split(r"^## ", prose(ROOT / "docs" / "EVIDENCE.md"), flags=re.MULTILINE)[1:]:
        sections[anchor(section.partition("\n")[0])] = section
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
