"""An image read through a matrix: affine, rotation, perspective. Rounding, kinks: docs/transforms/warp.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad._images import DTYPES
from handgrad._layout import empty_image
from handgrad.arguments import FLOAT_MAX, check_bool, check_choice, check_pair, check_range, check_tensor
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "warp"
_MODES = {"nearest": 0, "bilinear": 1}
# Beside a matrix in a tensor nobody reads the numbers; of an empty list AOTInductor would make None.
_UNUSED = [0.0]

# ---- public functions ------------------------------------------------------------------------------------------------


@traceable
def warp(
    image: Tensor,
    matrix: Tensor | Sequence[Sequence[float]],
    size: int | Sequence[int] | None = None,
    *,
    interpolation: Any = "bilinear",
    fill: float | Sequence[float] | None = None,
    centered: bool = False,
) -> Tensor:
    """An image read where a matrix says, in one pass: affine and projective maps, a matrix for each image of a batch.

    Output pixel (i, j) is read at the position that the matrix makes of (j + 0.5, i + 0.5, 1), in pixels whose centres
    are 0.5, 1.5, ...; so the matrix leads from the output to the image, as torchvision's, Pillow's and (with
    ``WARP_INVERSE_MAP``) OpenCV's does. Two rows are affine, the third of three is what the others are divided by.
    The arithmetic is that of torchvision's kernels on a CPU. Coordinates are float32 where the image is of half
    precision. With derivatives with respect to the image and the matrix, first and second, and forward mode.

    Args:
        image: (channels, height, width) or (batch, channels, height, width); uint8, float32, float64, bfloat16 or
            float16, any strides.
        matrix: (2, 3) or (3, 3) numbers, or a tensor of them; or (batch, 2, 3) or (batch, 3, 3), one an image.
        size: of the output, height and width; one number is both. None is the image's.
        interpolation: ``"nearest"`` or ``"bilinear"``, or torchvision's ``InterpolationMode``.
        fill: what is around the image, a number or one a channel; beside a uint8 image from 0 to 255. None is 0 that
            blends in, as at the border of a convolution; a number blends by the square of how much of it is seen, as
            in torchvision.
        centered: whether positions in the output and in the image are counted from their centres, not their corners.

    Returns:
        An image of ``size``, of the type of ``image``, channels_last where it is.

    Raises:
        ValueError: a size, a mode or a fill out of range.
        TypeError: an argument of another kind.
        RuntimeError: a shape that does not fit.

    Example:
        >>> image = torch.tensor([[[10, 20], [30, 40]]], dtype=torch.uint8)
        >>> warp(image, [[1, 0, 0.5], [0, 1, 0]])
        tensor([[[15, 10],
                 [35, 20]]], dtype=torch.uint8)
        >>> warp(image, [[0, 1, 0], [1, 0, 0]])
        tensor([[[10, 30],
                 [20, 40]]], dtype=torch.uint8)
    """
    images = _checked_image(_OP, image)
    height, width = images.shape[-2:] if size is None else check_pair(_OP, "size", size, 1)
    mode, fills = _checked_mode(_OP, interpolation), _checked_fill(_OP, fill, images)
    centered = check_bool(_OP, "centered", centered)
    table, numbers = _checked_matrix(matrix, images)
    output = _warp(images, table, numbers, height, width, mode, fills, centered)
    return output.squeeze(0) if image.dim() == 3 else output


def affine(
    image: Tensor,
    angle: float,
    translate: Sequence[float],
    scale: float,
    shear: float | Sequence[float],
    interpolation: Any = "nearest",
    fill: float | Sequence[float] | None = None,
    center: Sequence[float] | None = None,
) -> Tensor:
    """torchvision's ``affine``: a rotation, a shear and a scale around a centre, and a translation.

    Args:
        image: (..., channels, height, width), uint8 or floating-point.
        angle: in degrees, clockwise.
        translate: right and down, in pixels.
        scale: greater than 0.
        shear: in degrees, along x, or along x and y.
        interpolation, fill: as :func:`warp` has them.
        center: from the upper left corner, in pixels. None is the image's.

    Returns:
        An image like ``image``.

    Example:
        >>> affine(torch.tensor([[[1, 2, 3]]], dtype=torch.uint8), 0, [1, 0], 1.0, 0)
        tensor([[[0, 1, 2]]], dtype=torch.uint8)
    """
    op = "affine"
    images = _checked_image(op, image, any_rank=True)
    matrix = affine_matrix(op, images.shape[-2:], angle, translate, scale, shear, center)
    return _warped(op, image, matrix, image.shape[-2:], interpolation, fill, True)


def rotate(
    image: Tensor,
    angle: float,
    interpolation: Any = "nearest",
    expand: bool = False,
    center: Sequence[float] | None = None,
    fill: float | Sequence[float] | None = None,
) -> Tensor:
    """torchvision's ``rotate``.

    Args:
        image: (..., channels, height, width), uint8 or floating-point.
        angle: in degrees, counter-clockwise.
        interpolation, fill: as :func:`warp` has them.
        expand: whether the output is as large as the turned image, around its centre.
        center: from the upper left corner, in pixels. None is the image's.

    Returns:
        An image like ``image``, or larger.

    Example:
        >>> rotate(torch.tensor([[[1, 2], [3, 4]]], dtype=torch.uint8), 90)
        tensor([[[2, 4],
                 [1, 3]]], dtype=torch.uint8)
    """
    op = "rotate"
    images = _checked_image(op, image, any_rank=True)
    check_range(op, "angle", angle, -FLOAT_MAX, FLOAT_MAX, "a finite number")
    check_bool(op, "expand", expand)
    angle = angle % 360
    height, width = images.shape[-2:]
    quarters = angle / 90
    if center is None and (quarters in (0, 2) or (quarters in (1, 3) and (expand or height == width))):
        return image.clone() if quarters == 0 else torch.rot90(image, int(quarters), (-2, -1))
    matrix = affine_matrix(op, (height, width), -angle, [0.0, 0.0], 1.0, 0.0, center)
    size = expanded_size(matrix, height, width) if expand else (height, width)
    return _warped(op, image, matrix, size, interpolation, fill, True)


def perspective(
    image: Tensor,
    startpoints: Sequence[Sequence[float]] | None,
    endpoints: Sequence[Sequence[float]] | None,
    interpolation: Any = "bilinear",
    fill: float | Sequence[float] | None = None,
    coefficients: Sequence[float] | None = None,
) -> Tensor:
    """torchvision's ``perspective``: four points of the image go to four points of the output.

    Args:
        image: (..., channels, height, width), uint8 or floating-point.
        startpoints: four times x and y, in the image.
        endpoints: where these are in the output.
        interpolation, fill: as :func:`warp` has them.
        coefficients: a matrix in place of points: the eight numbers before the last, which is 1.

    Returns:
        An image like ``image``.

    Example:
        >>> corners = [[0, 0], [1, 0], [1, 1], [0, 1]]
        >>> perspective(torch.tensor([[[1, 2], [3, 4]]], dtype=torch.uint8), corners, corners)
        tensor([[[1, 2],
                 [3, 4]]], dtype=torch.uint8)
    """
    op = "perspective"
    _checked_image(op, image, any_rank=True)
    if (coefficients is None) == (startpoints is None) or (startpoints is None) != (endpoints is None):
        raise ValueError(f"{op}: either startpoints and endpoints must be given, or coefficients")
    if coefficients is None:
        coefficients = perspective_coefficients(op, startpoints, endpoints)
    elif not isinstance(coefficients, (list, tuple)) or len(coefficients) != 8:
        raise ValueError(f"{op}: coefficients must be eight numbers; got {coefficients!r}")
    numbers = [*(float(number) for number in coefficients), 1.0]
    matrix = [numbers[:3], numbers[3:6], numbers[6:]]
    return _warped(op, image, matrix, image.shape[-2:], interpolation, fill, False)


def _warped(op: str, image: Tensor, matrix: Any, size: Any, interpolation: Any, fill: Any, centered: bool) -> Tensor:
    """The same matrix for all images of (..., channels, height, width)."""
    mode, fills = _checked_mode(op, interpolation), _checked_fill(op, fill, image)
    if image.numel() == 0:
        return image.new_empty((*image.shape[:-2], *size))
    images = image.flatten(0, -4) if image.dim() > 4 else image if image.dim() == 4 else image.unsqueeze(0)
    numbers = [float(number) for row in matrix for number in row]
    output = _warp(images, None, numbers, size[0], size[1], mode, fills, centered)
    if image.dim() == 4:
        return output
    return output.squeeze(0) if image.dim() == 3 else output.unflatten(0, image.shape[:-3])


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


def _checked_image(op: str, image: Any, any_rank: bool = False) -> Tensor:
    check_tensor(op, "image", image)
    if image.dtype not in DTYPES:
        kind = str(image.dtype).removeprefix("torch.")
        raise TypeError(f"{op}: image must be uint8, float32, float64, bfloat16 or float16; got {kind}")
    if image.dim() < 3 or (image.dim() > 4 and not any_rank):
        raise RuntimeError(
            f"{op}: image must have 3 or 4 dimensions (batch, channels, height, width); got {tuple(image.shape)}"
        )
    return image.unsqueeze(0) if image.dim() == 3 else image


def _checked_mode(op: str, interpolation: Any) -> int:
    numbers = {0: "nearest", 2: "bilinear"}  # Pillow's
    name = numbers.get(interpolation, interpolation) if type(interpolation) is int else interpolation
    return _MODES[check_choice(op, "interpolation", getattr(name, "value", name), _MODES)]


def _checked_fill(op: str, fill: Any, image: Tensor) -> list[float]:
    if fill is None:
        return []
    fills = list(fill) if isinstance(fill, (list, tuple)) else [fill]
    if len(fills) not in (1, image.shape[-3]):
        raise ValueError(f"{op}: fill must be a number, or one a channel, {image.shape[-3]}; got {fill!r}")
    low, high, what = -FLOAT_MAX, FLOAT_MAX, "finite numbers"
    if image.dtype is torch.uint8:
        low, high, what = 0.0, 255.0, "numbers from 0 to 255 beside a uint8 image"
    for number in fills:
        check_range(op, "fill", number, low, high, what)
    return [float(number) for number in fills]


def _checked_matrix(matrix: Any, images: Tensor) -> tuple[Tensor | None, list[float]]:
    """A table of them, or the numbers of one for all."""
    shape = r"(2, 3) or (3, 3), or (batch, 2, 3) or (batch, 3, 3)"
    if not isinstance(matrix, Tensor):
        rows = isinstance(matrix, (list, tuple)) and all(isinstance(row, (list, tuple)) for row in matrix)
        if not rows or [len(row) for row in matrix] not in ([3] * 2, [3] * 3):
            got = matrix if rows else type(matrix).__name__
            raise TypeError(f"{_OP}: matrix must be a tensor, or two or three rows of three numbers; got {got}")
        for row in matrix:
            for number in row:
                check_range(_OP, "matrix", number, -FLOAT_MAX, FLOAT_MAX, "finite numbers")
        return None, [float(number) for row in matrix for number in row]
    check_tensor(_OP, "matrix", matrix)
    if not matrix.is_floating_point():
        kind = str(matrix.dtype).removeprefix("torch.")
        raise TypeError(f"{_OP}: matrix must be a tensor of floating-point numbers; got one of {kind}")
    if matrix.device != images.device:
        raise RuntimeError(f"{_OP}: matrix must be on the device of image, {images.device}; got {matrix.device}")
    if matrix.dim() not in (2, 3) or tuple(matrix.shape[-2:]) not in ((2, 3), (3, 3)):
        raise RuntimeError(f"{_OP}: matrix must be {shape}; got {tuple(matrix.shape)}")
    table = matrix.expand(images.shape[0], -1, -1) if matrix.dim() == 2 else matrix
    if images.dtype is torch.uint8:
        table = table.detach()  # whole levels have no slope
    return table.double(), _UNUSED


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def warp_reference(
    image: Tensor, matrix: Tensor | None, numbers: list[float], height: int, width: int, interpolation: int,
    fill: list[float], centered: bool,
) -> Tensor:  # fmt: skip
    """Plain PyTorch. To be trusted because it is the definition: positions, whole and fractional parts, four gathers.
    Levels are rounded where kernels round, so that they are the same."""
    levels = image.dtype is torch.uint8
    computed = torch.float64 if image.dtype is torch.float64 else torch.float32
    sizes = image.shape[3], image.shape[2]
    if matrix is None:
        matrix = torch.tensor(numbers, dtype=torch.float64, device=image.device).reshape(1, len(numbers) // 3, 3)
    table = matrix.to(computed)[..., None, None]  # [N, 2 or 3, 3, 1, 1]
    bases = []
    for axis, size in enumerate((width, height)):
        base = torch.arange(size, device=image.device).to(computed) + (0.5 - size / 2 if centered else 0.5)
        bases.append(base.reshape((1, -1) if axis == 0 else (-1, 1)))
    places = []
    for axis in range(table.shape[1]):
        scale = sizes[axis] / 2 if axis < 2 else 1
        row = table[:, axis] / scale
        places.append(bases[0] * row[:, 0] + bases[1] * row[:, 1] + row[:, 2])
    positions = []
    for place, size in zip(places[:2], sizes, strict=True):
        place = place if len(places) == 2 else place / places[2]
        place = place if centered else place - 1
        positions.append(_fused(place + 1, torch.full_like(place, size / 2), torch.full_like(place, -0.5), levels))
    read, mask = _read(image.to(computed), positions[0], positions[1], interpolation == 1, levels)
    if fill:
        around = torch.tensor(fill, dtype=computed, device=image.device).reshape(1, -1, 1, 1)
        read = (read - around) * mask + around if interpolation == 1 else torch.where(mask > 0, read, around)
    if levels:
        return torch.where(torch.isnan(read), 0, read).round().to(image.dtype)
    return read.to(image.dtype)


def _fused(a: Tensor, b: Tensor, c: Tensor, levels: bool) -> Tensor:
    """a b + c; of levels rounded once, where it shows."""
    return (a.double() * b.double() + c.double()).to(a.dtype) if levels else a * b + c


def _read(image: Tensor, x: Tensor, y: Tensor, bilinear: bool, levels: bool) -> tuple[Tensor, Tensor]:
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
        sums = pixels * weight if sums is None else _fused(pixels, weight, sums, levels)
        mask = mask + torch.where(there | torch.isnan(weight.squeeze(1)), weight.squeeze(1), 0)
    assert sums is not None
    return sums, mask.unsqueeze(1)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(image: Tensor, matrix: Tensor | None, numbers: list[float], height: int, width: int, *others: Any) -> Tensor:
    if image.dim() != 4:
        raise RuntimeError(
            f"{_OP}: image must have 4 dimensions (batch, channels, height, width); got {tuple(image.shape)}"
        )
    if matrix is not None:
        torch._check(
            matrix.dim() == 3 and matrix.shape[0] == image.shape[0],
            lambda: f"{_OP}: matrix must have shape (images, 2 or 3, 3); got {tuple(matrix.shape)}",
        )
    return empty_image(image, (image.shape[0], image.shape[1], height, width), image)


def _gradient_like(tensor: Tensor) -> Tensor:
    return empty_image(tensor, tensor.shape, tensor) if tensor.dim() == 4 else tensor.new_empty(tensor.shape)


# ---- registration ----------------------------------------------------------------------------------------------------

_warp = Derivatives("handgrad::warp", reference=warp_reference, fake=_fake, roles=BATCHED, gradient_like=_gradient_like)
