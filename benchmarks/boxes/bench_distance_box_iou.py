"""Distance IoU of all pairs, 1,000 boxes against 1,000 and 20,000 against 100, beside torchvision's."""

from __future__ import annotations

from benchmarks import box_matrices
from handgrad.benchmarking import Benchmark
from handgrad.boxes import distance_box_iou


def benchmark(quick: bool) -> Benchmark:
    return box_matrices.benchmark(quick, distance_box_iou)
