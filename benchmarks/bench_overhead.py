"""What handgrad costs before any work is done: a call on 64 elements, the import, the wheel."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Fact, Settings, interleave

# Microseconds, milliseconds, megabytes: what the project promises.
FORWARD_LIMIT, FORWARD_BACKWARD_LIMIT, IMPORT_LIMIT, WHEEL_LIMIT = 12.0, 45.0, 50.0, 5.0


def _step(function: Callable[..., Tensor], grad_output: Tensor | None, x: Tensor, y: Tensor) -> None:
    x.grad = None
    function(x, y).backward(grad_output)


def _calls(settings: Settings) -> list[Fact]:
    x, y = torch.randn(64, requires_grad=True), (torch.rand(64) < 0.05).float()
    functions: dict[str, tuple[Callable[..., Tensor], Tensor | None]] = {
        "handgrad focal loss, mean": (partial(handgrad.losses.sigmoid_focal_loss, reduction="mean"), None),
        "handgrad focal loss, none": (handgrad.losses.sigmoid_focal_loss, torch.ones(64)),
        "x * y": (torch.mul, torch.ones(64)),
    }
    facts = []
    try:
        from torchvision.ops import sigmoid_focal_loss

        functions["torchvision focal loss, mean"] = partial(sigmoid_focal_loss, reduction="mean"), None
    except ImportError as error:
        facts.append(Fact("torchvision focal loss, mean", float("nan"), "µs", error=str(error)))
    steps: dict[str, Callable[[str], Callable[[], Any]]] = {
        "forward": lambda name: partial(functions[name][0], x.detach(), y),
        "forward, recorded by autograd": lambda name: partial(functions[name][0], x, y),
        "forward+backward": lambda name: partial(_step, *functions[name], x, y),
    }
    limits = {"forward": FORWARD_LIMIT, "forward+backward": FORWARD_BACKWARD_LIMIT}
    for step, make in steps.items():
        times = interleave({name: make(name) for name in functions}, settings, threads=1)
        for name, time in times.items():
            limit = limits.get(step) if name.startswith("handgrad") else None
            facts.append(Fact(f"64 elements, {step}: {name}", time.median * 1e6, "µs", limit))
    return facts


def _import(settings: Settings) -> Fact:
    program = (
        "import torch; from time import perf_counter as now; start = now(); import handgrad; end = now(); "
        "print(1e3 * (end - start))"
    )
    name = "import handgrad, after import torch"
    # As where it is installed: compiled to bytecode, which the first import here may have to do.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    times: list[float] = []
    for _ in range(2 if settings.quick else 8):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            return Fact(name, float("nan"), "ms", IMPORT_LIMIT, reason)
        times.append(float(done.stdout))
    return Fact(name, statistics.median(times[1:]), "ms", IMPORT_LIMIT)


def _wheels() -> list[Fact]:
    wheels = sorted((Path(__file__).parent.parent / "dist").glob("*.whl"))
    if not wheels:
        return [Fact("wheel", float("nan"), "MB", WHEEL_LIMIT, "no wheel in dist/; build one first")]
    facts = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            cuda = sum(e.compress_size for e in archive.infolist() if "libhandgrad_cuda" in e.filename)
        facts.append(Fact(f"wheel {wheel.name}", wheel.stat().st_size / 1e6, "MB"))
        facts.append(Fact("the same without its CUDA kernels", (wheel.stat().st_size - cuda) / 1e6, "MB", WHEEL_LIMIT))
    return facts


def _facts(settings: Settings) -> list[Fact]:
    return [*_calls(settings), _import(settings), *_wheels()]


def benchmark(quick: bool) -> Benchmark:
    return Benchmark(op="overhead", facts=_facts)
