"""Complete IoU loss. Mathematics, derivatives and numerics: docs/losses/complete_box_iou_loss.md."""

from __future__ import annotations

from torch import Tensor

from handgrad.kinds.box_loss import BoxLoss, BoxLossModule, BoxPair
from handgrad.tracing import traceable

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def complete_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    r"""Distance IoU loss, and how much the aspect ratios differ (Zheng et al., `Distance-IoU Loss
    <https://arxiv.org/abs/1911.08287>`_, 2020).

    .. math:: loss = 1 - IoU + \frac{d_x^2 + d_y^2}{w^2 + h^2} + \alpha v, \quad
        v = \frac{4}{\pi^2} \left(\arctan\frac{w_2}{h_2} - \arctan\frac{w_1}{h_1}\right)^2, \quad
        \alpha = \frac{v}{1 - IoU + v + eps}

    with the distance d of the centres and the extents w, h of the enclosing box. :math:`\alpha` is not differentiated,
    neither once nor twice. Signature and values of ``torchvision.ops.complete_box_iou_loss``; beyond it: one pass, no
    NaN for boxes without extent, a fused mean and sum.

    Args:
        boxes1: boxes, (..., 4), each x1, y1, x2, y2; float32, float64, bfloat16 or float16, any strides. Integers are
            converted to float32.
        boxes2: the boxes that they are compared with, one each. Same shape; floating-point types are promoted as torch
            does.
        reduction: ``"none"``, ``"mean"`` (over all pairs) or ``"sum"``. Under these two no row of losses is written.
        eps: added to the denominator of :math:`\alpha`, at least 0; the others have 1e-7 added, as torchvision has it.

    Returns:
        Under ``"none"`` a loss for each pair, (...); otherwise a scalar, the mean of no pairs being 0. float32, or
        float64 for boxes of it.

    Raises:
        ValueError: ``reduction`` or ``eps`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> complete_box_iou_loss(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
        tensor([0.7436])
    """
    return _loss(boxes1, boxes2, reduction, eps)


# ---- module ----------------------------------------------------------------------------------------------------------


class CompleteBoxIoULoss(BoxLossModule):
    """:func:`complete_box_iou_loss` as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        reduction, eps: see :func:`complete_box_iou_loss`; checked here, so that a mistake shows at construction.

    Example:
        >>> loss = CompleteBoxIoULoss()
        >>> loss(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
        tensor(0.7436)
    """

    def __init__(self, reduction: str = "mean", eps: float = 1e-7) -> None:
        super().__init__(complete_box_iou_loss, reduction, eps)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def complete_box_iou_loss_reference(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    """Plain PyTorch, each pair's loss. To be trusted because it is the paper's formula, but for a box without extent,
    which has no aspect ratio: v is 0 there. As torchvision has it, eps is that of alpha alone."""
    pair = BoxPair(boxes1, boxes2)
    iou = pair.iou(1e-7)
    return 1 - iou + pair.centre_distance(1e-7) + pair.aspect_ratio(iou, eps)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = BoxLoss("handgrad::complete_box_iou_loss", complete_box_iou_loss_reference)
