"""Check a GPU that meets this program for the first time: expectation, measurement and verdict, in under eight minutes.

  python scripts/gpu_check.py
  python scripts/gpu_check.py device=cpu     # a rehearsal of what a CPU can do

device=, paths.data=, paths.outputs= as in training. Keeps everything in <outputs>/gpu_check/result.json, to attach to
an issue; ends with status 1 where a check failed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed

from gloss.cli.arguments import main

KEYS = ("device", "paths.data", "paths.outputs")


def task(given: dict[str, str]) -> int:
    from gloss.benchmark.gpu_check import Row, gpu_check  # here: torch is loaded only once the command line is right
    from gloss.records.run_folder import write_json

    def tell(row: Row) -> None:
        print(f"{row.verdict or '-':6}  {row.what}: {row.measured}", file=sys.stderr, flush=True)

    outputs = given.get("paths.outputs", "outputs")
    result = gpu_check(given.get("device", "cuda"), outputs, given.get("paths.data"), tell)
    print("| check | expected | measured | verdict |\n|---|---|---|---|")
    for row in result["rows"]:
        print("| " + " | ".join(row[key] for key in ("what", "expected", "measured", "verdict")) + " |")
    path = Path(outputs) / "gpu_check" / "result.json"
    write_json(path, result)
    failed = result["failed"]
    print(f"{'Failed: ' + '; '.join(failed) if failed else 'Nothing failed'}, {result['seconds']} s. Kept in {path}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.argv[1:] = sys.argv[1:] or ["device=cuda"]
    sys.exit(main(task, KEYS, __doc__))
