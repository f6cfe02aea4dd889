"""How the results of layers lie in memory, for fake kernels: the same rule as in csrc/common/abi/layout.h."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def empty_image(tensor: Tensor, shape: Any, model: Tensor) -> Tensor:
    """An image of the kind of ``tensor``: channels_last if ``model`` is, otherwise contiguous."""
    empty = tensor.new_empty(shape)
    last = not model.is_contiguous() and model.is_contiguous(memory_format=torch.channels_last)
    return empty.contiguous(memory_format=torch.channels_last) if last else empty


def empty_beside(model: Tensor, shape: Any) -> Tensor:
    """An image of another shape: channels innermost where they are so in ``model``, otherwise contiguous; under vmap
    too."""
    if model.is_contiguous() or not model.movedim(1, -1).is_contiguous():
        return model.new_empty(shape)
    batch, channels, *positions = shape
    return model.new_empty((batch, *positions, channels)).movedim(-1, 1)


def empty_gradient(tensor: Tensor) -> Tensor:
    """A gradient of (batch, channels, ...) of any rank: channels innermost where they are so in ``tensor``, otherwise
    contiguous."""
    last = tensor.movedim(1, -1)
    if tensor.is_contiguous() or not last.is_contiguous():
        return tensor.new_empty(tensor.shape)
    return tensor.new_empty(last.shape).movedim(-1, 1)
