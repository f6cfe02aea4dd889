"""Generalized IoU loss. Mathematics, derivatives and numerics: docs/losses/generalized_box_iou_loss.md."""

from __future__ import annotations

from torch import Tensor

from handgrad.kinds.box_loss import BoxLoss, BoxLossModule, BoxPair
from handgrad.tracing import traceable

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def generalized_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    r"""1 - IoU, and the share of the smallest box around both that neither covers, so that boxes which do not overlap
    are drawn together (Rezatofighi et al., `Generalized Intersection over Union <https://arxiv.org/abs/1902.09630>`_,
    2019).

    .. math:: loss = 1 - \frac{I}{U + eps} + \frac{A - U}{A + eps}

    with the areas I of the intersection, U of the union, A of the enclosing box. Signature and values of
    ``torchvision.ops.generalized_box_iou_loss``; beyond it: one pass, second derivatives, a fused mean and sum.

    Args:
        boxes1: boxes, (..., 4), each x1, y1, x2, y2; float32, float64, bfloat16 or float16, any strides. Integers are
            converted to float32.
        boxes2: the boxes that they are compared with, one each. Same shape; floating-point types are promoted as torch
            does.
        reduction: ``"none"``, ``"mean"`` (over all pairs) or ``"sum"``. Under these two no row of losses is written.
        eps: added to both denominators, at least 0.

    Returns:
        Under ``"none"`` a loss for each pair, (...); otherwise a scalar, the mean of no pairs being 0. float32, or
        float64 for boxes of it.

    Raises:
        ValueError: ``reduction`` or ``eps`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> generalized_box_iou_loss(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
        tensor([0.6667])
    """
    return _loss(boxes1, boxes2, reduction, eps)


# ---- module ----------------------------------------------------------------------------------------------------------


class GeneralizedBoxIoULoss(BoxLossModule):
    """:func:`generalized_box_iou_loss` as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        reduction, eps: see :func:`generalized_box_iou_loss`; checked here, so that a mistake shows at construction.

    Example:
        >>> loss = GeneralizedBoxIoULoss()
        >>> loss(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
        tensor(0.6667)
    """

    def __init__(self, reduction: str = "mean", eps: float = 1e-7) -> None:
        super().__init__(generalized_box_iou_loss, reduction, eps)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def generalized_box_iou_loss_reference(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    """Plain PyTorch, each pair's loss. To be trusted because it is the paper's formula, over areas."""
    pair = BoxPair(boxes1, boxes2)
    _, union = pair.intersection_and_union()
    enclosing = pair.enclosing[0] * pair.enclosing[1]
    return 1 - pair.iou(eps) + (enclosing - union) / (enclosing + eps)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = BoxLoss("handgrad::generalized_box_iou_loss", generalized_box_iou_loss_reference)
