"""Measures of all pairs of boxes: a thousand against a thousand, and anchors against the objects of an image, beside
torchvision's, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.box_pairs import boxes
from handgrad.benchmarking import Benchmark, Case, compiled

Measure = Callable[[Tensor, Tensor], Tensor]


def _case(rows: int, columns: int, differentiated: bool, ours: Measure) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        return boxes(rows, device).requires_grad_(differentiated), boxes(columns, device)

    def eager(boxes1: Tensor, boxes2: Tensor) -> Tensor:
        import torchvision

        return getattr(torchvision.ops, ours.__name__)(boxes1, boxes2)

    tables, matrix = 16 * (rows + columns), 4 * rows * columns
    return Case(
        name=f"{rows} x {columns} float32" + (", gradient of boxes1" if differentiated else ""),
        inputs=inputs,
        handgrad=ours,
        peers={"torchvision": eager, "torchvision, torch.compile": compiled(eager)},
        # Both tables are read and the matrix is written; then its gradient and they are read, and one gradient written.
        forward_bytes=tables + matrix,
        backward_bytes=tables + matrix + 16 * rows if differentiated else 0,
    )


def benchmark(quick: bool, ours: Measure) -> Benchmark:
    sizes = [(50, 40)] if quick else [(1_000, 1_000), (20_000, 100)]
    return Benchmark(op=ours.__name__, cases=[_case(*size, d, ours) for d in (False, True) for size in sizes])
