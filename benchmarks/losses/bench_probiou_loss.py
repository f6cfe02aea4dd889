"""Probabilistic IoU loss of rotated boxes: 100,000 pairs, beside ultralytics' formula in plain PyTorch."""

from __future__ import annotations

import functools

from torch import Tensor

from benchmarks.rotated_boxes import pairs_case, probabilistic_iou
from handgrad.benchmarking import Benchmark
from handgrad.losses import probiou_loss


def _formula(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return 1 - probabilistic_iou(boxes1, boxes2).mean()


def benchmark(quick: bool) -> Benchmark:
    ours = functools.partial(probiou_loss, reduction="mean")
    return Benchmark(op="probiou_loss", cases=[pairs_case(1_000 if quick else 100_000, "mean", ours, _formula)])
