"""The autograd Functions of an op and of its backward: first and second derivatives, and forward mode."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from handgrad.derivatives.references import References
from handgrad.derivatives.roles import argument_of, has_gradient


class Functions(References):
    def prepare(self) -> None:
        """What every call needs to know, found out once."""
        position = self.op.tensors.index
        self._gradients = [position(tensor) for tensor in self.differentiable]
        # Which argument of the backward a result of the double backward is the gradient of.
        of_backward = self.backward_op.tensors.index
        self._positions = [
            of_backward("grad_output" if result == "grad_grad_output" else argument_of(result))
            for result in self.double_backward_op.results
        ]

    def first_derivative(self) -> tuple[Callable[..., None], Callable[..., Any]]:
        """The Function's ``setup_context`` and ``backward``: a gradient for each argument that wants one, None for the
        others. Closures, and little Python in them, because beside a small tensor every look-up shows."""
        count, single = len(self.op.tensors), len(self._gradients) == 1
        saved = picker([self.op.tensors.index(tensor) for tensor in self.backward_op.tensors[1:]])
        asked_for = picker(self._gradients)
        extras = self._extras if self.extras else tuple
        # Usually the first arguments are the differentiable ones; else this puts their gradients where they belong.
        order = self._gradients + [k for k in range(count + len(self.op.others)) if k not in self._gradients]
        others = (None,) * (len(order) - len(self._gradients))
        rearranged = None if order == sorted(order) else picker([order.index(k) for k in range(len(order))])

        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            tensors = saved(inputs)
            ctx.others = inputs[count:]
            ctx.save_for_backward(*tensors)
            ctx.save_for_forward(*tensors)

        def backward(ctx: Any, grad_output: Tensor) -> Any:
            mask = asked_for(ctx.needs_input_grad)
            grads = self.backward(grad_output, *ctx.saved_tensors, *ctx.others, *extras(), mask)
            if single:
                return (grads, *others)
            grads = [grads[k] if asked else None for k, asked in enumerate(mask)]
            return (*grads, *others) if rearranged is None else rearranged((*grads, *others))

        return setup_context, backward

    def jvp(self, ctx: Any, *tangents: Tensor | None) -> Tensor:
        """The backward is linear in grad_output, with the transposed Jacobian for its matrix; differentiated with
        respect to grad_output it gives the Jacobian itself, whatever grad_output is: the double backward's first
        result."""
        tensors = ctx.saved_tensors
        directions = [tangents[position] for position in self._gradients]
        output = self._output(tensors, ctx.others)
        no_matter = output.new_zeros(()).expand(output.shape)
        mask = [name == "grad_grad_output" for name in self.double_backward_op.results]
        return self.double_backward(*directions, no_matter, *tensors, *ctx.others, *self._extras(), mask)[0]

    def _output(self, tensors: tuple[Any, ...], others: tuple[Any, ...]) -> Tensor:
        named = dict(zip(self.backward_op.tensors[1:], tensors, strict=True))
        return self.fake(*(named.get(name) for name in self.op.tensors), *others)

    def _extras(self) -> tuple[Any, ...]:
        return tuple(value() for value in self.extras.values())

    def setup_backward(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        count = len(self.backward_op.tensors)
        ctx.others, ctx.mask = inputs[count:-1], inputs[-1]
        ctx.save_for_backward(*inputs[:count])
        ctx.save_for_forward(*inputs[:count])
        ctx.set_materialize_grads(False)

    def second_derivative(self, ctx: Any, *grad_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        nones: list[Tensor | None] = [None] * (len(self.backward_op.tensors) + len(self.backward_op.others))
        directions = [grad if asked else None for grad, asked in zip(grad_grads, ctx.mask, strict=True)]
        if all(direction is None for direction in directions):
            return tuple(nones)
        mask = tuple(ctx.needs_input_grad[position] for position in self._positions)
        grads = self.double_backward(*directions, *ctx.saved_tensors, *ctx.others, mask)
        for position, grad, asked in zip(self._positions, grads, mask, strict=True):
            if asked:
                nones[position] = grad
        return tuple(nones)

    def jvp_of_backward(self, ctx: Any, grad_tangent: Tensor | None, *tangents: Tensor | None) -> Any:
        """Linear in grad_output; and the Hessian of sum(grad_output * output) is symmetric, so H v is what the double
        backward makes of v."""
        grad_output, *tensors = ctx.saved_tensors
        named = dict(zip(self.backward_op.tensors[1:], tangents, strict=False))
        total: dict[str, Tensor] = {}
        if grad_tangent is not None:
            grads = self.backward(grad_tangent, *tensors, *ctx.others, ctx.mask)
            total = dict(zip(self.differentiable, (grads,) if isinstance(grads, Tensor) else grads, strict=True))
        directions = [named.get(name) for name in self.differentiable]
        if any(direction is not None for direction in directions):
            asked = dict(zip(self.differentiable, ctx.mask, strict=True))
            results = self.double_backward_op.results
            mask = [name != "grad_grad_output" and asked[argument_of(name)] for name in results]
            products = self.double_backward(*directions, grad_output, *tensors, *ctx.others, mask)
            for result, product, wanted in zip(results, products, mask, strict=True):
                name = argument_of(result)
                if wanted:
                    total[name] = total[name] + product if name in total else product
        arguments = dict(zip(self.backward_op.tensors[1:], tensors, strict=True))
        made: list[Tensor] = []
        for name, asked_for in zip(self.differentiable, ctx.mask, strict=True):
            argument = arguments.get(name)
            if name in total and has_gradient(arguments, name):
                made.append(total[name])
            elif not asked_for or not has_gradient(arguments, name):
                made.append(tensors[0].new_zeros(0))
            else:
                made.append(self.like_omitted(name, arguments) if argument is None else torch.zeros_like(argument))
        return made[0] if len(made) == 1 else tuple(made)


def picker(positions: list[int]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    if len(positions) == 1:
        (position,) = positions
        return lambda values: (values[position],)
    return itemgetter(*positions)


def function_of(name: str, setup_context: Any, backward: Any, jvp: Any, vmap: Any) -> Any:
    """An autograd Function of these methods."""
    methods = {"setup_context": setup_context, "backward": backward, "jvp": jvp, "vmap": vmap}
    return type(name, (torch.autograd.Function,), {key: staticmethod(value) for key, value in methods.items()})
