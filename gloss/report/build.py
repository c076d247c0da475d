"""From run records to tables, figures and one page: needs no GPU, no model and no texts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gloss.errors import ConfigError, RunError
from gloss.records.reading import Record, read_records
from gloss.records.study import Study, read_studies
from gloss.report import opening
from gloss.report.demo import demo
from gloss.report.figure import DPI, Drawing, styled
from gloss.report.figures import runs as pictures
from gloss.report.figures import search as studies
from gloss.report.figures import sweeps as lines
from gloss.report.figures.graph_quality import graph_quality
from gloss.report.figures.method import fig1
from gloss.report.html_page import Section, render
from gloss.report.seed_groups import Group, gather, off_protocol, reductions, refuse_doubles, ungrouped_runs
from gloss.report.table import Table
from gloss.report.tables import comparisons as compare
from gloss.report.tables import datasets_and_search as starting
from gloss.report.tables import own_experiments as own
from gloss.report.tables import results as tables
from gloss.report.tables.all_runs import convergence, identity, runs_table
from gloss.report.tables.comparisons import Claim
from gloss.report.tables.own_data import own_data_tables
from gloss.report.tables.paper_claims import paper_claims_table
from gloss.report.tables.reference import with_references
from gloss.report.tables.speed import read_bench, speed_table
from gloss.runtime.atomic import write_atomic
from gloss.runtime.terminal import escape_control_characters

SECTIONS = {  # a section of the page: title, the experiments whose runs it shows
    "demo": ("Before and after training", ("demo",)),
    "table1": ("Table 1: the texts", ()),
    "table2": ("Table 2: integrated mode", ("table2",)),
    "table3": ("Table 3: standalone mode", ("table3",)),
    "table4": ("Table 4: G-Loss-O against SCL", ("table3",)),
    "table5": ("Table 5: against published systems", ("table2",)),
    "table6": ("Table 6: SST-2 and QNLI", ("table6",)),
    "table7": ("Table 7: hyperparameters", ()),
    "table9": ("Table 9: paired tests", ("table3",)),
    "paper_claims": ("Claims of the paper", ()),
    "fig1": ("Figure 1: one training step", ()),
    "fig2": ("Figure 2: the weight λ", ("fig2",)),
    "fig3": ("Figure 3: γ and σ", ("fig3a", "fig3b")),
    "fig4": ("Figure 4: the graph in training", ("fig4",)),
    "fig5": ("Figure 5: test embeddings", ("fig5",)),
    "fig6": ("Figure 6: where the time goes", ("fig6",)),
    "fig7": ("Figure 7: sensitivity", ("fig7",)),
    "few_shot": ("Few training texts", ("few_shot",)),
    "label_noise": ("Wrong training labels", ("label_noise",)),
    "graph_noise": ("A noisy graph", ("graph_noise",)),
    "shift": ("Another domain", ("shift",)),
    "graph_size": ("Larger graphs", ("graph_size",)),
    "variant": ("Paper and released code", ("variant",)),
}
ALIASES = {"table8": "table7"}  # the paper's two tables of hyperparameters are one here
_READS = {"paper_claims": ("table2", "table3", "table6")}  # experiments whose runs a section reads where there are any
_TABLES = {"table2": tables.table2, "table3": tables.table3, "table4": tables.table4, "table6": tables.table6}
_TABLES |= {"shift": own.shift}
_FIGURES = {"fig2": lines.fig2, "fig4": pictures.fig4, "fig5": pictures.fig5, "fig6": pictures.fig6, "fig7": lines.fig7}
_FIGURES |= {name: getattr(own, name) for name in ("few_shot", "label_noise", "graph_noise", "graph_size")}


@dataclass(frozen=True)
class Report:
    """What `build` made: the tables, where the page is, what could not be used or made; and the records it read."""

    records: list[Record]
    tables: list[Table]
    page: Path
    problems: list[str]


def build(outputs: str | Path, only: Sequence[str] | None = None, dpi: int = DPI) -> Report:
    """Make the tables, the figures and the page <outputs>/report/index.html from the records under `outputs`.

    only: names of SECTIONS; None: the experiments in <outputs>/selections.yaml, and what was measured.
    Equal records give equal bytes in the Markdown, CSV and LaTeX files. Raises ConfigError for an unknown name and
    for a folder that is not there.
    """
    outputs = Path(outputs)
    only = None if only is None else [ALIASES.get(name, name) for name in only]
    if unknown := sorted(set(only or ()) - set(SECTIONS)):
        raise ConfigError(f"only={','.join(unknown)} is not allowed: expected some of {', '.join(SECTIONS)}")
    if not outputs.is_dir():
        raise ConfigError(f"paths.outputs={outputs}: no such folder of runs; `make demo` makes outputs/demo")
    records, found = read_records(outputs)
    problems = [escape_control_characters(f"{_relative(p.folder, outputs)}: {p.reason}") for p in found]
    records, doubles = refuse_doubles(records)
    problems += doubles
    cells, commands = _compose(outputs, only, records, problems)
    groups = {name: gather(c, records) for name, c in cells.items()}
    expected = {identity(g) for mine, _ in groups.values() for g in mine}
    found_studies = sorted(read_studies(outputs, problems), key=starting.study_order)  # the paper's
    sections: list[Section] = []
    claims: list[Claim] = []
    with styled(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # matplotlib's, about a panel too small for its labels
        for name, (title, needs) in SECTIONS.items():
            if only is not None and name not in only or needs and not any(n in groups for n in needs):
                continue
            if name in ("fig1", "paper_claims") and not groups and only is None:
                continue
            try:
                mine = {n: groups[n][0] for n in (*needs, *_READS.get(name, ())) if n in groups}
                parts = _parts(name, outputs, mine, found_studies, claims, problems)
            except RunError as error:
                problems.append(f"{name}: {error}")
                continue
            parts = [part for part in parts if part is not None]
            own_groups = [g for n in needs for g in mine.get(n, ())]
            if parts:
                command = " && ".join(commands[n] for n in needs if n in commands) or f"make reproduce-{name}"
                sections.append(_section(name, title, parts, command, own_groups))
            if name == "table7":
                sections += _searches(found_studies, problems)
            if name in groups and name in _TABLES:  # runs with other settings, unless another experiment asked for them
                if others := [g for g in groups[name][1] if identity(g) not in expected]:
                    title = f"{title.split(':')[0]}: runs with other settings"
                    parts = [runs_table(others, f"{name}_others", title)]
                    sections.append(_section(f"{name}_others", title, parts, "", others, opening.OTHER_SETTINGS))
        if claims:
            summary = compare.claims_table(claims)
            sections.append(_section("claims", summary.title, [summary], ""))
        loose = ungrouped_runs(records)
        if only is None:
            asked = [g for name in ("table2", "table3", "table6") for g in groups.get(name, ((), ()))[0]]
            sections += _every_run(loose, asked, problems) + _speed(outputs, problems)
        sections = opening.arranged(sections, [n for n, (mine, _) in groups.items() if any(g.runs for g in mine)])
        folder = outputs / "report"
        folder.mkdir(parents=True, exist_ok=True)
        for section in sections:
            for table in section.tables:
                _write(folder, table)
            for drawing in section.drawings:
                drawing.save(folder, dpi)
        missing = [n for n, (_, needs) in SECTIONS.items() if needs == (n,) and n not in cells and n != "demo"]
        open_ = [(n, SECTIONS[n][0]) for n in missing]
        shown = groups.get(sections[0].name, (loose, ()))[0] if sections else loose
        page = render(
            opening.headline([g for g in shown if g.runs]),
            _intro(outputs, len(records)),
            sections,
            records,
            problems,
            open_ if cells and only is None else (),
            folder,
            found_studies,
            opening.smoke_banner(records),
        )
    write_atomic(folder / "index.html", page)
    return Report(records, [t for s in sections for t in s.tables], folder / "index.html", problems)


def _compose(
    outputs: Path, only: Sequence[str] | None, records: Sequence[Record], problems: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The cells of each experiment that was asked for, and the command that runs them."""
    chosen = _selections(outputs, problems)
    if only is not None:
        needed = {n for name in only for n in (*SECTIONS[name][1], *(x for x in _READS.get(name, ()) if x in chosen))}
        chosen = {name: chosen.get(name, [[]]) for name in sorted(needed)}
    cells, commands = {}, {}
    if chosen:
        from gloss.experiments.requested import requested_runs, same_settings, with_texts  # here: Hydra takes its time

        for name, asked in chosen.items():
            asked = same_settings(name, asked)[-1]  # those that go together with the last
            try:
                cells[name] = with_texts(requested_runs(name, asked, outputs), records)
            except ValueError as error:  # ConfigError; DataError: texts that neither the disk nor the records know
                problems.append(f"{name}: {error}")
            arguments = [f' ARGS="{" ".join(overrides)}"' if overrides else "" for overrides in asked]
            target = name if name == "demo" else f"reproduce-{name}"
            commands[name] = " && ".join(f"make {target}{x}" for x in arguments)
    return cells, commands


