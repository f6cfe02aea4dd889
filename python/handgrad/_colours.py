"""Colour operations on (batch, channels, height, width) in plain PyTorch, for references; ``rest`` is 1 - factor."""

from __future__ import annotations

import torch
from torch import Tensor

#: By the number that schemas, and tables of operations, have them by. 0 is nothing.
OPERATIONS = {"brightness": 1, "contrast": 2, "saturation": 3, "hue": 4, "grayscale": 5}


def _channels(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return image[:, :1], image[:, 1:2], image[:, 2:]


def _fused(a: Tensor, b: Tensor | float, c: Tensor) -> Tensor:
    """a * b + c of float32, rounded once."""
    factor = b if isinstance(b, Tensor) else torch.full((), b, dtype=a.dtype, device=a.device)
    return (a.double() * factor.double() + c.double()).to(a.dtype)


def _gray_level(image: Tensor) -> Tensor:
    red, green, blue = _channels(image)
    return _fused(blue, 0.114, _fused(green, 0.587, red * 0.2989)).floor()


def _level(x: Tensor) -> Tensor:
    return torch.clamp(x, 0, 255).floor()


def of_levels(image: Tensor, operation: int, factor: Tensor, rest: Tensor) -> Tensor:
    """An operation on whole levels in float32, with torch's roundings."""
    colour = image.shape[1] == 3
    if operation == 1:
        return _level(image * factor)
    if operation == 2:
        gray = _gray_level(image) if colour else image
        total = gray.double().sum((1, 2, 3), keepdim=True).to(image.dtype)
        return _level(_fused(total / (image.shape[2] * image.shape[3]), rest, image * factor))
    if operation == 0 or not colour:
        return image
    if operation == 3:
        return _level(_fused(_gray_level(image), rest, image * factor))
    if operation == 4:
        return (_hue(image * (1 / 255), factor) * (255 + 1 - 1e-3)).floor()
    return _gray_level(image).expand(image.shape)


def _gray(image: Tensor) -> Tensor:
    red, green, blue = _channels(image)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _unit(x: Tensor) -> Tensor:
    return torch.clamp(x, 0, 1)


def of_numbers(image: Tensor, operation: int, factor: Tensor, rest: Tensor) -> Tensor:
    """An operation on floating-point numbers from 0 to 1."""
    colour = image.shape[1] == 3
    if operation == 1:
        return _unit(image * factor)
    if operation == 2:
        mean = (_gray(image) if colour else image).mean((1, 2, 3), keepdim=True)
        return _unit(image * factor + mean * rest)
    if operation == 0 or not colour:
        return image
    if operation == 3:
        return _unit(image * factor + _gray(image) * rest)
    return _hue(image, factor) if operation == 4 else _gray(image).expand(image.shape)


def _hue(image: Tensor, factor: Tensor) -> Tensor:
    """From red, green and blue to hue, saturation and value, and back. The first of several largest channels is the
    largest, and likewise the least; a gray pixel stays, and so does its gradient."""
    r, g, b = _channels(image)
    red, green = (r >= g) & (r >= b), g >= b
    value = torch.where(red, r, torch.where(green, g, b))
    least = torch.where((r <= g) & (r <= b), r, torch.where(g <= b, g, b))
    spread = value - least
    gray = ~((spread > 0) | (spread < 0) | spread.isnan())
    one = torch.ones_like(value)
    divisor = torch.where(gray, one, spread)
    saturation = spread / torch.where(gray, one, value)
    from_red, from_green, from_blue = (value - r) / divisor, (value - g) / divisor, (value - b) / divisor
    of_green, of_blue = from_red + 2 - from_blue, from_green + 4 - from_red
    sixths = torch.where(red, from_blue - from_green, torch.where(green, of_green, of_blue))
    hue = sixths * (1 / 6) + 1
    hue = hue - hue.detach().floor() + factor
    hue = (hue - hue.detach().floor()) * 6
    sector = hue.detach().floor()
    # Between two sixths, the one where the first of equal channels is the largest, or the least.
    tie = ~((r > g) | (r < g)) | ~((g > b) | (g < b))
    sector = torch.where(tie & (hue <= sector), sector - 1, sector)
    part = hue - sector
    sector = torch.where(sector >= 6, sector - 6, torch.where(sector < 0, sector + 6, sector))
    p = _unit((1 - saturation) * value)
    q = _unit((1 - saturation * part) * value)
    t = _unit((saturation * part + (1 - saturation)) * value)
    channels = []
    for names in ("vqpptv", "tvvqpp", "pptvvq"):
        channel = p
        for index, name in enumerate(names):
            channel = torch.where((sector > index - 0.5) & (sector < index + 0.5),
                                  {"v": value, "p": p, "q": q, "t": t}[name], channel)  # fmt: skip
        channels.append(channel)
    turned = torch.where(gray, image, torch.cat(channels, 1))
    lost = image.isnan().any(1, keepdim=True)
    return torch.where(lost, image.sum(1, keepdim=True), turned)
