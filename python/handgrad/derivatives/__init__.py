"""From what an op's author writes, a reference and the shape of the result, to everything torch wants to know of its
derivatives.

A differentiable op is three ops: itself, ``_foo_backward`` and ``_foo_double_backward``, each with a kernel. Their
schemas say how they hang together, because names do: ``grad_x`` is the gradient of the argument ``x``,
``grad_grad_x`` the direction along which ``grad_x`` is differentiated, ``output_mask`` has a bool for each result::

    foo(Tensor x, Tensor? y, float alpha) -> Tensor
    _foo_backward(Tensor grad_output, Tensor x, Tensor? y, float alpha, bool[2] output_mask)
        -> (Tensor grad_x, Tensor grad_y)
    _foo_double_backward(Tensor? grad_grad_x, Tensor? grad_grad_y, Tensor grad_output, Tensor x, Tensor? y, float alpha,
        bool[3] output_mask) -> (Tensor grad_grad_output, Tensor grad_x, Tensor grad_y)

Tensors come first, and the private ops keep the arguments' names. The backward may leave out a tensor that it does not
need (a bias), and have arguments of its own (``bool deterministic``, see ``extras``). A result that the mask does not
ask for, or whose argument is None, is a tensor without elements; a direction that is None is zero.

From these :class:`Derivatives` makes, for all three: references (two calls of ``torch.func.vjp``), fakes, autograd
Functions with forward mode, vmap rules and DTensor rules. ``layers/local_response_norm.py`` has the same written out by
hand, for those who want to see it once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from handgrad.derivatives.batching import Batching
from handgrad.derivatives.functions import Functions, function_of
from handgrad.derivatives.roles import BATCHED, ELEMENTWISE, WHOLE, Call, Role, fold_batch, unfold_batch
from handgrad.registration import register, through_reference

__all__ = ["BATCHED", "ELEMENTWISE", "WHOLE", "Call", "Derivatives", "Role", "fold_batch", "unfold_batch"]


class Derivatives(Functions, Batching):
    """Tells torch everything about a differentiable op of one result, and calls it.

    Args:
        name: ``"namespace::op"``. The schemas of it and of its two private ops, and their kernels, must be loaded.
        reference: the op in plain PyTorch, with the op's positional arguments.
        fake: the result's shape, strides and dtype, from the op's arguments; and the checks of shapes that compile and
            export need.
        roles: for each tensor, and for ``"output"``, its :class:`Role`; one for all of them.
        gradient_like: an empty gradient for an argument: its memory order is the kernels'.
        autocast: the dtype that floating-point tensors are cast to under autocast; None leaves them.
        onnx: see :func:`handgrad.registration.register`.
        omitted: for each differentiable tensor that the backward does not take, a function that makes a tensor like it
            from the backward's tensors, by name.
        extras: for each argument of the private ops' own, what its value is at a call.
        splits: how a call can be split over devices: from the op's arguments by name, for each way a mapping of tensors
            (and ``"output"``) to the dimension that is split, None for those that every device has whole. None: along
            dimension 0 of what is :data:`BATCHED`, along every dimension of what is :data:`ELEMENTWISE`.

    Any method may be overridden. ``forward``, ``backward`` and ``double_backward`` are the three ops, differentiable in
    every mode that torch has; calling the object calls ``forward``.

    Example::

        >>> _scale = Derivatives("my_ops::scale", reference=scale_reference, fake=torch.empty_like, roles=ELEMENTWISE)
        >>> _scale(torch.ones(3), 2.0)
    """

    def __init__(
        self,
        name: str,
        *,
        reference: Callable[..., Tensor],
        fake: Callable[..., Tensor],
        roles: Role | Mapping[str, Role],
        gradient_like: Callable[[Tensor], Tensor] = torch.empty_like,
        autocast: torch.dtype | None = None,
        onnx: Callable[..., Any] | None = None,
        omitted: Mapping[str, Callable[..., Tensor]] | None = None,
        extras: Mapping[str, Callable[[], Any]] | None = None,
        splits: Callable[..., list[dict[str, int | None]]] | None = None,
    ) -> None:
        super().__init__(name, reference, fake, roles, gradient_like, omitted or {}, extras or {})
        self.splits = splits or self.default_splits
        self.prepare()
        self.forward = register(
            name,
            autograd=function_of(self.title, *self.first_derivative(), self.jvp, self.vmap_of(self.op)),
            fake=fake,
            reference=reference,
            autocast=autocast,
            sharding=self.sharding_of(self.op),
            onnx=onnx,
        )
        self.backward = register(
            self.backward_op.name,
            autograd=function_of(
                f"{self.title}_backward",
                self.setup_backward,
                self.second_derivative,
                self.jvp_of_backward,
                self.vmap_of(self.backward_op),
            ),
            fake=self.backward_fake,
            reference=self.backward_reference,
            sharding=self.sharding_of(self.backward_op),
        )
        self.double_backward = register(
            self.double_backward_op.name,
            autograd=through_reference(self.double_backward_reference, self.vmap_of(self.double_backward_op)),
            fake=self.double_backward_fake,
            reference=self.double_backward_reference,
            sharding=self.sharding_of(self.double_backward_op),
        )

    def __call__(self, *args: Any) -> Tensor:
        return self.forward(*args)
