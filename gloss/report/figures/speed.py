"""Speed: tables and figures from outputs/bench/*.json, which scripts/bench.py writes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gloss.paper.names import LOSS_LOOK, loss_name
from gloss.records.reading import files_under, number, read_json, shortened
from gloss.report.figure import Drawing, panels
from gloss.report.figures.runs import PART_LOOK, PARTS
from gloss.report.table import MISSING, Table
from gloss.runtime.terminal import escape_control_characters

CONTENDERS = {
    "ce_repeat": "CE, once more",
    "trainer": "CE, Hugging Face Trainer",
    "released": "G-Loss + CE, released procedure",
}
AXES = {"batch": "Texts a batch", "classes": "Classes (128 texts)", "length": "Tokens a text"}


def read_bench(outputs: str | Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The results in <outputs>/bench, in the order of their names, and what could not be read."""
    found, problems = [], []
    for path in files_under(outputs, "bench/*.json"):
        try:
            result = read_json(path)
            if result["schema_version"] != 2 or not isinstance(result["candidates"], dict):
                raise ValueError("expected schema_version 2 with candidates: measure again")
            found.append(result)
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(escape_control_characters(f"{path} cannot be used: {shortened(error)}"))
    return found, problems


def tables(results: Sequence[dict[str, Any]]) -> list[Table]:
    """Seconds of a step by candidate, and the ratios with their targets; a block a result."""
    return [_steps(results), _ratios(results)] if results else []


def drawings(results: Sequence[dict[str, Any]]) -> list[Drawing]:
    """What a step is made of, and how the cost grows where that was measured."""
    made = []
    for result in results:
        made.append(_parts(result))
        if result["scaling"]:
            made.append(_scaling(result))
    return made


def contender_name(name: str) -> str:
    return CONTENDERS.get(name) or loss_name("gloss_sqrt" if name == "gloss" else name, "integrated")


def _steps(results: Sequence[dict[str, Any]]) -> Table:
    parts = (*PARTS[:2], "graph", "propagation", "loss", *PARTS[4:])
    columns = ["Benchmark", "Step", "Seconds", "95 % interval", "Tokens/s", "Share of peak", "Memory (GB)", *parts]
    rows, data = [], []
    for result in results:
        for name, found in result["candidates"].items():
            s = found["seconds"]
            row = [result["name"], contender_name(name), f"{s['median']:.4g}", f"{s['low']:.4g} – {s['high']:.4g}"]
            row += [f"{found['tokens_per_second']['median']:.0f}", f"{100 * found['share_of_peak']['median']:.1f} %"]
            memory = found["peak_memory_bytes"]
            row += [MISSING if memory is None else f"{memory / 1e9:.2f}"]
            shares = [number(found, "parts", part) for part in parts]
            whole = sum(v for v in shares if v is not None)
            row += [MISSING if v is None else f"{100 * v / whole:.1f} %" for v in shares]
            rows.append(row)
            seconds = {f"seconds_{key}": value for key, value in s.items()}
            measured = {key: found[key]["median"] for key in ("tokens_per_second", "share_of_peak")}
            measured["peak_memory_bytes"] = memory
            data.append({"benchmark": result["name"], "step": name, **seconds, **measured, **(found["parts"] or {})})
    notes = [_machine(result) for result in results]
    for result in results:
        if sizes := ", ".join(f"{contender_name(x)} {size:.1g}" for x, size in result["same_step_twice"].items()):
            notes.append(f"{result['name']}: gradients of the same step twice differ by (relative norm) {sizes}.")
    notes += [
        "Parts are shares of a step. Tokens are real ones, without padding; the share of the peak counts 6 operations "
        "for a parameter of the layers and token, and attention.",
        "Memory is the peak of our own steps; on a CPU that of the whole process, with all candidates' weights in it.",
    ]
    return Table("bench", "Seconds of a training step", columns, rows, data, notes, num_keys=2)


