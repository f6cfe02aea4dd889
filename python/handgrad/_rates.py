"""Images between two rates of samples in plain PyTorch: zeros inserted, padded or cut, filtered, every so-manieth
sample kept; for references, and checks of the numbers that say so."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from handgrad.arguments import check_int

#: Of an axis, as in csrc.
MOST_SAMPLES = 2**30 - 1


def checked_padding(op: str, padding: Any) -> list[int]:
    """Samples before and after x, before and after y."""
    said = "a whole number, or two, or four of them, between -2^30 and 2^30"
    sides = list(padding) if isinstance(padding, (list, tuple)) and len(padding) in (2, 4) else [padding]
    x0, x1, y0, y1 = sides if len(sides) == 4 else [sides[0], sides[0], sides[-1], sides[-1]]
    return [check_int(op, "padding", side, -MOST_SAMPLES, MOST_SAMPLES, said) for side in (x0, x1, y0, y1)]


def resampled(
    input: Tensor, filter: Tensor, up: list[int], down: list[int], padding: list[int], flip_filter: bool
) -> Tensor:
    """The image moved by each tap and weighed; the samples that are dropped are left out of each."""
    samples = with_zeros(input, up, padding)
    taps = filter if flip_filter else filter.flip(list(range(filter.dim())))
    if filter.dim() == 1:
        output: Tensor = _sum_along(_sum_along(samples, taps, 3, down[0]), taps, 2, down[1])
        return output
    rows = [_sum_along(samples, row, 3, down[0]) for row in taps.unbind()]
    count = (samples.shape[2] - len(rows)) // down[1] + 1
    return sum(_every(row, 2, shift, down[1], count) for shift, row in enumerate(rows))  # type: ignore[return-value]


def with_zeros(samples: Tensor, up: list[int], padding: list[int]) -> Tensor:
    """The image with zeros behind each sample and around it."""
    apart = F.pad(samples.unsqueeze(4).unsqueeze(3), [0, up[0] - 1, 0, 0, 0, up[1] - 1])
    return F.pad(apart.flatten(4, 5).flatten(2, 3), padding)


def _sum_along(samples: Tensor, taps: Tensor, dim: int, step: int) -> Any:
    count = (samples.shape[dim] - taps.shape[0]) // step + 1
    return sum(tap * _every(samples, dim, shift, step, count) for shift, tap in enumerate(taps.unbind()))


def _every(samples: Tensor, dim: int, first: int, step: int, count: int) -> Tensor:
    part = slice(first, first + (count - 1) * step + 1, step)
    return samples[:, :, part] if dim == 2 else samples[:, :, :, part]
