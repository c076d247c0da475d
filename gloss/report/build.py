"""From run records to tables, figures and one page: needs no GPU, no model and no texts."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gloss.errors import ConfigError, RunError
from gloss.records.reading import Record, read_records
from gloss.records.study import Study, read_studies
from gloss.report import html_page
from gloss.report.demo import demo
from gloss.report.figure import DPI, Drawing, styled
from gloss.report.figures import runs as pictures
from gloss.report.figures import sweeps
from gloss.report.figures.method import fig1
from gloss.report.figures.search import search_command, study_figure, trials_table
from gloss.report.figures.training import convergence, graph_quality, pretrained_graph
from gloss.report.html_page import ALL_RUNS, OTHER_RUNS, OTHER_SETTINGS, SEARCHES, SPEED, Section, render
from gloss.report.run_list import runs_table
from gloss.report.seed_groups import Group, gather, identity, ungrouped_runs
from gloss.report.table import Table
from gloss.report.tables import comparisons, results
from gloss.report.tables.datasets_and_search import read_measured, study_order, table1, table7
from gloss.report.tables.own_data import own_data_tables
from gloss.report.tables.paper_claims import paper_claims_table
from gloss.report.tables.reference import with_references
from gloss.report.tables.speed import read_bench, speed_table
from gloss.runtime.atomic import write_atomic
from gloss.runtime.terminal import escape_control_characters

MAIN = ("table2", "table3", "table6")  # whose runs speak for or against claims
Parts = Iterable[Table | Drawing | None]


@dataclass
class Material:
    """The input of the sections, and the claims and problems that they add.

    groups: the cells of each requested experiment; problems: messages about files and cells that cannot be used.
    """

    outputs: Path
    groups: dict[str, list[Group]]
    studies: list[Study]
    problems: list[str]
    claims: list[dict[str, Any]] = field(default_factory=list)

    def measured(self, kind: str) -> list[dict[str, Any]]:
        """All records of a kind ("texts", "tfidf", "frozen") that lie in <outputs>/baselines, by data set."""
        found, broken = read_measured(self.outputs, kind)
        self.problems += [p for p in broken if p not in self.problems]
        return found

    def with_references(self, table: Table, groups: list[Group]) -> Parts:
        return [with_references(table, groups, self.measured("frozen"), self.measured("tfidf"))]


def _variant(m: Material, groups: list[Group]) -> Parts:
    table, claims = comparisons.variant(groups)
    m.claims += claims
    return [table]


class Kind(NamedTuple):
    """A section of the page: title, experiments whose runs it shows, and the function that makes its parts from cells.

    reads: further experiments whose runs it uses if they were requested.
    """

    title: str
    experiments: tuple[str, ...]
    make: Callable[..., Parts]
    reads: tuple[str, ...] = ()


def _sweep(name: str) -> Kind:
    return Kind(sweeps.SWEEPS[name].title, (name,), lambda m, groups: [sweeps.sweep(name, groups)])


SECTIONS = {
    "demo": Kind("Before and after training", ("demo",), lambda m, x: demo(x, m.measured("frozen"), m.outputs)),
    "table1": Kind("Table 1: the texts", (), lambda m: [table1(found) for found in [m.measured("texts")] if found]),
    "table2": Kind(
        "Table 2: integrated mode, accuracy / macro-F1 (%)",
        ("table2",),
        lambda m, x: m.with_references(results.table2(x), x),
    ),
    "table3": Kind("Table 3: standalone mode", ("table3",), lambda m, x: m.with_references(results.table3(x), x)),
    "table4": Kind("Table 4: G-Loss-O against SCL", ("table3",), lambda m, x: [results.table4(x)]),
    "table5": Kind(
        "Table 5: against published systems, accuracy (%)",
        ("table2",),
        lambda m, x: [comparisons.table5(x, m.measured("tfidf"))],
    ),
    "table6": Kind("Table 6: SST-2 and QNLI, accuracy (%)", ("table6",), lambda m, x: [results.table6(x)]),
    "table7": Kind("Table 7: hyperparameters", (), lambda m: [table7(m.studies)] if m.studies else []),
    "table9": Kind("Table 9: paired tests", ("table3",), lambda m, x: [comparisons.table9(x)]),
    "paper_claims": Kind(
        "Claims of the paper", (), lambda m: [paper_claims_table([g for e in MAIN for g in m.groups.get(e, ())])], MAIN
    ),
    "fig1": Kind("Figure 1: one training step", (), lambda m: [fig1()]),
    "fig2": Kind("Figure 2: the weight λ", ("fig2",), lambda m, x: [sweeps.fig2(x)]),
    "fig3": Kind("Figure 3: γ and σ", ("fig3a", "fig3b"), lambda m, x, y: [sweeps.fig3(x, y)]),
    "fig4": Kind("Figure 4: the graph in training", ("fig4",), lambda m, x: [pictures.fig4(x)]),
    "fig5": Kind("Figure 5: test embeddings", ("fig5",), lambda m, x: [pictures.fig5(x)]),
    "fig6": Kind("Figure 6: where the time goes", ("fig6",), lambda m, x: [pictures.fig6(x)]),
    "fig7": Kind("Figure 7: sensitivity", ("fig7",), lambda m, x: [sweeps.fig7(x)]),
    "pretrained_graph": Kind("The graph before training", (), lambda m: [pretrained_graph(m.measured("frozen"))]),
    **{name: _sweep(name) for name in ("few_shot", "label_noise", "graph_noise")},
    "shift": Kind("Another domain", ("shift",), lambda m, x: [comparisons.shift(x)]),
    "graph_size": _sweep("graph_size"),
    "variant": Kind("Paper and released code", ("variant",), _variant),
}
ALIASES = {"table8": "table7"}  # the paper's two tables of hyperparameters are one here
WITH_OTHERS = ("table2", "table3", "table6", "shift")  # runs with other settings are listed beside these


@dataclass(frozen=True)
class Report:
    """The result of `build`: the records it read, tables and drawings, the page's path, and messages about problems."""

    records: list[Record]
    parts: list[Table | Drawing]
    page: Path
    problems: list[str]

    @property
    def tables(self) -> list[Table]:
        return [part for part in self.parts if isinstance(part, Table)]