def _ratios(results: Sequence[dict[str, Any]]) -> Table:
    rows, data = [], []
    for result in results:
        for r in result["ratios"]:
            name = f"{contender_name(r['over'])} ÷ {contender_name(r['under'])}"
            row = [result["name"], name, f"{r['median']:.3f}", f"{r['low']:.3f} – {r['high']:.3f}", *_verdict(r)]
            rows.append(row)
            data.append(
                {"benchmark": result["name"], **{k: v for k, v in r.items() if k != "target"}, "target": row[4]}
            )
        for g in result["targets"]:
            name = f"{contender_name(g['step'])}: {g['what']}"
            row = [result["name"], name, f"{g['median']:.3f}", f"{g['low']:.3f} – {g['high']:.3f}", *_verdict(g)]
            rows.append(row)
            numbers = {key: g[key] for key in ("median", "low", "high", "met")}
            data.append({"benchmark": result["name"], "over": name, **numbers, "target": row[4]})
        if run := result["run"]:
            name = f"whole run ÷ its training steps ({run['epochs']} epochs)"
            row = [result["name"], name, f"{run['ratio']:.3f}", "", *_verdict(run)]
            rows.append(row)
            data.append({"benchmark": result["name"], "over": "run", "median": run["ratio"], "target": row[4]})
    notes = [
        "Each ratio is formed within a round, on the same batches, over CE's two turns in turn. The median over rounds "
        "and its 95 % interval as if rounds were independent (with fewer than six: the lowest and the highest, which "
        "decide nothing); a target that lies in the interval is called unclear.",
    ]
    columns = ["Benchmark", "Ratio", "Median", "95 % interval", "Goal", "Reached"]
    return Table("bench_ratios", "Step against step", columns, rows, data, notes, num_keys=2)


def _verdict(found: dict[str, Any]) -> tuple[str, str]:
    target = (
        "" if found["target"] is None else f"{'≤' if found['target'][0] == 'at most' else '≥'} {found['target'][1]}"
    )
    return target, found["met"]


def _machine(result: dict[str, Any]) -> str:
    m = result["machine"]
    pairs = [(t["ce"]["seconds"], t["ce_repeat"]["seconds"]) for t in (r["turns"] for r in result["rounds"])]
    noise = statistics.median(abs(again / once - 1) for once, again in pairs)
    return (
        f"{result['name']}: {m['device_name']}, {m['threads']} of {m['cores']} cores, {m['precision']}; "
        f"rounds: {len(result['rounds'])}, {result['settings']['clock']} clock, load {m['load'][0]} before and "
        f"{m['load'][1]} after; the same CE step twice differs by {100 * noise:.1f} % (median); "
        f"peak {m['peak_flops'] / 1e9:.0f} GFLOP/s ({m['peak_from']}); "
        f"{result['texts']['mean_tokens']:.1f} tokens a text; commit {str(m['commit'])[:8]}, "
        f"{result['finished_at'][:10]}"
    )


def _parts(result: dict[str, Any]) -> Drawing:
    bars = [(name, found) for name, found in result["candidates"].items() if name != "ce_repeat"]
    figure, axes = panels(1, 1, width=6.4, height=0.9 + 0.3 * len(bars))
    ax, data = axes[0, 0], []
    for y, (name, found) in enumerate(bars):
        median, left = found["seconds"]["median"], 0.0
        parts = {part: number(found, "parts", part) or 0.0 for part in PARTS}
        parts["other"] = max(0.0, median - sum(parts.values()))
        for (part, value), (color, hatch) in zip(parts.items(), [*PART_LOOK, ("#DDDDDD", "")], strict=True):
            style = {"color": color, "hatch": hatch, "edgecolor": "#333333", "linewidth": 0.5, "height": 0.62}
            ax.barh(y, value, left=left, label=part if y == 0 else None, **style)
            left += value
        data.append({"step": name, **parts, "seconds": median})
    ax.set_yticks(range(len(bars)), [contender_name(name) for name, _ in bars])
    ax.invert_yaxis()
    ax.set_xlabel("Seconds of a step (median)")
    ax.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.4, -0.5 / len(bars) - 0.1))
    notes = ['"other" is the loss outside graph and propagation, and all of a step that is not ours.']
    name = result["name"]
    return Drawing(f"bench_parts_{name}", f"What a step is made of: {name}", figure, data, notes)


def _scaling(result: dict[str, Any]) -> Drawing:
    axes_there = [axis for axis in AXES if any(row["axis"] == axis for row in result["scaling"])]
    figure, axes = panels(1, len(axes_there), width=2.6)
    for ax, axis in zip(axes[0], axes_there, strict=True):
        rows = [row for row in result["scaling"] if row["axis"] == axis]
        for loss in dict.fromkeys(row["loss"] for row in rows):
            points = [(row["size"], row["seconds"]) for row in rows if row["loss"] == loss]
            ax.plot(*zip(*points, strict=True), label=loss_name(loss, "integrated"), **LOSS_LOOK[loss])
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xlabel(AXES[axis])
        ax.set_ylabel(f"Seconds ({rows[0]['of']})")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    title = f"How the cost grows: {result['name']}"
    notes = [_machine(result), "By batch and classes the loss is measured alone, forward and backward."]
    return Drawing(f"bench_growth_{result['name']}", title, figure, result["scaling"], notes)
