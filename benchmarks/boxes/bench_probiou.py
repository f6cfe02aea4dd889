"""Probabilistic IoU of all pairs of rotated boxes, 1,000 against 1,000, beside ultralytics' formula in torch."""

from __future__ import annotations

from benchmarks.rotated_boxes import matrix_case, probabilistic_iou
from handgrad.benchmarking import Benchmark
from handgrad.boxes import probiou


def benchmark(quick: bool) -> Benchmark:
    size = (20, 30) if quick else (1_000, 1_000)
    return Benchmark(op="probiou", cases=[matrix_case(*size, d, probiou, probabilistic_iou) for d in (False, True)])
