"""Matrix NMS of masks at a quarter of 800 x 1216 pixels, as SOLOv2 has them, beside the matrices that mmdet makes."""

from __future__ import annotations

import torch
from torch import Tensor

import handgrad
from benchmarks.matrix_nms import lowered, mask_iou
from handgrad.benchmarking import Benchmark, Case, compiled

SIGMA = 2.0


def _case(count: int, size: tuple[int, int], kernel: str, classes: int) -> Case:
    height, width = size

    def inputs(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Ellipses of a tenth to a half of the image along each axis."""
        y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
        centre = torch.rand(count, 2, 1, 1, device=device)
        radius = 0.05 + 0.2 * torch.rand(count, 2, 1, 1, device=device)
        down, across = (y / height - centre[:, 0]) / radius[:, 0], (x / width - centre[:, 1]) / radius[:, 1]
        masks = down**2 + across**2 < 1
        # No two scores are near to each other, so that rounding does not change which stands before which.
        scores = (torch.randperm(count, device=device) + 1) / (count + 1)
        return masks, scores, torch.randint(classes, (count,), device=device)

    def ours(masks: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        # With what goes along with the scores, which the formula leaves out.
        return handgrad.boxes.mask_matrix_nms(masks, labels, scores, kernel=kernel, sigma=SIGMA)[0]

    formula = lowered(mask_iou, kernel, SIGMA)
    return Case(
        name=f"{count} masks of {height} x {width}, {kernel}, {f'{classes} classes' if classes > 1 else 'one class'}",
        inputs=inputs,
        handgrad=ours,
        peers={"formula": formula, "formula, torch.compile": compiled(formula)},
        # Masks, scores and labels are read; masks, scores, labels and indices are written.
        forward_bytes=count * (2 * height * width + 4 + 8 + 4 + 8 + 8),
        # A quotient of two exponentials, and one of their difference.
        tolerance=1e-5,
    )


def benchmark(quick: bool) -> Benchmark:
    count, size = (20, (20, 31)) if quick else (500, (200, 304))
    return Benchmark(
        op="mask_matrix_nms",
        cases=[_case(count, size, "gaussian", 1), _case(count, size, "linear", 1), _case(count, size, "gaussian", 80)],
    )
