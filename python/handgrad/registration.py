"""Tells torch everything about one op, in one call: autograd, fake tensors, autocast, vmap, sharding, fallback.

The stable ABI has no C++ autograd, so each differentiable op has one :class:`torch.autograd.Function`. Its static
methods are registered for the raw op, and the function that :func:`register` returns chooses the road at each call:

* the raw op under compile and export: one opaque node. (A transform that is being compiled gets the reference instead:
  there Dynamo would inline the Function and lose its formulas.)
* the Function under a ``torch.func`` transform or forward-mode differentiation: formulas registered for a raw op have
  no forward mode, and torch would return a wrong tangent without a word;
* in eager mode the same Function, in the style that costs least, where something requires grad, and the bare kernel
  where nothing does;
* the raw op under ``torch.jit.trace`` and the classic ONNX exporter, which record it, as they cannot record a Function.

An op without derivatives (indices, decisions) is registered with :func:`without_derivatives` and takes the same roads,
but for the eager one: there it is always the bare kernel.

So call what :func:`register` returns, or the public function over it, rather than ``torch.ops.handgrad.foo``: that one
has everything but forward mode, which it refuses.
"""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves, tree_map_only

from handgrad import _sharding
from handgrad._autograd import (
    any_requires_grad,
    batch_first,
    eager,
    forward_of,
    in_vmap_of_raw_op,
    outside_its_level,
    through_reference,
    without_derivatives,
)
from handgrad.sdk.loading import LOADED

