"""Gaussian focal loss. Mathematics, derivatives and numerics: docs/losses/gaussian_focal_loss.md."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.arguments import FLOAT_MAX, check_range
from handgrad.kinds.elementwise_loss import ElementwiseLoss, LossModule
from handgrad.tracing import traceable

_OP = "gaussian_focal_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def gaussian_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 2.0, gamma: float = 4.0, reduction: str = "none"
) -> Tensor:
    r"""Focal loss of heat maps with a bump around each object, of which only the top is a positive, and the others are
    the less negative the nearer they are (Law and Deng, `CornerNet <https://arxiv.org/abs/1808.01244>`_, 2018, equation
    1; Zhou et al., `Objects as Points <https://arxiv.org/abs/1904.07850>`_, 2019).

    .. math:: loss = \begin{cases} -(1 - p)^\alpha \log p & t = 1 \\ -(1 - t)^\gamma p^\alpha \log(1 - p) & else
        \end{cases}, \quad p = sigmoid(inputs)

    Values of mmdetection's ``gaussian_focal_loss``, of logits in place of probabilities; beyond it: logits of any size,
    gradients with respect to the targets, second derivatives, a fused mean and sum.

    Args:
        inputs: logits, any shape; float32, float64, bfloat16 or float16, any strides.
        targets: the heat map, in [0, 1]; what is exactly 1 is a positive. Same shape; integer and bool targets are
            converted, floating-point ones promoted with ``inputs`` as torch does.
        alpha: how strongly easy examples are discounted, at least 0.
        gamma: how strongly negatives near a positive are discounted, at least 0. ``alpha`` 2 with ``gamma`` 4 is
            fastest.
        reduction: ``"none"``, ``"mean"`` (over all elements) or ``"sum"``. Under these two no map of losses is written.

    Returns:
        Under ``"none"`` a tensor with the shape and memory order of ``inputs``; otherwise a scalar. Under autocast
        float32. The mean of no elements is NaN, as in torch.

    Raises:
        ValueError: ``alpha``, ``gamma`` or ``reduction`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> gaussian_focal_loss(torch.tensor([2.0, 0.0, 0.0]), torch.tensor([1.0, 0.5, 0.0]))
        tensor([0.0018, 0.0108, 0.1733])
    """
    _check_numbers(alpha, gamma)
    return _loss(inputs, targets, reduction, alpha, gamma)


def _check_numbers(alpha: float, gamma: float) -> None:
    check_range(_OP, "alpha", alpha, 0, FLOAT_MAX, "a finite number, at least 0")
    check_range(_OP, "gamma", gamma, 0, FLOAT_MAX, "a finite number, at least 0")


# ---- module ----------------------------------------------------------------------------------------------------------


class GaussianFocalLoss(LossModule):
    """:func:`gaussian_focal_loss` as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        alpha, gamma, reduction: see :func:`gaussian_focal_loss`; checked here, so that a mistake shows at construction.

    Example:
        >>> loss = GaussianFocalLoss()
        >>> loss(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0]))
        tensor(0.0875)
    """

    def __init__(self, alpha: float = 2.0, gamma: float = 4.0, reduction: str = "mean") -> None:
        super().__init__(gaussian_focal_loss, _check_numbers, reduction, alpha=alpha, gamma=gamma)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def gaussian_focal_loss_reference(inputs: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Plain PyTorch, each element's loss. To be trusted because it is the papers' formula, over torch's stable
    softplus(-x) = -log p."""
    # (Not targets == 1, which older versions of ONNX have for integers only.)
    peak = ~(targets - 1).bool()
    positive = torch.sigmoid(-inputs) ** alpha * F.softplus(-inputs)
    negative = torch.sigmoid(inputs) ** alpha * F.softplus(inputs)
    return torch.where(peak, positive, (1 - torch.where(peak, 0, targets)) ** gamma * negative)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = ElementwiseLoss("handgrad::gaussian_focal_loss", gaussian_focal_loss_reference)
