"""What is around an image, for filters whose windows reach beyond it: as in csrc/common/math/border.h."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from handgrad.arguments import check_choice, check_pair

#: In the order of csrc.
BORDERS = ("reflect", "replicate", "constant", "circular")
_MOST_TAPS = 1023


def checked_window(op: str, kernel_size: Any, border_type: Any) -> tuple[list[int], int]:
    """Rows and columns of an odd window, and the number of a border."""
    said = "a whole number, odd and from 1 to 1023, or two of them"
    taps = list(check_pair(op, "kernel_size", kernel_size, 1, _MOST_TAPS, said))
    if any(size % 2 == 0 for size in taps):
        raise ValueError(f"{op}: kernel_size must be {said}; got {kernel_size!r}")
    return taps, BORDERS.index(check_choice(op, "border_type", border_type, BORDERS))


def padded(image: Tensor, reach: list[int], border: int) -> Tensor:
    """``image`` with what is around it, so many rows and columns, in plain PyTorch."""
    if BORDERS[border] == "constant":
        return torch.nn.functional.pad(image, [reach[1], reach[1], reach[0], reach[0]])
    for dim, around in ((2, reach[0]), (3, reach[1])):
        size = image.shape[dim]
        seen = torch.arange(size + 2 * around, device=image.device) - around
        if BORDERS[border] == "reflect":
            seen = (size - 1) - ((size - 1) - seen.abs()).abs()
        elif BORDERS[border] == "circular":
            seen = torch.remainder(seen, size)
        else:
            # Not clamp, which ONNX has of whole numbers since version 12.
            seen = torch.where(seen < 0, 0, torch.where(seen < size, seen, size - 1))
        image = image.index_select(dim, seen)
    return image


def moved(around: Tensor, reach: list[int], down: int, right: int) -> Tensor:
    """The pixels of a padded image that are the tap (down, right) of each window."""
    # By ends from behind, which exporters to ONNX need not know the size for.
    rows, columns = slice(down, down - 2 * reach[0] or None), slice(right, right - 2 * reach[1] or None)
    return around[:, :, rows, columns]
