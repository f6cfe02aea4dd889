"""Lovász hinge loss. Mathematics, derivatives and numerics: docs/losses/lovasz_hinge_loss.md."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad.arguments import check_tensor
from handgrad.kinds.sorted_loss import SortedLoss, SortedLossModule, check_sorted_numbers
from handgrad.tracing import traceable

_OP = "lovasz_hinge_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def lovasz_hinge_loss(
    inputs: Tensor,
    targets: Tensor,
    per_image: bool = True,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""The Jaccard loss of a foreground, one minus the intersection over union, extended to the hinge errors of its
    logits (Yu & Blaschko, `The Lovász hinge <https://arxiv.org/abs/1512.07797>`_, 2015; Berman et al., `The
    Lovász-Softmax loss <https://arxiv.org/abs/1705.08790>`_, 2018).

    .. math:: loss = \sum_k \max(e_{(k)}, 0) \, (J_k - J_{k-1}), \quad e = 1 - x s, \quad s = \pm 1

    with the errors :math:`e_{(1)} \ge e_{(2)} \ge \dots` from the largest down, :math:`s` being 1 for foreground and
    -1 for background, and :math:`J_k` the Jaccard loss of a prediction that has the first :math:`k` of them wrong.

    Values and defaults of the authors' ``lovasz_hinge``, and of segmentation_models_pytorch's ``LovaszLoss("binary")``
    with ``per_image=False``: docs/losses/lovasz_hinge_loss.md has a table. Beyond them: nothing of the size of the
    inputs is kept, second derivatives, forward mode.

    Args:
        inputs: logits, (N, ...) with any number of positions; float32, float64, bfloat16 or float16, any strides.
        targets: 1 for foreground, 0 for background, of the shape of ``inputs``; of any type but complex.
        per_image: a loss for each image, in place of one for all positions of the batch together.
        ignore_index: elements with this target do not count, whatever their logits. None: all do.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over images.

    Returns:
        A scalar; of images under ``"none"`` (N,), of the batch (1,). 0, with zeros for gradients, where nothing counts.
        float32, or float64 for inputs of it.

    Raises:
        ValueError: an option out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together; on the CPU a target that is neither 0 nor 1. On
            other devices the loss is NaN then.

    Example:
        >>> lovasz_hinge_loss(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[1, 1, 0]]))
        tensor(0.5000)
    """
    check_sorted_numbers(_OP, per_image, ignore_index)
    check_tensor(_OP, "inputs", inputs)
    check_tensor(_OP, "targets", targets)
    if not torch.jit.is_tracing():  # there sizes are tensors, of which nothing is asked
        _check_shapes(inputs, targets)
    return _loss(inputs.unsqueeze(1), targets, None, per_image, ignore_index, reduction)


def _check_shapes(inputs: Tensor, targets: Tensor) -> None:
    if inputs.dim() == 0:
        raise RuntimeError(f"{_OP}: inputs must have shape (N, ...); got {tuple(inputs.shape)}")
    if inputs.shape != targets.shape or targets.is_complex():
        raise RuntimeError(
            f"{_OP}: targets must be 1 for foreground and 0 for background, of the shape of inputs, "
            f"{tuple(inputs.shape)}; got {tuple(targets.shape)} of {targets.dtype}. Logits of several classes, one "
            "of which is the target, are for the Lovász-softmax loss"
        )


# ---- module ----------------------------------------------------------------------------------------------------------


class LovaszHingeLoss(SortedLossModule):
    """:func:`lovasz_hinge_loss` as a module.

    Args:
        per_image, ignore_index, reduction: see :func:`lovasz_hinge_loss`; checked here, so that a mistake shows at
            construction.

    Example:
        >>> loss = LovaszHingeLoss(ignore_index=255)
        >>> loss(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[1, 1, 255]]))
        tensor(0.5000)
    """

    def __init__(self, per_image: bool = True, ignore_index: int | None = None, reduction: str = "mean") -> None:
        super().__init__(
            lovasz_hinge_loss,
            lambda per_image, ignore_index: check_sorted_numbers(_OP, per_image, ignore_index),
            reduction,
            per_image=per_image,
            ignore_index=ignore_index,
        )


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def lovasz_hinge_loss_reference(inputs: Tensor, foreground: Tensor) -> Tensor:
    """Plain PyTorch, the error of each logit. To be trusted because it is the papers' formula."""
    return 1 - inputs * (2 * foreground - 1)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_loss = SortedLoss("handgrad::lovasz_hinge_loss", lovasz_hinge_loss_reference, first_class=1)
