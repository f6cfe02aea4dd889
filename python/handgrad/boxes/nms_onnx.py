"""nms and batched_nms as ONNX's NonMaxSuppression."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from handgrad._boxes import rounded_down
from handgrad.arguments import INT32_MAX


def non_max_suppression(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> Any:
    from handgrad.onnx import operator, unknown_size

    # onnxruntime runs this operator in float32 only.
    if boxes.dtype is not torch.float32:
        return NotImplemented
    # The operator leaves the order of equal scores open, and that of NaN: so it gets the ranks, as decreasing numbers.
    # (This sort becomes TopK, which is stable; torch's exporter does not know the one that says so.) In float64 there
    # is room between infinity and NaN, which comes first; but torch writes constants by way of float32.
    values = scores.double() / 2
    values = torch.where(values > 3e38, 3e38, values)
    order = torch.where(scores.isnan(), torch.inf, values).sort(descending=True).indices
    boxes = boxes.index_select(0, order)
    # It would turn inverted boxes over; a box of no size is kept and suppresses none, as here.
    sizes = boxes[:, 2:] - boxes[:, :2]
    proper = (sizes > 0).all(1) & (sizes.prod(1) < torch.inf)
    boxes = torch.where(proper[:, None], boxes, 0.0)
    # (A sum over ones, because the classic exporter would take a number of boxes for a constant.)
    ranks = -torch.ones_like(scores).cumsum(0)[None]
    if idxs is not None:
        # A row for each class, in which the boxes of other classes are below what is looked at.
        classes = idxs.index_select(0, order)
        ranks = torch.where(classes == classes.unique()[:, None], ranks, -torch.inf)
    most = torch.full((1,), INT32_MAX)
    iou_limit = torch.full((1,), rounded_down(iou_threshold, torch.float32))
    score_limit = torch.full((1,), -1e9)
    chosen = operator(
        "NonMaxSuppression",
        [boxes[None], ranks[None], most, iou_limit, score_limit],
        dtype=torch.int64,
        shape=[unknown_size(boxes), 3],
        # The operator is one version older, the sum that the ranks come from is not.
        since=11,
    )
    # Rows of image, class and rank.
    return order.index_select(0, chosen[:, 2].sort().values)
