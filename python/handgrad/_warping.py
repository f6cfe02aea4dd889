"""Matrices that an image is read through, made of what users give, checked; and corners of positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad._images import check_image, check_image_dtype
from handgrad.arguments import FLOAT_MAX, check_choice, check_range, check_tensor, dtype_name

MODES = {"nearest": 0, "bilinear": 1}
# Beside a matrix in a tensor nobody reads the numbers; of an empty list AOTInductor would make None.
UNUSED = [0.0]

# ---- matrices --------------------------------------------------------------------------------------------------------


def affine_matrix(
    op: str, size: Sequence[int], angle: float, translate: Any, scale: float, shear: Any, center: Any
) -> list[list[float]]:
    """From positions in the output to those in the image, both counted from their centres: the inverse of a shear along
    x, one along y, a scale and a turn, each around the centre, and a translation. In torchvision's order of steps, as
    its numbers are rounded to those of the image's type afterwards."""
    shears = [shear, 0.0] if isinstance(shear, (int, float)) else shear
    pairs = {"translate": translate, "shear": shears, "center": [0.0, 0.0] if center is None else center}
    for name, pair in pairs.items():
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise TypeError(f"{op}: {name} must be two numbers; got {pair!r}")
        for number in pair:
            check_range(op, name, number, -FLOAT_MAX, FLOAT_MAX, "finite numbers")
    check_range(op, "angle", angle, -FLOAT_MAX, FLOAT_MAX, "a finite number")
    check_range(op, "scale", scale, 1e-37, FLOAT_MAX, "a finite number greater than 0")
    center_x, center_y = (0.0, 0.0) if center is None else (center[0] - size[1] * 0.5, center[1] - size[0] * 0.5)
    turn, shear_x, shear_y = math.radians(angle), math.radians(shears[0]), math.radians(shears[1])
    across, slant = math.cos(shear_y), math.tan(shear_x)
    a, c = math.cos(turn - shear_y) / across, math.sin(turn - shear_y) / across
    b, d = -(a * slant + math.sin(turn)), math.cos(turn) - c * slant
    to_x, to_y = center_x + translate[0], center_y + translate[1]
    rows = [[d / scale, -b / scale], [-c / scale, a / scale]]
    for row, own in zip(rows, (center_x, center_y), strict=True):
        row.append(own - row[0] * to_x - row[1] * to_y)
    return rows


def expanded_size(matrix: list[list[float]], height: int, width: int) -> tuple[int, int]:
    """Of an output that holds the whole turned image: its corners' extent, cut to 1e-4 of a pixel in float32 as
    torchvision's is."""
    half_x, half_y = 0.5 * width, 0.5 * height
    corners = [[x, y, 1.0] for x in (-half_x, half_x) for y in (-half_y, half_y)]
    turned = torch.tensor(corners) @ torch.tensor(matrix, dtype=torch.float32).T + torch.tensor([half_x, half_y])
    low, high = (turned.amin(0) * 1e4).trunc() * 1e-4, (turned.amax(0) * 1e4).trunc() * 1e-4
    new_width, new_height = (high.ceil() - low.floor()).tolist()
    return int(new_height), int(new_width)


def perspective_coefficients(op: str, startpoints: Any, endpoints: Any) -> list[float]:
    """The map that takes four endpoints to the startpoints, by Gauss's elimination in double, rounded to float32."""
    for name, points in (("startpoints", startpoints), ("endpoints", endpoints)):
        if not isinstance(points, (list, tuple)) or [len(point) for point in points] != [2] * 4:
            raise ValueError(f"{op}: {name} must be four points of x and y; got {points!r}")
    rows: list[list[float]] = []
    for (x, y), (u, v) in zip(endpoints, startpoints, strict=True):
        rows.append([x, y, 1.0, 0.0, 0.0, 0.0, -u * x, -u * y, u])
        rows.append([0.0, 0.0, 0.0, x, y, 1.0, -v * x, -v * y, v])
    largest = max(abs(number) for row in rows for number in row)
    for k in range(8):
        pivot = max(range(k, 8), key=lambda row: abs(rows[row][k]))
        rows[k], rows[pivot] = rows[pivot], rows[k]
        if not abs(rows[k][k]) > 1e-12 * largest:
            raise ValueError(f"{op}: no three of the endpoints must lie on a line; got {endpoints!r}")
        for row in rows[k + 1 :]:
            if row[k]:
                factor = row[k] / rows[k][k]
                row[k:] = [a - factor * b for a, b in zip(row[k:], rows[k][k:], strict=True)]
    found = [0.0] * 8
    for k in reversed(range(8)):
        found[k] = (rows[k][8] - sum(rows[k][m] * found[m] for m in range(k + 1, 8))) / rows[k][k]
    return torch.tensor(found, dtype=torch.float32).tolist()


# ---- checks ----------------------------------------------------------------------------------------------------------


def checked_image(op: str, image: Any, any_rank: bool = False) -> Tensor:
    check_tensor(op, "image", image)
    if any_rank and image.dim() > 4:
        check_image_dtype(op, "image", image)
    else:
        check_image(op, "image", image)
    return image.unsqueeze(0) if image.dim() == 3 else image


