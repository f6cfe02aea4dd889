"""Jaccard loss. Mathematics, derivatives and numerics: docs/losses/jaccard_loss.md."""

from __future__ import annotations

from torch import Tensor

from handgrad.kinds.overlap_loss import OverlapLoss, OverlapLossModule, check_positive
from handgrad.tracing import traceable

_OP = "jaccard_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def jaccard_loss(
    inputs: Tensor,
    targets: Tensor,
    activation: str,
    ignore_index: int | None = None,
    weight: Tensor | None = None,
    batch: bool = False,
    squared: bool = False,
    absent: str = "count",
    smooth: float = 1e-5,
    eps: float = 1e-7,
    reduction: str = "mean",
) -> Tensor:
    r"""One minus the Jaccard index, the intersection over union, of each class, of logits in one pass (Rahman and Wang,
    `Optimizing Intersection-Over-Union <https://doi.org/10.1007/978-3-319-50835-1_22>`_, 2016).

    .. math:: loss = 1 - \frac{\sum p t + smooth}{\max(\sum p + \sum t - \sum p t + smooth, eps)}

    Values of segmentation_models_pytorch's ``JaccardLoss`` with ``smooth=0.0, batch=True, absent="zero"``, and of
    MONAI's ``DiceLoss(jaccard=True)`` with half of its smoothing: docs/losses/jaccard_loss.md has a table. Beyond
    them: nothing of the size of the inputs is made or kept, second derivatives, forward mode.

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
        squared: sums of squares, of predictions and targets, in the denominator.
        absent: what becomes of a class without a target: ``"count"``, the formula as it stands, which is 1 for any
            false positive and 0 for none; ``"zero"``, a loss of 0, without a gradient, that the mean counts;
            ``"skip"``, one that the mean does not count.
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
        >>> jaccard_loss(logits, torch.tensor([[0, 1, 1]]), "softmax")
        tensor(0.2536)
    """
    _check_numbers(smooth, eps)
    return _loss(inputs, targets, activation, ignore_index, weight, batch, squared, absent, reduction, smooth, eps)


def _check_numbers(smooth: float, eps: float) -> None:
    check_positive(_OP, smooth=smooth, eps=eps)


# ---- module ----------------------------------------------------------------------------------------------------------


class JaccardLoss(OverlapLossModule):
    """:func:`jaccard_loss` as a module.

    Args:
        activation, ignore_index, weight, batch, squared, absent, smooth, eps, reduction: see :func:`jaccard_loss`;
            checked here, so that a mistake shows at construction. ``weight`` becomes a buffer.

    Example:
        >>> loss = JaccardLoss("softmax", ignore_index=255)
        >>> loss(torch.tensor([[[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]]), torch.tensor([[0, 1, 255]]))
        tensor(0.3263)
    """

    def __init__(
        self,
        activation: str,
        ignore_index: int | None = None,
        weight: Tensor | None = None,
        batch: bool = False,
        squared: bool = False,
        absent: str = "count",
        smooth: float = 1e-5,
        eps: float = 1e-7,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            jaccard_loss,
            _check_numbers,
            {"smooth": smooth, "eps": eps},
            weight,
            activation=activation,
            ignore_index=ignore_index,
            batch=batch,
            squared=squared,
            absent=absent,
            reduction=reduction,
        )


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def jaccard_loss_reference(sums: Tensor, smooth: float, eps: float) -> Tensor:
    """Plain PyTorch, the loss of each class from its sums. To be trusted because it is the definition."""
    overlap, predictions, targets = sums.unbind(-1)
    return 1 - (overlap + smooth) / (predictions + targets - overlap + smooth).clamp(min=eps)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = OverlapLoss("handgrad::jaccard_loss", jaccard_loss_reference)
