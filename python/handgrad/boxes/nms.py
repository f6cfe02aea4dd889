"""Non-maximum suppression, plain and class by class. Algorithm, proofs and numerics: docs/boxes/nms.md."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad._boxes import check_boxes, kept_in_order, rounded_down, suppression_arguments
from handgrad.arguments import computed_dtype
from handgrad.boxes.nms_onnx import non_max_suppression
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
    return _nms(*suppression_arguments(_OP, boxes, scores, iou_threshold))


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
    return _nms(*suppression_arguments(_OP, boxes, scores, iou_threshold, idxs))


# ---- reference -------------------------------------------------------------------------------------------------------


def nms_reference(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition: in the order of scores each box, unless it is dropped
    itself, drops those after it that it overlaps too much."""
    order = scores.sort(descending=True, stable=True).indices
    dtype = computed_dtype(boxes)
    boxes = boxes.to(dtype).index_select(0, order)
    low, high = boxes[:, :2], boxes[:, 2:]
    areas = (high - low).prod(1)

    def overlaps(rows: slice) -> Tensor:
        sizes = torch.minimum(high[rows, None], high) - torch.maximum(low[rows, None], low)
        shared = sizes.clamp(min=0).prod(2)
        return shared / (areas[rows, None] + areas - shared) > rounded_down(iou_threshold, dtype)

    return kept_in_order(overlaps, order, idxs)


# ---- fake ------------------------------------------------------------------------------------------------------------


def _fake(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> Tensor:
    check_boxes(_OP, boxes, scores=scores, idxs=idxs)
    return boxes.new_empty(dynamic_size(boxes.shape[0]), dtype=torch.int64)


# ---- registration ----------------------------------------------------------------------------------------------------

_nms = register(
    "handgrad::nms",
    # Indices have no derivative, and not all samples keep the same number of boxes.
    autograd=without_derivatives(),
    fake=_fake,
    reference=nms_reference,
    # Boxes may come in float32 from a regression beside scores in a half type from a classifier.
    autocast=torch.float32,
    gathers=True,
    onnx=non_max_suppression,
)
