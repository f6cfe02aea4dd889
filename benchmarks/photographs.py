"""What the benchmarks of transforms are given: a picture of waves, of whose filters, turns and colours much is seen."""

from __future__ import annotations

import torch
from torch import Tensor


def photograph(
    side: int, device: torch.device, packed: bool = True, waves: tuple[float, float] = (5, 3), contrast: int = 127
) -> Tensor:
    """(3, side, side) of uint8; pixels packed, as decoders leave them, or in planes.

    ``waves``: how fast they rise and fall, and how fast their height does from column to column. ``contrast``: how far
    levels are from 127.
    """
    at = torch.arange(side, device=device) / side
    rise, fall = waves
    planes = [torch.sin(rise * (at[:, None] * (1 + k) + at * (3 - k))) * torch.cos(fall * at) for k in range(3)]
    image = (torch.stack(planes) * contrast + 127).to(torch.uint8)
    return image.permute(1, 2, 0).contiguous().permute(2, 0, 1) if packed else image


def smooth(side: int, device: torch.device, packed: bool = True) -> Tensor:
    """Smooth enough for every filter to make nearly the same picture of it."""
    return photograph(side, device, packed, waves=(2, 2))
