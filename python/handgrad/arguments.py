"""Checks of what a user typed. Each failure is an error message: the op, the argument, what was expected, what came.

What a kernel needs in order not to read past its memory (shapes, dtypes, devices) is checked by its host entry in C++,
and for tensors without memory by the fake kernel, with :func:`check_like`.

A check of a number accepts what means one: Python's and numpy's numbers, a tensor of one element, a symbolic size. It
refuses a tensor that requires grad, since no op here has a derivative with respect to a number.
"""

from __future__ import annotations

import numbers
import operator
import sys
from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

#: The largest numbers that kernels keep in 32 and in 64 bits, and the largest finite float.
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
FLOAT_MAX = sys.float_info.max

_STRIDED = torch.strided


# ---- tensors ---------------------------------------------------------------------------------------------------------


def check_tensor(op: str, name: str, value: Any) -> None:
    """``value`` is a dense tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor; got {type(value).__name__}")
    if value.layout is not _STRIDED:
        raise TypeError(f"{op}: {name} must be a dense tensor; got one of layout {value.layout}")


def check_integers(
    op: str, name: str, value: Any, expected: str = "a tensor of integers, as int64", or_bool: bool = False
) -> None:
    """``value`` is a dense tensor of integers; of bool only where that is said."""
    check_tensor(op, name, value)
    if value.is_floating_point() or value.is_complex() or (value.dtype is torch.bool and not or_bool):
        raise TypeError(f"{op}: {name} must be {expected}; got one of {dtype_name(value.dtype)}")


def dtype_name(dtype: torch.dtype) -> str:
    """A type as messages have it: ``float32``."""
    return str(dtype).removeprefix("torch.")


def computed_dtype(tensor: Tensor) -> torch.dtype:
    """The type that kernels compute the elements of ``tensor`` in."""
    return torch.float64 if tensor.dtype is torch.float64 else torch.float32


def as_computed(op: str, name: str, tensor: Tensor, model_name: str, model: Tensor) -> Tensor:
    """``tensor``, of a floating-point type that the one which ``model`` is computed in can hold, in that type."""
    computed = computed_dtype(model)
    if not tensor.is_floating_point() or (tensor.dtype is torch.float64 and computed is torch.float32):
        wide = "float64, " if computed is torch.float64 else ""
        raise TypeError(
            f"{op}: {name} must be of {wide}float32, bfloat16 or float16 beside {model_name} that is computed in "
            f"{dtype_name(computed)}; got {dtype_name(tensor.dtype)}"
        )
    return tensor if tensor.dtype is computed else tensor.to(computed)


def check_device(op: str, name: str, tensor: Tensor, model_name: str, model: Tensor) -> None:
    """That a tensor is where another is."""
    if tensor.device != model.device:
        raise RuntimeError(f"{op}: {name} must be on the device of {model_name}, {model.device}; got {tensor.device}")


def check_like(op: str, name: str, tensor: Tensor, model_name: str, model: Tensor) -> None:
    """``tensor`` goes elementwise with ``model``; for fake kernels."""
    torch._check(
        tensor.shape == model.shape,
        lambda: f"{op}: {name} must have the shape of {model_name}, {tuple(model.shape)}; got {tuple(tensor.shape)}",
    )
    torch._check(
        tensor.device == model.device,
        lambda: f"{op}: {name} must be on the device of {model_name}, {model.device}; got {tensor.device}",
    )


def is_sharded(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a DTensor; asked without importing that class."""
    return type(tensor) is not Tensor and hasattr(tensor, "placements")


# ---- numbers and names -----------------------------------------------------------------------------------------------


def check_range(
    op: str, name: str, value: Any, low: float, high: float, expected: str, also: float | None = None
) -> None:
    """``value`` is a number with low <= value <= high, or is ``also``; ``expected`` says so. NaN is in no range.

    For whole numbers there is :func:`check_int`.

    Raises:
        ValueError: a number out of range.
        TypeError: not a number, or a tensor that requires grad.
    """
    kind = type(value)
    if kind is float or kind is int:
        if low <= value <= high or value == also:
            return
        raise ValueError(f"{op}: {name} must be {expected}; got {value!r}")
    _refuse_gradient(op, name, value, expected)
    try:
        if isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real):
            raise TypeError  # numpy's have an order
        # numpy compares in its own types, in which a limit may be infinite.
        number: Any = float(value) if isinstance(value, (numbers.Real, Decimal)) else value
        if low <= number <= high or number == also:
            return
        error: type[Exception] = ValueError
    except (TypeError, ValueError, RuntimeError, OverflowError):
        # not a number at all, or an array of them
        error = TypeError
    raise error(f"{op}: {name} must be {expected}; got {value!r}")


