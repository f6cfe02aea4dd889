"""Checks of what a user typed. Each failure is a sentence: the op, the argument, what was expected, what came.

What a kernel needs in order not to read past its memory (shapes, dtypes, devices) is checked by its host entry in C++,
and for tensors without memory by the fake kernel, with :func:`check_like`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_STRIDED = torch.strided


def check_tensor(op: str, name: str, value: Any) -> None:
    """``value`` is a dense tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor; got {type(value).__name__}")
    if value.layout is not _STRIDED:
        raise TypeError(f"{op}: {name} must be a dense tensor; got one of layout {value.layout}")


def check_range(
    op: str, name: str, value: Any, low: float, high: float, expected: str, also: float | None = None
) -> None:
    """``value`` is a number with low <= value <= high, or is ``also``; ``expected`` says so. NaN is in no range."""
    try:
        if low <= value <= high or value == also:
            return
        error: type[Exception] = ValueError
    except (TypeError, ValueError, RuntimeError):
        # not a number at all, or an array of them
        error = TypeError
    raise error(f"{op}: {name} must be {expected}; got {value!r}")


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
