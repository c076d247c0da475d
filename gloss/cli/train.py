"""Train one run, or with -m a sweep: every combination of values separated by commas.

Examples:

  python scripts/train.py dataset=mr model=bert loss=gloss_sqrt seed=1
  python scripts/train.py -m dataset=mr,r8 loss=ce,gloss_sqrt seed=1,2,3
"""

from __future__ import annotations

from gloss.config import Config
from gloss.runtime.terminal import announced


def task(cfg: Config, place: str) -> object:
    with announced("loading PyTorch and transformers"):  # here: a mistake on the command line is reported before
        from gloss.training.run import train

    return train(cfg, wait=not place, place=place)
