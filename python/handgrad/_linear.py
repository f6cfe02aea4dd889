"""Derivatives of an op that is linear in its first tensor, an image, beside a second one that it is not linear in."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from handgrad.derivatives import Derivatives


def along_grad_output(op: Derivatives, ctx: Any, grad_grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """The second derivative of a gradient that depends on grad_output alone, almost everywhere: no zeros are made for
    the other tensors."""
    nones: list[Tensor | None] = [None] * (len(op.backward_op.tensors) + len(op.backward_op.others))
    directions = [grad if asked else None for grad, asked in zip(grad_grads, ctx.mask, strict=True)]
    if any(direction is not None for direction in directions):
        mask = [result == "grad_grad_output" for result in op.double_backward_op.results]
        nones[0] = op.double_backward(*directions, *ctx.saved_tensors, *ctx.others, mask)[0]
    return tuple(nones)


class LinearInImage(Derivatives):
    """Where nobody asks for the second tensor's, only grad_output of the image's gradient is differentiated: the image
    has no second derivative, and no zeros are made for one."""

    def second_derivative(self, ctx: Any, *grad_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.needs_input_grad[2] or ctx.mask[1]:
            return super().second_derivative(ctx, *grad_grads)
        return along_grad_output(self, ctx, grad_grads)


class Linear(LinearInImage):
    """Where only the first tensor is differentiated, the derivative of its gradient along a direction is the op itself,
    of that direction: so derivatives of any order are the op's kernels."""

    def second_derivative(self, ctx: Any, *grad_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        count = len(self.backward_op.tensors)
        if any(ctx.needs_input_grad[2:count]) or any(ctx.mask[1:]):
            return super(LinearInImage, self).second_derivative(ctx, *grad_grads)
        nones: list[Tensor | None] = [None] * (count + len(self.backward_op.others))
        if grad_grads[0] is not None:
            nones[0] = self.forward(grad_grads[0], *ctx.saved_tensors[2:], *ctx.others)
        return tuple(nones)