def checked_mode(op: str, interpolation: Any) -> int:
    numbers = {0: "nearest", 2: "bilinear"}  # Pillow's
    name = numbers.get(interpolation, interpolation) if type(interpolation) is int else interpolation
    return MODES[check_choice(op, "interpolation", getattr(name, "value", name), MODES)]


def checked_fill(op: str, fill: Any, image: Tensor) -> list[float]:
    if fill is None:
        return []
    fills = list(fill) if isinstance(fill, (list, tuple)) else [fill]
    # A trace has sizes that must not be asked for; the op asks.
    if len(fills) != 1 and not torch.jit.is_tracing() and len(fills) != image.shape[-3]:
        raise ValueError(f"{op}: fill must be a number, or one a channel, {image.shape[-3]}; got {fill!r}")
    low, high, what = -FLOAT_MAX, FLOAT_MAX, "finite numbers"
    if image.dtype is torch.uint8:
        low, high, what = 0.0, 255.0, "numbers from 0 to 255 beside a uint8 image"
    for number in fills:
        check_range(op, "fill", number, low, high, what)
    return [float(number) for number in fills]


def checked_matrix(op: str, matrix: Any, images: Tensor) -> tuple[Tensor | None, list[float]]:
    """A table of them, or the numbers of one for all."""
    shape = r"(2, 3) or (3, 3), or (batch, 2, 3) or (batch, 3, 3)"
    if not isinstance(matrix, Tensor):
        rows = isinstance(matrix, (list, tuple)) and all(isinstance(row, (list, tuple)) for row in matrix)
        if not rows or [len(row) for row in matrix] not in ([3] * 2, [3] * 3):
            got = matrix if rows else type(matrix).__name__
            raise TypeError(f"{op}: matrix must be a tensor, or two or three rows of three numbers; got {got}")
        for row in matrix:
            for number in row:
                check_range(op, "matrix", number, -FLOAT_MAX, FLOAT_MAX, "finite numbers")
        return None, [float(number) for row in matrix for number in row]
    check_tensor(op, "matrix", matrix)
    if not matrix.is_floating_point():
        kind = dtype_name(matrix.dtype)
        raise TypeError(f"{op}: matrix must be a tensor of floating-point numbers; got one of {kind}")
    if matrix.device != images.device:
        raise RuntimeError(f"{op}: matrix must be on the device of image, {images.device}; got {matrix.device}")
    fits = torch.jit.is_tracing() or tuple(matrix.shape[-2:]) in ((2, 3), (3, 3))
    if matrix.dim() not in (2, 3) or not fits:
        raise RuntimeError(f"{op}: matrix must be {shape}; got {tuple(matrix.shape)}")
    table = matrix.expand(images.shape[0], -1, -1) if matrix.dim() == 2 else matrix
    if images.dtype is torch.uint8:
        table = table.detach()  # whole levels have no slope
    return table.double(), UNUSED


# ---- corners ---------------------------------------------------------------------------------------------------------


def fused(a: Tensor, b: Tensor, c: Tensor, levels: bool) -> Tensor:
    """a b + c; of levels rounded once, where it shows."""
    return (a.double() * b.double() + c.double()).to(a.dtype) if levels else a * b + c


def read_corners(image: Tensor, x: Tensor, y: Tensor, bilinear: bool, levels: bool) -> tuple[Tensor, Tensor]:
    """What is read at positions [N or 1, height, width], and the weights of what is not outside."""
    height, width = image.shape[2], image.shape[3]
    low_x, low_y = (x.detach().floor(), y.detach().floor()) if bilinear else (x.detach().round(), y.detach().round())
    outside = (low_x < -1) | (low_x >= width) | (low_y < -1) | (low_y >= height)
    outside = outside & ~torch.isnan(x) & ~torch.isnan(y) if bilinear else outside | torch.isnan(x) | torch.isnan(y)
    right, down = torch.where(outside, 0, x - low_x), torch.where(outside, 0, y - low_y)
    weights = {(0, 0): 1 + 0 * (right + down)}  # which depends on positions, with slopes of 0
    if bilinear:
        left, up = 1 - right, 1 - down
        weights = {(0, 0): up * left, (0, 1): up * right, (1, 0): down * left, (1, 1): down * right}
    sums, mask = None, torch.zeros_like(x)
    flat = image.flatten(2)
    for (dy, dx), weight in weights.items():
        row, column = low_y + dy, low_x + dx
        there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        index = torch.where(there, row, 0).long() * width + torch.where(there, column, 0).long()
        index = index.unsqueeze(1).expand(image.shape[0], image.shape[1], -1, -1)
        pixels = torch.gather(flat, 2, index.flatten(2)).reshape(index.shape)
        pixels, weight = torch.where(there.unsqueeze(1), pixels, 0), weight.unsqueeze(1)
        sums = pixels * weight if sums is None else fused(pixels, weight, sums, levels)
        mask = mask + torch.where(there | torch.isnan(weight.squeeze(1)), weight.squeeze(1), 0)
    assert sums is not None
    return sums, mask.unsqueeze(1)
