"""Intersection over union of all pairs. Mathematics, derivatives and numerics: docs/boxes/box_iou.md."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad.arguments import check_choice, check_tensor
from handgrad.kinds.box_matrix import BoxMatrix, BoxPairs
from handgrad.tracing import traceable

_OP = "box_iou"
_FORMATS = ("xyxy", "xywh", "cxcywh")

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    r"""Intersection over union of each box of one table with each of another.

    .. math:: iou = \frac{I}{U}

    with the areas I of the intersection and U of the union; 0 where the union is. Signature and values of
    ``torchvision.ops.box_iou`` for boxes that are not rotated; beyond it: one pass that writes the matrix and nothing
    else, second derivatives, no NaN for two boxes without area.

    Args:
        boxes1: boxes, (..., N, 4), each x1, y1, x2, y2; float32, float64, bfloat16 or float16, any strides. Integers
            are converted to float32.
        boxes2: the boxes that they are compared with, (..., M, 4); batches are broadcast, floating-point types promoted
            as torch does.
        fmt: ``"xyxy"``, ``"xywh"`` (corner, width, height) or ``"cxcywh"`` (centre, width, height).

    Returns:
        The matrix of all pairs, (..., N, M): float32, or float64 for boxes of it.

    Raises:
        ValueError: another ``fmt``.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> box_iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [0, 0, 2, 4]]))
        tensor([[0.3333, 0.5000]])
    """
    if fmt != "xyxy":
        check_choice(_OP, "fmt", fmt, _FORMATS)
        boxes1, boxes2 = _corners("boxes1", boxes1, fmt), _corners("boxes2", boxes2, fmt)
    return _matrix(boxes1, boxes2)


def _corners(name: str, boxes: Tensor, fmt: str) -> Tensor:
    """x1, y1, x2, y2; half types and integers become float32 first, in which these are exact, or nearly."""
    check_tensor(_OP, name, boxes)
    if boxes.dim() < 2 or boxes.shape[-1] != 4 or boxes.is_complex():
        return boxes  # the kernel says what it wants
    boxes = boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()
    first, size = boxes.split(2, -1)
    low = first - size / 2 if fmt == "cxcywh" else first
    return torch.cat([low, low + size], -1)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def box_iou_reference(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Plain PyTorch, each pair's. To be trusted because it is the definition, over areas."""
    return BoxPairs(boxes1, boxes2).iou()


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_matrix = BoxMatrix("handgrad::box_iou", box_iou_reference)
