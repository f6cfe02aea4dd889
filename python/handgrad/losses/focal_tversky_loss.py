"""Focal Tversky loss. Mathematics, derivatives and numerics: docs/losses/focal_tversky_loss.md."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad.arguments import FLOAT_MAX, check_range
from handgrad.kinds.overlap_loss import OverlapLoss, OverlapLossModule, check_positive
from handgrad.tracing import traceable

_OP = "focal_tversky_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def focal_tversky_loss(
    inputs: Tensor,
    targets: Tensor,
    activation: str,
    ignore_index: int | None = None,
    weight: Tensor | None = None,
    batch: bool = False,
    absent: str = "count",
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 0.75,
    smooth: float = 1e-5,
    eps: float = 1e-7,
    reduction: str = "mean",
) -> Tensor:
    r"""Tversky's loss of each class, to a power: of logits in one pass (Abraham and Khan, `A novel focal Tversky loss
    function <https://arxiv.org/abs/1810.07842>`_, 2018).

    .. math:: loss = \left(1 - \frac{\sum p t + smooth}{\max(\sum p t + alpha \sum p (1 - t) + beta \sum (1 - p) t +
        smooth, eps)}\right)^{gamma}

    The defaults are the paper's, whose gamma of 4/3 is the exponent 3/4. The power is taken of each class, as the paper
    has it, where segmentation_models_pytorch takes it of the mean: docs/losses/focal_tversky_loss.md has a table.

    Args:
        inputs: logits, or predictions, (N, C, ...) with any number of positions; float32, float64, bfloat16 or
            float16, any strides.
        targets: the class at each position, (N, ...) or (N, 1, ...), integers; or a number for each input, (N, C, ...),
            one-hot, soft or multi-label, of any type but complex. Of a single channel, (N, ...) too is taken for that:
            1 is the foreground.
        activation: what makes predictions of inputs: ``"softmax"`` over the channels, ``"sigmoid"``, or ``"none"`` for
            inputs that are probabilities already.
        ignore_index: what is not counted: positions of this class, whatever their logits, or single elements whose
            target is this number. None: everything counts.
        weight: what the loss of each class is multiplied by, (C,). The mean is still over the number of losses.
        batch: a loss for each class of the whole batch, in place of one for each class of each sample.
        absent: what becomes of a class without a target: ``"count"``, the formula as it stands, which is 1 for any
            false positive and 0 for none; ``"zero"``, a loss of 0, without a gradient, that the mean counts;
            ``"skip"``, one that the mean does not count.
        alpha: what false positives count, at least 0. Both 0.5 and a gamma of 1 is Dice.
        beta: what false negatives count, at least 0.
        gamma: the exponent, above 0. Below 1 classes that are nearly right count more, above 1 less.
        smooth: added to numerator and denominator, at least 0.
        eps: the least denominator, at least 0.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over classes and samples.

    Returns:
        Under ``"none"`` (N, C), or (C,) for a ``batch``; otherwise a scalar, the mean of no losses being 0. float32, or
        float64 for inputs of it.

    Raises:
        ValueError: an option or a number out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together; on the CPU, a class that there is not.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]])
        >>> focal_tversky_loss(logits, torch.tensor([[0, 1, 1]]), "softmax")
        tensor(0.2301)
    """
    _check_numbers(alpha, beta, gamma, smooth, eps)
    return _loss(
        inputs,
        targets,
        activation,
        ignore_index,
        weight,
        batch,
        False,
        absent,
        reduction,
        alpha,
        beta,
        gamma,
        smooth,
        eps,
    )


def _check_numbers(alpha: float, beta: float, gamma: float, smooth: float, eps: float) -> None:
    check_positive(_OP, alpha=alpha, beta=beta, smooth=smooth, eps=eps)
    check_range(_OP, "gamma", gamma, 1e-6, FLOAT_MAX, "a finite number above 0")


# ---- module ----------------------------------------------------------------------------------------------------------


class FocalTverskyLoss(OverlapLossModule):
    """:func:`focal_tversky_loss` as a module.

    Args:
        activation, ignore_index, weight, batch, absent, alpha, beta, gamma, smooth, eps, reduction: see
            :func:`focal_tversky_loss`; checked here, so that a mistake shows at construction. ``weight`` becomes
            a buffer.

    Example:
        >>> loss = FocalTverskyLoss("softmax", ignore_index=255)
        >>> loss(torch.tensor([[[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]]), torch.tensor([[0, 1, 255]]))
        tensor(0.2933)
    """

    def __init__(
        self,
        activation: str,
        ignore_index: int | None = None,
        weight: Tensor | None = None,
        batch: bool = False,
        absent: str = "count",
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 0.75,
        smooth: float = 1e-5,
        eps: float = 1e-7,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            focal_tversky_loss,
            _check_numbers,
            {"alpha": alpha, "beta": beta, "gamma": gamma, "smooth": smooth, "eps": eps},
            weight,
            activation=activation,
            ignore_index=ignore_index,
            batch=batch,
            absent=absent,
            reduction=reduction,
        )


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def focal_tversky_loss_reference(
    sums: Tensor, alpha: float, beta: float, gamma: float, smooth: float, eps: float
) -> Tensor:
    """Plain PyTorch, the loss of each class from its sums. To be trusted because it is the definition; a perfect score,
    which has an infinite derivative for a gamma below 1, is a constant."""
    overlap, predictions, targets = sums.unbind(-1)
    weighted = overlap + alpha * (predictions - overlap) + beta * (targets - overlap)
    loss = 1 - (overlap + smooth) / (weighted + smooth).clamp(min=eps)
    return torch.where(loss <= 0, 0, torch.where(loss <= 0, 1, loss) ** gamma)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = OverlapLoss("handgrad::focal_tversky_loss", focal_tversky_loss_reference)
