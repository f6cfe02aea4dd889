"""Generalized dice loss. Mathematics, derivatives and numerics: docs/losses/generalized_dice_loss.md."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad.arguments import check_choice
from handgrad.kinds.overlap_loss import OverlapLoss, OverlapLossModule, check_positive
from handgrad.tracing import traceable

_OP = "generalized_dice_loss"
# The power of the sum of targets that a class is divided by.
_WEIGHTINGS = {"square": 2, "simple": 1, "uniform": 0}

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def generalized_dice_loss(
    inputs: Tensor,
    targets: Tensor,
    activation: str,
    ignore_index: int | None = None,
    batch: bool = False,
    absent: str = "count",
    weighting: str = "square",
    smooth: float = 1e-5,
    reduction: str = "mean",
) -> Tensor:
    r"""One minus a Dice coefficient of all classes together, each weighed by how rare it is, of logits in one pass
    (Sudre et al., `Generalised Dice overlap <https://arxiv.org/abs/1707.03237>`_, 2017).

    .. math:: loss = 1 - \frac{2 \sum_c w_c \sum p t + smooth}{\sum_c w_c \left(\sum p + \sum t\right) + smooth}, \quad
        w_c = \left(\sum t\right)^{-2}

    Values of MONAI's ``GeneralizedDiceLoss``: docs/losses/generalized_dice_loss.md has a table. Beyond it: nothing of
    the size of the inputs is made or kept, ``ignore_index``, second derivatives, forward mode.

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
        batch: one loss for the whole batch, in place of one for each sample.
        absent: what becomes of a class without a target: ``"count"``, the weight of the rarest class that has one;
            ``"zero"`` and ``"skip"``, the weight 0. A sample without any target has the loss 0, without a gradient,
            which under ``"skip"`` the mean does not count.
        weighting: ``"square"``, as above; ``"simple"``, :math:`w_c = 1 / \sum t`; ``"uniform"``, all 1.
        smooth: added to numerator and denominator, at least 0. Both are about as small as one over the number of
            targets of the rarest class: 0 suits volumes of millions of voxels better.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over samples.

    Returns:
        Under ``"none"`` (N,), or () for a ``batch``; otherwise a scalar, the mean of no losses being 0. float32, or
        float64 for inputs of it.

    Raises:
        ValueError: an option or a number out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together; on the CPU, a class that there is not.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]])
        >>> generalized_dice_loss(logits, torch.tensor([[0, 1, 1]]), "softmax")
        tensor(0.1624)
    """
    _check_numbers(weighting, smooth)
    code = _WEIGHTINGS[weighting]
    return _loss(inputs, targets, activation, ignore_index, None, batch, False, absent, reduction, code, smooth)


def _check_numbers(weighting: str, smooth: float) -> None:
    check_choice(_OP, "weighting", weighting, _WEIGHTINGS)
    check_positive(_OP, smooth=smooth)


# ---- module ----------------------------------------------------------------------------------------------------------


class GeneralizedDiceLoss(OverlapLossModule):
    """:func:`generalized_dice_loss` as a module.

    Args:
        activation, ignore_index, batch, absent, weighting, smooth, reduction: see :func:`generalized_dice_loss`;
            checked here, so that a mistake shows at construction.

    Example:
        >>> loss = GeneralizedDiceLoss("softmax", ignore_index=255)
        >>> loss(torch.tensor([[[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]]), torch.tensor([[0, 1, 255]]))
        tensor(0.1941)
    """

    def __init__(
        self,
        activation: str,
        ignore_index: int | None = None,
        batch: bool = False,
        absent: str = "count",
        weighting: str = "square",
        smooth: float = 1e-5,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            generalized_dice_loss,
            _check_numbers,
            {"weighting": weighting, "smooth": smooth},
            activation=activation,
            ignore_index=ignore_index,
            batch=batch,
            absent=absent,
            reduction=reduction,
        )


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def generalized_dice_loss_reference(sums: Tensor, weighting: int, smooth: float, skip_absent: bool) -> Tensor:
    """Plain PyTorch, the loss of each sample from the sums of its classes. To be trusted because it is the definition,
    but for classes without a target, whose weight would be infinite."""
    overlap, predictions, targets = sums.unbind(-1)
    # (Not != 0, which older versions of ONNX have for integers only.)
    there = targets.bool()
    weight = torch.where(there, torch.where(there, targets, 1.0) ** -weighting, 0)
    if not skip_absent and sums.shape[-2] > 0:
        weight = torch.where(there, weight, weight.detach().amax(-1, keepdim=True))
    numerator, denominator = 2 * (weight * overlap).sum(-1), (weight * (predictions + targets)).sum(-1)
    weighed = denominator.bool()
    return torch.where(weighed, 1 - (numerator + smooth) / torch.where(weighed, denominator + smooth, 1), 0)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = OverlapLoss("handgrad::generalized_dice_loss", generalized_dice_loss_reference, together=True)
