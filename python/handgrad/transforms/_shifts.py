"""Images moved by whole pixels: a copy, where the kernel of all warps computes where each pixel comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: Up to here torchvision, which computes positions in float32, finds the same pixels.
_MOST = 2**16


def _fills(fill: Any) -> Sequence[float]:
    return fill if isinstance(fill, (list, tuple)) else [0 if fill is None else fill]


def is_shift(
    image: Tensor, angle: float, translate: Sequence[float], scale: float, shear: Sequence[float], fill: Any
) -> bool:
    """Whether nothing but whole pixels are between an image of levels and what an affine map makes of it."""
    moves_only = angle == 0 and scale == 1 and all(number == 0 for number in shear)
    whole = all(int(number) == number for number in (*translate, *_fills(fill)))
    return moves_only and whole and image.dtype is torch.uint8 and max(image.shape[-2:]) < _MOST


def shifted(image: Tensor, right: int, down: int, fill: Any) -> Tensor:
    """(..., channels, height, width) levels, so many pixels to the right and down; ``fill``: what comes in, whole
    levels, one for all channels or one for each; None is 0."""
    height, width = image.shape[-2:]
    fills = _fills(fill)
    rows, columns = height - abs(down), width - abs(right)
    output = torch.empty_like(image)
    new = [output] if rows <= 0 or columns <= 0 else []
    if not new:
        output[..., max(down, 0) : rows + max(down, 0), max(right, 0) : columns + max(right, 0)] = image[
            ..., max(-down, 0) : rows + max(-down, 0), max(-right, 0) : columns + max(-right, 0)
        ]
        new += [output[..., :right] if right > 0 else output[..., columns:]] if right else []
        new += [output[..., :down, :] if down > 0 else output[..., rows:, :]] if down else []
    for part in new:
        if len(fills) == 1:
            part.fill_(fills[0])
        else:
            part.copy_(image.new_tensor(fills).view(-1, 1, 1))
    return output
