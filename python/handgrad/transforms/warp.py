"""An image read through a matrix: affine, rotation, perspective. Rounding, kinks: docs/transforms/warp.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad._layout import empty_image
from handgrad._warping import (
    affine_matrix,
    checked_fill,
    checked_image,
    checked_matrix,
    checked_mode,
    expanded_size,
    fused,
    perspective_coefficients,
    read_corners,
)
from handgrad.arguments import FLOAT_MAX, check_bool, check_pair, check_range
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "warp"

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
    images = checked_image(_OP, image)
    height, width = images.shape[-2:] if size is None else check_pair(_OP, "size", size, 1)
    mode, fills = checked_mode(_OP, interpolation), checked_fill(_OP, fill, images)
    centered = check_bool(_OP, "centered", centered)
    table, numbers = checked_matrix(_OP, matrix, images)
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
    images = checked_image(op, image, any_rank=True)
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
    images = checked_image(op, image, any_rank=True)
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
    checked_image(op, image, any_rank=True)
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
    mode, fills = checked_mode(op, interpolation), checked_fill(op, fill, image)
    if image.numel() == 0:
        return image.new_empty((*image.shape[:-2], *size))
    images = image.flatten(0, -4) if image.dim() > 4 else image if image.dim() == 4 else image.unsqueeze(0)
    numbers = [float(number) for row in matrix for number in row]
    output = _warp(images, None, numbers, size[0], size[1], mode, fills, centered)
    if image.dim() == 4:
        return output
    return output.squeeze(0) if image.dim() == 3 else output.unflatten(0, image.shape[:-3])


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
        parts = [torch.full((1, 1), number, dtype=torch.float64, device=image.device) for number in numbers]
        matrix = torch.cat(parts, 1).reshape(1, len(numbers) // 3, 3)
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
        positions.append(fused(place + 1, torch.full_like(place, size / 2), torch.full_like(place, -0.5), levels))
    read, mask = read_corners(image.to(computed), positions[0], positions[1], interpolation == 1, levels)
    if fill:
        levels_around = [torch.full((1, 1, 1, 1), number, dtype=computed, device=image.device) for number in fill]
        around = torch.cat(levels_around, 1)
        read = (read - around) * mask + around if interpolation == 1 else torch.where(mask > 0, read, around)
    if levels:
        return torch.where(torch.isnan(read), 0, read).round().to(image.dtype)
    return read.to(image.dtype)


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
