"""IoU losses of rotated boxes: 100,000 pairs, beside the usual formula in plain PyTorch."""

from __future__ import annotations

import functools

from torch import Tensor

from benchmarks.rotated_boxes import iou, pairs_case
from handgrad.benchmarking import Benchmark
from handgrad.losses import rotated_box_iou_loss


def _formula(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return 1 - iou(boxes1, boxes2).mean()


def benchmark(quick: bool) -> Benchmark:
    n = 1_000 if quick else 100_000
    # Nobody is known to have the generalized one with a convex hull.
    formulas = {"iou": _formula, "giou": None}
    cases = [
        pairs_case(
            n,
            f"{mode}, mean",
            functools.partial(rotated_box_iou_loss, iou_mode=mode, reduction="mean"),
            formula,
            compiles=False,
        )
        for mode, formula in formulas.items()
    ]
    return Benchmark(op="rotated_box_iou_loss", cases=cases)
