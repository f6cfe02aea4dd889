"""Tells torch everything about one op, in one call: autograd, fake tensors, autocast, vmap, sharding, fallback.

The stable ABI has no C++ autograd, so each differentiable op has one :class:`torch.autograd.Function`. Its static
methods are registered for the raw op, and the function that :func:`register` returns chooses the road at each call:

* the raw op under compile and export: one opaque node. (A transform that is being compiled gets the reference instead:
  there Dynamo would inline the Function and lose its formulas.)
* the Function under a ``torch.func`` transform or forward-mode differentiation: formulas registered for a raw op have
  no forward mode, and torch would return a wrong tangent without a word;
* in eager mode the same Function, in the style that costs least, where something requires grad, and the bare kernel
  where nothing does.

An op without derivatives (indices, decisions) is registered with :func:`without_derivatives` and takes the same roads,
but for the eager one: there it is always the bare kernel.

So call what :func:`register` returns, or the public function over it, rather than ``torch.ops.handgrad.foo``: that one
has everything but forward mode.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch._C._functorch import TransformType, _unwrap_for_grad, _wrap_for_grad, get_interpreter_stack
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves, tree_map_only

from handgrad.arguments import is_sharded

__all__ = [
    "OBSERVERS",
    "OPERATORS",
    "Operator",
    "batch_first",
    "register",
    "through_reference",
    "without_derivatives",
]


@dataclass(frozen=True)
class Operator:
    """What :func:`register` was told of an op; exporters and ``python -m handgrad info`` read it."""

    overload: Any
    reference: Callable[..., Any]
    function: Any
    onnx: Callable[..., Any] | None = None
    gathers: bool = False


#: Every op registered so far, by its qualified name.
OPERATORS: dict[str, Operator] = {}
#: Called with the name of each op registered from now on: how handgrad.onnx, imported on demand, hears of later ones.
OBSERVERS: list[Callable[[str], None]] = []

# Devices that torch knows and handgrad may have no kernels for: there the reference runs.
_FALLBACK_KEYS = ("CUDA", "MPS", "XPU", "HPU", "MTIA")
_pending_sharding: list[tuple[Any, Callable[..., Any]]] = []


def register(
    name: str,
    *,
    autograd: Any,
    fake: Callable[..., Any],
    reference: Callable[..., Any],
    autocast: torch.dtype | None = None,
    sharding: Callable[..., Any] | None = None,
    onnx: Callable[..., Any] | None = None,
    gathers: bool = False,
) -> Callable[..., Any]:
    """Registers the op ``name`` (``"namespace::op"``, its schema already loaded) and returns the function that calls
    it.

    Args:
        name: qualified name of an op whose schema a loaded library has defined.
        autograd: a Function with the static methods ``setup_context``, ``backward``, ``jvp`` and ``vmap``, or what
            :func:`without_derivatives` returns. Its ``forward`` is the raw op, set here.
        fake: the outputs' shapes, strides and dtypes, from the inputs'.
        reference: the same op in plain PyTorch. It runs on devices without a kernel, and exporters decompose to it.
        autocast: the dtype that floating-point tensors are cast to under autocast; None leaves them.
        sharding: a DTensor rule, as :func:`torch.distributed.tensor.experimental.register_sharding` takes it.
        onnx: the op in plain PyTorch and :func:`handgrad.onnx.operator`, for ONNX export where the reference is not
            what should be exported. It may return NotImplemented for arguments that are better left to the reference.
        gathers: DTensors are gathered for the op and its results replicated. For results whose sizes depend on values:
            DTensor has no rule for those.

    Returns:
        A function of the op's positional arguments, differentiable in every mode that torch has.
    """
    op = name.split("::")[1]
    overload = _defined(name)
    for role, function in (("fake", fake), ("reference", reference)):
        _check_takes(name, role, function, overload._schema)
    autograd.forward = staticmethod(_forward_of(overload))
    autograd.jvp = staticmethod(_outside_its_level(autograd.jvp))
    torch.library.register_fake(name, fake)
    torch.library.register_autograd(name, autograd.backward, setup_context=autograd.setup_context)
    torch.library.register_vmap(name, autograd.vmap)
    if autocast is not None:
        for device_type in ("cpu", "cuda"):
            torch.library.register_autocast(name, device_type, autocast)
    for key in _FALLBACK_KEYS:
        if not torch._C._dispatch_has_kernel_for_dispatch_key(name, key):
            torch.library.impl(name, key.lower(), reference)
    if sharding is not None:
        _pending_sharding.append((overload, sharding))

    apply = autograd.apply
    # Without the overload's own frame around it: on a small tensor that shows.
    run = overload._op
    # The C++ part of Function.apply; the Python in front of it asks again whether a transform is active.
    apply_eager = super(torch.autograd.Function, _eager(run, autograd)).apply
    # Where the op takes tensors, so that asking them needs no look at the other arguments.
    types = [str(argument.type) for argument in overload._schema.arguments]
    places = tuple(place for place, kind in enumerate(types) if kind in ("Tensor", "Optional[Tensor]"))
    lists = any("List" in kind and "Tensor" in kind for kind in types)
    differentiable = getattr(autograd, "differentiable", True)
    transforms_active = torch._C._are_functorch_transforms_active
    any_autocast_enabled = torch._C._is_any_autocast_enabled
    is_compiling, is_grad_enabled = torch.compiler.is_compiling, torch.is_grad_enabled
    below_autograd = torch._C._AutoDispatchBelowAutograd

    def call(*args: Any) -> Any:
        if is_compiling():
            _register_sharding()
            if not _differentiating():
                return overload(*args)
            # Dynamo would inline Function.forward and drop its derivatives; the reference has its own. Where there are
            # none to drop, the op needs only tensors that no transform follows.
            return reference(*args) if differentiable else overload(*tree_map_only(torch.Tensor, _detached, args))
        if _pending_sharding:
            _register_sharding()
        if autocast is not None and any_autocast_enabled():
            # The raw op's autocast rule would act inside Function.forward, too late for what backward sees.
            args = _autocast(args, autocast)
        if transforms_active() or (differentiable and forward_ad._current_level >= 0):
            return overload(*args) if _in_vmap_of_raw_op() else apply(*args)
        if differentiable and is_grad_enabled():
            for place in places:
                tensor = args[place]
                if tensor is not None and tensor.requires_grad:
                    return apply_eager(*args)
            if lists and _any_requires_grad(*args):
                return apply_eager(*args)
        with below_autograd():
            return run(*args)

    public = _gathering(call) if gathers else call
    public.__name__ = public.__qualname__ = op
    OPERATORS[name] = Operator(overload, reference, autograd, onnx, gathers)
    for observer in OBSERVERS:
        observer(name)
    return public


def _defined(name: str) -> Any:
    """The op's overload, whose schema and kernels must have been loaded by now: registering is part of an import."""
    namespace, op = name.split("::")
    folder = f"csrc/<family>/{op.removesuffix('_double_backward').removesuffix('_backward').lstrip('_')}"
    if torch._C._dispatch_has_kernel(name) and hasattr(getattr(torch.ops, namespace), op):
        overload = getattr(getattr(torch.ops, namespace), op).default
        if torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, "CPU"):
            return overload
        raise ImportError(
            f"register: {name} has a schema and no CPU kernel. handgrad::implement in {folder}/*_cpu.cpp must name it "
            f"as the schema does, and the package must have been built since (pip install --no-build-isolation -e .)."
        )
    known = sorted(other for other in torch._C._dispatch_get_all_op_names() if other.startswith(f"{namespace}::"))
    near = difflib.get_close_matches(name, known, 1)
    raise ImportError(
        f"register: no library that is loaded defines {name}"
        + (f"; the nearest name that one defines is {near[0]}" if near else "")
        + f". library.def in {folder}/*.cpp must define it, and the package must have been built since (pip install "
        "--no-build-isolation -e .)."
    )


