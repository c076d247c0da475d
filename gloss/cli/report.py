"""Make tables, figures and the page from run records.

Examples:

  python scripts/report.py paths.outputs=outputs only=table2,fig5
  python scripts/report.py measure=tfidf,frozen
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from gloss.cli.command import Paths, names, refuse


@dataclass
class Report:
    only: list[str] = names()  # names of tables and figures, such as table2,fig5; []: all that have been run
    show: list[str] = names()  # names of tables to print; []: one of all runs, by configuration
    measure: list[str] = (
        names()
    )  # first, from the texts: texts (Table 1), tfidf (Tables 2, 3, 5), frozen (2, 3, graphs)
    datasets: list[str] = names("mr", "r8", "r52", "20ng", "ohsumed", "sst2", "qnli")  # which sets to measure
    models: list[str] = names("bert", "roberta_large", "distilbert")  # whose frozen encoders to measure
    settings: str | None = None  # an experiment whose data sets and models are measured instead, such as demo
    tokenizer: str = "minilm"  # which model's tokenizer counts tokens (BERT's is the same)
    paths: Paths = field(default_factory=Paths)


def task(cfg: Report) -> int:
    from gloss.records.frame import frame_of  # here: slow to import
    from gloss.records.reading import shortened
    from gloss.report.build import build
    from gloss.report.run_list import by_configuration

    if cfg.measure:
        measure(cfg)
    else:
        refuse(cfg, ("datasets", "models", "settings", "tokenizer"), "without measure=")
    report = build(cfg.paths.outputs, cfg.only or None)
    if cfg.show:
        for table in (table for table in report.tables if table.name in cfg.show):
            print(table.markdown())
        if lacking := sorted({*cfg.show} - {part.name for part in report.parts}):
            print(f"nothing was made of {', '.join(lacking)}", file=sys.stderr)
    elif report.records:
        print(by_configuration(frame_of(report.records)) + "\n")
    if report.problems:
        count = f"{len(report.problems)} folders or files are not used (the page lists them)"
        print(f"{count}; the first: {shortened(report.problems[0], 160)}", file=sys.stderr)
    print(f"The page: {report.page}")
    return 0


def measure(cfg: Report) -> None:
    """Measure the texts and baselines that a report shows beside runs."""
    if cfg.settings is not None:
        refuse(cfg, ("datasets", "models"), "with settings=")
    if "frozen" not in cfg.measure:
        refuse(cfg, ("models",), "without measure=frozen")
    if "texts" not in cfg.measure:
        refuse(cfg, ("tokenizer",), "without measure=texts")
    from gloss.experiments.grid import expand_grid  # here: the report itself needs no texts
    from gloss.training import baselines

    datasets: list[Any] = cfg.datasets
    models: list[Any] = cfg.models
    if cfg.settings is not None:
        found = [spec.config for spec in expand_grid(cfg.settings)]
        datasets = list({c.dataset.name: c.dataset for c in found}.values())
        models = list({c.model.alias: c.model for c in found}.values())
    where, keep = (cfg.paths.data or "data", cfg.paths.outputs), cfg.settings is not None
    baselines.measure(cfg.measure, datasets, cfg.tokenizer, *where, models=models, save_embeddings=keep)
