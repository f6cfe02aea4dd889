"""Losses of rows of logits, (batch, classes, positions...), with class numbers or probabilities for targets: all but
the formula. Names and conventions of :func:`torch.nn.functional.cross_entropy`.

The op's schema is ``foo(Tensor inputs, Tensor targets, Tensor? weight, <numbers>, int ignore_index, float
label_smoothing, int reduction) -> Tensor``, its private ops' are as :mod:`handgrad.derivatives` has them; the C++ half
is ``csrc/common/kinds/row_loss.h``. The ops know the reductions none and sum: what a mean divides by depends on targets
and weights, and is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from handgrad._layout import empty_gradient
from handgrad._sharding import replicated_beside
from handgrad.arguments import INT64_MAX, check_int, check_range, check_tensor, computed_dtype
from handgrad.derivatives import BATCHED, WHOLE
from handgrad.kinds.reduced_loss import LossModule, ReducedLoss
from handgrad.reductions import MEAN, NONE, SUM, reduction_code

__all__ = ["RowLoss", "RowLossModule", "class_numbers", "row_splits", "rows_of"]


class RowLoss(ReducedLoss):
    """Registers a row loss and calls it, with the checks and conversions that all of them share.

    Args:
        name: ``"namespace::op"``.
        reference: the loss of a class were it the target, ``reference(log_probabilities, *numbers)``, in plain PyTorch;
            it gets float32 or float64.

    Example::

        >>> _loss = RowLoss("my_ops::my_loss", my_loss_reference)
        >>> _loss(inputs, targets, weight, ignore_index, label_smoothing, "mean", gamma)
    """

    def __init__(self, name: str, reference: Callable[..., Tensor]) -> None:
        self.of_class = reference
        super().__init__(
            name,
            reference=self._named_after(reference),
            fake=self.fake_loss,
            roles={"inputs": BATCHED, "targets": BATCHED, "weight": WHOLE, "output": BATCHED},
            gradient_like=empty_gradient,
            autocast=torch.float32,
            splits=self.every_dimension_but_the_classes,
        )

    def __call__(
        self,
        inputs: Tensor,
        targets: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        label_smoothing: float,
        reduction: str,
        *numbers: float,
    ) -> Tensor:
        """The loss; numbers that a user typed are checked by the caller, but for those named here."""
        check_tensor(self.title, "inputs", inputs)
        check_tensor(self.title, "targets", targets)
        ignore_index = check_row_numbers(self.title, ignore_index, label_smoothing)
        code = reduction_code(self.title, reduction)
        if inputs.dim() == 1:
            # One row without a batch.
            inputs, targets = inputs.unsqueeze(0), targets.unsqueeze(0)
            loss = self(inputs, targets, weight, ignore_index, label_smoothing, reduction, *numbers)
            return loss.squeeze(0) if code == NONE else loss
        inputs, targets = self._promoted(inputs, targets, ignore_index)
        weight = self._checked_weight(weight, inputs)
        others = (*numbers, ignore_index, float(label_smoothing))
        loss = self.forward(inputs, targets, weight, *others, SUM if code == MEAN else code)
        return loss / self._divisor(inputs, targets, weight, ignore_index) if code == MEAN else loss

    def _promoted(self, inputs: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
        if not targets.is_floating_point():
            return inputs, class_numbers(inputs, targets)
        if ignore_index >= 0:
            raise ValueError(
                f"{self.title}: ignore_index must be negative where targets are probabilities, which name no class; "
                f"got {ignore_index}"
            )
        if inputs.is_floating_point() and inputs.shape == targets.shape and inputs.dtype is not targets.dtype:
            dtype = torch.promote_types(inputs.dtype, targets.dtype)
            return inputs.to(dtype), targets.to(dtype)
        return inputs, targets

    def _checked_weight(self, weight: Tensor | None, inputs: Tensor) -> Tensor | None:
        if weight is None:
            return None
        check_tensor(self.title, "weight", weight)
        if weight.requires_grad:
            raise ValueError(
                f"{self.title}: weight must not require grad, because there is no derivative with respect to it (as in "
                "torch); got a tensor that does. Pass weight.detach()"
            )
        weight = weight.to(computed_dtype(inputs)) if weight.is_floating_point() else weight
        return replicated_beside(inputs, weight)

    def _divisor(self, inputs: Tensor, targets: Tensor, weight: Tensor | None, ignore_index: int) -> Any:
        """How many rows there are, or the sum of the weights of their targets; rows that are ignored do not count."""
        if targets.is_floating_point():
            # A tensor, since of no rows the mean is NaN.
            return torch.full((), inputs.numel() // inputs.shape[1], dtype=computed_dtype(inputs), device=inputs.device)
        counted = targets != ignore_index
        if weight is None:
            return counted.sum()
        classes = targets.clamp(0, inputs.shape[1] - 1)
        return torch.where(counted, weight.index_select(0, classes.flatten()).view(classes.shape), 0).sum()

    def _named_after(self, reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def reduced(inputs: Tensor, targets: Tensor, weight: Tensor | None, *others: Any) -> Tensor:
            losses = self.losses(inputs, targets, weight, *others[:-1])
            return losses if others[-1] == NONE else losses.sum()

        # Whose it is: registration names the op's public function by its module.
        reduced.__module__ = reference.__module__
        return reduced

    def losses(self, inputs: Tensor, targets: Tensor, weight: Tensor | None, *others: Any) -> Tensor:
        """Each row's loss in plain PyTorch: a sum over classes, written out."""
        *numbers, ignore_index, label_smoothing = others
        classes, inputs = inputs.shape[1], inputs.to(computed_dtype(inputs))
        ignored = torch.zeros_like(inputs[:, :1], dtype=torch.bool)
        if targets.is_floating_point():
            probabilities = targets.to(inputs.dtype)
        else:
            ignored = (targets == ignore_index).unsqueeze(1)
            numbered = torch.arange(classes, device=inputs.device).view(-1, *[1] * (inputs.dim() - 2))
            probabilities = (targets.unsqueeze(1) == numbered).to(inputs.dtype)
        counts = probabilities * (1 - label_smoothing) + label_smoothing / classes
        if weight is not None:
            counts = counts * weight.to(inputs.dtype).view(-1, *[1] * (inputs.dim() - 2))
        log_p = torch.log_softmax(torch.where(ignored, 0, inputs), 1)
        # A class that does not count costs nothing, however impossible it is. (Without ==, which older versions of ONNX
        # have of integers only.)
        impossible = log_p < torch.finfo(log_p.dtype).min
        nothing = (impossible & (counts <= 0) & (counts >= 0)) | ignored
        terms = counts * self.of_class(torch.where(nothing, -1, log_p), *numbers)
        return torch.where(nothing, 0, terms).sum(1)

    def fake_loss(self, inputs: Tensor, targets: Tensor, weight: Tensor | None, *others: Any) -> Tensor:
        rows = rows_of(self.title, "inputs", inputs)
        wanted = inputs.shape if targets.is_floating_point() else rows
        torch._check(
            tuple(targets.shape) == tuple(wanted),
            lambda: (
                f"{self.title}: targets must be class numbers, int64 of shape {tuple(rows)}, or probabilities of shape "
                f"{tuple(inputs.shape)}, for these inputs; got {tuple(targets.shape)} of {targets.dtype}"
            ),
        )
        torch._check(
            targets.device == inputs.device,
            lambda: f"{self.title}: targets must be on the device of inputs, {inputs.device}; got {targets.device}",
        )
        return inputs.new_empty(rows if others[-1] == NONE else (), dtype=computed_dtype(inputs))

    def losses_like(self, tensors: Mapping[str, Any]) -> Tensor:
        return tensors["inputs"].select(2, 0)

    def every_dimension_but_the_classes(
        self, inputs: Any, targets: Any, reduction: int, **_: Any
    ) -> list[dict[str, int | None]]:
        """A sum over shards is a partial sum; a mean is a sum divided by one, see ``__call__``."""
        ways: list[dict[str, int | None]] = []
        for row, dim in row_splits(len(inputs.shape)):
            of_targets = dim if len(targets.shape) == len(inputs.shape) else row
            ways.append({"inputs": dim, "targets": of_targets, "weight": None, "output": None if reduction else row})
        return ways


