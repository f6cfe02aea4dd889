"""Infogain loss. Mathematics, derivatives and numerics: docs/losses/infogain_loss.md."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from handgrad._layout import empty_gradient
from handgrad.arguments import INT64_MAX, check_int, check_tensor, computed_dtype
from handgrad.derivatives import BATCHED, WHOLE
from handgrad.kinds.reduced_loss import LossModule, ReducedLoss
from handgrad.kinds.row_loss import class_numbers, row_splits, rows_of
from handgrad.reductions import MEAN, NONE, SUM, reduce, reduction_code
from handgrad.tracing import traceable

_OP = "infogain_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def infogain_loss(
    inputs: Tensor, targets: Tensor, matrix: Tensor, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    r"""Cross entropy in which every pair of a true and a predicted class has a weight of its own: Caffe's InfogainLoss.

    .. math:: loss = -\sum_c H_{t c} \log p_c, \quad p = softmax(inputs)

    with t the class of the row and H the matrix. The identity is the cross entropy, a diagonal matrix one with class
    weights; entries beside the diagonal make some confusions cheaper than others.

    Args:
        inputs: logits, (batch, classes) or (batch, classes, positions...), or (classes,) of a single row; float32,
            float64, bfloat16 or float16, any strides.
        targets: class numbers, integers of the shape of ``inputs`` without its classes.
        matrix: (classes, classes), a row for each true class; any numbers. Gradients go to it, if it requires grad.
        ignore_index: rows with this class number cost nothing and do not count in a mean; any number, a class or not.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. The mean divides by the number of rows that are not ignored, as
            Caffe's does.

    Returns:
        Under ``"none"`` the loss of each row, otherwise a scalar; float32, of float64 inputs float64. The mean of no
        rows is NaN, as in torch.

    Raises:
        ValueError: ``ignore_index`` or ``reduction`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together; on the CPU a class number that is none. On
            other devices such a row is NaN.

    Example:
        >>> matrix = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 2.0]])
        >>> infogain_loss(torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]]), torch.tensor([0, 2]), matrix)
        tensor(0.7256)
    """
    ignore_index = _checked_index(ignore_index)
    code = reduction_code(_OP, reduction)
    check_tensor(_OP, "inputs", inputs)
    check_tensor(_OP, "targets", targets)
    check_tensor(_OP, "matrix", matrix)
    if inputs.dim() == 1:
        # One row without a batch.
        loss = infogain_loss(inputs.unsqueeze(0), targets.unsqueeze(0), matrix, ignore_index, reduction)
        return loss.squeeze(0) if code == NONE else loss
    targets = class_numbers(inputs, targets)
    matrix = matrix.to(computed_dtype(inputs)) if matrix.is_floating_point() else matrix
    loss = _loss(inputs, targets, matrix, ignore_index, SUM if code == MEAN else code)
    return loss / (targets != ignore_index).sum() if code == MEAN else loss


def _checked_index(ignore_index: int) -> int:
    return check_int(_OP, "ignore_index", ignore_index, -INT64_MAX, expected="a whole number")


# ---- module ----------------------------------------------------------------------------------------------------------


class InfogainLoss(LossModule):
    """:func:`infogain_loss` as a module.

    Args:
        matrix: (classes, classes). A buffer of the module; a parameter, which is learnt, if it is a
            :class:`torch.nn.Parameter`.
        ignore_index, reduction: see :func:`infogain_loss`; checked here, so that a mistake shows at construction.

    Example:
        >>> loss = InfogainLoss(torch.eye(3), ignore_index=255)
        >>> loss(torch.zeros(1, 3, 2), torch.tensor([[0, 255]]))
        tensor(1.0986)
    """

    matrix: Tensor
    ignore_index: int

    def __init__(self, matrix: Tensor, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(infogain_loss, lambda _: None, reduction, ignore_index=ignore_index)
        _checked_index(ignore_index)
        check_tensor(_OP, "matrix", matrix)
        if isinstance(matrix, nn.Parameter):
            self.matrix = matrix
        else:
            self.register_buffer("matrix", matrix)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return infogain_loss(inputs, targets, self.matrix, self.ignore_index, self.reduction)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def infogain_loss_reference(
    inputs: Tensor, targets: Tensor, matrix: Tensor, ignore_index: int, reduction: int
) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition: each row's row of the matrix, times minus its
    log-softmax. A class whose entry is 0 costs nothing, however impossible it is."""
    dtype, classes = computed_dtype(inputs), inputs.shape[1]
    ignored = (targets == ignore_index).unsqueeze(1)
    log_p = torch.log_softmax(torch.where(ignored, 0, inputs.to(dtype)), 1)
    chosen = torch.where((targets >= 0) & (targets < classes), targets, 0)
    weights = matrix.to(dtype).index_select(0, chosen.flatten()).view(*chosen.shape, classes).movedim(chosen.dim(), 1)
    # (Without ==, which older versions of ONNX have of integers only.)
    impossible = log_p < torch.finfo(dtype).min
    nothing = (impossible & (weights <= 0) & (weights >= 0)) | ignored
    return reduce(torch.where(nothing, 0, weights * -torch.where(nothing, -1, log_p)).sum(1), reduction)


# ---- fake ------------------------------------------------------------------------------------------------------------


def _fake(inputs: Tensor, targets: Tensor, matrix: Tensor, ignore_index: int, reduction: int) -> Tensor:
    rows, classes = rows_of(_OP, "inputs", inputs), inputs.shape[1]
    torch._check(
        tuple(targets.shape) == rows,
        lambda: (
            f"{_OP}: targets must be class numbers, int64 of shape {rows}, for these inputs; got "
            f"{tuple(targets.shape)} of {targets.dtype}"
        ),
    )
    torch._check(
        tuple(matrix.shape) == (classes, classes),
        lambda: (
            f"{_OP}: matrix must have shape (classes, classes), here {(classes, classes)}; got {tuple(matrix.shape)}"
        ),
    )
    for name, device in (("targets", targets.device), ("matrix", matrix.device)):
        message = f"{_OP}: {name} must be on the device of inputs, {inputs.device}; got {device}"
        torch._check(device == inputs.device, partial(str, message))
    return inputs.new_empty(rows if reduction == NONE else (), dtype=computed_dtype(inputs))


# ---- registration ----------------------------------------------------------------------------------------------------


class _Infogain(ReducedLoss):
    def losses_like(self, tensors: Mapping[str, Any]) -> Tensor:
        return tensors["targets"]


def _splits(inputs: Any, reduction: int, **_: Any) -> list[dict[str, int | None]]:
    return [
        {"inputs": dim, "targets": row, "matrix": None, "output": None if reduction else row}
        for row, dim in row_splits(len(inputs.shape))
    ]


_loss = _Infogain(
    "handgrad::infogain_loss",
    reference=infogain_loss_reference,
    fake=_fake,
    roles={"inputs": BATCHED, "targets": BATCHED, "matrix": WHOLE, "output": BATCHED},
    gradient_like=empty_gradient,
    autocast=torch.float32,
    splits=_splits,
)
