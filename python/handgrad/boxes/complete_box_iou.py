"""Complete IoU of all pairs. Mathematics, derivatives and numerics: docs/boxes/complete_box_iou.md."""

from __future__ import annotations

from torch import Tensor

from handgrad.kinds.box_loss import check_eps
from handgrad.kinds.box_matrix import BoxMatrix, BoxPairs
from handgrad.tracing import traceable

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    r"""Distance IoU of each box of one table with each of another, less how much their aspect ratios differ (Zheng et
    al., `Distance-IoU Loss <https://arxiv.org/abs/1911.08287>`_, 2020).

    .. math:: ciou = \frac{I}{U} - \frac{d_x^2 + d_y^2}{w^2 + h^2 + eps} - \alpha v, \quad
        v = \frac{4}{\pi^2} \left(\arctan\frac{w_2}{h_2} - \arctan\frac{w_1}{h_1}\right)^2, \quad
        \alpha = \frac{v}{1 - I / U + v + eps}

    with the distance d of the centres and the extents w, h of the enclosing box; a part of nothing is 0, and so is v of
    a box without extent. :math:`\alpha` is not differentiated, neither once nor twice. Signature, values and gradients
    of ``torchvision.ops.complete_box_iou``; beyond it: one pass that writes the matrix and nothing else, second
    derivatives, no NaN for boxes without area.

    Args:
        boxes1: boxes, (..., N, 4), each x1, y1, x2, y2; float32, float64, bfloat16 or float16, any strides. Integers
            are converted to float32.
        boxes2: the boxes that they are compared with, (..., M, 4); batches are broadcast, floating-point types promoted
            as torch does.
        eps: added to the denominators of the distance and of :math:`\alpha`, at least 0.

    Returns:
        The matrix of all pairs, (..., N, M): float32, or float64 for boxes of it.

    Raises:
        ValueError: ``eps`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> complete_box_iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [4, 0, 6, 2]]))
        tensor([[ 0.2564, -0.4000]])
    """
    check_eps("complete_box_iou", eps)
    return _matrix(boxes1, boxes2, eps)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def complete_box_iou_reference(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    """Plain PyTorch, each pair's. To be trusted because it is the paper's formula, but for a box without extent, which
    has no aspect ratio: v is 0 there."""
    pairs = BoxPairs(boxes1, boxes2)
    iou = pairs.iou()
    return iou - pairs.centre_distance(eps) - pairs.aspect_ratio(iou, eps)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_matrix = BoxMatrix("handgrad::complete_box_iou", complete_box_iou_reference)