def _check_takes(name: str, role: str, function: Callable[..., Any], schema: Any) -> None:
    """A function that stands for an op takes the op's arguments, which torch would say only when it is called."""
    wanted = [argument.name for argument in schema.arguments]
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a built-in of torch, which does not say
    try:
        signature.bind(*wanted)
    except TypeError:
        raise TypeError(
            f"register: the {role} of {name} must take what its schema does, ({', '.join(wanted)}); "
            f"{getattr(function, '__name__', function)} takes {signature}"
        ) from None


def _detached(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach()


def _any_requires_grad(*args: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in tree_leaves(args))


# The same in C++, from torch 2.14 on.
_any_requires_grad = getattr(torch._C, "_any_requires_grad", _any_requires_grad)


def _eager(run: Any, autograd: Any) -> Any:
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


def through_reference(reference: Callable[..., Any], vmap: Callable[..., Any]) -> Any:
    """An autograd Function for the last op that has a kernel, usually ``_foo_double_backward``: derivatives beyond it
    go through ``reference``, slower but right, to any order.

    Args:
        reference: the op in plain PyTorch, with the op's positional arguments.
        vmap: the op's vmap rule.
    """

    def split(args: tuple[Any, ...]) -> tuple[list[int], Callable[..., Any]]:
        places = [place for place, arg in enumerate(args) if isinstance(arg, torch.Tensor)]
        constants = [None if isinstance(arg, torch.Tensor) else arg for arg in args]

        def of_tensors(*tensors: torch.Tensor) -> Any:
            filled = list(constants)
            for place, tensor in zip(places, tensors, strict=True):
                filled[place] = tensor
            return reference(*filled)

        return places, of_tensors

    class Through(torch.autograd.Function):
        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.arity = len(inputs)
            ctx.places, ctx.of_tensors = split(inputs)
            ctx.save_for_backward(*(inputs[place] for place in ctx.places))
            ctx.save_for_forward(*(inputs[place] for place in ctx.places))

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Any) -> Any:
            outputs, pull_back = torch.func.vjp(ctx.of_tensors, *ctx.saved_tensors)[:2]
            single = isinstance(outputs, torch.Tensor)
            grads: list[Any] = [None] * ctx.arity
            for place, grad in zip(ctx.places, pull_back(grad_outputs[0] if single else grad_outputs), strict=True):
                grads[place] = grad
            return tuple(grads)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            # A tensor with a tangent must not be an expanded view.
            tensors = tuple(tensor.contiguous() for tensor in ctx.saved_tensors)
            given = (tangents[place] for place in ctx.places)
            filled = tuple(
                torch.zeros_like(t) if d is None else d.contiguous() for t, d in zip(tensors, given, strict=True)
            )
            return torch.func.jvp(ctx.of_tensors, tensors, filled)[1]

    Through.vmap = staticmethod(vmap)  # type: ignore[method-assign]
    return Through


