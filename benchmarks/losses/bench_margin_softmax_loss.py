"""Margin softmax: 100,000 classes beside 512 rows, and 1,000 classes; beside cosines, margin and cross entropy in plain
PyTorch, eager and compiled, and pytorch-metric-learning's ArcFaceLoss and CosFaceLoss. Prints what each takes of memory
beside its results."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, Fact, Settings, compiled
from handgrad.losses import margin_softmax_loss

_SCALE, _ARCFACE, _COSFACE = 64.0, 0.5, 0.35


def plain(embeddings: Tensor, weight: Tensor, targets: Tensor, m2: float = 0.0, m3: float = 0.0) -> Tensor:
    cosines = F.linear(F.normalize(embeddings), F.normalize(weight))
    chosen = cosines.gather(1, targets.unsqueeze(1))
    if m2:
        chosen = torch.cos(torch.acos(chosen.clamp(-1 + 1e-7, 1 - 1e-7)) + m2)
    return F.cross_entropy(_SCALE * cosines.scatter(1, targets.unsqueeze(1), chosen - m3), targets)


def metric_learning(embeddings: Tensor, weight: Tensor, targets: Tensor, m2: float = 0.0, m3: float = 0.0) -> Tensor:
    from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss

    classes, width = weight.shape
    if m2:
        # Its margin is in degrees.
        loss: Any = ArcFaceLoss(1, width, margin=torch.rad2deg(torch.tensor(m2)).item(), scale=_SCALE)
    else:
        loss = CosFaceLoss(1, width, margin=m3, scale=_SCALE)
    loss.num_classes = classes
    del loss.W
    loss.W = weight.t()
    return loss(embeddings, targets)


def _case(rows: int, classes: int, width: int, margin: str) -> Case:
    m2, m3 = (_ARCFACE, 0.0) if margin == "ArcFace" else (0.0, _COSFACE)

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        embeddings = torch.randn(rows, width, device=device, requires_grad=True)
        weight = torch.randn(classes, width, device=device, requires_grad=True)
        return embeddings, weight, torch.randint(classes, (rows,), device=device)

    def ours(embeddings: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return margin_softmax_loss(embeddings, weight, targets, _SCALE, m2=m2, m3=m3)

    formula = functools.partial(plain, m2=m2, m3=m3)
    peers: dict[str, Callable[..., Tensor]] = {
        "linear, margin, cross_entropy": formula,
        "the same, torch.compile": compiled(formula),
        "pytorch-metric-learning": functools.partial(metric_learning, m2=m2, m3=m3),
    }
    tables = 4 * width * (rows + classes)
    return Case(
        name=f"{rows} rows, {classes} classes, width {width}, {margin}",
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        # Both tables are read; backward reads them again and writes their gradients. What bounds it is arithmetic: see
        # the docs page.
        forward_bytes=tables + 8 * rows,
        backward_bytes=2 * tables + 8 * rows,
        tolerance=1e-3,
    )


_MEMORY = """
import resource, sys, torch
from benchmarks.losses import bench_margin_softmax_loss as bench
from handgrad.losses import margin_softmax_loss
rows, classes, width, whose = *map(int, sys.argv[1:4]), sys.argv[4]
def ours(embeddings, weight, targets):
    return margin_softmax_loss(embeddings, weight, targets, 64.0)
loss = ours if whose == "ours" else lambda *tensors: bench.plain(*tensors, m2=0.5)
def run(classes):
    embeddings = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(classes, width, requires_grad=True)
    before = peak()
    grads = torch.autograd.grad(loss(embeddings, weight, torch.arange(rows)), (embeddings, weight))
    return peak() - before - sum(grad.nbytes for grad in grads)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
run(2 * rows)
print(run(classes))
"""


def _memory(settings: Settings) -> list[Fact]:
    """Bytes at the peak of forward and backward beside inputs and gradients, in a process of its own."""
    rows, classes, width = (64, 1000, 32) if settings.quick else (512, 100_000, 128)
    facts = []
    for whose in ("ours", "plain"):
        command = [sys.executable, "-W", "ignore", "-c", _MEMORY, str(rows), str(classes), str(width), whose]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        name = f"peak beside inputs and gradients, {rows} rows, {classes} classes, width {width}: {whose}"
        facts.append(Fact(name, int(done.stdout) / 2**20, "MiB"))
    return facts


def benchmark(quick: bool) -> Benchmark:
    rows, classes, width = (16, 500, 16) if quick else (512, 100_000, 128)
    return Benchmark(
        op="margin_softmax_loss",
        cases=[
            _case(rows, classes, width, "ArcFace"),
            _case(rows, classes, width, "CosFace"),
            _case(256, 1000, 64 if quick else 512, "ArcFace"),
        ],
        facts=_memory,
    )