def build(outputs: str | Path, only: Sequence[str] | None = None, dpi: int = DPI) -> Report:
    """Make the tables, the figures and the page <outputs>/report/index.html from the records under `outputs`.

    only: names of SECTIONS; None: the experiments in <outputs>/selections.yaml, and all measurements.
    Equal records give equal bytes in the Markdown, CSV and LaTeX files. Raises ConfigError for an unknown name and
    for a missing folder.
    """
    outputs = Path(outputs)
    only = None if only is None else [ALIASES.get(name, name) for name in only]
    if unknown := sorted(set(only or ()) - set(SECTIONS)):
        raise ConfigError(f"only={','.join(unknown)} is not allowed: expected some of {', '.join(SECTIONS)}")
    if not outputs.is_dir():
        raise ConfigError(f"paths.outputs={outputs}: no such folder of runs; `make demo` makes outputs/demo")
    records, broken = read_records(outputs)
    root = outputs.resolve()
    problems = [escape_control_characters(f"{p.folder.relative_to(root)}: {p.reason}") for p in broken]
    specs, commands = _compose(outputs, only, records, problems)
    reasons = {p.folder: escape_control_characters(p.reason.partition("\n")[0]) for p in broken if p.has_failed}
    failed = {folder.relative_to(root / "runs").parts: reason for folder, reason in reasons.items()}
    gathered = {name: gather(mine, records, failed) for name, mine in specs.items()}
    studies, unread = read_studies(outputs)
    problems += unread
    groups = {name: mine for name, (mine, _) in gathered.items()}
    m = Material(outputs, groups, sorted(studies, key=study_order), problems)
    loose = ungrouped_runs(records)
    with styled():
        sections = _sections(m, only, {name: others for name, (_, others) in gathered.items()}, commands)
        if m.claims:
            summary = comparisons.claims_table(m.claims)
            sections.append(Section("claims", summary.title, [summary]))
        if only is None:
            sections += _every_run(m, loose) + _speed(m)
        ran = [n for n, mine in m.groups.items() if any(g.runs for g in mine)]
        sections = html_page.arranged(sections, ran)
        folder = outputs / "report"
        folder.mkdir(parents=True, exist_ok=True)
        for part in (part for section in sections for part in section.parts):
            part.save(folder, dpi) if isinstance(part, Drawing) else part.save(folder)
        seen = {section.name for section in sections}
        own = {n: k for n, k in SECTIONS.items() if n != "demo" and k.experiments and n not in seen}
        own = {n: k for n, k in own.items() if all(e.startswith(n) and e not in ran for e in k.experiments)}
        not_run = [(_make(n, outputs), k.title) for n, k in own.items()] if specs and only is None else []
        page = render(sections, records, studies, problems, not_run, folder)
    write_atomic(folder / "index.html", page)
    return Report(records, [part for s in sections for part in s.parts], folder / "index.html", problems)


