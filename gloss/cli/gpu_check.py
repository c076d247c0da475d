"""Check a GPU before its first use with this program: expectation, measurement and verdict, in under eight minutes.

  python scripts/gpu_check.py
  python scripts/gpu_check.py device=cpu

device=cpu rehearses the checks that a CPU can do. Everything is kept in <outputs>/gpu_check/result.json, to attach to
an issue; the exit status is 1 where a check failed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from gloss.cli.command import Outputs


@dataclass
class GpuCheck:
    device: str = "cuda"  # cuda, cuda:N, mps or cpu
    paths: Outputs = field(default_factory=Outputs)


def task(cfg: GpuCheck) -> int:
    from gloss.benchmark.gpu_check import gpu_check  # here: torch is loaded only once the command line is right
    from gloss.records.run_folder import write_json

    def show(row: dict[str, str]) -> None:
        print(f"{row['verdict'] or '-':6}  {row['what']}: {row['measured']}", file=sys.stderr, flush=True)

    result = gpu_check(cfg.device, cfg.paths.outputs, show)
    print("| check | expected | measured | verdict |\n|---|---|---|---|")
    for row in result["rows"]:
        print("| " + " | ".join(row.values()) + " |")
    path = Path(cfg.paths.outputs) / "gpu_check" / "result.json"
    write_json(path, result)
    failed = result["failed"]
    print(f"{'Failed: ' + '; '.join(failed) if failed else 'Nothing failed'}, {result['seconds']} s. Kept in {path}")
    return int(bool(failed))