def _selections(outputs: Path, problems: list[str]) -> dict[str, list[list[str]]]:
    """Experiment -> each time's overrides, as gloss.experiments.requested.selections."""
    if not (outputs / "selections.yaml").is_file():
        return {}
    from gloss.experiments.requested import selections

    known = {n for _, needs in SECTIONS.values() for n in needs}
    try:
        found = selections(outputs)
    except ValueError as error:  # ConfigError
        problems.append(str(error))
        return {}
    problems += [f"{outputs / 'selections.yaml'}: there is no experiment {name}" for name in sorted(set(found) - known)]
    return {name: asked for name, asked in found.items() if name in known}


def _parts(
    name: str,
    outputs: Path,
    groups: dict[str, list[Group]],
    found_studies: Sequence[Study],
    claims: list[Claim],
    problems: list[str],
) -> list[Table | Drawing | None]:
    """The tables and drawings of a section; also adds what it says to `claims`."""
    first = next(iter(groups.values()), [])
    if name in ("table2", "table3", "table6"):
        claims += compare.claims(name.replace("table", "Table "), first)
    if name in ("table2", "table3"):
        references = {}
        for kind in ("frozen", "tfidf"):
            references[kind], broken = starting.read_measured(outputs, kind)
            problems += [p for p in broken if p not in problems]
        return [with_references(_TABLES[name](first), first, **references)]
    if name == "demo":
        measured, broken = starting.read_measured(outputs, "frozen")
        problems += broken
        return demo(first, measured, outputs)
    if name in _TABLES:
        return [_TABLES[name](first)]
    if name in _FIGURES:
        return [_FIGURES[name](first)]
    if name == "fig3":
        return [lines.fig3(groups.get("fig3a", []), groups.get("fig3b", []))]
    if name == "fig1":
        return [fig1()]
    if name == "paper_claims":
        return [paper_claims_table([g for mine in groups.values() for g in mine])]
    if name == "table9":
        return list(compare.table9(first))
    if name == "variant":
        table, found = own.variant(first)
        claims += found
        return [table]
    if name in ("table1", "table5"):
        measured, broken = starting.read_measured(outputs, {"table1": "texts", "table5": "tfidf"}[name])
        problems += [p for p in broken if p not in problems]
        if name == "table5":
            return [compare.table5(first, measured)]
        return [starting.table1(measured) if measured else None]
    return [starting.table7(found_studies) if found_studies else None]


