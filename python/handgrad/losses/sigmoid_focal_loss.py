"""Sigmoid focal loss. Mathematics, derivatives and numerics: docs/losses/sigmoid_focal_loss.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.arguments import FLOAT_MAX, check_range
from handgrad.kinds.elementwise_loss import ElementwiseLoss, LossModule
from handgrad.tracing import traceable

_OP = "sigmoid_focal_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    r"""Focal loss for binary and multi-label classification (Lin et al., `Focal Loss for Dense Object Detection
    <https://arxiv.org/abs/1708.02002>`_, 2017, equations 4 and 5).

    With :math:`p` = sigmoid(inputs) and :math:`q = p (1 - t) + (1 - p) t`, the probability given to the wrong class:

    .. math:: loss = (\alpha t + (1 - \alpha)(1 - t)) \; q^\gamma \; (-t \log p - (1 - t) \log(1 - p))

    Signature and values of :func:`torchvision.ops.sigmoid_focal_loss`; beyond it: soft targets, gradients with respect
    to the targets, second derivatives, forward mode, and a fused mean and sum.

    Args:
        inputs: logits, any shape; float32, float64, bfloat16 or float16, any strides.
        targets: for each element the probability of the positive class, in [0, 1]; 0 and 1 are the hard labels. Same
            shape; integer and bool targets are converted, floating-point ones promoted with ``inputs`` as torch does.
        alpha: weight of the positive class in [0, 1] (the negative class has 1 - alpha), or -1 for no weights.
        gamma: how strongly easy examples are discounted, at least 0. 0 is weighted binary cross entropy. 2 is fastest.
        reduction: ``"none"``, ``"mean"`` (over all elements) or ``"sum"``. Under these two no map of losses is written.

    Returns:
        Under ``"none"`` a tensor with the shape and memory order of ``inputs``; otherwise a scalar. Under autocast
        float32. The mean of no elements is NaN, as in torch.

    Raises:
        ValueError: ``alpha``, ``gamma`` or ``reduction`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> logits = torch.tensor([2.0, -1.0]); labels = torch.tensor([1.0, 0.0])
        >>> sigmoid_focal_loss(logits, labels, reduction="mean")
        tensor(0.0087)
    """
    _check_numbers(alpha, gamma)
    return _loss(inputs, targets, reduction, alpha, gamma)


def _check_numbers(alpha: float, gamma: float) -> None:
    check_range(_OP, "alpha", alpha, 0, 1, "in [0, 1], or -1 for no class weights", also=-1)
    check_range(_OP, "gamma", gamma, 0, FLOAT_MAX, "a finite number, at least 0")


# ---- module ----------------------------------------------------------------------------------------------------------


class SigmoidFocalLoss(LossModule):
    """:func:`sigmoid_focal_loss` as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        alpha, gamma, reduction: see :func:`sigmoid_focal_loss`; checked here, so that a mistake shows at construction.

    Example:
        >>> loss = SigmoidFocalLoss(alpha=0.25, gamma=2)
        >>> loss(torch.zeros(3), torch.ones(3))
        tensor(0.0433)
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2, reduction: str = "mean") -> None:
        super().__init__(sigmoid_focal_loss, _check_numbers, reduction, alpha=alpha, gamma=gamma)


# ---- reference: the definition, from torch's own log-sigmoid; derivatives by torch's autograd ------------------------


def sigmoid_focal_loss_reference(
    inputs: Tensor,
    targets: Tensor,
    alpha: float,
    gamma: float,
    *,
    log_sigmoid: Callable[[Tensor], Tensor] = F.logsigmoid,
) -> Tensor:
    """Plain PyTorch, each element's loss. To be trusted because it is the paper's formula, term by term, over torch's
    stable log-sigmoid."""
    cross_entropy = -targets * log_sigmoid(inputs) - (1 - targets) * log_sigmoid(-inputs)
    wrong = torch.sigmoid(inputs) * (1 - targets) + torch.sigmoid(-inputs) * targets
    loss = wrong**gamma * cross_entropy
    return loss if alpha < 0 else (alpha * targets + (1 - alpha) * (1 - targets)) * loss


# ---- onnx: the reference, from a log-sigmoid that stays stable there -------------------------------------------------


def _onnx(inputs: Tensor, targets: Tensor, *numbers: Any) -> Tensor:
    # torch exports its own log-sigmoid as log(sigmoid(x)): minus infinity for very negative logits, or whatever the
    # runtime's sigmoid ends at (-18 in onnxruntime).
    def log_sigmoid(x: Tensor) -> Tensor:
        return x.clamp(max=0) - torch.log1p(torch.exp(-x.abs()))

    return sigmoid_focal_loss_reference(inputs, targets, *numbers, log_sigmoid=log_sigmoid)


# ---- registration ----------------------------------------------------------------------------------------------------

_loss = ElementwiseLoss("handgrad::sigmoid_focal_loss", sigmoid_focal_loss_reference, onnx=_onnx)
