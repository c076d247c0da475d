"""Tables, figures and a page from run records: python scripts/report.py paths.outputs=outputs"""

import hydra
from omegaconf import DictConfig

from gloss.report import build


@hydra.main(version_base=None, config_path="../configs", config_name="report")
def main(cfg: DictConfig) -> None:
    report = build(cfg.paths.outputs, cfg.only)
    for table in report.tables:
        print(table.markdown())
    print(f"The page: {report.page}")


if __name__ == "__main__":
    main()
