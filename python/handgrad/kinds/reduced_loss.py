"""Losses of two tensors with a reduction, none, mean or sum: what the kinds of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from handgrad.derivatives import Call, Derivatives
from handgrad.reductions import NONE, reduce, reduce_samples, reduction_code, sample_scale

__all__ = ["LossModule", "ReducedLoss", "reduced"]


class ReducedLoss(Derivatives):
    """A loss whose ops take ``int reduction``."""

    def losses_like(self, tensors: Mapping[str, Any]) -> Tensor:
        """A tensor of the shape of the losses before they are reduced, from the op's tensors."""
        raise NotImplementedError

    def batched(self, call: Call) -> list[Tensor]:
        """Each sample is reduced by itself: of the op a map of losses is asked."""
        reduction = call.others["reduction"]
        tensors = dict(call.tensors)
        if "grad_output" in tensors:
            tensors["grad_output"] = sample_scale(tensors["grad_output"], self.losses_like(tensors), reduction)
        results = super().batched(replace(call, tensors=tensors, others={**call.others, "reduction": NONE}))
        return [
            self.reduce_samples(result, reduction)
            if name in ("output", "grad_grad_output") and call.asks_for(name)
            else result
            for name, result in zip(call.op.results, results, strict=True)
        ]

    def reduce_samples(self, losses: Tensor, reduction: int) -> Tensor:
        """Reduces each sample of a batch (the first dimension) by itself."""
        return reduce_samples(losses, reduction)


def reduced(
    reference: Callable[..., Tensor], reduction: Callable[[Tensor, int], Tensor] = reduce
) -> Callable[..., Tensor]:
    """``reference`` with a reduction for its last argument, which ``reduction`` makes of the losses."""

    def with_reduction(first: Tensor, second: Tensor, *numbers: Any) -> Tensor:
        return reduction(reference(first, second, *numbers[:-1]), numbers[-1])

    # Whose it is: registration names the op's public function by its module.
    with_reduction.__module__ = reference.__module__
    return with_reduction


class LossModule(nn.Module):
    """A loss as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        function: ``function(inputs, targets, **numbers, reduction=...)``.
        check_numbers: what checks the numbers that a user typed.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        numbers: the loss' own, by name; they become attributes.
    """

    reduction: str

    def __init__(
        self,
        function: Callable[..., Tensor],
        check_numbers: Callable[..., Any],
        reduction: str,
        **numbers: Any,
    ) -> None:
        super().__init__()
        # So that a mistake shows at construction.
        check_numbers(*numbers.values())
        reduction_code(function.__name__, reduction)
        self._function, self._numbers = function, tuple(numbers)
        for name, value in numbers.items():
            setattr(self, name, value)
        self.reduction = reduction

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        numbers = {name: getattr(self, name) for name in self._numbers}
        return self._function(inputs, targets, **numbers, reduction=self.reduction)

    def extra_repr(self) -> str:
        numbers = "".join(f"{name}={getattr(self, name)!r}, " for name in self._numbers)
        return f"{numbers}reduction={self.reduction!r}"
