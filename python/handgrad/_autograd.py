"""Autograd Functions of ops: what :mod:`handgrad.registration` makes of those that it is given, and two it offers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch._C._functorch import _unwrap_for_grad, _wrap_for_grad
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves, tree_map_only


def through_reference(reference: Callable[..., Any], vmap: Callable[..., Any]) -> Any:
    """An autograd Function for the last op that has a kernel, usually ``_foo_double_backward``: derivatives beyond it
    go through ``reference``, slower but right, to any order.

    Args:
        reference: the op in plain PyTorch, with the op's positional arguments.
        vmap: the op's vmap rule.
    """

    def of_moving(ctx: Any, tensors: Any) -> tuple[Callable[..., Any], list[int]]:
        """The reference as a function of the tensors that have derivatives, and which of all they are: integers have
        none."""
        moving = [index for index, tensor in enumerate(tensors) if tensor.is_floating_point()]

        def function(*moved: torch.Tensor) -> Any:
            given = list(tensors)
            for index, tensor in zip(moving, moved, strict=True):
                given[index] = tensor
            filled = list(ctx.constants)
            for position, tensor in zip(ctx.positions, given, strict=True):
                filled[position] = tensor
            return reference(*filled)

        return function, moving

    class Through(torch.autograd.Function):
        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.positions = [position for position, arg in enumerate(inputs) if isinstance(arg, torch.Tensor)]
            ctx.constants = [None if isinstance(arg, torch.Tensor) else arg for arg in inputs]
            ctx.save_for_backward(*(inputs[position] for position in ctx.positions))
            ctx.save_for_forward(*(inputs[position] for position in ctx.positions))

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Any) -> Any:
            tensors = ctx.saved_tensors
            function, moving = of_moving(ctx, tensors)
            outputs, pull_back = torch.func.vjp(function, *(tensors[index] for index in moving))[:2]
            single = isinstance(outputs, torch.Tensor)
            grads: list[Any] = [None] * len(ctx.constants)
            for index, grad in zip(moving, pull_back(grad_outputs[0] if single else grad_outputs), strict=True):
                grads[ctx.positions[index]] = grad
            return tuple(grads)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            # A tensor with a tangent must not be an expanded view.
            tensors = tuple(tensor.contiguous() for tensor in ctx.saved_tensors)
            function, moving = of_moving(ctx, tensors)
            primals = tuple(tensors[index] for index in moving)
            given = (tangents[ctx.positions[index]] for index in moving)
            filled = tuple(
                torch.zeros_like(t) if d is None else d.contiguous() for t, d in zip(primals, given, strict=True)
            )
            return torch.func.jvp(function, primals, filled)[1]

    Through.vmap = staticmethod(vmap)  # type: ignore[method-assign]
    return Through


def without_derivatives(vmap: Callable[..., Any] | None = None) -> Any:
    """An autograd Function for an op that has no derivatives: its outputs require no grad and carry no tangent.

    Args:
        vmap: the op's vmap rule. None where there can be none, because the outputs' sizes depend on values: under vmap
            the op then fails with an error message.
    """

    class Without(torch.autograd.Function):
        differentiable = False

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.arity, ctx.no_tangent = len(inputs), tree_map_only(torch.Tensor, lambda _: None, output)
            ctx.mark_non_differentiable(*(leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)))

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            return (None,) * ctx.arity

        @staticmethod
        def jvp(ctx: Any, *_: Any) -> Any:
            return ctx.no_tangent

    Without.vmap = staticmethod(vmap or _no_vmap)  # type: ignore[method-assign]
    return Without


def _no_vmap(*_: Any) -> Any:
    raise RuntimeError(
        "vmap: the sizes of an op's results must not depend on values, and those of this op do (one sample keeps more "
        "than another); call it for each sample in a loop"
    )


def any_requires_grad(*args: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in tree_leaves(args))


# The same in C++, from torch 2.14 on.
any_requires_grad = getattr(torch._C, "_any_requires_grad", any_requires_grad)


def forward_of(overload: Any) -> Callable[..., Any]:
    def forward(*args: Any) -> Any:
        return overload(*args)

    # torch.compile counts the parameters to tell this from a forward that takes a context.
    names = [argument.name for argument in overload._schema.arguments]
    forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    return forward


def eager(run: Any, autograd: Any) -> Any:
    """The same Function in the older style, whose forward takes the context: torch binds the arguments of the newer
    one by name at every call, which costs as much again as the whole op."""

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                output = run(*args)
            autograd.setup_context(ctx, args, output)
            return output

        backward = staticmethod(autograd.backward)
        # Forward mode never comes this way.
        save_for_forward = staticmethod(lambda *tensors: None)

    Eager.__name__ = autograd.__name__
    return Eager


def outside_its_level(jvp: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a Function's ``jvp`` below the transform that asks for it, as torch runs its ``forward``.

    torch runs it inside, with forward mode off, so that under jvp of jvp (``jacfwd(jacfwd(f))``) the tangent is a
    constant to the outer transform and the second derivative silently 0.
    """

    def lowered(ctx: Any, *tangents: Any) -> Any:
        if not torch._C._are_functorch_transforms_active():
            return jvp(ctx, *tangents)
        interpreter = retrieve_current_functorch_interpreter()
        level = interpreter.level()

        def unwrap(value: Any) -> Any:
            return _unwrap_for_grad(value, level) if isinstance(value, torch.Tensor) else value

        outer = SimpleNamespace(**vars(ctx), saved_tensors=tuple(map(unwrap, ctx.saved_tensors)))
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), interpreter.lower():
            result = jvp(outer, *map(unwrap, tangents))
        return tree_map_only(torch.Tensor, lambda tensor: _wrap_for_grad(tensor, level), result)

    return lowered


def in_vmap_of_raw_op() -> bool:
    """Whether the vmap rule of a raw op is at work: there torch has switched off the batching of this level, and hands
    other ops on to the next; a Function it would take for one more of this level."""
    return torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.FuncTorchBatched)


def batch_first(tensor: torch.Tensor | None, dim: int | None, size: int) -> Any:
    """For vmap rules: the batch dimension moved to the front; a tensor without one becomes ``size`` views of itself."""
    if tensor is None:
        return None
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
