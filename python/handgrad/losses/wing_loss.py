"""Wing loss. Mathematics, derivatives and numerics: docs/losses/wing_loss.md."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from handgrad.arguments import FLOAT_MAX, check_range
from handgrad.kinds.elementwise_loss import ElementwiseLoss, LossModule
from handgrad.tracing import traceable

_OP = "wing_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def wing_loss(
    inputs: Tensor, targets: Tensor, w: float = 10.0, epsilon: float = 2.0, reduction: str = "none"
) -> Tensor:
    r"""An absolute difference in which small errors have large gradients, for coordinates of landmarks (Feng et al.,
    `Wing Loss for Robust Facial Landmark Localisation <https://arxiv.org/abs/1711.06753>`_, 2018, equation 5).

    .. math:: loss = \begin{cases} w \ln(1 + |d| / \epsilon) & |d| < w \\ |d| - C & |d| \ge w \end{cases}, \quad
        d = inputs - targets, \quad C = w - w \ln(1 + w / \epsilon)

    Values of mmpose's ``WingLoss``, where ``w`` is called omega; beyond it: one pass, gradients with respect to the
    targets, second derivatives, forward mode, and a fused mean and sum.

    Args:
        inputs: predictions, any shape; float32, float64, bfloat16 or float16, any strides.
        targets: what they should be. Same shape; integer and bool targets are converted, floating-point ones promoted
            with ``inputs`` as torch does.
        w: from which difference on the loss is linear, above 0.
        epsilon: how sharply it bends at 0, above 0: the gradient is at most ``w / epsilon``.
        reduction: ``"none"``, ``"mean"`` (over all elements) or ``"sum"``. Under these two no map of losses is written.

    Returns:
        Under ``"none"`` a tensor with the shape and memory order of ``inputs``; otherwise a scalar. Under autocast
        float32. The mean of no elements is NaN, as in torch.

    Raises:
        ValueError: ``w``, ``epsilon`` or ``reduction`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> wing_loss(torch.tensor([4.0, 21.0]), torch.tensor([2.0, 1.0]))
        tensor([ 6.9315, 27.9176])
    """
    _check_numbers(w, epsilon)
    return _loss(inputs, targets, reduction, w, epsilon)


def _check_numbers(w: float, epsilon: float) -> None:
    check_range(_OP, "w", w, sys.float_info.min, FLOAT_MAX, "a finite number above 0")
    check_range(_OP, "epsilon", epsilon, sys.float_info.min, FLOAT_MAX, "a finite number above 0")


# ---- module ----------------------------------------------------------------------------------------------------------


class WingLoss(LossModule):
    """:func:`wing_loss` as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        w, epsilon, reduction: see :func:`wing_loss`; checked here, so that
            a mistake shows at construction.

    Example:
        >>> loss = WingLoss()
        >>> loss(torch.tensor([4.0, 21.0]), torch.tensor([2.0, 1.0]))
        tensor(17.4245)
    """

    def __init__(self, w: float = 10.0, epsilon: float = 2.0, reduction: str = "mean") -> None:
        super().__init__(wing_loss, _check_numbers, reduction, w=w, epsilon=epsilon)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def wing_loss_reference(inputs: Tensor, targets: Tensor, w: float, epsilon: float) -> Tensor:
    """Plain PyTorch, each element's loss. To be trusted because it is the paper's formula."""
    size = (inputs - targets).abs()
    # The logarithm of what it is not taken of has no gradient that could be NaN.
    bent = w * torch.log1p(torch.where(size < w, size, w) / epsilon)
    return torch.where(size < w, bent, size - (w - w * math.log1p(w / epsilon)))


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = ElementwiseLoss("handgrad::wing_loss", wing_loss_reference)
