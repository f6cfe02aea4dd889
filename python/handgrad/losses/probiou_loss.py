"""Probabilistic IoU loss of rotated boxes. Derivatives and numerics: docs/losses/probiou_loss.md."""

from __future__ import annotations

from torch import Tensor

from handgrad._rotated_boxes import check_positive_eps, probabilistic_iou
from handgrad.kinds.box_loss import CENTRE_SIZE_ANGLE, BoxLoss
from handgrad.kinds.reduced_loss import LossModule
from handgrad.tracing import traceable

_OP = "probiou_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def probiou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    r"""1 - probabilistic IoU of each rotated box with another: the Hellinger distance of the normal distributions that
    they are taken for (Llerena et al., `Gaussian Bounding Boxes and Probabilistic Intersection-over-Union for Object
    Detection <https://arxiv.org/abs/2106.06072>`_, 2021; the distribution of a box is that of its eqs. 1 and 3).

    .. math:: loss = \sqrt{1 - e^{-d} + eps}, \quad
        d = \frac{1}{4} \Delta^T (\Sigma_1 + \Sigma_2)^{-1} \Delta +
        \frac{1}{2} \ln \frac{|\Sigma_1 + \Sigma_2|}{4 \sqrt{|\Sigma_1| |\Sigma_2|}}

    with the way :math:`\Delta` between the centres, and variances :math:`w^2 / 12` and :math:`h^2 / 12` along the sides
    of a box.

    It is smooth, has a gradient for boxes that do not meet, and for squares none with respect to the angle, which does
    not matter to a normal distribution. Values and gradients of ultralytics' ``1 - probiou``, whose angles are radians,
    clockwise.

    Args:
        boxes1: boxes, (..., 5), each cx, cy, w, h and an angle in degrees, counter-clockwise as an image is seen;
            float32, float64, bfloat16 or float16, any strides. Integers are converted to float32.
        boxes2: the boxes that they are compared with, one each. Same shape; floating-point types are promoted as torch
            does.
        reduction: ``"none"``, ``"mean"`` (over all pairs) or ``"sum"``. Under these two no row of losses is written.
        eps: above 0; added to the denominators, to what the logarithm is taken of, and under the root; d is cut to at
            least ``eps``, and at most 100.

    Returns:
        Under ``"none"`` a loss for each pair, (...); otherwise a scalar, the mean of no pairs being 0. float32, or
        float64 for boxes of it; computed in float64 in any case.

    Raises:
        ValueError: ``reduction`` or ``eps`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> probiou_loss(torch.tensor([[0.0, 0, 2, 2, 0]]), torch.tensor([[1.0, 0, 2, 2, 45]]))
        tensor([0.5592])
    """
    check_positive_eps(_OP, eps)
    return _loss(boxes1, boxes2, reduction, eps)


# ---- module ----------------------------------------------------------------------------------------------------------


class ProbIoULoss(LossModule):
    """:func:`probiou_loss` as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        reduction, eps: see :func:`probiou_loss`; checked here, so that a mistake shows at construction.

    Example:
        >>> loss = ProbIoULoss()
        >>> loss(torch.tensor([[0.0, 0, 2, 2, 0]]), torch.tensor([[1.0, 0, 2, 2, 45]]))
        tensor(0.5592)
    """

    def __init__(self, reduction: str = "mean", eps: float = 1e-7) -> None:
        super().__init__(probiou_loss, _check_numbers, reduction, eps=eps)

    def forward(self, boxes1: Tensor, boxes2: Tensor) -> Tensor:
        return super().forward(boxes1, boxes2)


def _check_numbers(eps: float) -> None:
    check_positive_eps(_OP, eps)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def probiou_loss_reference(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    """Plain PyTorch, each pair's loss. To be trusted because it is the paper's formula of covariance matrices."""
    return (1 - probabilistic_iou(boxes1, boxes2, eps)).to(boxes1.dtype)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = BoxLoss("handgrad::probiou_loss", probiou_loss_reference, row=CENTRE_SIZE_ANGLE)