def _compose(
    outputs: Path, only: Sequence[str] | None, records: Sequence[Record], problems: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The specs of each requested experiment, and the command that runs them."""
    if only is None and not (outputs / "selections.yaml").is_file():
        return {}, {}
    from gloss.experiments.requested import selections, shown_runs, with_texts  # here: Hydra is slow

    known = {name for kind in SECTIONS.values() for name in kind.experiments}
    try:
        chosen = selections(outputs)
    except ValueError as error:  # ConfigError
        problems.append(str(error))
        chosen = {}
    problems += [f"{outputs / 'selections.yaml'}: there is no experiment {name}" for name in sorted({*chosen} - known)]
    if only is None:
        chosen = {name: asked for name, asked in chosen.items() if name in known}
    else:
        kinds = [SECTIONS[name] for name in only]
        needed = {n for k in kinds for n in (*k.experiments, *(x for x in k.reads if x in chosen))}
        chosen = {name: chosen.get(name, [[]]) for name in sorted(needed)}
    found, commands = {}, {}
    for name, asked in chosen.items():
        try:
            specs, asked = shown_runs(name, asked, outputs)
            found[name] = with_texts(specs, records)
        except ValueError as error:  # ConfigError; DataError: texts that neither the disk nor the records know
            problems.append(f"{name}: {error}")
        arguments = [f' ARGS="{" ".join(overrides)}"' if overrides else "" for overrides in asked]
        commands[name] = " && ".join(f"{_make(name, outputs)}{x}" for x in arguments)
    return found, commands


def _make(name: str, outputs: Path) -> str:
    """The command that makes a section, in its outputs folder: in another one all runs would start anew."""
    if name == "demo":
        return "make demo"
    return f"make reproduce-{name}" + (f" OUTPUTS={shlex.quote(str(outputs))}" if outputs != Path("outputs") else "")


def _sections(
    m: Material, only: Sequence[str] | None, others: dict[str, list[Group]], commands: dict[str, str]
) -> list[Section]:
    """The requested sections; others: by experiment, runs of its losses with other settings."""
    expected = {identity(g) for mine in m.groups.values() for g in mine}
    sections: list[Section] = []
    for name, kind in SECTIONS.items():
        needs_runs = kind.experiments or (only is None and name in ("fig1", "paper_claims"))
        has_runs = any(e in m.groups for e in kind.experiments or m.groups)
        if only is not None and name not in only or needs_runs and not has_runs:
            continue
        mine = [m.groups.get(e, []) for e in kind.experiments]
        m.claims += comparisons.claims(kind.title.partition(":")[0], mine[0]) if name in MAIN else []
        try:
            parts = [p for p in kind.make(m, *mine) if p is not None]
        except RunError as error:
            m.problems.append(escape_control_characters(f"{name}: {error}"))
            continue
        if not parts and (runs := sum(len(g.runs) for cells in mine for g in cells)):
            m.problems.append(f"{name}: none of its {runs} runs can be drawn")
        command = " && ".join(commands[e] for e in kind.experiments if e in commands) or _make(name, m.outputs)
        sections += [Section(name, kind.title, parts, command)] if parts else []
        if name == "table7":
            sections += _searches(m)
        loose = [g for g in others.get(name, ()) if identity(g) not in expected] if name in WITH_OTHERS else []
        if loose:
            title = f"{kind.title.split(':')[0]}: runs with other settings"
            table = runs_table(loose, f"{name}_others", title)
            sections.append(Section(table.name, title, [table], group=OTHER_SETTINGS))
    return sections


def _searches(m: Material) -> list[Section]:
    """A section for each search: its trials, and the score against each hyperparameter."""
    sections = []
    for study in m.studies:
        table, drawing = trials_table(study), study_figure(study)
        parts: list[Table | Drawing] = [table, drawing] if drawing else [table]
        sections.append(Section(table.name, table.title, parts, search_command(study, m.outputs), SEARCHES))
    return sections


def _speed(m: Material) -> list[Section]:
    """The benchmarks under <outputs>/bench, in one section."""
    found, broken = read_bench(m.outputs)
    m.problems += broken
    try:
        return [Section("bench", SPEED, [speed_table(found)], "make bench", SPEED)] if found else []
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        text = f"bench: the results cannot be used: {type(error).__name__}: {error}"
        m.problems.append(escape_control_characters(text))
        return []


def _every_run(m: Material, loose: Sequence[Group]) -> list[Section]:
    """The sections of every outputs folder: convergence, graph quality, runs on the user's own texts, all runs."""
    asked, sections = [g for name in MAIN for g in m.groups.get(name, ())], []
    for name, draw in (("convergence", convergence), ("graph_quality", graph_quality)):
        if drawn := draw(loose, asked):
            sections.append(Section(name, drawn[0].title, drawn))
    for dataset, runs in own_data_tables(loose, m.problems).items():
        for i, parts in enumerate(runs):
            title = parts[0].title + (", best on validation" if i == 0 < len(runs) - 1 else "")
            fold = f"{OTHER_RUNS} {dataset}" if i else ""
            sections.append(Section(parts[0].name, title, parts, group=fold))
    if loose:
        sections.append(Section("runs", ALL_RUNS, [runs_table(loose)], group=ALL_RUNS))
    return sections
