"""Contrastive loss. Mathematics, derivatives and numerics: docs/losses/contrastive_loss.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from handgrad.arguments import FLOAT_MAX, check_bool, check_like, check_range, check_tensor, computed_dtype, is_sharded
from handgrad.derivatives import BATCHED
from handgrad.kinds.reduced_loss import ReducedLoss
from handgrad.reductions import MEAN, NONE, SUM, reduce_or_zero, reduce_samples_or_zero, reduction_code
from handgrad.tracing import traceable

_OP = "contrastive_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def contrastive_loss(
    input1: Tensor,
    input2: Tensor,
    targets: Tensor,
    margin: float = 1.0,
    legacy_version: bool = False,
    reduction: str = "mean",
) -> Tensor:
    r"""Draws pairs that are similar together, and others apart until they are ``margin`` away (Hadsell et al.,
    `Dimensionality Reduction by Learning an Invariant Mapping
    <http://yann.lecun.com/exdb/publis/pdf/hadsell-chopra-lecun-06.pdf>`_, 2006).

    .. math:: loss = \frac{1}{2} \begin{cases} d^2 & similar \\ \max(margin - d, 0)^2 & otherwise \end{cases},
        \quad d = \lVert input1 - input2 \rVert

    Values and arguments of Caffe's ``ContrastiveLoss`` layer.

    Args:
        input1: embeddings, (N, D); float32, float64, bfloat16 or float16, any strides.
        input2: the other embedding of each pair, as ``input1``.
        targets: 1 for pairs that are similar, 0 for others, (N,), integers or booleans. (The paper's Y is the reverse.)
        margin: how far apart pairs that are not similar are to be, at least 0.
        legacy_version: of pairs that are not similar, max(margin - d², 0) / 2, as Caffe had it until 2014.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over pairs.

    Returns:
        Under ``"none"`` (N,), otherwise a scalar, the mean of no pairs being 0. float32, or float64 for inputs of it.

    Raises:
        ValueError: a number or an option out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> contrastive_loss(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.3, 0.4], [0.3, 0.4]]),
        ...                  torch.tensor([1, 0]), reduction="none")
        tensor([0.1250, 0.1250])
    """
    check_tensor(_OP, "input1", input1)
    check_tensor(_OP, "input2", input2)
    check_tensor(_OP, "targets", targets)
    _check_numbers(margin, legacy_version)
    code = reduction_code(_OP, reduction)
    if targets.is_floating_point() or targets.is_complex():
        raise RuntimeError(f"{_OP}: targets must be integers or booleans, 1 for similar pairs; got {targets.dtype}")
    if input1.dtype is not input2.dtype and input1.is_floating_point() and input2.is_floating_point():
        dtype = torch.promote_types(input1.dtype, input2.dtype)
        input1, input2 = input1.to(dtype), input2.to(dtype)
    tensors = input1, input2, targets.to(torch.int64)
    if code == MEAN and is_sharded(input1):
        # A mean of shards' means is the mean only if the shards are of one size; a sum of sums is the sum.
        return _loss(*tensors, float(margin), bool(legacy_version), SUM) / max(1, input1.shape[0])
    return _loss(*tensors, float(margin), bool(legacy_version), code)


def _check_numbers(margin: float, legacy_version: bool) -> None:
    check_range(_OP, "margin", margin, 0, FLOAT_MAX, "a finite number, at least 0")
    check_bool(_OP, "legacy_version", legacy_version)


# ---- module ----------------------------------------------------------------------------------------------------------


class ContrastiveLoss(nn.Module):
    """:func:`contrastive_loss` as a module.

    Args:
        margin, legacy_version, reduction: see :func:`contrastive_loss`; checked here, so that a mistake shows at
            construction.

    Example:
        >>> loss = ContrastiveLoss(margin=2.0)
        >>> loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
        tensor(0.5000)
    """

    def __init__(self, margin: float = 1.0, legacy_version: bool = False, reduction: str = "mean") -> None:
        super().__init__()
        _check_numbers(margin, legacy_version)
        reduction_code(_OP, reduction)
        self.margin, self.legacy_version, self.reduction = margin, legacy_version, reduction

    def forward(self, input1: Tensor, input2: Tensor, targets: Tensor) -> Tensor:
        return contrastive_loss(input1, input2, targets, self.margin, self.legacy_version, self.reduction)

    def extra_repr(self) -> str:
        return f"margin={self.margin!r}, legacy_version={self.legacy_version!r}, reduction={self.reduction!r}"


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def contrastive_loss_reference(
    input1: Tensor, input2: Tensor, targets: Tensor, margin: float, legacy: bool, reduction: int
) -> Tensor:
    """Plain PyTorch. To be trusted because it is the paper's formula; the root is kept from 0, where it has no
    slope."""
    dtype = computed_dtype(input1)
    squared = ((input1.to(dtype) - input2.to(dtype)) ** 2).sum(1)
    missing = margin - squared
    if not legacy:
        apart = ~(squared <= 0)
        missing = margin - torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)
    apart_loss = missing.relu() if legacy else missing.relu() ** 2
    return reduce_or_zero(torch.where(targets.bool(), squared, apart_loss) / 2, reduction)


# ---- fake ------------------------------------------------------------------------------------------------------------


def _fake(input1: Tensor, input2: Tensor, targets: Tensor, margin: float, legacy: bool, reduction: int) -> Tensor:
    torch._check(
        input1.dim() == 2,
        lambda: f"{_OP}: input1 must have 2 dimensions (pairs, embedding); got {tuple(input1.shape)}",
    )
    check_like(_OP, "input2", input2, "input1", input1)
    torch._check(
        targets.shape == input1.shape[:1],
        lambda: f"{_OP}: targets must have shape (pairs,), here {(input1.shape[0],)}; got {tuple(targets.shape)}",
    )
    torch._check(
        targets.device == input1.device,
        lambda: f"{_OP}: targets must be on the device of input1, {input1.device}; got {targets.device}",
    )
    return input1.new_empty(input1.shape[0] if reduction == NONE else (), dtype=computed_dtype(input1))


# ---- registration ----------------------------------------------------------------------------------------------------


class _ContrastiveLoss(ReducedLoss):
    def losses_like(self, tensors: Mapping[str, Any]) -> Tensor:
        return tensors["targets"]

    def reduce_samples(self, losses: Tensor, reduction: int) -> Tensor:
        return reduce_samples_or_zero(losses, reduction)


def _splits(reduction: int, **_: Any) -> list[dict[str, int | None]]:
    """A sum over shards is a partial sum; the mean never gets here sharded."""
    if reduction == MEAN:
        return []
    return [{"input1": 0, "input2": 0, "targets": 0, "output": None if reduction else 0}]


_loss = _ContrastiveLoss(
    "handgrad::contrastive_loss",
    reference=contrastive_loss_reference,
    fake=_fake,
    roles=BATCHED,
    autocast=torch.float32,
    splits=_splits,
)
