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
