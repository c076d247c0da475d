"""What the page opens with, and in which order the rest follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gloss.paper.names import dataset_name, loss_name, model_name
from gloss.records.reading import Record
from gloss.report.html_page import Section
from gloss.report.seed_groups import Group, reductions

OTHER_RUNS, OTHER_SETTINGS = "Other runs on", "Runs with other settings"
SEARCHES, SPEED, ALL_RUNS = "Searches", "Speed", "All finished runs"
FOLDED = (OTHER_RUNS, OTHER_SETTINGS, SEARCHES, SPEED, ALL_RUNS)  # groups of sections, at the end, in this order


def arranged(sections: Sequence[Section], measured: Sequence[str]) -> list[Section]:
    """The main table and the main figure first, then the claims; what is folded last.

    measured: the experiments that have runs. The main table is that of the first of them, else that of all runs.
    """
    main = next((s for s in sections if s.tables and s.name in measured), None)
    main = main or next((s for s in sections if s.name == "runs"), None)
    figures = [s for s in sections if s.drawings and not s.group and s.name != "fig1"]
    first = []
    if main is not None:
        main.group = ""  # it stands open
        shown = next((s for s in figures if s.name == "convergence"), next(iter(figures), None))
        first = [main] if main.drawings or shown is None else [main, shown]
    rest = [s for s in sections if s not in first]
    fold = {s.name: next((i for i, x in enumerate(FOLDED) if s.group.startswith(x)), -1) for s in rest}
    return first + sorted(rest, key=lambda s: (fold[s.name], s.name != "claims"))


def headline(groups: Sequence[Group]) -> str:
    """ "CE, SCL + CE and G-Loss-O + CE on MR and R8 with BERT-base"; of more than three, their number."""
    if not groups:
        return "G-Loss"
    losses = _listed([loss_name(g.loss, g.mode) for g in groups], "losses")
    datasets = _listed([dataset_name(g.dataset) for g in groups], "data sets")
    return f"{losses} on {datasets} with {_listed([model_name(g.model) for g in groups], 'models')}"


def _listed(names: Sequence[str], kind: str) -> str:
    *others, last = dict.fromkeys(names)
    if len(others) > 2:
        return f"{len(others) + 1} {kind}"
    return f"{', '.join(others)} and {last}" if others else last


def smoke_banner(records: Sequence[Record]) -> str:
    """What to say of smoke runs; empty where there are none."""
    found = [said for r in records if (said := reductions(r.result["config"]))]
    if not found:
        return ""
    which = f"All {len(found)} runs" if len(found) == len(records) else f"{len(found)} of {len(records)} runs"
    most = [x for x, _ in Counter(x for said in found for x in said).most_common(4)]
    return (
        f"Smoke runs: {which} train on few texts, for few epochs or with a small part of a model ({', '.join(most)}). "
        "They show that everything works, and are no evidence on which loss is better."
    )
