"""Margin softmax loss. Mathematics, derivatives and numerics: docs/losses/margin_softmax_loss.md."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from handgrad._layout import empty_gradient
from handgrad._vectors import unit_rows
from handgrad.arguments import FLOAT_MAX, INT32_MAX, INT64_MAX, check_int, check_range, check_tensor, computed_dtype
from handgrad.derivatives import BATCHED, WHOLE, Derivatives
from handgrad.reductions import MEAN, NONE, reduction_code
from handgrad.tracing import traceable

_OP = "margin_softmax_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def margin_softmax_loss(
    embeddings: Tensor,
    weight: Tensor,
    targets: Tensor,
    scale: float = 64.0,
    m1: float = 1.0,
    m2: float = 0.5,
    m3: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross entropy of cosines between embeddings and classes, with a margin for the target: ArcFace (Deng et al.,
    `ArcFace <https://arxiv.org/abs/1801.07698>`_, 2019; the default), SphereFace (``m1``), CosFace (``m3``), and their
    combination.

    .. math:: logits_c = scale \cos\theta_c, \quad logits_{target} = scale\,(\cos(m_1 \theta_{target} + m_2) - m_3)

    with :math:`\theta_c` the angle between an embedding and a class' row of ``weight``, neither of which need have
    length 1. The product with the weight is part of it: logits are made in chunks and never stored, nor are normalised
    copies of the weight.

    Args:
        embeddings: (N, D); float32, float64, bfloat16 or float16, any strides.
        weight: the classes' centres, (C, D); or (C, K, D), K sub-centres of each class, of which the nearest counts.
        targets: class numbers, (N,), integers.
        scale: what cosines are multiplied by, more than 0.
        m1: what the target's angle is multiplied by, more than 0: SphereFace.
        m2: what is added to it, from 0 to pi: ArcFace.
        m3: what is subtracted from the cosine: CosFace. Where :math:`m_1 \theta + m_2` is beyond pi, the cosine goes on
            decreasing, as SphereFace's does.
        ignore_index: rows with this class number cost nothing and do not count in a mean; any number, a class or not.
        reduction: ``"none"``, ``"mean"`` (over the rows that are not ignored) or ``"sum"``.

    Returns:
        Under ``"none"`` the loss of each row, otherwise a scalar; float32, of float64 embeddings float64. The mean of
        no rows is NaN, as in torch. The gradient with respect to an embedding or a centre of zeros is 0.

    Raises:
        ValueError: a number or ``reduction`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together; on the CPU a class number that is none. On
            other devices such a row is NaN.

    Example:
        >>> centres = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> margin_softmax_loss(torch.tensor([[2.0, 1.0]]), centres, torch.tensor([0]), scale=8.0, m2=0.3)
        tensor(0.1050)
    """
    check_tensor(_OP, "embeddings", embeddings)
    check_tensor(_OP, "weight", weight)
    check_tensor(_OP, "targets", targets)
    ignore_index = _check_numbers(scale, m1, m2, m3, ignore_index)
    code = reduction_code(_OP, reduction)
    if embeddings.is_floating_point() and weight.is_floating_point() and embeddings.dtype is not weight.dtype:
        dtype = torch.promote_types(embeddings.dtype, weight.dtype)
        embeddings, weight = embeddings.to(dtype), weight.to(dtype)
    if not (targets.is_floating_point() or targets.is_complex() or targets.dtype is torch.bool):
        targets = targets.to(torch.int64)
    centres = weight.unsqueeze(1) if weight.dim() == 2 else weight
    numbers = (float(scale), float(m1), float(m2), float(m3), ignore_index)
    losses = _losses(embeddings, centres, targets, None, *numbers)
    if code == NONE:
        return losses
    total = losses.sum()
    return total / (targets != ignore_index).sum() if code == MEAN else total


def _check_numbers(scale: float, m1: float, m2: float, m3: float, ignore_index: int) -> int:
    smallest = 5e-324
    check_range(_OP, "scale", scale, smallest, FLOAT_MAX, "a finite number, more than 0")
    check_range(_OP, "m1", m1, smallest, FLOAT_MAX, "a finite number, more than 0")
    check_range(_OP, "m2", m2, 0, math.pi, "a number from 0 to pi")
    check_range(_OP, "m3", m3, -FLOAT_MAX, FLOAT_MAX, "a finite number")
    return check_int(_OP, "ignore_index", ignore_index, -INT64_MAX, expected="a whole number")


# ---- module ----------------------------------------------------------------------------------------------------------


