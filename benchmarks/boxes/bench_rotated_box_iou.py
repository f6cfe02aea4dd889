"""IoU of all pairs of rotated boxes, 1,000 against 1,000, beside torchvision's and the usual formula in torch; with a
gradient, which takes the formula half a minute there, beside it for 300 against 300."""

from __future__ import annotations

from torch import Tensor

from benchmarks.rotated_boxes import iou, matrix_case
from handgrad.benchmarking import Benchmark
from handgrad.boxes import rotated_box_iou


def _torchvision(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    import torchvision

    return torchvision.ops.box_iou(boxes1, boxes2, "cxcywhr")


def benchmark(quick: bool) -> Benchmark:
    size, few = ((20, 30), (10, 15)) if quick else ((1_000, 1_000), (300, 300))
    # torchvision's has no gradient.
    peers = {"torchvision": _torchvision}
    return Benchmark(
        op="rotated_box_iou",
        cases=[
            matrix_case(*size, False, rotated_box_iou, iou, peers, compiles=False),
            matrix_case(*size, True, rotated_box_iou, None),
            matrix_case(*few, True, rotated_box_iou, iou, compiles=False),
        ],
    )