def _searches(found: Sequence[Study], problems: list[str]) -> list[Section]:
    """A section a search: its trials, and how the score depends on what was searched."""
    sections = []
    for study in found:
        try:
            drawn = studies.study_figure(study)
        except ValueError as error:  # Optuna's, about values outside their ranges
            problems.append(f"{study.name}: {error}")
            drawn = None
        table = studies.trials_table(study)
        parts: list[Table | Drawing] = [table, *([drawn] if drawn else [])]
        sections.append(_section(table.name, table.title, parts, table.command, group=opening.SEARCHES))
    return sections


def _speed(outputs: Path, problems: list[str]) -> list[Section]:
    """The benchmarks under <outputs>/bench, in one section."""
    results, broken = read_bench(outputs)
    problems += broken
    try:
        return (
            [_section("bench", opening.SPEED, [speed_table(results)], "make bench", group=opening.SPEED)]
            if results
            else []
        )
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"bench: the results cannot be used: {type(error).__name__}: {error}"
        problems.append(escape_control_characters(reason))
        return []


def _every_run(loose: Sequence[Group], asked: Sequence[Group], problems: list[str]) -> list[Section]:
    """What every outputs folder has: how losses converge, all runs, and a close look at those on one's own texts."""
    sections = []
    for name, draw in (("convergence", convergence), ("graph_quality", graph_quality)):
        if drawn := draw(loose, asked):
            sections.append(_section(name, drawn[0].title, drawn, "", loose))
    for dataset, runs in own_data_tables(loose, problems).items():
        for i, parts in enumerate(runs):
            title = parts[0].title + (", best on validation" if i == 0 < len(runs) - 1 else "")
            sections.append(
                _section(parts[0].name, title, parts, "", group=f"{opening.OTHER_RUNS} {dataset}" if i else "")
            )
    if loose:
        sections.append(_section("runs", opening.ALL_RUNS, [runs_table(loose)], "", loose, opening.ALL_RUNS))
    return sections


def _section(
    name: str,
    title: str,
    parts: Sequence[Table | Drawing],
    command: str,
    groups: Sequence[Group] = (),
    group: str = "",
) -> Section:
    """A section; groups: those that it shows, which its marks are about."""
    shown = [g for g in groups if g.runs]
    smoke = [bool(reductions(g.config)) for g in shown]
    marks = [("smoke runs" if all(smoke) else "some smoke runs")] if any(smoke) else []
    if not marks and shown and all(off_protocol(g) for g in shown):
        marks = ["not the paper's protocol"]
    drawings = [part for part in parts if isinstance(part, Drawing)]
    return Section(name, title, [p for p in parts if isinstance(p, Table)], drawings, command, group, marks)


def _intro(outputs: Path, num_runs: int) -> str:
    if not num_runs:
        return f"There are no finished runs under {outputs / 'runs'} yet: make demo makes some in a few minutes."
    return f"Made from the records of {num_runs} finished runs; only the paper's own numbers are copied from elsewhere."


def _relative(folder: Path, outputs: Path) -> str:
    try:
        return str(folder.relative_to(outputs.resolve()))
    except ValueError:
        return str(folder)


def _write(folder: Path, table: Table) -> None:
    for suffix, text in ((".md", table.markdown()), (".csv", table.csv()), (".tex", table.latex())):
        write_atomic(folder / (table.name + suffix), text)
