"""Search hyperparameters. The same command once more is one more worker on the same study, also on another machine.

Examples:

  python scripts/tune.py dataset=mr model=bert loss=gloss_o search.trials=12
  python scripts/tune.py -m dataset=mr,r8 model=minilm loss=ce,gloss_o
"""

from __future__ import annotations

from gloss.config import TuneConfig
from gloss.runtime.terminal import announced


def task(cfg: TuneConfig, place: str) -> None:
    with announced("loading PyTorch and transformers"):  # here: a mistake on the command line is reported before
        from gloss.report.figures.search import trials_table
        from gloss.search.worker import tune

    print(trials_table(tune(cfg)).markdown(), flush=True)
