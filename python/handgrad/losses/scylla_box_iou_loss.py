"""SIoU loss. Mathematics, derivatives and numerics: docs/losses/scylla_box_iou_loss.md."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad.kinds.box_loss import BoxLoss, BoxLossModule, BoxPair
from handgrad.tracing import traceable

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def scylla_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    r"""1 - IoU, and costs of the distance, of its direction, and of the shapes (Gevorgyan, `SIoU Loss
    <https://arxiv.org/abs/2205.12740>`_, 2022).

    .. math:: loss = 1 - IoU + \frac{\Delta + \Omega}{2}, \quad
        \Delta = \sum_{x, y} 1 - e^{-(2 - \Lambda) d^2 / w^2}, \quad
        \Lambda = \frac{2 |d_x d_y|}{d_x^2 + d_y^2}, \quad
        \Omega = \sum_{x, y} \left(1 - e^{-|w_1 - w_2| / \max(w_1, w_2)}\right)^4

    with the distance d of the centres and the extents w of the enclosing box along each axis. The paper's
    :math:`\theta` is 4, as in its experiments; its angle cost is written without an arcsine, which has no derivative
    where the centres lie beside each other.

    Args:
        boxes1: boxes, (..., 4), each x1, y1, x2, y2; float32, float64, bfloat16 or float16, any strides. Integers are
            converted to float32.
        boxes2: the boxes that they are compared with, one each. Same shape; floating-point types are promoted as torch
            does.
        reduction: ``"none"``, ``"mean"`` (over all pairs) or ``"sum"``. Under these two no row of losses is written.
        eps: added to all denominators, at least 0.

    Returns:
        Under ``"none"`` a loss for each pair, (...); otherwise a scalar, the mean of no pairs being 0. float32, or
        float64 for boxes of it.

    Raises:
        ValueError: ``reduction`` or ``eps`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> scylla_box_iou_loss(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
        tensor([0.7663])
    """
    return _loss(boxes1, boxes2, reduction, eps)


# ---- module ----------------------------------------------------------------------------------------------------------


class ScyllaBoxIoULoss(BoxLossModule):
    """:func:`scylla_box_iou_loss` as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        reduction, eps: see :func:`scylla_box_iou_loss`; checked here, so that a mistake shows at construction.

    Example:
        >>> loss = ScyllaBoxIoULoss()
        >>> loss(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
        tensor(0.7663)
    """

    def __init__(self, reduction: str = "mean", eps: float = 1e-7) -> None:
        super().__init__(scylla_box_iou_loss, reduction, eps)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def scylla_box_iou_loss_reference(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    """Plain PyTorch, each pair's loss. To be trusted because it is the paper's formula, with
    1 - 2 sin^2(arcsin(s) - pi / 4) = sin(2 arcsin(s)) = 2 s sqrt(1 - s^2)."""
    pair = BoxPair(boxes1, boxes2)
    way_x, way_y = pair.way
    square = way_x**2 + way_y**2 + eps
    angle = 2 * (way_x * way_y).abs() / torch.where(square > 0, square, 1)
    cost = torch.zeros_like(angle)
    for one, other, around, way in zip(pair.size1, pair.size2, pair.enclosing, pair.way, strict=True):
        largest = torch.maximum(one, other).clamp(min=0) + eps
        shape = 1 - torch.exp(-(one - other).abs() / torch.where(largest > 0, largest, 1))
        cost = cost + 1 - torch.exp((angle - 2) * way**2 / (around**2 + eps)) + shape**4
    return 1 - pair.iou(eps) + cost / 2


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = BoxLoss("handgrad::scylla_box_iou_loss", scylla_box_iou_loss_reference)
