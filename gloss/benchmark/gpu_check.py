"""Checks of a GPU's results and speed, before its numbers count: `make gpu-check`.

Each check yields rows: what, expected, measured, verdict (ok, failed, or "" where nothing is required). A check that
raises becomes a failed row, and the next check runs. On a CPU (`device=cpu`) the same code runs with a small model,
without the parts that need CUDA.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from gloss.benchmark.settings import Settings
from gloss.benchmark.steps import Bench, bench, distance, gradient, step_arguments
from gloss.benchmark.turns import repeated, wall
from gloss.config import ROOT
from gloss.losses import state_elimination as elimination
from gloss.losses.registry import CE, GLOSS_O
from gloss.runtime.device import choose_device, device_name, has_bf16
from gloss.runtime.environment import environment
from gloss.training.trainer import Fit

CUDA_TESTS = ("test_elimination.py", "test_encoder.py", "test_fit.py", "test_bench.py", "test_gloss_loss.py")

Row = dict[str, str]  # what (the name of the check), expected, measured, verdict


@dataclass(frozen=True)
class Place:
    """The device, benchmark settings of a size that suits it, and the folder of results."""

    device: torch.device
    settings: Settings
    outputs: str

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"


def row(name: str, expected: str, measured: str, is_right: bool | None) -> Row:
    """A row with its verdict; is_right: None where nothing is required."""
    verdict = "" if is_right is None else "ok" if is_right else "failed"
    return {"what": name, "expected": expected, "measured": measured, "verdict": verdict}


def gpu_check(device: str, outputs: str, on_row: Callable[[Row], None]) -> dict[str, Any]:
    """Run all checks; call `on_row` with each row as soon as it is there. Raises ConfigError for a missing device."""
    where = choose_device(device)
    small: dict[str, Any] = {"model": "tiny", "batch": 16, "rounds": 2}
    size = {"model": "bert_shape", "batch": 128, "rounds": 6} if where.type == "cuda" else small
    size |= {"losses": [CE, GLOSS_O], "baselines": False, "device": str(where)}
    place = Place(where, Settings(lengths="20-30", **size), outputs)
    rows, started = [], time.perf_counter()
    for check in CHECKS:
        for one in _guarded(check.__name__.replace("_", " "), check, place):
            rows.append(one)
            on_row(one)
        if place.is_gpu:
            torch.cuda.empty_cache()
    return {
        "schema_version": 1,
        "machine": environment(where, "bf16" if has_bf16(where) else "float32"),
        "rows": rows,
        "failed": [one["what"] for one in rows if one["verdict"] == "failed"],
        "seconds": round(time.perf_counter() - started, 1),
    }


# -- the checks --------------------------------------------------------------------------------------------------------
def device_and_driver(place: Place) -> Iterator[Row]:
    if not place.is_gpu:
        yield row("device", "CUDA", "a CPU: a rehearsal, not a check of a GPU", None)
        return
    found = torch.cuda.get_device_properties(place.device)
    names = f"{found.name}, {found.total_memory / 2**30:.0f} GiB, sm_{found.major}{found.minor}"
    yield row("device", "A100 or newer", names, found.major >= 8)
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    yield row("versions", "", versions, None)
    yield row("bf16", "in hardware", str(has_bf16(place.device)), has_bf16(place.device))


def elimination_kernels(place: Place) -> Iterator[Row]:
    """Compare values and gradients with the plain loop in float64 on the CPU, and time them."""
    if place.is_gpu:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            kernel = elimination._kernel(place.device)
        messages = "; ".join(str(w.message) for w in caught)
        yield row("kernels build", "without a warning", messages or "built", kernel is not None)
    shapes = [(1, 2), (51, 2), (51, 20), (20, 300), (205, 8), (409, 2)] if place.is_gpu else [(1, 2), (5, 3)]
    for num_nodes, classes in shapes:
        generator = torch.Generator().manual_seed(num_nodes)
        rates = 3 * torch.randn(num_nodes, classes + num_nodes, generator=generator)
        weights = torch.randn(num_nodes, classes, generator=generator)

        def both(x: torch.Tensor, weights=weights, classes=classes) -> tuple[torch.Tensor, torch.Tensor]:
            x = x.detach().requires_grad_()
            y = elimination.eliminate(x, classes).log_softmax(1)
            (y * weights.to(y)).sum().backward()
            return y.detach(), x.grad

        on_device = rates.to(place.device)
        exact, got = both(rates.double()), both(on_device)
        errors = [((g.cpu() - e).abs().max() / e.abs().max()).item() for g, e in zip(got, exact, strict=True)]
        ms = _milliseconds(partial(both, on_device))
        name = f"elimination of {num_nodes} unlabeled nodes, {classes} classes"
        measured = f"value {errors[0]:.1e}, gradient {errors[1]:.1e}, {ms:.2f} ms"
        yield row(name, "errors below 1e-5", measured, max(errors) < 1e-5)


def attention(place: Place) -> Iterator[Row]:
    """The attention kernel in use and its dropout rate: with v the identity, an output of 0 is a dropped weight."""
    if not place.is_gpu:
        return
    size, dtype = (64, 12, 64, 64), torch.bfloat16
    zero, eye = torch.zeros(size, device=place.device, dtype=dtype), torch.eye(64, device=place.device, dtype=dtype)
    eye, mask = eye.expand(size).contiguous(), (torch.rand(64, 1, 1, 64, device=place.device) < 0.8)
    names = {0: "math", 1: "flash", 2: "efficient", 3: "cuDNN"}
    for case, seen in (("even", None), ("padded", mask)):
        kernel = names.get(torch._fused_sdp_choice(zero, zero, eye, seen, 0.1), "unknown")
        yield row(f"attention, {case}", "flash or efficient", kernel, kernel in ("flash", "efficient"))
        dropped = (F.scaled_dot_product_attention(zero, zero, eye, seen, dropout_p=0.1) == 0).float()
        rate = (dropped if seen is None else dropped[seen.expand(size)]).mean().item()
        yield row(f"dropout in attention, {case}", "0.1000 ± 0.0050", f"{rate:.4f}", abs(rate - 0.1) < 0.005)


def training_steps(place: Place) -> Iterator[Row]:
    """Waits, kernel launches and busy time of a step, and the difference between two equal steps."""
    for lengths in ("20-30", "128" if place.is_gpu else "12"):
        bench_ = Bench.build(replace(place.settings, lengths=lengths))
        for loss, fit in bench_.fits.items():
            case, arguments = f"{loss}, {lengths} tokens", _arguments(bench_, fit)
            for _ in range(2):  # the optimizer's state, and kernels
                fit.step(0, *arguments)
            wall()
            if place.is_gpu:
                waits = "none"
                torch.cuda.set_sync_debug_mode("error")
                try:
                    fit.step(0, *arguments)
                except RuntimeError as error:
                    waits = str(error)[:200]
                finally:
                    torch.cuda.set_sync_debug_mode("default")
                yield row(f"waits in a step, {case}", "none", waits, waits == "none")
            ms = _milliseconds(partial(fit.step, 0, *arguments))
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * place.is_gpu
            with profile(activities=activities) as profiled:
                fit.step(0, *arguments)
                wall()
            launched = [e for e in profiled.events() if e.device_type == torch.autograd.DeviceType.CUDA]
            busy = sum(e.device_time for e in launched) / 1e3
            on = f"{len(launched)} kernels, busy {busy:.2f} of {ms:.2f} ms" if place.is_gpu else f"{ms:.2f} ms"
            yield row(f"a step, {case}", "", on, None)
            difference = distance(gradient(fit, *arguments), gradient(fit, *arguments))
            limit = 1e-2 if place.is_gpu else 0.0
            yield row(f"the same step twice, {case}", f"at most {limit:g}", f"{difference:.1e}", difference <= limit)


def gradient_caching(place: Place) -> Iterator[Row]:
    """Check that chunks encoded twice see the same dropout in bf16: compare with one pass with the same seeds."""
    fit, arguments = _gloss_step(place, "bf16")
    size, encode = place.settings.batch // 4, Fit.encode

    def at_once(indices: np.ndarray, device_indices: torch.Tensor, seed: int) -> torch.Tensor:
        chunks = enumerate(zip(np.split(indices, 4), device_indices.split(size), strict=True))
        return torch.cat([encode(fit, *chunk, seed + i) for i, chunk in chunks])

    setattr(fit, "encode", at_once)  # noqa: B010 (a method is replaced for the comparison)
    plain = gradient(fit, *arguments)
    del fit.encode
    fit.cfg.trainer.grad_cache_chunk = size
    error = distance(gradient(fit, *arguments), plain)
    yield row("gradient caching repeats its dropout in bf16", "within 0.02", f"{error:.1e}", error < 0.02)


def precision(place: Place) -> Iterator[Row]:
    """Compare the gradient of one step without dropout in bf16 and in float32."""
    fit, arguments = _gloss_step(place, "bf16")
    fit.model.eval()
    in_bf16 = gradient(fit, *arguments)
    fit.precision = "float32"
    error = distance(in_bf16, gradient(fit, *arguments))
    yield row("gradient in bf16 against float32", "within 0.05", f"{error:.1e}", 0 < error < 0.05)


def compiled_layers(place: Place) -> Iterator[Row]:
    """Compare the gradient of one float32 step without dropout with and without compiled layers."""
    if not place.is_gpu:
        return
    fit, arguments = _gloss_step(place, "float32")
    fit.model.eval()
    plain = gradient(fit, *arguments)
    fit.model.encoder.compile_layers()
    error = distance(gradient(fit, *arguments), plain)
    yield row("gradient with compiled layers against plain ones", "within 0.01", f"{error:.1e}", error < 0.01)


def tests(place: Place) -> Iterator[Row]:
    """Run the tests that use a GPU."""
    if not place.is_gpu:
        return
    files = [str(path) for name in CUDA_TESTS for path in (ROOT / "tests").glob(f"*/{name}")]
    command = [sys.executable, "-m", "pytest", "-rfE", "--tb=line", "-k", "cuda or gpu or kernel", *files]
    wide = os.environ | {"COLUMNS": "400"}  # or pytest cuts the reasons
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, env=wide)
    lines = [line for line in done.stdout.splitlines() if line.strip()] or [done.stderr[-300:]]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    yield row("the tests on CUDA", "all pass", "; ".join(failed) or lines[-1], done.returncode == 0)


def benchmarks(place: Place) -> Iterator[Row]:
    """Measure the ratios and shares of docs/SPEED.md; one whose whole interval misses its target fails."""
    on_gpu = ("128", False), ("128", True), ("10-45", False)  # MR's texts have about 10 to 45 tokens
    for lengths, is_compiled in on_gpu if place.is_gpu else [("4-12", False)]:
        texts = f"{lengths} tokens" + ", compiled" * is_compiled
        yield from _guarded(f"benchmark, {texts}", _benchmark, place, texts, lengths, is_compiled)


def _benchmark(place: Place, texts: str, lengths: str, is_compiled: bool) -> Iterator[Row]:
    result, path = bench(replace(place.settings, lengths=lengths, compile=is_compiled), place.outputs)
    ce, gloss_o = (result["candidates"][name] for name in (CE, GLOSS_O))
    share, ratio = ce["mfu"], gloss_o["overhead"]
    measured = "{:.3f} ({:.3f} – {:.3f})"
    least = 0.45 if "A100" in device_name(place.device) else 0.38
    wanted, right = (f"at least {least}", share[2] >= least) if is_compiled else ("", None)
    yield row(f"CE's share of peak (MFU), {texts}", wanted, measured.format(*share) + f" {path}", right)
    most = 1.02 if lengths == "128" else 1.05
    wanted, right = (f"at most {most}", ratio[1] <= most) if place.is_gpu else ("", None)
    yield row(f"CE's step with G-Loss in it ÷ CE's, {texts}", wanted, measured.format(*ratio), right)
    seconds = [candidate["seconds"][0] for candidate in (ce, gloss_o)]
    yield row(f"CE's step and G-Loss's, {texts}", "", "{:.2f} and {:.2f} ms".format(*(1e3 * s for s in seconds)), None)


def short_run(place: Place) -> Iterator[Row]:
    """Train a short run from the command line."""
    words = ["dataset=docstrings", "dataset.train_limit=512", "loss=gloss_sqrt", "trainer.max_epochs=2", "rerun=true"]
    model = ["model=minilm"] if place.is_gpu else ["model=tiny", "model.max_length=16", "trainer.lr=1e-3"]
    outputs = Path(place.outputs).absolute() / "gpu_check"
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *words, *model]
    where = [f"trainer.device={place.device}", f"paths.outputs={outputs}"]
    done = subprocess.run([*command, *where], capture_output=True, text=True, timeout=300)
    last = [line for line in (done.stdout if not done.returncode else done.stderr).splitlines() if line.strip()]
    result = next((line for line in last if "test accuracy" in line), last[-1] if last else "")
    yield row("a short run", "ends with a test accuracy", result[-200:], "test accuracy" in result)


CHECKS = (
    device_and_driver, elimination_kernels, attention, training_steps, gradient_caching, precision, compiled_layers,
    tests, benchmarks, short_run,
)  # fmt: skip


# -- parts -------------------------------------------------------------------------------------------------------------
def _guarded(name: str, check: Callable[..., Iterator[Row]], *arguments: Any) -> Iterator[Row]:
    """The rows of check(*arguments); an error becomes a failed row of this name."""
    try:
        yield from check(*arguments)
    except Exception as error:  # the other checks still run
        yield row(name, "runs", f"{type(error).__name__}: {str(error).strip()[:300]}", False)


def _arguments(bench_: Bench, fit: Fit) -> tuple[np.ndarray, torch.Tensor, torch.Tensor | None]:
    return step_arguments(fit, next(bench_.batches), torch.Generator().manual_seed(0))


def _gloss_step(place: Place, precision: str) -> tuple[Fit, tuple[np.ndarray, torch.Tensor, torch.Tensor | None]]:
    """A fit with G-Loss, and the arguments of a step."""
    bench_ = Bench.build(replace(place.settings, losses=[GLOSS_O], precision=precision))
    return bench_.fits[GLOSS_O], _arguments(bench_, bench_.fits[GLOSS_O])


def _milliseconds(act: Callable[[], object]) -> float:
    return 1e3 * statistics.median(repeated(act, wall))
