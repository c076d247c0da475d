"""Tables, figures and a page from run records: python scripts/report.py paths.outputs=outputs only=[table2,fig5]"""

import sys

import hydra
from omegaconf import DictConfig

from gloss.report import build


@hydra.main(version_base=None, config_path="../configs", config_name="report")
def main(cfg: DictConfig) -> None:
    try:
        if cfg.measure:
            from gloss.report.measure import measure  # here: the report itself needs no texts

            measure(list(cfg.measure), list(cfg.datasets), cfg.tokenizer, cfg.paths.data, cfg.paths.outputs)
        report = build(cfg.paths.outputs, cfg.only)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for table in report.tables:
        print(table.markdown())
    for problem in report.problems:
        print(f"not used: {problem}", file=sys.stderr)
    print(f"The page: {report.page}")


if __name__ == "__main__":
    main()
