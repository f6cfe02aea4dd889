"""Efficient IoU loss: 100,000 pairs of boxes, beside the formula in plain PyTorch, eager and compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import box_pairs
from handgrad.benchmarking import Benchmark
from handgrad.losses import efficient_box_iou_loss

EPS = 1e-7


def by_hand(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    (left1, top1, right1, bottom1), (left2, top2, right2, bottom2) = boxes1.unbind(-1), boxes2.unbind(-1)
    wide = (torch.minimum(right1, right2) - torch.maximum(left1, left2)).clamp(min=0)
    high = (torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)).clamp(min=0)
    width1, height1, width2, height2 = right1 - left1, bottom1 - top1, right2 - left2, bottom2 - top2
    iou = wide * high / (width1 * height1 + width2 * height2 - wide * high + EPS)
    around_x = torch.maximum(right1, right2) - torch.minimum(left1, left2)
    around_y = torch.maximum(bottom1, bottom2) - torch.minimum(top1, top2)
    x, y = (left2 + right2 - left1 - right1) / 2, (top2 + bottom2 - top1 - bottom1) / 2
    distance = (x**2 + y**2) / (around_x**2 + around_y**2 + EPS)
    width, height = (width1 - width2) ** 2 / (around_x**2 + EPS), (height1 - height2) ** 2 / (around_y**2 + EPS)
    return 1 - iou + distance + width + height


def benchmark(quick: bool) -> Benchmark:
    return box_pairs.benchmark(
        quick, efficient_box_iou_loss, by_hand, lambda reduction: box_pairs.formula(by_hand, reduction)
    )
