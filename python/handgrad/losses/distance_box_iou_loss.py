"""Distance IoU loss. Mathematics, derivatives and numerics: docs/losses/distance_box_iou_loss.md."""

from __future__ import annotations

from torch import Tensor

from handgrad.kinds.box_loss import BoxLoss, BoxLossModule, BoxPair
from handgrad.tracing import traceable

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def distance_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    r"""1 - IoU, and the distance of the centres, squared and relative to the diagonal of the smallest box around both
    (Zheng et al., `Distance-IoU Loss <https://arxiv.org/abs/1911.08287>`_, 2020).

    .. math:: loss = 1 - \frac{I}{U + eps} + \frac{d_x^2 + d_y^2}{w^2 + h^2 + eps}

    with the areas I of the intersection and U of the union, the distance d of the centres, the extents w, h of the
    enclosing box. Signature and values of ``torchvision.ops.distance_box_iou_loss``; beyond it: one pass, second
    derivatives, a fused mean and sum.

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
        >>> distance_box_iou_loss(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
        tensor([0.7436])
    """
    return _loss(boxes1, boxes2, reduction, eps)


# ---- module ----------------------------------------------------------------------------------------------------------


class DistanceBoxIoULoss(BoxLossModule):
    """:func:`distance_box_iou_loss` as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        reduction, eps: see :func:`distance_box_iou_loss`; checked here, so that a mistake shows at construction.

    Example:
        >>> loss = DistanceBoxIoULoss()
        >>> loss(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
        tensor(0.7436)
    """

    def __init__(self, reduction: str = "mean", eps: float = 1e-7) -> None:
        super().__init__(distance_box_iou_loss, reduction, eps)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def distance_box_iou_loss_reference(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    """Plain PyTorch, each pair's loss. To be trusted because it is the paper's formula."""
    pair = BoxPair(boxes1, boxes2)
    return 1 - pair.iou(eps) + pair.centre_distance(eps)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = BoxLoss("handgrad::distance_box_iou_loss", distance_box_iou_loss_reference)
