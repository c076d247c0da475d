"""The tables of docs/EVIDENCE.md and README.md against the records in outputs/reference, and links between pages."""

import re

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


def measured() -> list[dict[str, set[str]]]:
    """What a row about one configuration, or about one baseline, may print in a column of each kind: the mean over the
    seeds, alone or with the standard deviation."""
    found = []
    for _, runs in gloss.load_runs(OUTPUTS).groupby(["dataset", "model", "mode", "loss", "config_hash"]):
        texts = {}
        for kind, (column, places) in COLUMNS.items():
            mean = f"{runs[column].mean():.{places}f}"
            texts[kind] = {mean, f"{mean} ± {runs[column].std():.{places}f}"}
        found.append(texts)
    baselines, problems = read_each(OUTPUTS, "baselines/*.json", read_json)
    assert not problems
    for record in baselines:
        numbers = {f"test_{key}": value for key, value in record.get("test", {}).items()}
        at_rule = [g["homophily"] for g in record.get("graph", ()) if g["scale"] == 1]  # at the σ of G-Loss-SQRT
        numbers["graph_at_best_homophily"] = at_rule[0] if at_rule else float("nan")
        found.append({kind: {f"{numbers.get(key, float('nan')):.{n}f}"} for kind, (key, n) in COLUMNS.items()})
    return found


def test_tables_print_what_the_records_hold():
    candidates, num_checked = measured(), 0
    for path in (ROOT / "docs" / "EVIDENCE.md", ROOT / "README.md"):
        prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for table in re.findall(r"(?:^\|.*\|\n)+", prose, re.MULTILINE):
            heading, _, *rows = ([cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines())
            for row in rows:
                joint, alone = {}, []  # of one configuration; of one each, where the columns are data sets or losses
                for name, cell in zip(heading, row, strict=True):
                    number = NUMBER.fullmatch(cell)
                    if number and not re.search("validation|propagated", name):
                        shown = " ± ".join(filter(None, number.groups())).replace("−", "-")
                        kind = next((word for word in COLUMNS if word in name), None)
                        if kind:
                            joint[kind] = shown
                        elif number[2]:
                            alone.append(shown)
                where = f"{path.name}: {' | '.join(row)}"
                assert any(all(x in texts[kind] for kind, x in joint.items()) for texts in candidates), where
                assert all(any(x in texts["accuracy"] for texts in candidates) for x in alone), where
                num_checked += len(joint) + len(alone)
    assert num_checked > 100


def test_links_between_pages_lead_to_a_heading():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    anchors = {}
    for page in pages:
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
        anchors[page] = {re.sub(r"[^\w\- ]", "", x.lower()).replace(" ", "-") for x in headings}
    num_links = 0
    for page in pages:
        for name, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8")):
            if "://" not in name:
                target = (page.parent / name).resolve() if name else page
                assert target.exists(), f"{page.name}: {name}"
                assert not anchor or anchor in anchors[target], f"{page.name}: {name}#{anchor}"
                num_links += 1
    assert num_links > 60