class MarginSoftmaxLoss(nn.Module):
    """:func:`margin_softmax_loss` with a weight of its own: the last layer of a classifier and its loss.

    Args:
        num_classes, embedding_size: the size of ``weight``, (num_classes, embedding_size).
        sub_centers: of each class; more than one make ``weight`` (num_classes, sub_centers, embedding_size).
        scale, m1, m2, m3, ignore_index, reduction: see :func:`margin_softmax_loss`; checked here, so that a mistake
            shows at construction.

    Shape:
        ``forward(embeddings, targets)`` as in :func:`margin_softmax_loss`.

    Example:
        >>> head = MarginSoftmaxLoss(num_classes=10, embedding_size=4)
        >>> head(torch.randn(8, 4), torch.arange(8)).shape
        torch.Size([])
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        sub_centers: int = 1,
        scale: float = 64.0,
        m1: float = 1.0,
        m2: float = 0.5,
        m3: float = 0.0,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_classes = check_int(name, "num_classes", num_classes, 1, INT32_MAX)
        self.embedding_size = check_int(name, "embedding_size", embedding_size, 1, INT32_MAX)
        self.sub_centers = check_int(name, "sub_centers", sub_centers, 1, INT32_MAX)
        self.ignore_index = _check_numbers(scale, m1, m2, m3, ignore_index)
        reduction_code(_OP, reduction)
        self.scale, self.m1, self.m2, self.m3, self.reduction = scale, m1, m2, m3, reduction
        centers = () if self.sub_centers == 1 else (self.sub_centers,)
        self.weight = nn.Parameter(torch.empty(self.num_classes, *centers, self.embedding_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        # As insightface: only directions count, and those of a normal distribution are all alike.
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        return margin_softmax_loss(
            embeddings,
            self.weight,
            targets,
            self.scale,
            self.m1,
            self.m2,
            self.m3,
            self.ignore_index,
            self.reduction,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.num_classes}, {self.embedding_size}, sub_centers={self.sub_centers}, scale={self.scale}, "
            f"m1={self.m1}, m2={self.m2}, m3={self.m3}, ignore_index={self.ignore_index}, reduction={self.reduction!r}"
        )


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def margin_softmax_loss_reference(
    embeddings: Tensor,
    weight: Tensor,
    targets: Tensor,
    losses: Tensor | None,
    scale: float,
    m1: float,
    m2: float,
    m3: float,
    ignore_index: int,
) -> Tensor:
    """Plain PyTorch, with all logits. To be trusted because it is the definition: cosines, the target's angle, a
    margin, log_softmax."""
    dtype = computed_dtype(embeddings)
    ignored = (targets == ignore_index).unsqueeze(1)
    units = unit_rows(torch.where(ignored, 1, embeddings.to(dtype)))
    classes, centres, width = weight.shape
    cosines = units @ unit_rows(weight).reshape(classes * centres, width).transpose(0, 1)
    cosines = cosines.reshape(-1, classes, centres)
    cosines = cosines.max(2).values if centres > 1 else cosines.squeeze(2)
    is_target = targets.unsqueeze(1) == torch.arange(classes, device=targets.device)
    logits = scale * torch.where(is_target, _with_margin(cosines, m1, m2, m3), cosines)
    of_targets = torch.where(is_target, torch.log_softmax(logits, 1), 0).sum(1)
    is_class = (targets >= 0) & (targets < classes)
    return torch.where(ignored.squeeze(1), 0, torch.where(is_class, -of_targets, torch.nan))


def _with_margin(cosines: Tensor, m1: float, m2: float, m3: float) -> Tensor:
    if m1 == 1 and m2 == 0:
        return cosines - m3
    limit = 1 - 1e-7
    angles = m1 * torch.acos(cosines.clamp(-limit, limit)) + m2
    turns = torch.floor(angles.detach() / math.pi)
    signs = 1 - 2 * (turns - 2 * torch.floor(turns / 2))
    return signs * torch.cos(angles) - 2 * turns - m3


# ---- fake ------------------------------------------------------------------------------------------------------------


def _fake(embeddings: Tensor, weight: Tensor, targets: Tensor, losses: Tensor | None, *numbers: Any) -> Tensor:
    torch._check(
        embeddings.dim() == 2, lambda: f"{_OP}: embeddings must have shape (N, D); got {tuple(embeddings.shape)}"
    )
    torch._check(
        weight.dim() == 3 and weight.shape[2] == embeddings.shape[1],
        lambda: (
            f"{_OP}: weight must have the shape (C, D), or (C, K, D), with D as embeddings, {embeddings.shape[1]}; got "
            f"{tuple(weight.shape)}"
        ),
    )
    torch._check(
        targets.dim() == 1 and targets.shape[0] == embeddings.shape[0],
        lambda: (
            f"{_OP}: targets must be class numbers, int64 of shape ({embeddings.shape[0]},), one for each of the "
            f"embeddings; got {tuple(targets.shape)} of {targets.dtype}"
        ),
    )
    for name, tensor in (("weight", weight), ("targets", targets)):
        said = f"{_OP}: {name} must be on the device of embeddings, {embeddings.device}; got {tensor.device}"
        torch._check(tensor.device == embeddings.device, functools.partial(str, said))
    return embeddings.new_empty(embeddings.shape[:1], dtype=computed_dtype(embeddings))


# ---- autograd: what the forward hands on -----------------------------------------------------------------------------


class _MarginSoftmaxLoss(Derivatives):
    def first_derivative(self) -> tuple[Callable[..., None], Callable[..., Any]]:
        """The losses, one number a row, go to the backward in place of the None that the forward was given: the sum of
        a row's exponentials follows from its loss, without a product."""
        _, backward = super().first_derivative()

        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            embeddings, weight, targets, _, *others = inputs
            ctx.others = tuple(others)
            ctx.save_for_backward(embeddings, weight, targets, output)
            ctx.save_for_forward(embeddings, weight, targets, output)

        return setup_context, backward


# ---- registration ----------------------------------------------------------------------------------------------------

_losses = _MarginSoftmaxLoss(
    "handgrad::margin_softmax_loss",
    reference=margin_softmax_loss_reference,
    fake=_fake,
    roles={"embeddings": BATCHED, "weight": WHOLE, "targets": BATCHED, "losses": BATCHED, "output": BATCHED},
    gradient_like=empty_gradient,
    autocast=torch.float32,
)
