"""Asymmetric loss. Mathematics, derivatives and numerics: docs/losses/asymmetric_loss.md."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from handgrad.arguments import FLOAT_MAX, check_range
from handgrad.kinds.elementwise_loss import ElementwiseLoss, LossModule
from handgrad.tracing import traceable

_OP = "asymmetric_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def asymmetric_loss(
    inputs: Tensor,
    targets: Tensor,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    clip: float = 0.05,
    reduction: str = "none",
) -> Tensor:
    r"""Asymmetric loss for multi-label classification (Ridnik et al., `Asymmetric Loss for Multi-Label Classification
    <https://arxiv.org/abs/2009.14119>`_, 2021, equations 4 to 7), in which easy negatives count little or not at all.

    .. math:: loss = -t (1 - p)^{\gamma_+} \log p - (1 - t) s^{\gamma_-} \log(1 - s), \quad s = \max(p - clip, 0)

    with :math:`p` = sigmoid(inputs). The gradient is that of this formula, the weights included, which the authors'
    code may leave out (``disable_torch_grad_focal_loss``). The defaults are those of that code.

    Args:
        inputs: logits, any shape; float32, float64, bfloat16 or float16, any strides.
        targets: 0, 1 or in between. Same shape; integer and bool targets are converted, floating-point ones promoted
            with ``inputs`` as torch does.
        gamma_neg, gamma_pos: how strongly easy examples of each class count less, at least 0; fast as integers to 7.
        clip: the probability below which a negative costs nothing, in [0, 1]; 0 for no shift.
        reduction: ``"none"``, ``"mean"`` (over all elements) or ``"sum"``. Under these two no map of losses is written.

    Returns:
        Under ``"none"`` a tensor with the shape and memory order of ``inputs``; otherwise a scalar. Under autocast
        float32. The mean of no elements is NaN, as in torch.

    Raises:
        ValueError: ``gamma_neg``, ``gamma_pos``, ``clip`` or ``reduction`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> asymmetric_loss(torch.tensor([4.0, 1.0]), torch.tensor([0.0, 1.0]), gamma_neg=3.0)
        tensor([2.1766, 0.0842])
    """
    _check_numbers(gamma_neg, gamma_pos, clip)
    return _loss(inputs, targets, reduction, gamma_neg, gamma_pos, clip)


def _check_numbers(gamma_neg: float, gamma_pos: float, clip: float) -> None:
    check_range(_OP, "gamma_neg", gamma_neg, 0, FLOAT_MAX, "a finite number, at least 0")
    check_range(_OP, "gamma_pos", gamma_pos, 0, FLOAT_MAX, "a finite number, at least 0")
    check_range(_OP, "clip", clip, 0, 1, "in [0, 1]")


# ---- module ----------------------------------------------------------------------------------------------------------


class AsymmetricLoss(LossModule):
    """:func:`asymmetric_loss` as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        gamma_neg, gamma_pos, clip, reduction: see :func:`asymmetric_loss`; checked here, so that
            a mistake shows at construction.

    Example:
        >>> loss = AsymmetricLoss(gamma_neg=3.0)
        >>> loss(torch.tensor([4.0, 1.0]), torch.tensor([0.0, 1.0]))
        tensor(1.1304)
    """

    def __init__(
        self, gamma_neg: float = 4.0, gamma_pos: float = 1.0, clip: float = 0.05, reduction: str = "mean"
    ) -> None:
        numbers = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "clip": clip}
        super().__init__(asymmetric_loss, _check_numbers, reduction, **numbers)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def asymmetric_loss_reference(
    inputs: Tensor, targets: Tensor, gamma_neg: float, gamma_pos: float, clip: float
) -> Tensor:
    """Plain PyTorch, each element's loss. To be trusted because it is the paper's formula, over torch's stable
    softplus(-x) = -log p."""
    p, not_p = torch.sigmoid(inputs), torch.sigmoid(-inputs)
    positive = not_p**gamma_pos * nn.functional.softplus(-inputs)
    # Easy negatives go another way before the power, whose slope at 0 may be infinite.
    hard = p > clip
    shifted = torch.where(hard, p - clip, 0.5)
    rest = nn.functional.softplus(inputs) if clip == 0 else -torch.log(torch.where(hard, not_p + clip, 0.5))
    return targets * positive + (1 - targets) * torch.where(hard, shifted**gamma_neg * rest, 0)


# ---- registration ----------------------------------------------------------------------------------------------------

_loss = ElementwiseLoss("handgrad::asymmetric_loss", asymmetric_loss_reference)
