"""Train one run, or with -m a sweep: python scripts/train.py dataset=mr model=bert loss=gloss_sqrt seed=1"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed

from gloss.cli.hydra_main import main
from gloss.config import Config


def run(cfg: Config, is_sweep: bool) -> None:
    from gloss.training.run import train  # here, so that a mistake on the command line is told before torch is loaded

    train(cfg, wait=not is_sweep)


if __name__ == "__main__":
    sys.exit(main(run))
