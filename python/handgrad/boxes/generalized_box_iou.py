"""Generalized IoU of all pairs. Mathematics, derivatives and numerics: docs/boxes/generalized_box_iou.md."""

from __future__ import annotations

from torch import Tensor

from handgrad.kinds.box_matrix import BoxMatrix, BoxPairs, part_of
from handgrad.tracing import traceable

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    r"""IoU of each box of one table with each of another, less the part of the smallest box around both that neither
    covers (Rezatofighi et al., `Generalized Intersection over Union <https://arxiv.org/abs/1902.09630>`_, 2019).

    .. math:: giou = \frac{I}{U} - \frac{A - U}{A}

    with the areas I of the intersection, U of the union, A of the enclosing box; a part of nothing is 0. From 1 for
    equal boxes to nearly -1 for small ones far apart. Signature and values of ``torchvision.ops.generalized_box_iou``;
    beyond it: one pass that writes the matrix and nothing else, second derivatives, no NaN for boxes without area.

    Args:
        boxes1: boxes, (..., N, 4), each x1, y1, x2, y2; float32, float64, bfloat16 or float16, any strides. Integers
            are converted to float32.
        boxes2: the boxes that they are compared with, (..., M, 4); batches are broadcast, floating-point types promoted
            as torch does.

    Returns:
        The matrix of all pairs, (..., N, M): float32, or float64 for boxes of it.

    Raises:
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> generalized_box_iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [4, 0, 6, 2]]))
        tensor([[ 0.3333, -0.3333]])
    """
    return _matrix(boxes1, boxes2)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def generalized_box_iou_reference(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Plain PyTorch, each pair's. To be trusted because it is the paper's formula, over areas."""
    pairs = BoxPairs(boxes1, boxes2)
    _, union = pairs.intersection_and_union()
    enclosing = pairs.enclosing[0] * pairs.enclosing[1]
    return pairs.iou() - part_of(enclosing - union, enclosing)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_matrix = BoxMatrix("handgrad::generalized_box_iou", generalized_box_iou_reference)
