"""Groups of channels that look at points of their own in a feature map: the definition in plain PyTorch, and ONNX's."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_samples(
    pixels: Tensor, y: Tensor, x: Tensor, factors: Tensor, height: int, width: int, start: int = 0
) -> Tensor:
    """(batch, groups, queries, channels): the sum over a query's points of what is there, bilinear between pixels and 0
    outside, times a factor. The four pixels around each point, gathered, and their weights.

    Args:
        pixels: (batch, groups, positions, channels).
        y, x, factors: (batch, groups, queries, points), rows and columns of the map.
        height, width, start: the map's size, and where it begins among the positions.
    """
    batch, groups, _, channels = pixels.shape
    queries, points = y.shape[2:]
    output = pixels.new_zeros(batch, groups, queries, channels)
    is_nan = x.isnan() | y.isnan()
    inside = (x >= -1) & (x < width) & (y >= -1) & (y < height)
    # Nothing infinite goes on from here, where 0 times it would be NaN; NaN does.
    x, y = (torch.where(inside | is_nan, point, 0.0) for point in (x, y))
    column, row = x.detach().floor(), y.detach().floor()
    right, down = x - column, y - row
    for pixel_y, pixel_x, part in (
        (row, column, (1 - down) * (1 - right)),
        (row, column + 1, (1 - down) * right),
        (row + 1, column, down * (1 - right)),
        (row + 1, column + 1, down * right),
    ):
        valid = inside & (pixel_x >= 0) & (pixel_x < width) & (pixel_y >= 0) & (pixel_y < height)
        # Whole numbers before they are multiplied: float32 has not all of them beyond 2^24.
        index = torch.where(valid, pixel_y, 0.0).long() * width + torch.where(valid, pixel_x, 0.0).long() + start
        index = index.reshape(batch, groups, queries * points, 1).expand(-1, -1, -1, channels)
        found = pixels.gather(2, index).reshape(batch, groups, queries, points, channels)
        # Beyond the map's edge: zeros.
        factor = factors * torch.where(valid | is_nan, part, 0.0)
        output = output + (factor[..., None] * torch.where(valid[..., None], found, 0.0)).sum(3)
    return output


def grid_samples(images: Tensor, grid: Tensor) -> Tensor:
    """(batch, channels, queries, points): ONNX's ``GridSample`` of images (batch, channels, height, width), at points
    x, y of (batch, queries, points, 2), which are -1 and 1 at the outer edges."""
    from handgrad.onnx import operator

    # Its own word for bilinear differs from version to version, and is what it does unless told.
    attributes = {"align_corners": 0, "padding_mode": "zeros"}
    shape = (images.shape[0], images.shape[1], grid.shape[1], grid.shape[2])
    return operator("GridSample", [images, grid], attributes, dtype=images.dtype, shape=shape, since=16)