def check_int(op: str, name: str, value: Any, low: int, high: int = INT64_MAX, expected: str | None = None) -> int:
    """``value`` is a whole number with low <= value <= high; returns it as Python's ``int``, which kernels take.

    numpy's integers and integer tensors of one element are whole numbers; symbolic sizes are returned as they are.
    ``2.0`` is none, and neither is ``True``, which stands where another argument was meant.

    Args:
        expected: what an error message says was expected; None for "a whole number, at least ``low``".

    Raises:
        ValueError: a number out of range.
        TypeError: not a whole number, or a tensor that requires grad.

    Example:
        >>> check_int("my_op", "size", 5, low=1)
        5
    """
    if type(value) is int and low <= value <= high:
        return value
    return _checked_int(op, name, value, low, high, expected, value)


def check_pair(
    op: str, name: str, value: Any, low: int, high: int = INT32_MAX, expected: str | None = None
) -> tuple[int, int]:
    """``value`` is a whole number, which counts twice, or a sequence of two; each as :func:`check_int` takes it.

    Args:
        expected: what an error message says was expected; None for "a whole number, at least ``low``, or two of them".

    Raises:
        ValueError: a number out of range.
        TypeError: neither a whole number nor two of them, or a tensor that requires grad.

    Example:
        >>> check_pair("my_op", "padding", 1, low=0), check_pair("my_op", "padding", [1, 2], low=0)
        ((1, 1), (1, 2))
    """
    if type(value) is int and low <= value <= high:
        return value, value
    if type(value) is tuple and len(value) == 2:
        first, second = value
        if type(first) is int and type(second) is int and low <= first <= high and low <= second <= high:
            return value
    return _checked_pair(op, name, value, low, high, expected)


def check_bool(op: str, name: str, value: Any) -> bool:
    """``value`` is True or False, Python's or numpy's; returns Python's.

    Raises:
        TypeError: anything else, a number too.

    Example:
        >>> check_bool("my_op", "aligned", False)
        False
    """
    if value is True or value is False:
        return value
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise TypeError(f"{op}: {name} must be True or False; got {value!r}")


def check_choice(op: str, name: str, value: Any, choices: Collection[str]) -> str:
    """``value`` is one of ``choices``; returns it.

    Raises:
        ValueError: another string.
        TypeError: no string.

    Example:
        >>> check_choice("my_op", "method", "linear", ("linear", "gaussian"))
        'linear'
    """
    if isinstance(value, str):
        if value in choices:
            return value
        error: type[Exception] = ValueError
    else:
        error = TypeError
    *first, last = map(repr, choices)
    expected = f"{', '.join(first)} or {last}" if first else last
    raise error(f"{op}: {name} must be {expected}; got {value!r}")


def _checked_pair(op: str, name: str, value: Any, low: int, high: int, expected: str | None) -> tuple[int, int]:
    pair, said = value, expected or _said(low, pair=True)
    if not isinstance(value, (tuple, list)):
        _refuse_gradient(op, name, value, said)
        # numpy's arrays and numbers, and tensors
        pair = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(pair, Sequence) or isinstance(pair, str):
        pair = (pair, pair)
    if len(pair) != 2:
        raise TypeError(f"{op}: {name} must be {said}; got {value!r}")
    first, second = pair
    return (
        _checked_int(op, name, first, low, high, expected, value, pair=True),
        _checked_int(op, name, second, low, high, expected, value, pair=True),
    )


def _checked_int(
    op: str, name: str, value: Any, low: int, high: int, expected: str | None, shown: Any, pair: bool = False
) -> Any:
    """``value``, which was given as a part of ``shown``, as an ``int`` or a symbolic size."""
    said = expected or _said(low, pair)
    whole = value if isinstance(value, torch.SymInt) else _whole(op, name, value, said)
    if whole is None:
        raise TypeError(f"{op}: {name} must be {said}; got {shown!r}")
    if low <= whole <= high:
        return whole
    if expected is None and whole > high:
        said = _said(low, pair, high)
    raise ValueError(f"{op}: {name} must be {said}; got {shown!r}")


def _said(low: int, pair: bool, high: int | None = None) -> str:
    """What an error message says was expected; the upper limit is worth a word only to those who pass it."""
    most = "" if high is None else f" and at most {high}"
    return f"a whole number, at least {low}{most}{', or two of them' if pair else ''}"


def _whole(op: str, name: str, value: Any, expected: str) -> int | None:
    """``value`` as an ``int``; None if it is no whole number."""
    if isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype is torch.bool):
        return None
    _refuse_gradient(op, name, value, expected)
    try:
        return operator.index(value)
    except TypeError:
        return None


def _refuse_gradient(op: str, name: str, value: Any, expected: str) -> None:
    """A number that something differentiates with respect to would silently get no derivative."""
    if not isinstance(value, Tensor):
        return
    followed = value.requires_grad
    if not followed and forward_ad._current_level >= 0:
        followed = forward_ad.unpack_dual(value).tangent is not None
    if followed:
        raise TypeError(
            f"{op}: {name} must be {expected}, without a gradient: the op has no derivative with respect to {name}. "
            f"Pass {name}.item() or {name}.detach(); got a tensor that requires grad"
        )


def described(value: object) -> str:
    """``value`` and its type, short enough for an error message."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} of type {type(value).__name__}"
