"""Feature maps of several levels in one tensor, one after the other: their sizes, and where they begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad.arguments import check_int, check_pair


def as_pairs(op: str, spatial_shapes: Any) -> list[tuple[int, int]]:
    """Height and width of each level, from pairs of numbers or a tensor of (levels, 2)."""
    said = "a height and a width, at least 1, for each level"
    if isinstance(spatial_shapes, Tensor):
        if spatial_shapes.is_floating_point() or spatial_shapes.dim() != 2:
            raise TypeError(
                f"{op}: spatial_shapes must be {said}; got a tensor of {spatial_shapes.dtype} of shape "
                f"{tuple(spatial_shapes.shape)}"
            )
        spatial_shapes = spatial_shapes.tolist()
    if not isinstance(spatial_shapes, Sequence) or isinstance(spatial_shapes, str):
        raise TypeError(f"{op}: spatial_shapes must be {said}; got {spatial_shapes!r}")
    if not spatial_shapes:
        raise ValueError(f"{op}: spatial_shapes must be {said}, and of one level at least; got none")
    # Two sizes each: one number, which check_pair would take twice, is none.
    for shape in spatial_shapes:
        if not isinstance(shape, (tuple, list, torch.Size, Tensor)):
            raise TypeError(f"{op}: spatial_shapes must be {said}; got {spatial_shapes!r}")
    return [check_pair(op, "spatial_shapes", shape, 1, expected=said) for shape in spatial_shapes]


def as_starts(op: str, value: Tensor, shapes: list[tuple[int, int]], level_start_index: Any) -> list[int]:
    """Where each level begins among the positions, dimension 1 of ``value``; None: one follows the other, to its
    end."""
    if level_start_index is None:
        starts = [0]
        for height, width in shapes:
            starts.append(starts[-1] + height * width)
        # (What TorchScript's tracer records of a size is no number to be compared.)
        if not torch.jit.is_tracing() and value.dim() == 4 and value.shape[1] != starts[-1]:
            raise ValueError(
                f"{op}: spatial_shapes must have as many pixels as value has positions, {value.shape[1]}; got "
                f"{starts[-1]}"
            )
        return starts[:-1]
    if isinstance(level_start_index, Tensor):
        level_start_index = level_start_index.tolist()
    if not isinstance(level_start_index, Sequence) or isinstance(level_start_index, str):
        raise TypeError(f"{op}: level_start_index must be a whole number for each level; got {level_start_index!r}")
    starts = [check_int(op, "level_start_index", start, 0) for start in level_start_index]
    if len(starts) != len(shapes):
        raise ValueError(
            f"{op}: level_start_index must have a number for each level of spatial_shapes, {len(shapes)}; got "
            f"{len(starts)}"
        )
    return starts