def class_numbers(inputs: Tensor, targets: Tensor) -> Tensor:
    """Integers as the kernels have them; bool, complex and others are left to the kernel, which says what it wants."""
    convert = inputs.is_floating_point() and not (targets.is_floating_point() or targets.is_complex())
    return targets.to(torch.int64) if convert and targets.dtype is not torch.bool else targets


def rows_of(op: str, argument: str, logits: Tensor) -> tuple[int, ...]:
    """For fakes: the shape of (batch, classes, positions...) without the classes."""
    torch._check(
        logits.dim() >= 2,
        lambda: f"{op}: {argument} must have shape (batch, classes, ...); got {tuple(logits.shape)}",
    )
    return (logits.shape[0], *logits.shape[2:])


def row_splits(rank: int) -> list[tuple[int, int]]:
    """Along what a call can be split: each dimension of the rows, and of the logits, all but their classes."""
    return [(row, row + (row > 0)) for row in range(rank - 1)]


class RowLossModule(LossModule):
    """A row loss as a module, which averages unless told otherwise; ``weight`` is a buffer, as in torch."""

    weight: Tensor | None

    def __init__(
        self,
        function: Callable[..., Tensor],
        check_numbers: Callable[..., None],
        weight: Tensor | None,
        ignore_index: int,
        label_smoothing: float,
        reduction: str,
        **numbers: float,
    ) -> None:
        super().__init__(function, check_numbers, reduction, **numbers)
        check_row_numbers(function.__name__, ignore_index, label_smoothing)
        if weight is not None:
            check_tensor(function.__name__, "weight", weight)
        self.register_buffer("weight", weight)
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._function(
            inputs,
            targets,
            **{name: getattr(self, name) for name in self._numbers},
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        numbers = "".join(f"{name}={getattr(self, name)}, " for name in self._numbers)
        return (
            f"{numbers}ignore_index={self.ignore_index}, label_smoothing={self.label_smoothing}, "
            f"reduction={self.reduction!r}"
        )


def check_row_numbers(op: str, ignore_index: int, label_smoothing: float) -> int:
    check_range(op, "label_smoothing", label_smoothing, 0, 1, "a number in [0, 1]")
    return check_int(op, "ignore_index", ignore_index, -INT64_MAX, expected="a whole number")
