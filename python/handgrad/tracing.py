"""What tracers other than torch.compile's make of an op's public function: ``torch.fx`` and TorchScript.

:func:`traceable` marks the function. Symbolic tracing (``torch.fx.symbolic_trace``, torchvision's feature extractors,
FX quantization) then finds one node, a call of the function itself, and whatever else overrides torch's functions by
``__torch_function__`` is asked as torch asks it. ``torch.jit.script`` is refused in one error message. What
``torch.jit.trace`` records is decided at the call, in :mod:`handgrad.registration`. See docs/tracing.md.
"""

from __future__ import annotations

import functools
import inspect
import linecache
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor
from torch.overrides import handle_torch_function
from torch.utils._pytree import tree_leaves

__all__ = ["traceable"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def traceable(function: _Function) -> _Function:
    """Marks the public function of an op, which must check its tensors with :func:`handgrad.arguments.check_tensor`
    before it does anything else with them.

    Example::

        @traceable
        def my_loss(inputs: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
            check_tensor("my_loss", "inputs", inputs)
            ...
    """
    public = functools.wraps(function)(_guarded(function))
    public.__prepare_scriptable__ = functools.partial(_refuse_script, function.__name__)  # type: ignore[attr-defined]
    return public  # type: ignore[return-value]


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` in a ``try``, which costs nothing as long as nothing is raised.

    It has the function's own parameters written out: handing over ``*args, **kwargs`` costs up to 0.4 microseconds,
    which shows on a small tensor.
    """
    defaults: list[Any] = []
    parameters: list[str] = []
    arguments: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if keyword and "*" not in parameters:
            parameters.append("*")
        optional = parameter.default is not inspect.Parameter.empty
        parameters.append(f"{parameter.name}=_defaults[{len(defaults)}]" if optional else parameter.name)
        arguments.append(f"{parameter.name}={parameter.name}" if keyword else parameter.name)
        defaults += [parameter.default] if optional else []
    source = f"""\
def _make(_function, _defaults, _override):
    def _public({", ".join(parameters)}):
        try:
            return _function({", ".join(arguments)})
        except (TypeError, RuntimeError):
            overridden, result = _override(_public, {", ".join(arguments)})
            if overridden:
                return result
            raise

    return _public
"""
    name = f"<traceable {function.__module__}.{function.__qualname__}>"
    # For tracebacks.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    made: dict[str, Any] = {}
    # In the function's own globals: that is where doctest and its like look for what examples name.
    exec(compile(source, name, "exec"), function.__globals__, made)
    return made["_make"](function, defaults, _override)


def _override(public: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[bool, Any]:
    """Why ``public`` may have failed: whether something among its arguments overrides it, and what that returns."""
    overriding = [leaf for leaf in tree_leaves((args, kwargs)) if _overrides(leaf)]
    if overriding:
        return True, handle_torch_function(public, overriding, *args, **kwargs)
    for name, value in inspect.signature(public).bind(*args, **kwargs).arguments.items():
        if any(isinstance(leaf, Tensor) and leaf.is_quantized for leaf in tree_leaves(value)):
            # Kernels have no quantized types, and torch would print the list of those that they have.
            raise TypeError(
                f"{public.__name__}: {name} must not be quantized; got a quantized tensor, whose values "
                f"{name}.dequantize() gives"
            ) from None
    return False, None


def _overrides(value: Any) -> bool:
    return not isinstance(value, Tensor) and hasattr(type(value), "__torch_function__")


def _refuse_script(name: str) -> Any:
    raise RuntimeError(
        f"{name}: torch.jit.script cannot compile it. Use torch.jit.trace, which records the op, or torch.export or "
        "torch.compile"
    )
