"""Varifocal loss. Mathematics, derivatives and numerics: docs/losses/varifocal_loss.md."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.arguments import FLOAT_MAX, check_bool, check_range
from handgrad.kinds.elementwise_loss import ElementwiseLoss, LossModule
from handgrad.tracing import traceable

_OP = "varifocal_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def varifocal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.75,
    gamma: float = 2.0,
    iou_weighted: bool = True,
    reduction: str = "none",
) -> Tensor:
    r"""Cross entropy of IoU-aware scores in which positives weigh as much as their IoU and easy negatives little (Zhang
    et al., `VarifocalNet <https://arxiv.org/abs/2008.13367>`_, 2021, equation 2).

    .. math:: loss = \begin{cases} t \; ce & t > 0 \\ \alpha |p - t|^\gamma \; ce & t \le 0 \end{cases}, \quad
        ce = -t \log p - (1 - t) \log(1 - p), \quad p = sigmoid(inputs)

    Arguments and values of mmdetection's ``varifocal_loss``; beyond it: gradients with respect to the targets, second
    derivatives, forward mode, and a fused mean and sum.

    Args:
        inputs: logits, any shape; float32, float64, bfloat16 or float16, any strides.
        targets: for each element the IoU of the detection, 0 for the negatives, in [0, 1]. Same shape; integer and bool
            targets are converted, floating-point ones promoted with ``inputs`` as torch does.
        alpha: weight of the negatives, at least 0.
        gamma: how strongly easy negatives are discounted, at least 0. 2 is fastest.
        iou_weighted: False gives all positives the weight 1.
        reduction: ``"none"``, ``"mean"`` (over all elements) or ``"sum"``. Under these two no map of losses is written.

    Returns:
        Under ``"none"`` a tensor with the shape and memory order of ``inputs``; otherwise a scalar. Under autocast
        float32. The mean of no elements is NaN, as in torch.

    Raises:
        ValueError: ``alpha``, ``gamma`` or ``reduction`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> varifocal_loss(torch.tensor([2.0, -1.0]), torch.tensor([0.9, 0.0]), reduction="sum")
        tensor(0.3112)
    """
    _check_numbers(alpha, gamma, iou_weighted)
    return _loss(inputs, targets, reduction, alpha, gamma, iou_weighted)


def _check_numbers(alpha: float, gamma: float, iou_weighted: bool) -> None:
    check_range(_OP, "alpha", alpha, 0, FLOAT_MAX, "a finite number, at least 0")
    check_range(_OP, "gamma", gamma, 0, FLOAT_MAX, "a finite number, at least 0")
    check_bool(_OP, "iou_weighted", iou_weighted)


# ---- module ----------------------------------------------------------------------------------------------------------


class VarifocalLoss(LossModule):
    """:func:`varifocal_loss` as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        alpha, gamma, iou_weighted, reduction: see :func:`varifocal_loss`; checked here, so that a mistake shows at
            construction.

    Example:
        >>> loss = VarifocalLoss()
        >>> loss(torch.zeros(3), torch.ones(3))
        tensor(0.6931)
    """

    def __init__(
        self, alpha: float = 0.75, gamma: float = 2.0, iou_weighted: bool = True, reduction: str = "mean"
    ) -> None:
        numbers = {"alpha": alpha, "gamma": gamma, "iou_weighted": iou_weighted}
        super().__init__(varifocal_loss, _check_numbers, reduction, **numbers)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def varifocal_loss_reference(inputs: Tensor, targets: Tensor, alpha: float, gamma: float, iou_weighted: bool) -> Tensor:
    """Plain PyTorch, each element's loss. To be trusted because it is the paper's formula, over torch's stable
    softplus(-x) = -log p; p - t is written without a difference of numbers near 1."""
    distance = (1 - targets) * torch.sigmoid(inputs) - targets * torch.sigmoid(-inputs)
    cross_entropy = targets * F.softplus(-inputs) + (1 - targets) * F.softplus(inputs)
    positive = targets if iou_weighted else torch.ones_like(targets)
    return torch.where(targets > 0, positive, alpha * distance.abs() ** gamma) * cross_entropy


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = ElementwiseLoss("handgrad::varifocal_loss", varifocal_loss_reference)