def without_derivatives(vmap: Callable[..., Any] | None = None) -> Any:
    """An autograd Function for an op that has no derivatives: its outputs require no grad and carry no tangent.

    Args:
        vmap: the op's vmap rule. None where there can be none, because the outputs' sizes depend on values: under vmap
            the op then fails with a sentence.
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


def _differentiating() -> bool:
    """Whether a transform other than vmap is at work."""
    if forward_ad._current_level >= 0:
        return True
    stack = get_interpreter_stack()
    return stack is not None and any(interpreter.key() != TransformType.Vmap for interpreter in stack)


# What torch.compiler.assume_constant_result sets; that function imports the compiler, which takes a second.
_differentiating._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _forward_of(overload: Any) -> Callable[..., Any]:
    def forward(*args: Any) -> Any:
        return overload(*args)

    # torch.compile counts the parameters to tell this from a forward that takes a context.
    names = [argument.name for argument in overload._schema.arguments]
    forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    return forward


def _outside_its_level(jvp: Callable[..., Any]) -> Callable[..., Any]:
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


def _in_vmap_of_raw_op() -> bool:
    """Whether the vmap rule of a raw op is at work: there torch has switched off the batching of this level, and hands
    other ops on to the next; a Function it would take for one more of this level."""
    return torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.FuncTorchBatched)


def _autocast(args: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    device_type = next(arg.device.type for arg in args if isinstance(arg, torch.Tensor))
    if not torch.is_autocast_enabled(device_type):
        return args
    return tuple(
        arg.to(dtype)
        if isinstance(arg, torch.Tensor) and arg.is_floating_point() and arg.dtype != torch.float64
        else arg
        for arg in args
    )


def _gathering(call: Callable[..., Any]) -> Callable[..., Any]:
    def gathering(*args: Any) -> Any:
        sharded: list[Any] = [arg for arg in args if isinstance(arg, torch.Tensor) and is_sharded(arg)]
        if not sharded:
            return call(*args)
        from torch.distributed.tensor import DTensor, Replicate

        mesh = sharded[0].device_mesh
        results = call(*(arg.full_tensor() if isinstance(arg, DTensor) else arg for arg in args))
        everywhere = [Replicate()] * mesh.ndim
        return tree_map_only(
            torch.Tensor, lambda result: DTensor.from_local(result, mesh, everywhere, run_check=False), results
        )

    return gathering


def _register_sharding() -> None:
    # Importing DTensor costs more than importing handgrad; whoever holds a DTensor has imported it.
    if "torch.distributed.tensor" not in sys.modules:
        return
    from torch.distributed.tensor.experimental import register_sharding

    while _pending_sharding:
        overload, rule = _pending_sharding.pop()
        register_sharding(overload)(rule)


# As above: Dynamo runs it instead of tracing into DTensor, which it cannot.
_register_sharding._dynamo_marked_constant = True  # type: ignore[attr-defined]


def batch_first(tensor: torch.Tensor | None, dim: int | None, size: int) -> Any:
    """For vmap rules: the batch dimension moved to the front; a tensor without one becomes ``size`` views of itself."""
    if tensor is None:
        return None
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
