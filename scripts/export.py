"""Copy the model of a run to a folder that transformers and sentence-transformers load.

  python scripts/export.py run=best dataset=mr to=my-model

run= a run's folder; some of dataset= model= loss= mode= variant= config_hash= seed=; or best, by its validation score
to=  the folder to make;  paths.outputs= as in training

The run must have kept its weights, as single runs and those on your own texts do (trainer.save_model).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed

from gloss.cli.arguments import main
from gloss.errors import ConfigError
from gloss.records.reading import SELECTION

KEYS = ("run", *SELECTION, "to", "paths.outputs")


def task(given: dict[str, str]) -> None:
    if "to" not in given:
        raise ConfigError("expected to=…, the folder to make")

    from gloss.inference.export import (
        export,  # here, so that a mistake on the command line is told before torch is loaded
    )
    from gloss.inference.predictor import find_run

    selection = {key: given[key] for key in SELECTION if key in given}
    record = find_run(given.get("run", ""), given.get("paths.outputs", "outputs"), **selection)
    print(f"{export(record, Path(given['to']))}: see its README.md")


if __name__ == "__main__":
    sys.exit(main(task, KEYS, __doc__))
