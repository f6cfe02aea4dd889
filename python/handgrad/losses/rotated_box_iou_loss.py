"""IoU loss of rotated boxes. Mathematics, derivatives and numerics: docs/losses/rotated_box_iou_loss.md."""

from __future__ import annotations

from torch import Tensor

from handgrad._rotated_boxes import RotatedPair
from handgrad.arguments import check_choice
from handgrad.kinds.box_loss import CENTRE_SIZE_ANGLE, BoxLoss, check_eps
from handgrad.kinds.box_matrix import part_of
from handgrad.kinds.reduced_loss import LossModule
from handgrad.tracing import traceable

_OP = "rotated_box_iou_loss"
_MODES = ("iou", "giou")

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def rotated_box_iou_loss(
    boxes1: Tensor, boxes2: Tensor, iou_mode: str = "iou", reduction: str = "none", eps: float = 0.0
) -> Tensor:
    r"""1 - IoU of each rotated box with another, or the generalized IoU loss (Rezatofighi et al., `Generalized
    Intersection over Union <https://arxiv.org/abs/1902.09630>`_, 2019), whose smallest enclosing convex shape is the
    convex hull of both.

    .. math:: loss = 1 - \frac{I}{U + eps} \quad \text{("iou")} \qquad
        loss = 1 - \frac{I}{U + eps} + \frac{H - U}{H + eps} \quad \text{("giou")}

    with the areas I of the intersection, U of the union and H of the convex hull. Identical boxes lose exactly nothing
    where ``eps`` is 0. Positive angles turn a box counter-clockwise as an image is seen.

    Args:
        boxes1: boxes, (..., 5), each cx, cy, w, h and an angle in degrees; float32, float64, bfloat16 or float16, any
            strides. Integers are converted to float32.
        boxes2: the boxes that they are compared with, one each. Same shape; floating-point types are promoted as torch
            does.
        iou_mode: ``"iou"``, which has no gradient for boxes that do not meet, or ``"giou"``, which draws them together.
        reduction: ``"none"``, ``"mean"`` (over all pairs) or ``"sum"``. Under these two no row of losses is written.
        eps: added to the denominators, at least 0. A part of nothing is 0 without it, too.

    Returns:
        Under ``"none"`` a loss for each pair, (...); otherwise a scalar, the mean of no pairs being 0. float32, or
        float64 for boxes of it; computed in float64 in any case.

    Raises:
        ValueError: ``iou_mode``, ``reduction`` or ``eps`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> square, turned = torch.tensor([[0.0, 0, 2, 2, 0]]), torch.tensor([[0.0, 0, 2, 2, 45]])
        >>> rotated_box_iou_loss(square, turned), rotated_box_iou_loss(square, turned, "giou")
        (tensor([0.2929]), tensor([0.4645]))
    """
    check_choice(_OP, "iou_mode", iou_mode, _MODES)
    return _loss(boxes1, boxes2, reduction, eps, iou_mode == "giou")


# ---- module ----------------------------------------------------------------------------------------------------------


class RotatedBoxIoULoss(LossModule):
    """:func:`rotated_box_iou_loss` as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        iou_mode, reduction, eps: see :func:`rotated_box_iou_loss`; checked here, so that a mistake shows at
            construction.

    Example:
        >>> loss = RotatedBoxIoULoss("giou")
        >>> loss(torch.tensor([[0.0, 0, 2, 2, 0]]), torch.tensor([[0.0, 0, 2, 2, 45]]))
        tensor(0.4645)
    """

    def __init__(self, iou_mode: str = "iou", reduction: str = "mean", eps: float = 0.0) -> None:
        super().__init__(rotated_box_iou_loss, _check_numbers, reduction, iou_mode=iou_mode, eps=eps)

    def forward(self, boxes1: Tensor, boxes2: Tensor) -> Tensor:
        return super().forward(boxes1, boxes2)


def _check_numbers(iou_mode: str, eps: float) -> None:
    check_choice(_OP, "iou_mode", iou_mode, _MODES)
    check_eps(_OP, eps)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def rotated_box_iou_loss_reference(boxes1: Tensor, boxes2: Tensor, eps: float, generalized: bool) -> Tensor:
    """Plain PyTorch, each pair's loss. To be trusted because areas are those of outlines, point by point, and because
    shapely's are the same."""
    pair = RotatedPair(boxes1, boxes2)
    intersection = pair.intersection()
    united = pair.sum - intersection
    loss = 1 - part_of(intersection, united + eps)
    if generalized:
        hull = pair.hull()
        loss = loss + part_of(hull - united, hull + eps)
    return loss.to(boxes1.dtype)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = BoxLoss("handgrad::rotated_box_iou_loss", rotated_box_iou_loss_reference, row=CENTRE_SIZE_ANGLE)
