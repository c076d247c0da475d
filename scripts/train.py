"""Train one run, or with -m a sweep: python scripts/train.py dataset=mr model=bert loss=gloss_sqrt seed=1"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed

from gloss.runtime.terminal import telling

with telling("starting"):
    from gloss.cli.hydra_main import main
    from gloss.config import Config


def run(cfg: Config, place: str) -> object:
    with telling("loading PyTorch and transformers"):  # here: a mistake on the command line is told before
        from gloss.training.run import train

    return train(cfg, wait=not place, place=place)


if __name__ == "__main__":
    sys.exit(main(run))
