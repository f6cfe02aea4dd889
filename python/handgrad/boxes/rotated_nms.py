"""Non-maximum suppression of rotated boxes, plain or by class. Algorithm and numerics: docs/boxes/rotated_nms.md."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad._boxes import check_boxes, decreasing_order, kept_in_order, suppression_arguments
from handgrad._rotated_boxes import RotatedPair
from handgrad.kinds.box_loss import CENTRE_SIZE_ANGLE
from handgrad.registration import dynamic_size, register, without_derivatives
from handgrad.tracing import traceable

_OP = "rotated_nms"

# ---- public functions ------------------------------------------------------------------------------------------------


@traceable
def rotated_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keeps the best of rotated boxes that overlap: from the highest score down, a box is dropped if its intersection
    over union with a box kept before is greater than ``iou_threshold``.

    Boxes are as detectron2 has them, and so is the signature of ``detectron2.layers.nms_rotated``. Beyond it: overlaps
    that are right for boxes that nearly coincide, classes, bfloat16 and float16, an order of equal scores.

    Args:
        boxes: (boxes, 5), rows of cx, cy, w, h and an angle in degrees; float32, float64, bfloat16 or float16 (all
            computed in float64), any strides. A box without an inside, or with a number that is NaN or infinite, is
            kept and suppresses no other.
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
        >>> boxes = torch.tensor([[0.0, 0, 10, 2, 30], [0, 0, 10, 2, 35], [0, 0, 10, 2, 120]])
        >>> rotated_nms(boxes, torch.tensor([0.8, 0.9, 0.7]), 0.5)
        tensor([1, 2])
    """
    return _rotated_nms(*suppression_arguments(_OP, boxes, scores, iou_threshold))


@traceable
def batched_rotated_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """:func:`rotated_nms` of each class, image or level by itself, in one call: only boxes of the same ``idxs``
    suppress one another. Signature of ``detectron2.layers.batched_nms_rotated``, which moves classes apart instead.

    Args:
        boxes, scores, iou_threshold: see :func:`rotated_nms`.
        idxs: (boxes,), integers, whatever they are: their class.

    Returns:
        int64, the indices of the kept boxes of all classes, sorted by decreasing score; of equal scores the first comes
        first.

    Raises:
        ValueError, TypeError, RuntimeError: see :func:`rotated_nms`.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 10, 2, 30], [0, 0, 10, 2, 35]])
        >>> batched_rotated_nms(boxes, torch.tensor([0.8, 0.9]), torch.tensor([0, 1]), 0.5)
        tensor([1, 0])
    """
    return _rotated_nms(*suppression_arguments(_OP, boxes, scores, iou_threshold, idxs))


# ---- reference -------------------------------------------------------------------------------------------------------


def rotated_nms_reference(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition: in the order of scores each box, unless it is dropped
    itself, drops those after it that it overlaps too much."""
    order = decreasing_order(scores)
    boxes = boxes.double().index_select(0, order)

    def overlaps(rows: slice) -> Tensor:
        pair = RotatedPair(boxes[rows, None], boxes[None])
        shared = pair.intersection()
        return shared / (pair.sum - shared) > iou_threshold

    return kept_in_order(overlaps, order, idxs)


# ---- fake ------------------------------------------------------------------------------------------------------------


def _fake(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> Tensor:
    check_boxes(_OP, boxes, CENTRE_SIZE_ANGLE, scores=scores, idxs=idxs)
    return boxes.new_empty(dynamic_size(boxes.shape[0]), dtype=torch.int64)


# ---- registration ----------------------------------------------------------------------------------------------------

_rotated_nms = register(
    "handgrad::rotated_nms",
    # Indices have no derivative, and not all samples keep the same number of boxes.
    autograd=without_derivatives(),
    fake=_fake,
    reference=rotated_nms_reference,
    # Boxes may come in float32 from a regression beside scores in a half type from a classifier.
    autocast=torch.float32,
    gathers=True,
)
