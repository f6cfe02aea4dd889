"""Resampling of images in plain PyTorch: what every output pixel weighs every pixel of its row or column by, for
references. One box for each image of a batch, or one for all; interpolation is numbered as in the schemas: 0 nearest,
1 nearest-exact, 2 bilinear, 3 bicubic."""

from __future__ import annotations

import torch
from torch import Tensor


def weights(
    start: Tensor,
    extent: Tensor,
    flip: Tensor,
    outputs: int,
    window: tuple[int, int],
    size: int,
    interpolation: int,
    antialias: bool,
) -> tuple[Tensor, Tensor]:
    """What each of ``outputs`` in a window of them (from, how many), which may be flipped, weighs each of ``size``
    pixels by, (boxes, 1, window, size) in float64; and the largest weight of each box, (boxes,), windows aside."""
    start, extent, flip = (numbers[:, None, None] for numbers in (start, extent, flip))
    index = torch.arange(outputs, device=start.device)[:, None]
    pixel = torch.arange(size, device=start.device) - start
    if interpolation < 2:
        weights = (pixel == _nearest(index, extent, outputs, interpolation)).double()
        largest = torch.ones_like(weights[:, 0, 0])
    else:
        scale, cubic = extent.double() / outputs, interpolation == 3
        make = _antialiased if antialias else _interpolated
        weights, largest = make(index.double() + 0.5, pixel, extent, scale, cubic)
    weights = weights[:, window[0] : window[0] + window[1]]
    return torch.where(flip.bool(), weights.flip(1), weights)[:, None], largest


def _at_least(x: Tensor, low: float) -> Tensor:
    # Not clamp: older versions of ONNX's Clip know no float64.
    return torch.where(x < low, low, x)


def _at_most(x: Tensor, high: float) -> Tensor:
    return torch.where(x > high, high, x)


def _nearest(index: Tensor, extent: Tensor, outputs: int, interpolation: int) -> Tensor:
    step = extent.float() / outputs
    point = step * index.float() if interpolation == 0 else _at_least(step * (index + 0.5) - 0.5, 0.0) + 0.5
    return torch.minimum(point.floor(), (extent - 1).float()).long()


def _filter(x: Tensor, cubic: bool, a: float) -> Tensor:
    x = x.abs()
    if not cubic:
        return _at_least(1 - x, 0.0)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _antialiased(middle: Tensor, pixel: Tensor, extent: Tensor, scale: Tensor, cubic: bool) -> tuple[Tensor, Tensor]:
    wide = _at_least(scale, 1.0)
    centre, support = scale * middle, (2 if cubic else 1) * wide
    first = _at_least(centre - support + 0.5, 0.0).floor()
    end = torch.minimum((centre + support + 0.5).floor(), extent.double())
    weights = _filter((pixel - centre + 0.5) / wide, cubic, -0.5) * ((pixel >= first) & (pixel < end))
    weights = weights / weights.sum(2, keepdim=True)
    return weights, weights.amax((1, 2))


def _interpolated(middle: Tensor, pixel: Tensor, extent: Tensor, scale: Tensor, cubic: bool) -> tuple[Tensor, Tensor]:
    point, reach = scale * middle - 0.5, 2 if cubic else 1
    if not cubic:
        point = _at_least(point, 0.0)
    low = torch.minimum(point.floor(), extent.double() - 1)
    rest = _at_most(_at_least(point - low, 0.0), 1.0)
    weights = torch.zeros_like(pixel * low)
    largest = torch.zeros_like(weights[:, 0, 0])
    for tap in range(1 - reach, reach + 1):
        # Beyond the crop its edge goes on.
        kept = torch.minimum(_at_least(low + tap, 0.0), extent.double() - 1)
        weights = weights + (pixel == kept) * _filter(tap - rest, cubic, -0.75)
        largest = torch.maximum(largest, ((pixel == kept) * weights).amax((1, 2)))
    return weights, largest


def integer_weights(weights: Tensor, largest: Tensor, pillow: bool) -> tuple[Tensor, Tensor]:
    """As whole numbers, and how many bits of them are behind the point, (boxes, 1, 1, 1): Pillow has always 22."""
    units = 2.0 ** torch.arange(1, 23, device=largest.device, dtype=torch.float64)
    most = 2.0**31 if pillow else 2.0**15
    bits = ((0.5 + largest[:, None] * units).floor() < most).sum(1)[:, None, None, None]
    scaled = weights * 2.0**bits
    return torch.where(scaled < 0, -(0.5 - scaled).floor(), (scaled + 0.5).floor()), bits


def rounded(sums: Tensor, bits: Tensor) -> Tensor:
    return _at_most(_at_least(((sums + 2.0 ** (bits - 1)) / 2.0**bits).floor(), 0.0), 255.0)


def normalised(image: Tensor, mean: list[float], std: list[float]) -> Tensor:
    if not mean:
        return image
    means, stds = (torch.stack([image.new_full((), x) for x in values])[:, None, None] for values in (mean, std))
    return (image - means) / stds
