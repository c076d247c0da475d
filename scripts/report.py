"""Tables, figures and a page from run records: python scripts/report.py paths.outputs=outputs only=[table2,fig5]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from gloss.config import CONFIG_DIR, Option, known_options
from gloss.errors import ConfigError
from gloss.records.frame import frame_of
from gloss.records.reading import shortened
from gloss.report.build import build
from gloss.report.run_list import by_cell
from gloss.runtime.compose import readable
from gloss.runtime.overrides import prepared
from gloss.runtime.terminal import run_with_exit_code

KEYS = {key: Option("", "", "", None) for key in ("only", "show", "measure", "datasets", "tokenizer", "settings")}
PROBLEMS = 10  # that are shown
OPTIONS = KEYS | {key: known_options()[key] for key in ("paths.outputs", "paths.data")}


def main(arguments: list[str]) -> int:
    """Make the report; the exit status. Raises ConfigError, and OSError where it cannot be written."""
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\n\nWhat can be set:\n\n{(CONFIG_DIR / 'report.yaml').read_text()}")
        return 0
    arguments = prepared(arguments, OPTIONS, is_sweep=False)
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base=None):  # over before experiments are composed
            cfg = compose("report", arguments)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(readable(error, arguments)) from None
    if cfg.measure:
        from gloss.training.baselines import measure  # here: the report itself needs no texts

        where = cfg.paths.data, cfg.paths.outputs
        datasets, models, keep = list(cfg.datasets), list(cfg.models), cfg.settings is not None
        if keep:
            from gloss.experiments.grid import expand_grid

            found = [cell.config for cell in expand_grid(cfg.settings)]
            datasets = list({c.dataset.name: c.dataset for c in found}.values())
            models = list({c.model.alias: c.model for c in found}.values())
        measure(list(cfg.measure), datasets, cfg.tokenizer, *where, models=models, save_embeddings=keep)
    report = build(cfg.paths.outputs, [cfg.only] if isinstance(cfg.only, str) else cfg.only)
    if cfg.show:
        wanted = [cfg.show] if isinstance(cfg.show, str) else cfg.show
        for table in (table for table in report.tables if table.name in wanted):
            print(table.markdown())
    elif report.records:
        print(by_cell(frame_of(report.records)) + "\n")
    for problem in report.problems[:PROBLEMS]:
        print(f"not used: {shortened(problem, 160)}", file=sys.stderr)
    if (more := len(report.problems) - PROBLEMS) > 0:
        print(f"and {more} more: the page lists all", file=sys.stderr)
    print(f"The page: {report.page}")
    return 0


if __name__ == "__main__":
    sys.exit(run_with_exit_code(lambda: main(sys.argv[1:])))
