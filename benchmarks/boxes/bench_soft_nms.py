"""Soft non-maximum suppression, linear and gaussian, beside the loop that one writes in PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case

IOU_THRESHOLD, SIGMA, MIN_SCORE = 0.3, 0.5, 1e-3


def _loop(method: str) -> Callable[..., tuple[Tensor, Tensor]]:
    def loop(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        left = torch.arange(len(boxes), device=boxes.device)
        chosen, final = [], []
        while len(left):
            best = int(scores.argmax())
            chosen.append(left[best])
            final.append(scores[best])
            size = torch.minimum(boxes[:, 2:], boxes[best, 2:]) - torch.maximum(boxes[:, :2], boxes[best, :2])
            shared = size.clamp(min=0).prod(1)
            iou = shared / (areas + areas[best] - shared)
            if method == "gaussian":
                scores = scores * (-(iou * iou) / SIGMA).exp()
            else:
                scores = torch.where(iou >= IOU_THRESHOLD, scores * (1 - iou), scores)
            keep = scores >= MIN_SCORE
            keep[best] = False
            boxes, areas, scores, left = boxes[keep], areas[keep], scores[keep], left[keep]
        return torch.stack(chosen), torch.stack(final)

    return loop


def _case(count: int, method: str) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        corner = torch.rand(count, 2, device=device) * 1000
        # No two scores are near to each other, so that rounding does not change a choice.
        scores = (torch.randperm(count, device=device) + 1) / (count + 1)
        return torch.cat([corner, corner + 20 + torch.rand(count, 2, device=device) * 100], 1), scores

    def ours(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        return handgrad.boxes.soft_nms(boxes, scores, IOU_THRESHOLD, SIGMA, MIN_SCORE, method)

    return Case(
        name=f"{count} boxes, {method}",
        inputs=inputs,
        handgrad=lambda *tensors: ours(*tensors)[1],
        # Scores that come out near to each other may change places: their values are compared.
        peers={"loop in PyTorch": lambda *tensors: _loop(method)(*tensors)[1]},
        forward_bytes=count * (5 * 4 + 12),
    )


def benchmark(quick: bool) -> Benchmark:
    count = 60 if quick else 2000
    return Benchmark(op="soft_nms", cases=[_case(count, "linear"), _case(count, "gaussian")])
