"""Quality focal loss. Mathematics, derivatives and numerics: docs/losses/quality_focal_loss.md."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.arguments import FLOAT_MAX, check_range
from handgrad.kinds.elementwise_loss import ElementwiseLoss, LossModule
from handgrad.tracing import traceable

_OP = "quality_focal_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def quality_focal_loss(inputs: Tensor, targets: Tensor, beta: float = 2.0, reduction: str = "none") -> Tensor:
    r"""Cross entropy with a soft target, the quality of a detection, discounted where the prediction is near it (Li et
    al., `Generalized Focal Loss <https://arxiv.org/abs/2006.04388>`_, 2020, equation 2).

    .. math:: loss = |t - p|^\beta \; (-t \log p - (1 - t) \log(1 - p)), \quad p = sigmoid(inputs)

    Values of mmdetection's ``quality_focal_loss``, which takes a class and its quality instead of ``targets`` and sums
    over classes: docs/losses/quality_focal_loss.md. Beyond it: gradients with respect to the targets, second
    derivatives, forward mode, and a fused mean and sum.

    Args:
        inputs: logits, any shape; float32, float64, bfloat16 or float16, any strides.
        targets: for each element the quality of the detection (its IoU), 0 for the negatives, in [0, 1]. Same shape;
            integer and bool targets are converted, floating-point ones promoted with ``inputs`` as torch does.
        beta: how strongly predictions near their target are discounted, at least 0. 0 is binary cross entropy. 2 is
            fastest.
        reduction: ``"none"``, ``"mean"`` (over all elements) or ``"sum"``. Under these two no map of losses is written.

    Returns:
        Under ``"none"`` a tensor with the shape and memory order of ``inputs``; otherwise a scalar. Under autocast
        float32. The mean of no elements is NaN, as in torch.

    Raises:
        ValueError: ``beta`` or ``reduction`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> quality_focal_loss(torch.tensor([2.0, -1.0]), torch.tensor([0.9, 0.0]), reduction="sum")
        tensor(0.0228)
    """
    _check_numbers(beta)
    return _loss(inputs, targets, reduction, beta)


def _check_numbers(beta: float) -> None:
    check_range(_OP, "beta", beta, 0, FLOAT_MAX, "a finite number, at least 0")


# ---- module ----------------------------------------------------------------------------------------------------------


class QualityFocalLoss(LossModule):
    """:func:`quality_focal_loss` as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        beta, reduction: see :func:`quality_focal_loss`; checked here, so that a mistake shows at construction.

    Example:
        >>> loss = QualityFocalLoss()
        >>> loss(torch.zeros(3), torch.ones(3))
        tensor(0.1733)
    """

    def __init__(self, beta: float = 2.0, reduction: str = "mean") -> None:
        super().__init__(quality_focal_loss, _check_numbers, reduction, beta=beta)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def quality_focal_loss_reference(inputs: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Plain PyTorch, each element's loss. To be trusted because it is the paper's formula, over torch's stable
    softplus(-x) = -log p; t - p is written without a difference of numbers near 1."""
    distance = targets * torch.sigmoid(-inputs) - (1 - targets) * torch.sigmoid(inputs)
    cross_entropy = targets * F.softplus(-inputs) + (1 - targets) * F.softplus(inputs)
    return distance.abs() ** beta * cross_entropy


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = ElementwiseLoss("handgrad::quality_focal_loss", quality_focal_loss_reference)
