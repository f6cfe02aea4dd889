"""Distance IoU of all pairs. Mathematics, derivatives and numerics: docs/boxes/distance_box_iou.md."""

from __future__ import annotations

from torch import Tensor

from handgrad.kinds.box_loss import check_eps
from handgrad.kinds.box_matrix import BoxMatrix, BoxPairs
from handgrad.tracing import traceable

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    r"""IoU of each box of one table with each of another, less the distance of their centres, squared and relative to
    the diagonal of the smallest box around both (Zheng et al., `Distance-IoU Loss
    <https://arxiv.org/abs/1911.08287>`_, 2020).

    .. math:: diou = \frac{I}{U} - \frac{d_x^2 + d_y^2}{w^2 + h^2 + eps}

    with the areas I of the intersection and U of the union, the distance d of the centres, the extents w, h of the
    enclosing box; a part of nothing is 0. Signature and values of ``torchvision.ops.distance_box_iou``; beyond it: one
    pass that writes the matrix and nothing else, second derivatives, no NaN for boxes without area.

    Args:
        boxes1: boxes, (..., N, 4), each x1, y1, x2, y2; float32, float64, bfloat16 or float16, any strides. Integers
            are converted to float32.
        boxes2: the boxes that they are compared with, (..., M, 4); batches are broadcast, floating-point types promoted
            as torch does.
        eps: added to the denominator of the distance, at least 0.

    Returns:
        The matrix of all pairs, (..., N, M): float32, or float64 for boxes of it.

    Raises:
        ValueError: ``eps`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> distance_box_iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [4, 0, 6, 2]]))
        tensor([[ 0.2564, -0.4000]])
    """
    check_eps("distance_box_iou", eps)
    return _matrix(boxes1, boxes2, eps)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def distance_box_iou_reference(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    """Plain PyTorch, each pair's. To be trusted because it is the paper's formula."""
    pairs = BoxPairs(boxes1, boxes2)
    return pairs.iou() - pairs.centre_distance(eps)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_matrix = BoxMatrix("handgrad::distance_box_iou", distance_box_iou_reference)
