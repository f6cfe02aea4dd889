"""Adaptive wing loss. Mathematics, derivatives and numerics: docs/losses/adaptive_wing_loss.md."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from handgrad.arguments import FLOAT_MAX, check_range
from handgrad.kinds.elementwise_loss import ElementwiseLoss, LossModule
from handgrad.tracing import traceable

_OP = "adaptive_wing_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def adaptive_wing_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 2.1,
    omega: float = 14.0,
    epsilon: float = 1.0,
    theta: float = 0.5,
    reduction: str = "none",
) -> Tensor:
    r"""The loss of heat maps that is a square where the target is background and bends like a wing where it is a peak
    (Wang et al., `Adaptive Wing Loss for Robust Face Alignment via Heatmap Regression
    <https://arxiv.org/abs/1904.07399>`_, 2019, equation 3).

    .. math:: loss = \begin{cases} \omega \ln(1 + |d / \epsilon|^{\alpha - t}) & |d| < \theta \\
        A |d| - C & |d| \ge \theta \end{cases}, \quad d = inputs - t

    with A and C for which value and slope go on at theta. Parameters and values of mmpose's ``AdaptiveWingLoss``
    (before its mean); beyond it: one pass, gradients with respect to the targets, second derivatives, forward mode, and
    a fused mean and sum.

    Args:
        inputs: predictions, any shape; float32, float64, bfloat16 or float16, any strides.
        targets: what they should be. Same shape; integer and bool targets are converted, floating-point ones promoted
            with ``inputs`` as torch does.
        alpha: the exponent for a target of 0, above 0; as the paper has it, slightly above 2, for targets from 0 to 1.
        omega: the height of the loss, above 0.
        epsilon: the difference at which it bends, above 0.
        theta: from which difference on it is linear, above 0.
        reduction: ``"none"``, ``"mean"`` (over all elements) or ``"sum"``. Under these two no map of losses is written.

    Returns:
        Under ``"none"`` a tensor with the shape and memory order of ``inputs``; otherwise a scalar. Under autocast
        float32. The mean of no elements is NaN, as in torch.

    Raises:
        ValueError: ``alpha``, ``omega``, ``epsilon``, ``theta`` or ``reduction`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> adaptive_wing_loss(torch.tensor([0.75, 0.25, 2.0]), torch.tensor([1.0, 0.0, 0.0]))
        tensor([ 2.7568,  0.7417, 19.6174])
    """
    _check_numbers(alpha, omega, epsilon, theta)
    return _loss(inputs, targets, reduction, alpha, omega, epsilon, theta)


def _check_numbers(alpha: float, omega: float, epsilon: float, theta: float) -> None:
    for name, value in (("alpha", alpha), ("omega", omega), ("epsilon", epsilon), ("theta", theta)):
        check_range(_OP, name, value, sys.float_info.min, FLOAT_MAX, "a finite number above 0")


# ---- module ----------------------------------------------------------------------------------------------------------


class AdaptiveWingLoss(LossModule):
    """:func:`adaptive_wing_loss` as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        alpha, omega, epsilon, theta, reduction: see :func:`adaptive_wing_loss`; checked here, so that
            a mistake shows at construction.

    Example:
        >>> loss = AdaptiveWingLoss()
        >>> loss(torch.tensor([0.75, 0.25, 2.0]), torch.tensor([1.0, 0.0, 0.0]))
        tensor(7.7053)
    """

    def __init__(
        self, alpha: float = 2.1, omega: float = 14.0, epsilon: float = 1.0, theta: float = 0.5, reduction: str = "mean"
    ) -> None:
        super().__init__(
            adaptive_wing_loss, _check_numbers, reduction, alpha=alpha, omega=omega, epsilon=epsilon, theta=theta
        )


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def adaptive_wing_loss_reference(
    inputs: Tensor, targets: Tensor, alpha: float, omega: float, epsilon: float, theta: float
) -> Tensor:
    """Plain PyTorch, each element's loss. To be trusted because it is the paper's formula, with its A and C."""
    size, power = (inputs - targets).abs(), alpha - targets
    # What is not chosen has no gradient that could be NaN: of a power of 0, or of one that overflows.
    inside = (size > 0) & (size < theta)
    bent = omega * torch.log1p((torch.where(inside, size, theta) / epsilon) ** power)
    at_theta = (theta / epsilon) ** power
    slope = omega / (1 + at_theta) * power * (theta / epsilon) ** (power - 1) / epsilon
    straight = slope * size - (theta * slope - omega * torch.log1p(at_theta))
    # At 0 itself the loss is 0, as size is, whatever the target; and NaN where that is.
    return torch.where(inside, bent, torch.where(size > 0, straight, size))


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = ElementwiseLoss("handgrad::adaptive_wing_loss", adaptive_wing_loss_reference)
