"""Scores lowered by overlaps with better ones as others compute it: with matrices of all pairs in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def lowered(iou: Callable[[Tensor], Tensor], kernel: str, sigma: float) -> Callable[..., Tensor]:
    """The lowered scores in decreasing order, of all items, from what they are (boxes, masks), scores and classes."""

    def formula(items: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
        scores, order = scores.sort(descending=True)
        classes = classes[order]
        overlaps = (iou(items[order]) * (classes[:, None] == classes)).triu(1)
        cover = overlaps.max(0).values[:, None]
        if kernel == "gaussian":
            decay = torch.exp(-sigma * overlaps**2) / torch.exp(-sigma * cover**2)
        else:
            decay = (1 - overlaps) / (1 - cover)
        return (scores * decay.min(0).values).sort(descending=True).values

    return formula


def box_iou(boxes: Tensor) -> Tensor:
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    size = torch.minimum(boxes[:, None, 2:], boxes[:, 2:]) - torch.maximum(boxes[:, None, :2], boxes[:, :2])
    shared = size.clamp(min=0).prod(2)
    return shared / (areas[:, None] + areas - shared)


def mask_iou(masks: Tensor) -> Tensor:
    flat = masks.flatten(1).float()
    areas, shared = flat.sum(1), flat @ flat.T
    return shared / (areas[:, None] + areas - shared)
