"""Non-maximum suppression of rotated boxes, beside the loop that one writes in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import rotated_boxes
from handgrad.benchmarking import Benchmark, Case
from handgrad.boxes import rotated_nms

THRESHOLD = 0.3


def _loop(boxes: Tensor, scores: Tensor) -> Tensor:
    """One box after the other against all that are left."""
    order = scores.argsort(descending=True)
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        overlaps = rotated_boxes.iou(boxes[best], boxes[order])
        order = order[overlaps <= THRESHOLD]
    return torch.stack(kept)


def _ours(boxes: Tensor, scores: Tensor) -> Tensor:
    return rotated_nms(boxes, scores, THRESHOLD)


def benchmark(quick: bool) -> Benchmark:
    count = 100 if quick else 2_000

    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        return rotated_boxes.boxes(count, device), (torch.randperm(count, device=device) + 1) / (count + 1)

    case = Case(
        name=f"{count} boxes of 8 to 100 spread over 1024x1024",
        inputs=inputs,
        handgrad=_ours,
        peers={"loop in PyTorch": _loop},
        # Five numbers and a score are read; an index is written for each box kept, at most.
        forward_bytes=count * (6 * 4 + 8),
    )
    return Benchmark(op="rotated_nms", cases=[case])
