"""Speed: the table of <outputs>/bench/*.json, which scripts/bench.py writes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gloss.paper.names import loss_name
from gloss.records.reading import read_each, read_json
from gloss.report.table import MISSING, Table

BASELINES = {
    "ce_repeat": "CE, once more",
    "trainer": "CE, Hugging Face Trainer",
    "released": "G-Loss + CE, released procedure",
}


def read_bench(outputs: str | Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The results in <outputs>/bench, in the order of their names, and messages about files that cannot be used."""

    def read(path: Path) -> dict[str, Any]:
        result = read_json(path)
        if result["schema_version"] != 4 or not isinstance(result["candidates"], dict):
            raise ValueError("expected schema_version 4 with candidates: measure again")
        return result

    return read_each(outputs, "bench/*.json", read)


def speed_table(results: Sequence[dict[str, Any]]) -> Table:
    """Seconds of a training step by candidate, and each step against another one."""
    columns = ["Benchmark", "Step", "Seconds", "÷ step of", "Ratio", "Overhead"]
    columns += ["Tokens/s", "MFU", "Memory (GB)"]
    rows, data = [], []
    for result in results:
        for name, found in result["candidates"].items():
            memory = found["peak_memory_bytes"]
            rows.append([
                result["name"], _name(name), _spread(found["seconds"], ".4g"),
                _name(found["under"]) if "under" in found else MISSING,
                _spread(found.get("ratio"), ".3f"), _spread(found.get("overhead"), ".4f"),
                f"{found['tokens_per_second'][0]:.0f}", f"{100 * found['mfu'][0]:.1f} %",
                MISSING if memory is None else f"{memory / 1e9:.2f}",
            ])  # fmt: skip
            spreads = {key: value for key, value in found.items() if isinstance(value, list)}
            numbers = {f"{key}_{end}": x for key, v in spreads.items() for end, x in zip(_ENDS, v, strict=True)}
            rest = {key: value for key, value in found.items() if key not in spreads}
            data.append({"benchmark": result["name"], "step": name, **numbers, **rest})
    notes = [
        *map(_machine, results),
        "Medians over rounds, with their 95 % interval as if rounds were independent (fewer than six: the lowest and "
        "the highest). A ratio is formed within a round, on the same batches, over CE's two turns in turn. "
        "Overhead: (CE's step + the extra time of the loss alone) ÷ CE's step.",
        "Tokens are real ones, without padding. MFU, the share of the peak that is used, counts 6 operations for a "
        "parameter of the layers and token, and attention. Memory is the peak of the process, with all candidates' "
        "weights in it (baselines=false: ours alone).",
    ]
    return Table("bench", "Seconds of a training step", columns, rows, data, notes, num_keys=2)


_ENDS = ("median", "low", "high")


def _name(candidate: str) -> str:
    return BASELINES.get(candidate) or loss_name(candidate, "integrated")


def _spread(values: list[float] | None, form: str) -> str:
    return MISSING if values is None else "{} ({} – {})".format(*(format(x, form) for x in values))


def _machine(result: dict[str, Any]) -> str:
    m, turns = result["machine"], [r["turns"] for r in result["rounds"]]
    noise = statistics.median(abs(t["ce_repeat"]["seconds"] / t["ce"]["seconds"] - 1) for t in turns)
    return (
        f"{result['name']}: {m['device_name']}, {m['threads']} of {m['cores']} cores, {m['precision']}; "
        f"rounds: {len(turns)}, {result['settings']['clock']} clock, load {m['load'][0]:.2f} before and "
        f"{m['load'][1]:.2f} after; the same CE step twice differs by {100 * noise:.1f} % (median); "
        f"peak {m['peak_flops'] / 1e9:.0f} GFLOP/s ({m['peak_from']}); "
        f"{result['texts']['mean_tokens']:.1f} tokens a text; commit {str(m['commit'])[:8]}, "
        f"{result['finished_at'][:10]}"
    )
