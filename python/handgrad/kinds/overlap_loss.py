"""Losses of how much predictions and targets overlap, class by class: all but the formula.

Such a loss is two ops. The first reads inputs and targets and sums them for each sample and class; it is the same for
all losses. The second is the loss' own, a formula of these sums: its schema is
``foo(Tensor sums, <numbers>, bool skip_absent, int reduction) -> Tensor``, its private ops' are as
:mod:`handgrad.derivatives` has them; the C++ half is ``csrc/common/kinds/overlap_loss.h``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from handgrad._sharding import replicated_beside
from handgrad.arguments import FLOAT_MAX, check_bool, check_choice, check_range, check_tensor, is_sharded
from handgrad.derivatives import ELEMENTWISE
from handgrad.kinds.reduced_loss import ReducedLoss
from handgrad.losses.overlap_sums import check_activation, sums_for
from handgrad.reductions import MEAN, NONE, SUM, reduce_or_zero, reduce_samples_or_zero, reduction_code

__all__ = ["OverlapLoss", "OverlapLossModule", "check_positive"]

#: What becomes of a class that no target is of.
_ABSENT = ("count", "zero", "skip")


class OverlapLoss(ReducedLoss):
    """Registers an overlap loss and calls it, with the checks and conversions that all of them share.

    Args:
        name: ``"namespace::op"``.
        reference: the loss of each class in plain PyTorch, ``reference(sums, *numbers)`` with sums (..., 3), without a
            reduction, and without regard to absent classes.
        together: whether the classes of a sample have one loss. The reference then gets sums (..., C, 3), and after
            the numbers ``skip_absent``, of which it makes what it means to the loss.

    Example::

        >>> _loss = OverlapLoss("my_ops::my_loss", my_loss_reference)
        >>> _loss(inputs, targets, "softmax", None, None, False, False, "count", "mean", smooth, eps)
    """

    def __init__(self, name: str, reference: Callable[..., Tensor], *, together: bool = False) -> None:
        self.formula, self.together = reference, together
        super().__init__(
            name,
            reference=self.reduced_reference(reference),
            fake=self.fake_loss,
            roles=ELEMENTWISE,
            gradient_like=lambda sums: sums.new_empty(sums.shape),
            splits=self.leading_dimensions,
        )

    def __call__(
        self,
        inputs: Tensor,
        targets: Tensor,
        activation: str,
        ignore_index: int | None,
        weight: Tensor | None,
        batch: bool,
        squared: bool,
        absent: str,
        reduction: str,
        *numbers: float,
    ) -> Tensor:
        """The loss; numbers that a user typed are checked by the caller."""
        check_bool(self.title, "batch", batch)
        check_choice(self.title, "absent", absent, _ABSENT)
        code = reduction_code(self.title, reduction)
        sums = sums_for(self.title, inputs, targets, activation, ignore_index, squared)
        if batch:
            sums = sums.sum(0)
        if weight is not None:
            weight = _weighted(self.title, weight, sums)
        numbers = (*numbers, absent != "count")
        skips = absent == "skip" and code == MEAN
        if weight is None and not (skips or (code == MEAN and is_sharded(sums))):
            return self.forward(sums, *numbers, code)
        if weight is None:
            losses = self.forward(sums, *numbers, SUM)
        else:
            losses = self.forward(sums, *numbers, NONE) * weight
            # In two steps, each of which torch takes in one order for any number of threads.
            losses = losses if code == NONE else losses.sum(-1).sum()
        if code != MEAN:
            return losses
        return losses / (self.present(sums) if skips else max(1, self.losses_like({"sums": sums}).numel()))

    def present(self, sums: Tensor) -> Tensor:
        """How many losses there are that count: of classes with a target, or of samples with any; at least 1."""
        there = sums.detach()[..., 2] != 0
        return (there.any(-1) if self.together else there).sum().clamp(min=1)

    def reduced_reference(self, reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def reduced(sums: Tensor, *numbers: Any) -> Tensor:
            if self.together:
                losses = reference(sums, *numbers[:-1])
            else:
                losses = reference(sums, *numbers[:-2])
                losses = torch.where(sums[..., 2].bool(), losses, 0) if numbers[-2] else losses
            return reduce_or_zero(losses, numbers[-1])

        # Whose it is: registration names the op's public function by its module.
        reduced.__module__ = reference.__module__
        return reduced

    def fake_loss(self, sums: Tensor, *numbers: Any) -> Tensor:
        return sums.new_empty(self.losses_like({"sums": sums}).shape if numbers[-1] == NONE else ())

    def losses_like(self, tensors: Mapping[str, Any]) -> Tensor:
        return tensors["sums"][..., 0, 0] if self.together else tensors["sums"][..., 0]

    def reduce_samples(self, losses: Tensor, reduction: int) -> Tensor:
        return reduce_samples_or_zero(losses, reduction)

    def leading_dimensions(self, sums: Any, reduction: int, **_: Any) -> list[dict[str, int | None]]:
        """A sum over shards is a partial sum; the mean never gets here sharded, see ``__call__``."""
        dims = range(len(sums.shape) - (2 if self.together else 1) if reduction != MEAN else 0)
        return [{"sums": dim, "output": None if reduction else dim} for dim in dims]


class OverlapLossModule(nn.Module):
    """An overlap loss as a module.

    Args:
        function: the public function.
        check_numbers: what checks the numbers that a user typed.
        weight: becomes a buffer.
        settings: the function's other keyword arguments; they become attributes.
    """

    weight: Tensor | None

    def __init__(
        self,
        function: Callable[..., Tensor],
        check_numbers: Callable[..., None],
        numbers: Mapping[str, Any],
        weight: Tensor | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        # So that a mistake shows at construction.
        op = function.__name__
        check_numbers(*numbers.values())
        check_activation(op, settings["activation"])
        check_bool(op, "batch", settings["batch"])
        check_choice(op, "absent", settings["absent"], _ABSENT)
        reduction_code(op, settings["reduction"])
        if weight is not None:
            check_tensor(op, "weight", weight)
        self._function, self._settings = function, (*settings, *numbers)
        for name, value in {**settings, **numbers}.items():
            setattr(self, name, value)
        self.register_buffer("weight", weight)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        settings = {name: getattr(self, name) for name in self._settings}
        if self.weight is not None:
            settings["weight"] = self.weight
        return self._function(inputs, targets, **settings)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self._settings)


def check_positive(op: str, **numbers: float) -> None:
    """Each of ``numbers``, by name, is finite and at least 0."""
    for name, value in numbers.items():
        check_range(op, name, value, 0, FLOAT_MAX, "a finite number, at least 0")


def _weighted(op: str, weight: Any, sums: Tensor) -> Tensor:
    """The weights of classes, as the losses take them."""
    check_tensor(op, "weight", weight)
    classes = sums.shape[-2]
    if weight.shape != (classes,) or not weight.is_floating_point():
        raise ValueError(
            f"{op}: weight must have a number for each of the {classes} classes, (C,); got {tuple(weight.shape)} of "
            f"{weight.dtype}"
        )
    return replicated_beside(sums, weight.to(sums.dtype))
