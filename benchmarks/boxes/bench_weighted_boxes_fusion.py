"""Weighted boxes fusion, beside the loop that one writes in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case

_IOU_THRESHOLD = 0.55
_MODELS = 3


def _loop(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Box by box, each compared with the fused boxes of its label at once."""
    fused, sums, totals, counts = [], [], [], []
    for label in labels.unique():
        own = (labels == label).nonzero()[:, 0]
        own = own[scores[own].argsort(descending=True, stable=True)]
        table = boxes.new_zeros(len(own), 4)
        found = 0
        for i in own.tolist():
            box, score = boxes[i], scores[i]
            best = -1
            if found:
                means = table[:found]
                size = torch.minimum(means[:, 2:], box[2:]) - torch.maximum(means[:, :2], box[:2])
                shared = size.clamp(min=0).prod(1)
                iou = shared / ((means[:, 2:] - means[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - shared)
                highest, index = iou.max(0)
                best = int(index) if highest > _IOU_THRESHOLD else -1
            if best < 0:
                best, found = found, found + 1
                sums.append(score * box)
                totals.append(score)
                counts.append(1)
            else:
                k = best - found
                sums[k], totals[k], counts[k] = sums[k] + score * box, totals[k] + score, counts[k] + 1
            k = best - found
            table[best] = sums[k] / totals[k]
        fused.append(table[:found])
    number = torch.tensor(counts, device=boxes.device)
    confidence = torch.stack(totals) / number * number.clamp(max=_MODELS) / _MODELS
    return confidence.sort(descending=True).values


def _case(count: int, labels: int) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        corner = torch.rand(count, 2, device=device) * 1000
        things = torch.cat([corner, corner + 20 + torch.rand(count, 2, device=device) * 100], 1)
        boxes = torch.cat([things + torch.rand(count, 4, device=device) * 8 for _ in range(_MODELS)])
        # No two scores are near to each other, so that rounding does not change a choice.
        scores = (torch.randperm(_MODELS * count, device=device) + 1) / (_MODELS * count + 1)
        return boxes, scores, torch.randint(0, labels, (count,), device=device).repeat(_MODELS)

    def ours(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        lists = (boxes.split(count), scores.split(count), labels.split(count))
        return handgrad.boxes.weighted_boxes_fusion(*lists, iou_thr=_IOU_THRESHOLD)[1]

    return Case(
        name=f"{_MODELS} models of {count} boxes, {labels} labels",
        inputs=inputs,
        handgrad=ours,
        # Scores that come out near to each other may change places: their values are compared.
        peers={"loop in PyTorch": _loop},
        forward_bytes=_MODELS * count * (5 * 4 + 2 * 8) + count * (5 * 4 + 8),
    )


def benchmark(quick: bool) -> Benchmark:
    if quick:
        return Benchmark(op="weighted_boxes_fusion", cases=[_case(20, 2)])
    return Benchmark(op="weighted_boxes_fusion", cases=[_case(100, 10), _case(1000, 80)])
