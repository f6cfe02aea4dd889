"""Derivatives of an op that is linear in its first tensor, an image, beside a second one that it is not linear in."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from handgrad.derivatives import Derivatives


class LinearInImage(Derivatives):
    """Where nobody asks for the second tensor's, only grad_output of the image's gradient is differentiated: the image
    has no second derivative, and no zeros are made for one."""

    def second_derivative(self, ctx: Any, *grad_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.needs_input_grad[2] or ctx.mask[1]:
            return super().second_derivative(ctx, *grad_grads)
        nones: list[Tensor | None] = [None] * (len(self.backward_op.tensors) + len(self.backward_op.others))
        if grad_grads[0] is not None:
            mask = [True, False, False]
            nones[0] = self.double_backward(grad_grads[0], None, *ctx.saved_tensors, *ctx.others, mask)[0]
        return tuple(nones)


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
