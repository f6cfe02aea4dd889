"""Knowledge distillation loss. Mathematics, derivatives and numerics: docs/losses/knowledge_distillation_loss.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from handgrad._layout import empty_gradient
from handgrad.arguments import check_choice, check_range, check_tensor, computed_dtype
from handgrad.derivatives import BATCHED
from handgrad.kinds.reduced_loss import LossModule, ReducedLoss
from handgrad.kinds.row_loss import row_splits, rows_of
from handgrad.reductions import NONE, SUM, reduce
from handgrad.tracing import traceable

_OP = "knowledge_distillation_loss"
_REDUCTIONS = ("none", "mean", "sum", "batchmean")

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def knowledge_distillation_loss(
    student: Tensor, teacher: Tensor, temperature: float = 4.0, reduction: str = "mean"
) -> Tensor:
    r"""How far a student's probabilities are from a teacher's, both softened by a temperature (Hinton et al.,
    `Distilling the Knowledge in a Neural Network <https://arxiv.org/abs/1503.02531>`_, 2015).

    .. math:: loss = T^2 \sum_c t_c \log \frac{t_c}{p_c}, \quad p = softmax(student / T), \; t = softmax(teacher / T)

    The Kullback-Leibler divergence, times :math:`T^2` so that gradients keep their size when the temperature changes.
    Add a loss of the labels to it: ``alpha * knowledge_distillation_loss(student, teacher, T) + (1 - alpha) *
    cross_entropy(student, labels)``.

    Args:
        student: logits, (batch, classes) or (batch, classes, positions...), or (classes,) of a single row; float32,
            float64, bfloat16 or float16, any strides.
        teacher: logits of the same shape; promoted with ``student`` as torch does. Gradients go to it too, if it
            requires grad.
        temperature: from 1e-6 to 1e6; 1 is the divergence of the two as they are.
        reduction: ``"none"``, ``"mean"``, ``"sum"`` or ``"batchmean"``. A loss is a row's, the sum over its classes:
            ``"mean"`` divides by the number of rows, batch times positions, and not by the number of classes, as
            torch's ``kl_div`` does; ``"batchmean"`` divides by the batch, which is the same where there are no
            positions.

    Returns:
        Under ``"none"`` the loss of each row, otherwise a scalar; float32, of float64 inputs float64. Never below 0.
        The mean of no rows is NaN, as in torch.

    Raises:
        ValueError: ``temperature`` or ``reduction`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> student, teacher = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])
        >>> knowledge_distillation_loss(student, teacher, temperature=2.0)
        tensor(0.3737)
    """
    _check_numbers(temperature)
    check_choice(_OP, "reduction", reduction, _REDUCTIONS)
    check_tensor(_OP, "student", student)
    check_tensor(_OP, "teacher", teacher)
    if student.dim() == 1:
        # One row without a batch.
        loss = knowledge_distillation_loss(student.unsqueeze(0), teacher.unsqueeze(0), temperature, reduction)
        return loss.squeeze(0) if reduction == "none" else loss
    if student.dtype is not teacher.dtype and student.is_floating_point() and teacher.is_floating_point():
        dtype = torch.promote_types(student.dtype, teacher.dtype)
        student, teacher = student.to(dtype), teacher.to(dtype)
    loss = _loss(student, teacher, float(temperature), NONE if reduction == "none" else SUM)
    if reduction == "mean":
        return loss / (student.numel() // student.shape[1])
    return loss / student.shape[0] if reduction == "batchmean" else loss


def _check_numbers(temperature: float) -> None:
    check_range(_OP, "temperature", temperature, 1e-6, 1e6, "a number from 1e-6 to 1e6")


# ---- module ----------------------------------------------------------------------------------------------------------


class KnowledgeDistillationLoss(LossModule):
    """:func:`knowledge_distillation_loss` as a module, in place of :class:`torch.nn.KLDivLoss` of two log-softmaxes.

    Args:
        temperature, reduction: see :func:`knowledge_distillation_loss`; checked here, so that a mistake shows at
            construction.

    Example:
        >>> loss = KnowledgeDistillationLoss(temperature=1.0)
        >>> loss(torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]))
        tensor(0.5481)
    """

    def __init__(self, temperature: float = 4.0, reduction: str = "mean") -> None:
        check_choice(_OP, "reduction", reduction, _REDUCTIONS)
        super().__init__(knowledge_distillation_loss, _check_numbers, "mean", temperature=temperature)
        self.reduction = reduction


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def knowledge_distillation_loss_reference(
    student: Tensor, teacher: Tensor, temperature: float, reduction: int
) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition: two log-softmaxes, and t log(t / p) of every class. A
    class that the teacher rules out adds nothing."""
    dtype = computed_dtype(student)
    log_p = torch.log_softmax(student.to(dtype) / temperature, 1)
    log_t = torch.log_softmax(teacher.to(dtype) / temperature, 1)
    # (Without ==, which older versions of ONNX have of integers only.)
    ruled_out = log_t < torch.finfo(dtype).min
    gap = torch.where(ruled_out, 0, log_t - torch.where(ruled_out, 0, log_p))
    return reduce(temperature**2 * (torch.exp(log_t) * gap).sum(1), reduction)


# ---- fake ------------------------------------------------------------------------------------------------------------


def _fake(student: Tensor, teacher: Tensor, temperature: float, reduction: int) -> Tensor:
    rows = rows_of(_OP, "student", student)
    torch._check(
        teacher.shape == student.shape,
        lambda: f"{_OP}: teacher must have the shape of student, {tuple(student.shape)}; got {tuple(teacher.shape)}",
    )
    torch._check(
        teacher.device == student.device,
        lambda: f"{_OP}: teacher must be on the device of student, {student.device}; got {teacher.device}",
    )
    return student.new_empty(rows if reduction == NONE else (), dtype=computed_dtype(student))


# ---- registration ----------------------------------------------------------------------------------------------------


class _Distillation(ReducedLoss):
    def losses_like(self, tensors: Mapping[str, Any]) -> Tensor:
        return tensors["student"].select(2, 0)


def _splits(student: Any, teacher: Any, reduction: int, **_: Any) -> list[dict[str, int | None]]:
    return [
        {"student": dim, "teacher": dim, "output": None if reduction else row}
        for row, dim in row_splits(len(student.shape))
    ]


_loss = _Distillation(
    "handgrad::knowledge_distillation_loss",
    reference=knowledge_distillation_loss_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=empty_gradient,
    autocast=torch.float32,
    splits=_splits,
)
