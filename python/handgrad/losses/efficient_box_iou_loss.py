"""Efficient IoU loss. Mathematics, derivatives and numerics: docs/losses/efficient_box_iou_loss.md."""

from __future__ import annotations

from torch import Tensor

from handgrad.kinds.box_loss import BoxLoss, BoxLossModule, BoxPair
from handgrad.tracing import traceable

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def efficient_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    r"""Distance IoU loss, and the squared differences of widths and heights, relative to those of the smallest box
    around both (Zhang et al., `Focal and Efficient IoU Loss <https://arxiv.org/abs/2101.08158>`_, 2021).

    .. math:: loss = 1 - IoU + \frac{d_x^2 + d_y^2}{w^2 + h^2 + eps}
        + \frac{(w_1 - w_2)^2}{w^2 + eps} + \frac{(h_1 - h_2)^2}{h^2 + eps}

    with the distance d of the centres and the extents w, h of the enclosing box. The paper's focal factor is
    ``iou.detach() ** gamma`` times this.

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
        >>> efficient_box_iou_loss(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
        tensor([0.7436])
    """
    return _loss(boxes1, boxes2, reduction, eps)


# ---- module ----------------------------------------------------------------------------------------------------------


class EfficientBoxIoULoss(BoxLossModule):
    """:func:`efficient_box_iou_loss` as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        reduction, eps: see :func:`efficient_box_iou_loss`; checked here, so that a mistake shows at construction.

    Example:
        >>> loss = EfficientBoxIoULoss()
        >>> loss(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
        tensor(0.7436)
    """

    def __init__(self, reduction: str = "mean", eps: float = 1e-7) -> None:
        super().__init__(efficient_box_iou_loss, reduction, eps)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def efficient_box_iou_loss_reference(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    """Plain PyTorch, each pair's loss. To be trusted because it is the paper's formula."""
    pair = BoxPair(boxes1, boxes2)
    sides = zip(pair.size1, pair.size2, pair.enclosing, strict=True)
    width, height = ((one - other) ** 2 / (around**2 + eps) for one, other, around in sides)
    return 1 - pair.iou(eps) + pair.centre_distance(eps) + width + height


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = BoxLoss("handgrad::efficient_box_iou_loss", efficient_box_iou_loss_reference)
