"""Draw a map of a run's embeddings, coloured by class, with the wrongly classified texts marked.

  python scripts/plot.py run=best dataset=mr
  python scripts/plot.py run="dataset=r8 loss=gloss_sqrt seed=1" method=pca split=val to=figures

run=    a run's folder; some of dataset= model= loss= mode= variant= config_hash=; or best, by its validation score
split=  train, val or test (default test);  method= tsne or pca (default tsne)
to=     folder for the PDF, the PNG and the CSV with the numbers (default: maps/ in the outputs)
trainer.device= auto, cpu, cuda, cuda:N, mps;  paths.outputs=, paths.data= as in training
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed

from gloss.cli.arguments import choice, main
from gloss.records.reading import SELECTION

KEYS = ("run", *SELECTION, "split", "method", "to", "trainer.device", "paths.outputs", "paths.data")


def task(given: dict[str, str]) -> None:
    split = choice("split", given.get("split", "test"), ("train", "val", "test"))
    method = choice("method", given.get("method", "tsne"), ("tsne", "pca"))

    from gloss.inference.embedding_plot import (
        map_of_run,  # here, so that a mistake on the command line is told before torch is loaded
    )
    from gloss.inference.predictor import find_run

    outputs = Path(given.get("paths.outputs", "outputs"))
    record = find_run(given.get("run", ""), outputs, **{key: given[key] for key in SELECTION if key in given})
    data = given.get("paths.data") or os.environ.get("GLOSS_DATA_DIR")
    drawing = map_of_run(record, split, method, given.get("trainer.device", "auto"), data)
    folder = Path(given.get("to", outputs / "maps"))
    folder.mkdir(parents=True, exist_ok=True)
    drawing.save(folder)
    print("\n".join([f"{folder / drawing.name}.png (also .pdf and .csv)", *drawing.notes]))


if __name__ == "__main__":
    sys.exit(main(task, KEYS, __doc__))
