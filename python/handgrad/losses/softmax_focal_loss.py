"""Softmax focal loss. Mathematics, derivatives and numerics: docs/losses/softmax_focal_loss.md."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad.arguments import FLOAT_MAX, check_range
from handgrad.kinds.row_loss import RowLoss, RowLossModule
from handgrad.tracing import traceable

_OP = "softmax_focal_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def softmax_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross entropy of classes that exclude each other, discounted where the prediction is right: the focal loss (Lin
    et al., `Focal Loss for Dense Object Detection <https://arxiv.org/abs/1708.02002>`_, 2017) over a softmax.

    .. math:: loss = \sum_c a_c \, (1 - p_c)^\gamma (-\log p_c), \quad p = softmax(inputs)

    with :math:`a` the weight of the target class at that class and 0 elsewhere. Arguments and conventions of
    :func:`torch.nn.functional.cross_entropy`, which it equals for ``gamma=0`` under every reduction.

    Args:
        inputs: logits, (batch, classes) or (batch, classes, positions...), or (classes,) of a single row; float32,
            float64, bfloat16 or float16, any strides.
        targets: class numbers, integers of the shape of ``inputs`` without its classes; or probabilities of the shape
            of ``inputs``, floating-point, which have gradients too.
        gamma: how strongly right predictions are discounted, at least 0. 0 is cross entropy. 2 is fastest.
        weight: of each class, (classes,); no gradient goes to it.
        ignore_index: rows with this class number cost nothing and do not count in a mean; any number, a class or not.
            Must be negative where targets are probabilities.
        label_smoothing: in [0, 1], how much of each target is spread evenly over all classes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. The mean divides by the number of rows that are not ignored,
            with ``weight`` by the sum of the weights of their classes; of probabilities by the number of rows.

    Returns:
        Under ``"none"`` the loss of each row, otherwise a scalar; float32, of float64 inputs float64. The mean of no
        rows is NaN, as in torch.

    Raises:
        ValueError: ``gamma``, ``label_smoothing``, ``ignore_index`` or ``reduction`` out of range, or a ``weight`` that
            requires grad.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together; on the CPU a class number that is none. On
            other devices such a row is NaN.

    Example:
        >>> softmax_focal_loss(torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 2]))
        tensor(0.4872)
    """
    _check_numbers(gamma)
    return _loss(inputs, targets, weight, ignore_index, label_smoothing, reduction, gamma)


def _check_numbers(gamma: float) -> None:
    check_range(_OP, "gamma", gamma, 0, FLOAT_MAX, "a finite number, at least 0")


# ---- module ----------------------------------------------------------------------------------------------------------


class SoftmaxFocalLoss(RowLossModule):
    """:func:`softmax_focal_loss` as a module, in place of :class:`torch.nn.CrossEntropyLoss`.

    Args:
        gamma, weight, ignore_index, label_smoothing, reduction: see :func:`softmax_focal_loss`; checked here, so that a
            mistake shows at construction. ``weight`` becomes a buffer.

    Example:
        >>> loss = SoftmaxFocalLoss(ignore_index=255)
        >>> loss(torch.zeros(1, 2, 2), torch.tensor([[0, 255]]))
        tensor(0.1733)
    """

    def __init__(
        self,
        gamma: float = 2.0,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            softmax_focal_loss, _check_numbers, weight, ignore_index, label_smoothing, reduction, gamma=gamma
        )


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def softmax_focal_loss_reference(log_probabilities: Tensor, gamma: float) -> Tensor:
    """Plain PyTorch, the loss of each class were it the target. To be trusted because it is the paper's formula; 1 - p
    is written as ONNX has words for it, without a difference of numbers near 1, and kept from 0, where a power below 1
    has no slope."""
    others = -torch.tanh(log_probabilities / 2) * (1 + torch.exp(log_probabilities))
    return -(others.clamp(min=torch.finfo(others.dtype).tiny) ** gamma) * log_probabilities


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = RowLoss("handgrad::softmax_focal_loss", softmax_focal_loss_reference)
