"""Losses of inputs and targets, element by element: all but the formula.

The op's schema is ``foo(Tensor inputs, Tensor targets, <numbers>, int reduction) -> Tensor``, its private ops' are
as :mod:`handgrad.derivatives` has them; the C++ half is ``csrc/common/kinds/elementwise_loss.h``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from handgrad.arguments import check_like, check_tensor, is_sharded
from handgrad.derivatives import ELEMENTWISE
from handgrad.kinds.reduced_loss import LossModule, ReducedLoss, reduced
from handgrad.reductions import MEAN, NONE, SUM, reduction_code

__all__ = ["ElementwiseLoss", "LossModule"]


class ElementwiseLoss(ReducedLoss):
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
            reference=reduced(reference),
            fake=self.fake_loss,
            roles=ELEMENTWISE,
            autocast=torch.float32,
            onnx=None if onnx is None else reduced(onnx),
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

    def losses_like(self, tensors: Mapping[str, Any]) -> Tensor:
        return tensors["inputs"]

    def every_dimension(self, inputs: Any, reduction: int, **_: Any) -> list[dict[str, int | None]]:
        """A sum over shards is a partial sum; the mean never gets here sharded, see ``__call__``."""
        dims = range(len(inputs.shape) if reduction != MEAN else 0)
        return [{"inputs": dim, "targets": dim, "output": None if reduction else dim} for dim in dims]


def _promoted(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if not inputs.is_floating_point() or targets.is_complex():
        return inputs, targets  # the kernel says what it wants
    dtype = torch.promote_types(inputs.dtype, targets.dtype)
    return inputs.to(dtype), targets.to(dtype)
