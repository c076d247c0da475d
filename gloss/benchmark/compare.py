"""What the rounds of the benchmark come to: medians, ratios, and whether they meet the targets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gloss.benchmark.scaling import objective_seconds
from gloss.benchmark.steps import AGAIN, MEASURED, RELEASED, TRAINER, Bench
from gloss.config import CE, GLOSS_O
from gloss.records.reading import read_record

ENOUGH = 6  # rounds: of fewer, not even the lowest and the highest hold the median in 95 % of all cases


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median, and low and high of its interval of 95 % (without any assumption on how the values are distributed).

    The k-th lowest and k-th highest value, for the largest k with P(Binomial(n, 1/2) < k) ≤ 2.5 %; for fewer than six
    values the lowest and the highest.
    """
    n, k, tail = len(values), 0, 0.0
    while (tail := tail + math.comb(n, k) / 2**n) <= 0.025:
        k += 1
    ordered = sorted(values)
    return {"median": statistics.median(values), "low": ordered[max(k, 1) - 1], "high": ordered[-max(k, 1)]}


def summary(rounds: Sequence[dict[str, Any]], peak: float) -> dict[str, dict[str, Any]]:
    """By candidate: seconds of a step and its parts, real tokens a second, share of the peak, memory; over rounds."""
    found = {}
    for name in rounds[0]["turns"]:
        there = [r for r in rounds if name in r["turns"]]
        turns = [r["turns"][name] for r in there]
        seconds = [turn["seconds"] for turn in turns]
        parts = None
        if turns[0]["parts"] is not None:
            parts = {part: statistics.median(turn["parts"][part] for turn in turns) for part in turns[0]["parts"]}
        found[name] = {
            "seconds": spread(seconds),
            "parts": parts,
            "tokens_per_second": spread([r["tokens"] / s for r, s in zip(there, seconds, strict=True)]),
            "share_of_peak": spread([r["flops"] / s / peak for r, s in zip(there, seconds, strict=True)]),
            "peak_memory_bytes": max((x for turn in turns if (x := turn["peak_memory_bytes"])), default=None),
        }
    return found


def ratios(rounds: Sequence[dict[str, Any]], bench_: Bench) -> list[dict[str, Any]]:
    """Step against step within the rounds of both, and the target where there is one: ("at most" or "at least", x)."""
    pairs = [(name, CE) for name in (AGAIN, *MEASURED, TRAINER) if name != CE] + [(RELEASED, GLOSS_O)]
    found = []
    for over, under in pairs:
        # CE's two turns stand under a ratio in turn: their mean or minimum would shift its median.
        unders = (under, AGAIN) if under == CE and over != AGAIN else (under, under)
        turns = [r["turns"] for r in rounds if {over, *unders} <= r["turns"].keys()]
        if turns:
            values = spread([t[over]["seconds"] / t[unders[i % 2]]["seconds"] for i, t in enumerate(turns)])
            target = step_targets(bench_).get((over, under))
            met = is_met(values["low"], values["high"], target)
            found.append({
                "over": over, "under": under, "rounds": len(turns), **values, "target": target,
                "met": "unclear" if met and len(turns) < ENOUGH else met,
            })  # fmt: skip
    return found


def step_targets(bench_: Bench) -> dict[tuple[str, str], tuple[str, float] | None]:
    """What a step over another should come to: (over, under) -> ("at most" or "at least", ratio)."""
    is_cpu, dataset = bench_.device.type == "cpu", bench_.settings.dataset if bench_.settings.lengths is None else None
    return {
        (GLOSS_O, CE): ("at most", 1.02 if is_cpu else 1.03),
        ("triplet", CE): ("at most", 1.05) if bench_.settings.batch == 128 else None,
        (TRAINER, CE): ("at least", 1.5 if is_cpu else 1.2) if dataset in ("mr", "r8") or not is_cpu else None,
        (RELEASED, GLOSS_O): ("at least", {"mr": 14, "r8": 4}[dataset]) if is_cpu and dataset in ("mr", "r8") else None,
    }


def targets(candidates: dict[str, dict[str, Any]], bench_: Bench) -> list[dict[str, Any]]:
    """The targets that are no ratio of two steps, where this benchmark can judge them: the same keys, and `what`.

    Two losses' steps are the same but for the loss, so (CE's step + what the loss takes more) ÷ CE's step says as much
    as their ratio, and holds still where steps of seconds do not.
    """
    s, found = bench_.settings, []
    size = s.batch, bench_.texts["classes"], bench_.layers[1], bench_.device, bench_.clock
    alone = {name: objective_seconds(fit.cfg, *size) for name, fit in bench_.fits.items()}
    for name, seconds in alone.items():
        if target := step_targets(bench_).get((name, CE)):
            more = {key: (seconds - alone[CE]) / step for key, step in candidates[CE]["seconds"].items()}
            values = {"median": 1 + more["median"], "low": 1 + more["high"], "high": 1 + more["low"]}
            found.append((name, "CE's step with this loss in it ÷ CE's step", values, target))
    for name in (CE, GLOSS_O):
        if s.lengths != "128" or name not in candidates:
            continue
        if s.model == "bert_shape" and bench_.device.type == "cuda":
            found.append((name, "share of peak", candidates[name]["share_of_peak"], ("at least", 0.35)))
        if s.model == "roberta_large_shape" and s.batch == 128 and s.grad_cache_chunk:
            gigabytes = candidates[name]["peak_memory_bytes"] / 1e9
            found.append((name, "memory (GB)", dict.fromkeys(("median", "low", "high"), gigabytes), ("at most", 16)))
    return [
        {"step": name, "what": what, **values, "target": target, "met": is_met(values["low"], values["high"], target)}
        for name, what, values, target in found
    ]


def is_met(low: float, high: float, target: tuple[str, float] | None) -> str:
    """Whether a median between low and high meets a target: yes, no, unclear (it may); "" where nothing is asked."""
    if target is None:
        return ""
    is_met = [value <= target[1] if target[0] == "at most" else value >= target[1] for value in (low, high)]
    return "yes" if all(is_met) else "unclear" if any(is_met) else "no"


def run_ratio(folder: Path) -> dict[str, Any]:
    """A whole run over its training steps. Raises RunError where there is no finished run."""
    result = read_record(folder).result
    seconds = result["seconds"]
    target = ("at most", 1.15)
    ratio = seconds["total"] / seconds["training"]
    return {
        "folder": str(folder), "identity": result["identity"], "epochs": result["epochs"], "seconds": seconds,
        "ratio": ratio, "target": target, "met": is_met(ratio, ratio, target if result["epochs"] >= 5 else None),
        "shared_device": result["shared_device"],
    }  # fmt: skip
