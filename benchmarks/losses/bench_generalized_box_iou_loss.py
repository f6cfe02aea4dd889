"""Generalized IoU loss: 100,000 pairs of boxes, beside torchvision's, and the formula compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import box_pairs
from handgrad.benchmarking import Benchmark
from handgrad.losses import generalized_box_iou_loss

EPS = 1e-7


def by_hand(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    (left1, top1, right1, bottom1), (left2, top2, right2, bottom2) = boxes1.unbind(-1), boxes2.unbind(-1)
    width = (torch.minimum(right1, right2) - torch.maximum(left1, left2)).clamp(min=0)
    height = (torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)).clamp(min=0)
    intersection = width * height
    union = (right1 - left1) * (bottom1 - top1) + (right2 - left2) * (bottom2 - top2) - intersection
    enclosing_width = torch.maximum(right1, right2) - torch.minimum(left1, left2)
    enclosing = enclosing_width * (torch.maximum(bottom1, bottom2) - torch.minimum(top1, top2))
    return 1 - intersection / (union + EPS) + (enclosing - union) / (enclosing + EPS)


def benchmark(quick: bool) -> Benchmark:
    return box_pairs.benchmark(
        quick,
        generalized_box_iou_loss,
        by_hand,
        lambda reduction: box_pairs.torchvisions("generalized_box_iou_loss", reduction),
    )