__all__ = [
    "OBSERVERS",
    "OPERATORS",
    "Operator",
    "batch_first",
    "dynamic_size",
    "register",
    "schema_of",
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
# Registrations last as long as the libraries through which they were made.
_LIBRARIES: list[torch.library.Library] = []


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
    autograd.forward = staticmethod(forward_of(overload))
    autograd.jvp = staticmethod(outside_its_level(autograd.jvp))
    torch.library.register_fake(name, fake)
    torch.library.register_autograd(
        name, autograd.backward, setup_context=autograd.setup_context, lib=_library(name, autograd)
    )
    torch.library.register_vmap(name, autograd.vmap)
    if autocast is not None:
        for device_type in ("cpu", "cuda"):
            torch.library.register_autocast(name, device_type, autocast)
    for key in _FALLBACK_KEYS:
        if not torch._C._dispatch_has_kernel_for_dispatch_key(name, key):
            torch.library.impl(name, key.lower(), reference)
        elif key == "CUDA":
            _replace_where_given_up(name, reference)
    if sharding is not None:
        _sharding.PENDING.append((overload, sharding))
    call = _roads(overload, autograd, reference, autocast)
    public = _sharding.gathering(call) if gathers else call
    public.__name__ = public.__qualname__ = op
    OPERATORS[name] = Operator(overload, reference, autograd, onnx, gathers)
    for observer in OBSERVERS:
        observer(name)
    return public


def _replace_where_given_up(name: str, reference: Callable[..., Any]) -> None:
    """Puts the reference in the place of a CUDA kernel that turns out, or has turned out, to have no code for a GPU."""
    namespace = name.split("::")[0]
    loaded = next((of for package, of in LOADED.items() if package.rpartition(".")[2] == namespace), None)
    if loaded is None:
        return

    def replace() -> None:
        with warnings.catch_warnings():
            # torch says that there is a kernel already; why it is replaced has been said.
            warnings.filterwarnings("ignore", message="(?s).*[Oo]verriding a previously registered kernel")
            torch.library.impl(name, "cuda", reference)

    if loaded.without_cuda:
        replace()
    else:
        loaded.listeners.append(replace)


def _roads(
    overload: Any, autograd: Any, reference: Callable[..., Any], autocast: torch.dtype | None
) -> Callable[..., Any]:
    """The function that chooses the road at each call."""
    apply = autograd.apply
    # Without the overload's own frame around it: on a small tensor that shows.
    run = overload._op
    # The C++ part of Function.apply; the Python in front of it asks again whether a transform is active.
    apply_eager = super(torch.autograd.Function, eager(run, autograd)).apply
    # Where the op takes tensors, so that asking them needs no look at the other arguments.
    types = [str(argument.type) for argument in overload._schema.arguments]
    tensors = tuple(index for index, kind in enumerate(types) if kind in ("Tensor", "Optional[Tensor]"))
    lists = any("List" in kind and "Tensor" in kind for kind in types)
    differentiable = getattr(autograd, "differentiable", True)
    pending = _sharding.PENDING
    transforms_active, is_tracing = torch._C._are_functorch_transforms_active, torch._C._is_tracing
    any_autocast_enabled = torch._C._is_any_autocast_enabled
    is_compiling, is_grad_enabled = torch.compiler.is_compiling, torch.is_grad_enabled
    below_autograd = torch._C._AutoDispatchBelowAutograd

    def call(*args: Any) -> Any:
        if is_compiling():
            _sharding.register_pending()
            if not _differentiating():
                return overload(*args)
            # Dynamo would inline Function.forward and drop its derivatives; the reference has its own. Where there are
            # none to drop, the op needs only tensors that no transform follows.
            return reference(*args) if differentiable else overload(*tree_map_only(torch.Tensor, _detached, args))
        if pending:
            _sharding.register_pending()
        if autocast is not None and any_autocast_enabled():
            # The raw op's autocast rule would act inside Function.forward, too late for what backward sees.
            args = _autocast(args, autocast)
        if transforms_active() or (differentiable and forward_ad._current_level >= 0):
            return overload(*args) if in_vmap_of_raw_op() else apply(*args)
        if is_tracing():
            # In one line, whether gradients are on or not: a trace is checked by a second one without gradients, in
            # which the lines and the names of variables must be the same.
            return run(*args)
        if differentiable and is_grad_enabled():
            for index in tensors:
                tensor = args[index]
                if tensor is not None and tensor.requires_grad:
                    return apply_eager(*args)
            if lists and any_requires_grad(*args):
                return apply_eager(*args)
        with below_autograd():
            return run(*args)

    return call


def dynamic_size(most: int | torch.SymInt) -> Any:
    """For fake kernels: a size that depends on values, at least 0 and at most ``most``.

    As torch does for ``nonzero``: where nothing can be returned the size is 0, and no unknown that turns out to be 0,
    which the compiler has by then taken for more.
    """
    if isinstance(most, torch.SymInt):
        return torch.library.get_ctx().new_dynamic_size()
    return torch.library.get_ctx().new_dynamic_size(max=most) if most else 0


def _library(name: str, autograd: Any) -> torch.library.Library:
    """Where an op's derivatives are registered."""
    kind = _ReverseMode if getattr(autograd, "differentiable", True) else torch.library.Library
    library = kind(name.split("::")[0], "FRAGMENT")
    _LIBRARIES.append(library)
    return library


class _ReverseMode(torch.library.Library):
    """torch's autograd kernel of an op knows no forward mode, and would leave the outputs without their tangents: here
    it refuses it."""

    def impl(self, op_name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        name = f"{self.ns}::{op_name}"

        def reverse_mode(keyset: Any, *tensors: Any, **options: Any) -> Any:
            if forward_ad._current_level >= 0 and torch._C._is_fwd_grad_enabled():
                _refuse_tangents(name, tensors)
            return fn(keyset, *tensors, **options)

        return super().impl(op_name, reverse_mode, *args, **kwargs)


def _refuse_tangents(name: str, args: Any) -> None:
    for leaf in tree_leaves(args):
        if isinstance(leaf, torch.Tensor) and forward_ad.unpack_dual(leaf).tangent is not None:
            raise RuntimeError(
                f"{name}: the raw op has no forward-mode derivative, which torch would take for zero. Call "
                f"{_public_name(name)} instead, which has one"
            )


def _public_name(name: str) -> str:
    """The public function over an op, or over the op whose derivative it is: its module is named like it."""
    namespace, op = name.split("::")
    op = op.removesuffix("_backward").removesuffix("_double").lstrip("_") if op.startswith("_") else op
    operator = OPERATORS.get(f"{namespace}::{op}")
    module = "" if operator is None else operator.reference.__module__
    return module if module.endswith(f".{op}") else f"what register() returned for {name}"


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


def schema_of(name: str) -> Any:
    """The schema of an op that a loaded library defines, as torch has it."""
    return _defined(name)._schema


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


def _differentiating() -> bool:
    """Whether a transform other than vmap is at work."""
    if forward_ad._current_level >= 0:
        return True
    stack = get_interpreter_stack()
    return stack is not None and any(interpreter.key() != TransformType.Vmap for interpreter in stack)


# What torch.compiler.assume_constant_result sets; that function imports the compiler, which takes a second.
_differentiating._dynamo_marked_constant = True  # type: ignore[attr-defined]


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
