"""Vectors in the last dimension of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad.arguments import computed_dtype


def unit_rows(tensor: Tensor) -> Tensor:
    """Rows divided by their lengths, in the type that is computed in. One without a length stays 0, with a gradient of
    0: :func:`torch.nn.functional.normalize` has one of 1e12 there."""
    tensor = tensor.to(computed_dtype(tensor))
    squares = (tensor * tensor).sum(-1, keepdim=True)
    there = squares.detach().bool()
    return tensor * torch.where(there, torch.where(there, squares, 1).rsqrt(), 0)
