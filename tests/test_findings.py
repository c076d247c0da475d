"""The tables of docs/FINDINGS.md and README.md against the records in outputs/reference."""

import re

import gloss
from gloss.config import ROOT
from gloss.records.reading import read_each, read_json

OUTPUTS = ROOT / "outputs" / "reference"
COLUMNS = {  # a word of a heading: the column of load_runs, and its decimal places
    "accuracy": ("test_accuracy", 1),
    "macro-F1": ("test_macro_f1", 1),
    "silhouette": ("test_macro_silhouette", 2),
    "homophily": ("graph_at_best_homophily", 2),
}
NUMBER = re.compile(r"(−?\d+\.\d+)(?: ± (\d+\.\d+))?(?: \(\d\))?")


def measured() -> dict[str, set[str]]:
    """What a column of each kind may print: the mean over the seeds of a configuration, alone or with the standard
    deviation, or the number of a baseline."""
    groups = gloss.load_runs(OUTPUTS).groupby(["dataset", "model", "mode", "loss", "config_hash"])
    baselines, problems = read_each(OUTPUTS, "baselines/*.json", read_json)
    assert not problems
    texts = {}
    for word, (column, places) in COLUMNS.items():
        stats = groups[column].agg(["mean", "std"])
        own = [found["test"].get(column.removeprefix("test_")) for found in baselines if "test" in found]
        numbers = [*stats["mean"].dropna(), *(value for value in own if value is not None)]
        texts[word] = {f"{value:.{places}f}" for value in numbers}
        texts[word] |= {f"{mean:.{places}f} ± {std:.{places}f}" for mean, std in stats.dropna().to_numpy()}
    return texts


def test_tables_print_what_the_records_hold():
    texts, num_checked = measured(), 0
    for path in (ROOT / "docs" / "FINDINGS.md", ROOT / "README.md"):
        prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for table in re.findall(r"(?:^\|.*\|\n)+", prose, re.MULTILINE):
            heading, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
            for row in rows:
                for name, cell in zip(heading, row, strict=True):
                    kind = next((word for word in COLUMNS if word in name), "accuracy" if "±" in cell else None)
                    number = NUMBER.fullmatch(cell)
                    if number and kind and not re.search("validation|propagated", name):
                        shown = " ± ".join(filter(None, number.groups())).replace("−", "-")
                        assert shown in texts[kind], f"{path.name}: {shown} in {' | '.join(row)}"
                        num_checked += 1
    assert num_checked > 80
