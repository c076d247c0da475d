"""How long a training step takes, what it is made of, and how it compares: `make bench`.

Candidates take turns on the same batches, in an order that changes from round to round, so that a machine that slows
down or is used by others slows all of them: a ratio is formed within a round, and judged by the median over rounds.
Cross-entropy runs twice a round; what differs between the two is noise.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from gloss.benchmark.compare import ratios, run_ratio, summary, targets
from gloss.benchmark.scaling import measure_growth
from gloss.benchmark.steps import Bench, Settings, difference_of_equal_steps, peak_flops
from gloss.errors import ConfigError
from gloss.records.run_folder import write_json
from gloss.runtime.device import choose_device
from gloss.runtime.environment import environment

__all__ = ["Settings", "bench"]


def bench(settings: Settings, tell: Callable[[str], None] = lambda text: None) -> tuple[dict[str, Any], Path]:
    """Measure, and keep the result in <outputs>/bench/<what>.json; `tell` hears of progress.

    Raises ConfigError, DataError and RunError for settings, texts and a run that cannot be used.
    """
    if settings.clock == "cpu" and (settings.threads != 1 or choose_device(settings.device).type != "cpu"):
        raise ConfigError("clock=cpu is not allowed here: it needs threads=1 on a CPU")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    run = run_ratio(Path(settings.run)) if settings.run else None
    load_before = _load()
    bench_ = Bench.build(settings)
    device, precision = bench_.device, bench_.precision
    peak, peak_from = peak_flops(device, precision, bench_.clock)
    tell(f"{bench_.name}: {bench_.texts}")
    rounds = []
    for r in range(settings.rounds):
        rounds.append(bench_.round(r))
        shown = ", ".join(f"{name} {turn['seconds']:.3f}" for name, turn in rounds[-1]["turns"].items())
        tell(f"round {r + 1} of {settings.rounds}, seconds a step: {shown}")
    peak = max(peak, peak_flops(device, precision, bench_.clock)[0])
    result = {
        "schema_version": 2,
        "name": bench_.name,
        "settings": asdict(settings),
        "machine": {
            **environment(device, precision), "cores": os.cpu_count(), "load": [load_before, _load()],
            "peak_flops": peak, "peak_from": peak_from,
        },
        "texts": bench_.texts,
        "rounds": rounds,
        "candidates": (candidates := summary(rounds, peak)),
        "ratios": ratios(rounds, bench_),
        "targets": targets(candidates, bench_),
        "same_step_twice": {},
        "scaling": [],
        "run": run,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    path = Path(settings.outputs) / "bench" / f"{bench_.name}.json"
    write_json(path, result)  # what follows may need more memory than there is
    result["same_step_twice"] = {
        loss: difference_of_equal_steps(fit, next(bench_.batches)) for loss, fit in bench_.fits.items()
    }
    if settings.scaling:
        result["scaling"] = measure_growth(bench_, tell)
    write_json(path, result)
    return result, path


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
