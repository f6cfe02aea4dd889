"""Non-maximum suppression, plain and class by class. Algorithm, proofs and numerics: docs/boxes/nms.md."""

from __future__ import annotations

import struct
from typing import Any

import torch
from torch import Tensor

from handgrad._boxes import check_boxes, dequantized
from handgrad.arguments import INT32_MAX, check_range, check_tensor
from handgrad.registration import dynamic_size, register, without_derivatives
from handgrad.tracing import traceable

_OP = "nms"

# ---- public functions ------------------------------------------------------------------------------------------------


@traceable
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keeps the best of boxes that overlap: from the highest score down, a box is dropped if its intersection over
    union with a box kept before is greater than ``iou_threshold``.

    Signature and values of :func:`torchvision.ops.nms` on the CPU, on every device; beyond it: bfloat16 and float16,
    and far less time (docs/boxes/nms.md).

    Args:
        boxes: (boxes, 4), rows of x1, y1, x2, y2; float32, float64, bfloat16 or float16 (computed in float32), any
            strides; or quantized, for the numbers that they stand for. A box without an inside (x2 <= x1 or y2 <= y1),
            or with a corner or an area that is NaN or infinite, is kept and suppresses no other.
        scores: (boxes,), of the type of ``boxes``. Of equal ones the first comes first; NaN comes before all. Under
            autocast both are taken in float32, unless they are float64.
        iou_threshold: from 0 to 1.

    Returns:
        int64, the indices of the kept boxes, sorted by decreasing score. How many they are depends on the values: under
        ``torch.compile`` and ``torch.export`` it is an unbacked size, and vmap refuses.

    Raises:
        ValueError: ``iou_threshold`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
        >>> nms(boxes, torch.tensor([0.8, 0.9, 0.7]), 0.5)
        tensor([1, 2])
    """
    check_tensor(_OP, "boxes", boxes)
    check_tensor(_OP, "scores", scores)
    check_range(_OP, "iou_threshold", iou_threshold, 0.0, 1.0, "a number from 0 to 1")
    return _nms(*dequantized(boxes, scores), None, iou_threshold)


@traceable
def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """:func:`nms` of each class, image or level by itself, in one call: only boxes of the same ``idxs`` suppress one
    another.

    Signature of :func:`torchvision.ops.batched_nms`, and the values of the loop over classes. (torchvision moves the
    boxes of each class to a region of their own instead where there are few; their coordinates are rounded on the way.)

    Args:
        boxes, scores, iou_threshold: see :func:`nms`.
        idxs: (boxes,), integers, whatever they are: their class.

    Returns:
        int64, the indices of the kept boxes of all classes, sorted by decreasing score; of equal scores the first comes
        first.

    Raises:
        ValueError, TypeError, RuntimeError: see :func:`nms`.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [2.0, 0.0, 12.0, 10.0]])
        >>> batched_nms(boxes, torch.tensor([0.8, 0.9, 0.7]), torch.tensor([0, 1, 1]), 0.5)
        tensor([1, 0])
    """
    check_tensor(_OP, "boxes", boxes)
    check_tensor(_OP, "scores", scores)
    check_tensor(_OP, "idxs", idxs)
    if idxs.is_floating_point() or idxs.is_complex():
        raise TypeError(f"{_OP}: idxs must be a tensor of integers; got {idxs.dtype}")
    check_range(_OP, "iou_threshold", iou_threshold, 0.0, 1.0, "a number from 0 to 1")
    return _nms(*dequantized(boxes, scores), idxs.to(torch.int64), iou_threshold)


# ---- reference -------------------------------------------------------------------------------------------------------

_ROWS = 64


def nms_reference(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition: in the order of scores each box, unless it is dropped
    itself, drops those after it that it overlaps too much. It never asks for a value on the way, so it runs on a device
    without waiting for it."""
    order = scores.sort(descending=True, stable=True).indices
    dtype = torch.float64 if boxes.dtype is torch.float64 else torch.float32
    boxes = boxes.to(dtype).index_select(0, order)
    classes = None if idxs is None else idxs.index_select(0, order)
    low, high = boxes[:, :2], boxes[:, 2:]
    areas = (high - low).prod(1)
    kept = torch.ones_like(order, dtype=torch.bool)
    for first in range(0, len(order), _ROWS):
        # So many boxes against all.
        rows = slice(first, first + _ROWS)
        sizes = torch.minimum(high[rows, None], high) - torch.maximum(low[rows, None], low)
        shared = sizes.clamp(min=0).prod(2)
        over = shared / (areas[rows, None] + areas - shared) > _rounded_down(iou_threshold, dtype)
        if classes is not None:
            over &= classes[rows, None] == classes
        for row in range(over.shape[0]):
            index = first + row
            kept[index + 1 :] &= ~(kept[index] & over[row, index + 1 :])
    return order[kept]


def _rounded_down(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that is not above the threshold: the same decisions as in float64."""
    if dtype is torch.float64:
        return threshold
    bits = struct.unpack("<i", struct.pack("<f", threshold))[0]
    nearest = struct.unpack("<f", struct.pack("<i", bits))[0]
    return struct.unpack("<f", struct.pack("<i", bits - 1))[0] if nearest > threshold else nearest


# ---- fake ------------------------------------------------------------------------------------------------------------


def _fake(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> Tensor:
    check_boxes(_OP, boxes, scores=scores, idxs=idxs)
    return boxes.new_empty(dynamic_size(boxes.shape[0]), dtype=torch.int64)


# ---- autograd, vmap: indices have no derivative, and not all samples keep the same number of boxes -------------------

_NoDerivatives = without_derivatives()


# ---- onnx: NonMaxSuppression -----------------------------------------------------------------------------------------


def _onnx(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> Any:
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
    iou_limit = torch.full((1,), _rounded_down(iou_threshold, torch.float32))
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


# ---- registration ----------------------------------------------------------------------------------------------------

_nms = register(
    "handgrad::nms",
    autograd=_NoDerivatives,
    fake=_fake,
    reference=nms_reference,
    # Boxes may come in float32 from a regression beside scores in a half type from a classifier.
    autocast=torch.float32,
    gathers=True,
    onnx=_onnx,
)
