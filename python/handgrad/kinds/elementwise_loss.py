"""Losses of inputs and targets, element by element: all but the formula.

The op's schema is ``foo(Tensor inputs, Tensor targets, <numbers>, int reduction) -> Tensor``, its private ops' are
as :mod:`handgrad.derivatives` has them; the C++ half is ``csrc/common/kinds/elementwise_loss.h``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from handgrad.arguments import check_like, check_tensor, is_sharded
from handgrad.derivatives import ELEMENTWISE, Call, Derivatives
from handgrad.reductions import MEAN, NONE, SUM, reduce, reduce_samples, reduction_code, sample_scale

__all__ = ["ElementwiseLoss", "LossModule"]


class ElementwiseLoss(Derivatives):
    """Registers an elementwise loss and calls it, with the checks and conversions that all of them share.

    Args:
        name: ``"namespace::op"``.
        reference: the loss of each element in plain PyTorch, ``reference(inputs, targets, *numbers)``, without a
            reduction.
        onnx: the same for ONNX export, where the reference is not what should be exported.

    Example::

        >>> _loss = ElementwiseLoss("my_ops::my_loss", my_loss_reference)
        >>> _loss(inputs, targets, "mean", gamma)
    """

    def __init__(
        self, name: str, reference: Callable[..., Tensor], *, onnx: Callable[..., Tensor] | None = None
    ) -> None:
        super().__init__(
            name,
            reference=_reduced(reference),
            fake=self.fake_loss,
            roles=ELEMENTWISE,
            autocast=torch.float32,
            onnx=None if onnx is None else _reduced(onnx),
            splits=self.every_dimension,
        )

    def __call__(self, inputs: Tensor, targets: Tensor, reduction: str, *numbers: float) -> Tensor:
        """The loss; numbers that a user typed are checked by the caller."""
        check_tensor(self.title, "inputs", inputs)
        check_tensor(self.title, "targets", targets)
        if inputs.dtype is not targets.dtype:
            inputs, targets = _promoted(inputs, targets)
        code = reduction_code(self.title, reduction)
        if code == MEAN and is_sharded(inputs):
            # A mean of shards' means is the mean only if the shards are of one size; a sum of sums is the sum.
            return self.forward(inputs, targets, *numbers, SUM) / inputs.numel()
        return self.forward(inputs, targets, *numbers, code)

    def fake_loss(self, inputs: Tensor, targets: Tensor, *numbers: Any) -> Tensor:
        check_like(self.title, "targets", targets, "inputs", inputs)
        return torch.empty_like(inputs) if numbers[-1] == NONE else inputs.new_empty(())

    def batched(self, call: Call) -> list[Tensor]:
        """Each sample is reduced by itself: of the op a map of losses is asked."""
        reduction = call.others["reduction"]
        tensors = dict(call.tensors)
        if "grad_output" in tensors:
            tensors["grad_output"] = sample_scale(tensors["grad_output"], tensors["inputs"], reduction)
        results = super().batched(replace(call, tensors=tensors, others={**call.others, "reduction": NONE}))
        return [
            reduce_samples(result, reduction)
            if name in ("output", "grad_grad_output") and call.asks_for(name)
            else result
            for name, result in zip(call.op.results, results, strict=True)
        ]

    def every_dimension(self, inputs: Any, reduction: int, **_: Any) -> list[dict[str, int | None]]:
        """A sum over shards is a partial sum; the mean never gets here sharded, see ``__call__``."""
        dims = range(len(inputs.shape) if reduction != MEAN else 0)
        return [{"inputs": dim, "targets": dim, "output": None if reduction else dim} for dim in dims]


class LossModule(nn.Module):
    """A loss as a module, which averages unless told otherwise, as losses in torch.nn do.

    Args:
        function: ``function(inputs, targets, *numbers, reduction)``.
        check_numbers: what checks the numbers that a user typed.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        numbers: the loss' own, by name, in the order of ``function``; they become attributes.
    """

    reduction: str

    def __init__(
        self,
        function: Callable[..., Tensor],
        check_numbers: Callable[..., None],
        reduction: str,
        **numbers: float,
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
        return self._function(inputs, targets, *(getattr(self, name) for name in self._numbers), self.reduction)

    def extra_repr(self) -> str:
        numbers = "".join(f"{name}={getattr(self, name)}, " for name in self._numbers)
        return f"{numbers}reduction={self.reduction!r}"


def _reduced(reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduced(inputs: Tensor, targets: Tensor, *numbers: Any) -> Tensor:
        return reduce(reference(inputs, targets, *numbers[:-1]), numbers[-1])

    # Whose it is: registration names the op's public function by its module.
    reduced.__module__ = reference.__module__
    return reduced


def _promoted(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if not inputs.is_floating_point() or targets.is_complex():
        return inputs, targets  # the kernel says what it wants
    dtype = torch.promote_types(inputs.dtype, targets.dtype)
    return inputs.to(dtype), targets.to(dtype)
