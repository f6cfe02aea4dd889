"""Lovász-softmax loss. Mathematics, derivatives and numerics: docs/losses/lovasz_softmax_loss.md."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from handgrad._sharding import replicated_beside
from handgrad.arguments import check_bool, check_choice, check_int, check_tensor, computed_dtype
from handgrad.kinds.sorted_loss import SortedLoss, SortedLossModule, check_sorted_numbers
from handgrad.tracing import traceable

_OP = "lovasz_softmax_loss"
_CLASSES = ("present", "all")

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def lovasz_softmax_loss(
    inputs: Tensor,
    targets: Tensor,
    classes: str | Sequence[int] = "present",
    per_image: bool = False,
    ignore_index: int | None = None,
    from_logits: bool = True,
    reduction: str = "mean",
) -> Tensor:
    r"""The mean over classes of the Jaccard loss, one minus the intersection over union, extended to errors between 0
    and 1 (Berman et al., `The Lovász-Softmax loss <https://arxiv.org/abs/1705.08790>`_, 2018).

    .. math:: loss = \frac{1}{C} \sum_c \sum_k e_{(k)} \, (J_k - J_{k-1}), \quad e = |[targets = c] - p_c|

    with the errors :math:`e_{(1)} \ge e_{(2)} \ge \dots` of a class from the largest down and :math:`J_k` the Jaccard
    loss of a prediction that has the first :math:`k` of them wrong.

    Values and defaults of the authors' ``lovasz_softmax`` and of segmentation_models_pytorch's ``LovaszLoss``, but for
    ``from_logits``: docs/losses/lovasz_softmax_loss.md has a table. Beyond them: the softmax is part of the op, nothing
    of the size of the inputs is kept, second derivatives, forward mode.

    Args:
        inputs: logits, (N, C, ...) with any number of positions; float32, float64, bfloat16 or float16, any strides.
        targets: the class at each position, (N, ...) or (N, 1, ...).
        classes: of which classes the mean is: ``"present"``, those of any target; ``"all"``, also those of none, whose
            loss is the largest probability given to them; or a sequence of class numbers.
        per_image: a loss for each image, in place of one for all positions of the batch together.
        ignore_index: positions of this class do not count, whatever their logits. None: all do.
        from_logits: whether inputs are logits; otherwise they are probabilities, and used as they are.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over images.

    Returns:
        A scalar; of images under ``"none"`` (N,), of the batch (1,). 0, with zeros for gradients, where no class
        counts. float32, or float64 for inputs of it.

    Raises:
        ValueError: an option out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together; on the CPU a class that there is not. On other
            devices the loss is NaN then.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]])
        >>> lovasz_softmax_loss(logits, torch.tensor([[0, 1, 1]]))
        tensor(0.1772)
    """
    _check_numbers(classes, per_image, ignore_index, from_logits)
    check_tensor(_OP, "inputs", inputs)
    check_tensor(_OP, "targets", targets)
    if targets.dim() == inputs.dim() and inputs.dim() >= 2:
        targets = targets.squeeze(1)
    if not torch.jit.is_tracing():  # there sizes are tensors, of which nothing is asked
        _check_shapes(inputs, targets, from_logits)
    weight = _listed(classes, inputs)
    return _loss(inputs, targets, weight, per_image, ignore_index, reduction, bool(from_logits), classes == "present")


def _check_numbers(classes: str | Sequence[int], per_image: bool, ignore_index: int | None, from_logits: bool) -> None:
    check_sorted_numbers(_OP, per_image, ignore_index)
    check_bool(_OP, "from_logits", from_logits)
    if isinstance(classes, (list, tuple)):
        for number in classes:
            check_int(_OP, "classes", number, 0, expected='"present", "all", or class numbers')
    else:
        check_choice(_OP, "classes", classes, _CLASSES)


def _check_shapes(inputs: Tensor, targets: Tensor, from_logits: bool) -> None:
    wanted, given = tuple(inputs.shape), tuple(targets.shape)
    if len(wanted) < 2 or wanted[1] == 0:
        raise RuntimeError(f"{_OP}: inputs must have shape (N, C, ...), of one class at least; got {wanted}")
    if given != wanted[:1] + wanted[2:] or targets.is_floating_point() or targets.is_complex():
        raise RuntimeError(
            f"{_OP}: targets must be the class at each position, integers of shape {wanted[:1] + wanted[2:]} for "
            f"inputs of {wanted}; got {given} of {targets.dtype}"
        )
    if wanted[1] == 1 and from_logits:
        raise ValueError(
            f"{_OP}: inputs must have two classes at least, whose softmax is not 1 everywhere; got {wanted}. Logits of "
            "a foreground are for the Lovász hinge loss"
        )


def _listed(classes: str | Sequence[int], inputs: Tensor) -> Tensor | None:
    """1 for the classes of a list, 0 for others."""
    if isinstance(classes, str):
        return None
    count = inputs.shape[1]
    if any(number >= count for number in classes):
        raise ValueError(f"{_OP}: classes must be below the {count} classes of inputs; got {list(classes)}")
    numbers = [1.0 if number in classes else 0.0 for number in range(count)]
    return replicated_beside(inputs, torch.tensor(numbers, dtype=computed_dtype(inputs), device=inputs.device))


# ---- module ----------------------------------------------------------------------------------------------------------


class LovaszSoftmaxLoss(SortedLossModule):
    """:func:`lovasz_softmax_loss` as a module.

    Args:
        classes, per_image, ignore_index, from_logits, reduction: see :func:`lovasz_softmax_loss`; checked here, so that
            a mistake shows at construction.

    Example:
        >>> loss = LovaszSoftmaxLoss(ignore_index=255)
        >>> loss(torch.tensor([[[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]]), torch.tensor([[0, 1, 255]]))
        tensor(0.2315)
    """

    def __init__(
        self,
        classes: str | Sequence[int] = "present",
        per_image: bool = False,
        ignore_index: int | None = None,
        from_logits: bool = True,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            lovasz_softmax_loss,
            _check_numbers,
            reduction,
            classes=classes,
            per_image=per_image,
            ignore_index=ignore_index,
            from_logits=from_logits,
        )


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def lovasz_softmax_loss_reference(inputs: Tensor, foreground: Tensor, from_logits: bool, skip_absent: bool) -> Tensor:
    """Plain PyTorch, the error of each class at each position. To be trusted because it is the paper's formula (8)."""
    return (foreground - (torch.softmax(inputs, 2) if from_logits else inputs)).abs()


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = SortedLoss("handgrad::lovasz_softmax_loss", lovasz_softmax_loss_reference, first_class=0)
