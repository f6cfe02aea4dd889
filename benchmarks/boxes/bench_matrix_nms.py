"""Matrix NMS of boxes, linear and gaussian, of one class and of eighty, beside the matrices that others write."""

from __future__ import annotations

import torch
from torch import Tensor

import handgrad
from benchmarks.matrix_nms import box_iou, lowered
from handgrad.benchmarking import Benchmark, Case, Sweep, compiled

SIGMA = 2.0


def _case(count: int, kernel: str, classes: int) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        corner = torch.rand(count, 2, device=device) * 1000
        # No two scores are near to each other, so that rounding does not change which stands before which.
        scores = (torch.randperm(count, device=device) + 1) / (count + 1)
        boxes = torch.cat([corner, corner + 20 + torch.rand(count, 2, device=device) * 100], 1)
        return boxes, scores, torch.randint(classes, (count,), device=device)

    def ours(boxes: Tensor, scores: Tensor, idxs: Tensor) -> Tensor:
        return handgrad.boxes.matrix_nms(boxes, scores, idxs if classes > 1 else None, kernel, SIGMA, min_score=None)[1]

    formula = lowered(box_iou, kernel, SIGMA)
    return Case(
        name=f"{count} boxes, {kernel}, {f'{classes} classes' if classes > 1 else 'one class'}",
        inputs=inputs,
        handgrad=ours,
        peers={"formula": formula, "formula, torch.compile": compiled(formula)},
        # Four coordinates, a score and perhaps a class are read; a score and an index are written.
        forward_bytes=count * (5 * 4 + 12 + (8 if classes > 1 else 0)),
        # A quotient of two exponentials, and one of their difference.
        tolerance=1e-5,
    )


def benchmark(quick: bool) -> Benchmark:
    count = 60 if quick else 2000
    return Benchmark(
        op="matrix_nms",
        cases=[_case(count, "linear", 1), _case(count, "gaussian", 1), _case(count, "gaussian", 80)],
        sweeps=[
            Sweep(
                "gaussian, one class",
                "boxes",
                [10, 30] if quick else [500, 1000, 4000],
                lambda boxes: _case(boxes, "gaussian", 1),
            )
        ],
    )
