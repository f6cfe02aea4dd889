"""Intersection over union of rotated boxes. Mathematics, derivatives and numerics: docs/boxes/rotated_box_iou.md."""

from __future__ import annotations

from torch import Tensor

from handgrad._rotated_boxes import RotatedPair
from handgrad.kinds.box_loss import CENTRE_SIZE_ANGLE
from handgrad.kinds.box_matrix import BoxMatrix, part_of
from handgrad.tracing import traceable

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def rotated_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    r"""Intersection over union of each rotated box of one table with each of another.

    .. math:: iou = \frac{I}{U}

    with the areas I of the intersection and U of the union; 0 where the union is. Boxes are those of
    ``torchvision.ops.box_iou(..., fmt="cxcywhr")`` and of detectron2: a positive angle turns a box counter-clockwise as
    it is seen in an image. Beyond them: exactly 1 for identical boxes and never outside [0, 1], however near each other
    boxes and angles are; derivatives with respect to both tables, first and second.

    Args:
        boxes1: boxes, (..., N, 5), each cx, cy, w, h and an angle in degrees; float32, float64, bfloat16 or float16,
            any strides. Integers are converted to float32.
        boxes2: the boxes that they are compared with, (..., M, 5); batches are broadcast, floating-point types promoted
            as torch does.

    Returns:
        The matrix of all pairs, (..., N, M): float32, or float64 for boxes of it; computed in float64 in any case.

    Raises:
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> square = torch.tensor([[0.0, 0, 2, 2, 0]])
        >>> rotated_box_iou(square, torch.tensor([[0.0, 0, 2, 2, 45], [1, 0, 2, 2, 90]]))
        tensor([[0.7071, 0.3333]])
    """
    return _matrix(boxes1, boxes2)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def rotated_box_iou_reference(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Plain PyTorch, each pair's. To be trusted because the intersection is the area of an outline, point by point, and
    because shapely's is the same."""
    rows = boxes1.dim() - 1
    pair = RotatedPair(boxes1.unsqueeze(rows), boxes2.unsqueeze(rows - 1))
    intersection = pair.intersection()
    return part_of(intersection, pair.sum - intersection).to(boxes1.dtype)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_matrix = BoxMatrix("handgrad::rotated_box_iou", rotated_box_iou_reference, row=CENTRE_SIZE_ANGLE)
