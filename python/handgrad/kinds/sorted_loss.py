"""Losses of the sorted errors of each class, the Lovász extension of the Jaccard loss: all but the errors.

The op's schema is ``foo(Tensor inputs, Tensor targets, Tensor? weight, <numbers>, int? ignore_index) -> Tensor``, its
private ops' are as :mod:`handgrad.derivatives` has them; the C++ half is ``csrc/common/kinds/sorted_loss.h``. Inputs
are (groups, samples, classes, positions...), and all positions of all samples of a group are sorted together: a loss of
each image by itself has groups of one sample, one of the batch a single group. The op returns the loss of each group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from handgrad.arguments import INT64_MAX, check_bool, check_int, computed_dtype
from handgrad.derivatives import BATCHED, WHOLE, Derivatives
from handgrad.kinds.reduced_loss import LossModule
from handgrad.reductions import NONE, reduce_or_zero, reduction_code

__all__ = ["SortedLoss", "SortedLossModule", "check_sorted_numbers"]


class SortedLoss(Derivatives):
    """Registers a loss of sorted errors and calls it, with the checks and conversions that all of them share.

    Args:
        name: ``"namespace::op"``.
        reference: the errors in plain PyTorch, ``reference(inputs, foreground, *numbers)``, of inputs (groups, samples,
            classes, positions...) in float32 or float64 and ``foreground`` like them, 1 or 0. Errors below 0 count as
            0.
        first_class: the class number that is class 0.

    Example::

        >>> _loss = SortedLoss("my_ops::my_loss", my_loss_reference, first_class=0)
        >>> _loss(inputs, targets, None, per_image, ignore_index, "mean", from_logits, skip_absent)
    """

    def __init__(self, name: str, reference: Callable[..., Tensor], *, first_class: int) -> None:
        self.errors, self.first_class = reference, first_class
        super().__init__(
            name,
            reference=self._named_after(reference, onnx=False),
            fake=self.fake_loss,
            roles={"inputs": BATCHED, "targets": BATCHED, "weight": WHOLE, "output": BATCHED},
            gradient_like=_empty_gradient,
            autocast=torch.float32,
            onnx=self._named_after(reference, onnx=True),
            splits=self.groups_of_one_sample,
        )

    def __call__(
        self,
        inputs: Tensor,
        targets: Tensor,
        weight: Tensor | None,
        per_image: bool,
        ignore_index: int | None,
        reduction: str,
        *numbers: bool,
    ) -> Tensor:
        """The loss of (samples, classes, positions...); numbers that a user typed are checked by the caller."""
        code = reduction_code(self.title, reduction)
        groups = 1 if per_image else 0
        inputs, targets = inputs.unsqueeze(groups), _whole(targets).unsqueeze(groups)
        losses = self.forward(inputs, targets, weight, *numbers, ignore_index)
        return reduce_or_zero(losses, code) if per_image or code == NONE else losses.squeeze(0)

    def groups_of_one_sample(self, inputs: Any, **_: Any) -> list[dict[str, int | None]]:
        """Groups are independent of each other; their samples are not."""
        return [{"inputs": 0, "targets": 0, "weight": None, "output": 0}] if inputs.shape[1] == 1 else []

    def fake_loss(self, inputs: Tensor, targets: Tensor, weight: Tensor | None, *others: Any) -> Tensor:
        wanted = (*inputs.shape[:2], *inputs.shape[3:])
        torch._check(
            tuple(targets.shape) == wanted,
            lambda: f"{self.title}: targets must be int64 of shape {tuple(wanted)}; got {tuple(targets.shape)}",
        )
        torch._check(
            targets.device == inputs.device,
            lambda: f"{self.title}: targets must be on the device of inputs, {inputs.device}; got {targets.device}",
        )
        return inputs.new_empty(inputs.shape[0], dtype=computed_dtype(inputs))

    def _named_after(self, reference: Callable[..., Tensor], *, onnx: bool) -> Callable[..., Tensor]:
        def groups(inputs: Tensor, targets: Tensor, weight: Tensor | None, *others: Any) -> Tensor:
            return self.losses(inputs, targets, weight, *others, onnx=onnx)

        # Whose it is: registration names the op's public function by its module.
        groups.__module__ = reference.__module__
        return groups

    def losses(
        self, inputs: Tensor, targets: Tensor, weight: Tensor | None, *others: Any, onnx: bool = False
    ) -> Tensor:
        """Each group's loss in plain PyTorch: errors from the largest down, each times what it adds to the Jaccard loss
        of those before it. ``others`` are the op's numbers, the last of which is ``skip_absent``, and
        ``ignore_index``. For ``onnx`` the sort becomes TopK, which is stable; torch's exporter does not know the one
        that says so."""
        *numbers, ignore_index = others
        classes = inputs.shape[2]
        numbered = torch.arange(classes, device=inputs.device) + self.first_class
        counted = torch.ones_like(targets, dtype=torch.bool) if ignore_index is None else targets != ignore_index
        wrong = counted & ((targets < 0) | (targets >= classes + self.first_class))
        shape = (classes, *[1] * (inputs.dim() - 3))
        foreground = (targets.unsqueeze(2) == numbered.view(shape)) & counted.unsqueeze(2)
        inputs = inputs.to(computed_dtype(inputs))
        errors = self.errors(inputs, foreground.to(inputs.dtype), *numbers).relu()
        errors = torch.where(wrong.unsqueeze(2), torch.nan, torch.where(counted.unsqueeze(2), errors, 0))
        errors, foreground = (of.movedim(2, 1).flatten(2) for of in (errors, foreground))  # (G, C, S P)
        errors, order = errors.sort(dim=-1, descending=True, **({} if onnx else {"stable": True}))
        weights = _weights(foreground.gather(-1, order), _onnx_cumsum if onnx else _cumsum).to(errors.dtype)
        losses = torch.where(weights > 0, errors * weights, 0).sum(-1)
        scale = torch.ones_like(losses) if weight is None else weight.expand_as(losses)
        if numbers and numbers[-1]:
            scale = torch.where(foreground.any(-1), scale, 0)
        return torch.where(scale > 0, scale * losses, 0).sum(1) / scale.sum(1).clamp(min=_TINY)


def _cumsum(numbers: Tensor) -> Tensor:
    return numbers.cumsum(-1)


def _onnx_cumsum(numbers: Tensor) -> Tensor:
    from handgrad.onnx import operator

    axis = torch.full((), numbers.dim() - 1)
    # Before this version the classic exporter does not know it, nor a sort of an open size.
    return operator("CumSum", [numbers, axis], dtype=numbers.dtype, shape=numbers.shape, since=11)


def _weights(foreground: Tensor, cumsum: Callable[[Tensor], Tensor]) -> Tensor:
    """What errors (..., P) are multiplied by, from the largest down; by the definition, from the Jaccard losses of all
    sets of the largest ones. Of no errors that is 0, also where there is no foreground."""
    each = foreground.to(torch.float64)
    every = each.sum(-1, keepdim=True)
    jaccard = 1 - (every - cumsum(each)) / (every + cumsum(1 - each))
    return torch.cat([jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]], -1)


#: A divisor that is no 0, of sums that are 0 too.
_TINY = 1e-30


class SortedLossModule(LossModule):
    """A loss of sorted errors as a module, which averages unless told otherwise.

    Args:
        function: ``function(inputs, targets, **settings)``.
        check_numbers: what checks the settings that a user typed, by name.
        settings: they become attributes.
    """

    def __init__(
        self, function: Callable[..., Tensor], check_numbers: Callable[..., Any], reduction: str, **settings: Any
    ) -> None:
        super().__init__(function, lambda *_: check_numbers(**settings), reduction, **settings)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in (*self._numbers, "reduction"))


def check_sorted_numbers(op: str, per_image: bool, ignore_index: int | None) -> int | None:
    check_bool(op, "per_image", per_image)
    if ignore_index is None:
        return None
    return check_int(op, "ignore_index", ignore_index, -INT64_MAX, expected="a whole number, or None")


def _whole(targets: Tensor) -> Tensor:
    """Targets as int64. A number that is not whole becomes one that is no class."""
    if targets.is_floating_point():
        targets = torch.where(targets == targets.floor(), targets, -INT64_MAX)
    return targets if targets.is_complex() else targets.to(torch.int64)


def _empty_gradient(inputs: Tensor) -> Tensor:
    """Classes innermost where they are so in ``inputs``, otherwise contiguous; the kernels have the same rule."""
    last = inputs.movedim(2, -1)
    if inputs.is_contiguous() or not last.is_contiguous():
        return inputs.new_empty(inputs.shape)
    return inputs.new_empty(last.shape).movedim(-1, 2)
