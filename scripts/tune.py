"""Search hyperparameters: python scripts/tune.py dataset=mr model=bert loss=gloss_o mode=integrated search.trials=12

The same command once more, on this machine or (with search.storage) on another, is one more worker on the same study.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed

from gloss.runtime.terminal import telling

with telling("starting"):
    from gloss.cli.hydra_main import main
    from gloss.config import TuneConfig


def run(cfg: TuneConfig, place: str) -> None:
    with telling("loading PyTorch and transformers"):  # here: a mistake on the command line is told before
        from gloss.report.figures.search import trials_table
        from gloss.search.worker import tune

    print(trials_table(tune(cfg)).markdown(), flush=True)


if __name__ == "__main__":
    sys.exit(main(run, config_name="tune"))
