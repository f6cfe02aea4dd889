"""A spatial pyramid pooling. Mathematics: docs/layers/spatial_pyramid_pool_2d.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from handgrad._layout import empty_image
from handgrad.arguments import check_choice, check_int, check_tensor
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "spatial_pyramid_pool_2d"
_MOST_LEVELS, _MOST_BINS = 16, 8192

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def spatial_pyramid_pool_2d(input: Tensor, levels: Sequence[int] = (1, 2, 4), mode: str = "max") -> Tensor:
    """As many numbers of a feature map of any size: its pixels pooled over bins of several grids (He et al., `Spatial
    Pyramid Pooling <https://arxiv.org/abs/1406.4729>`_, 2014, section 2.2).

    Level ``n`` has n x n bins, those of :func:`torch.nn.functional.adaptive_max_pool2d`: bin i of an axis of s pixels
    goes from floor(i s / n) to ceil((i + 1) s / n), so that a map may be smaller than a level. All levels are made of
    one read of the input; second derivatives, forward mode, float16 and bfloat16 (computed in float32), channels_last.

    Args:
        input: (batch, channels, height, width); float32, float64, bfloat16 or float16, any strides.
        levels: bins along an axis for each level, up to 16 levels of up to 8192 bins in all.
        mode: ``"max"`` or ``"avg"``. Of equal pixels the first of a bin has the gradient, as torch's pools have it.

    Returns:
        (batch, channels * sum of n * n): one level after the other, in each the bins of one channel after the other's.
        A NaN pixel makes its bins NaN.

    Raises:
        ValueError: a level out of range, no level, or too many; another ``mode``.
        TypeError: an argument of another kind.
        RuntimeError: rank or dtype of ``input`` out of range, or no pixel.

    Example:
        >>> spatial_pyramid_pool_2d(torch.arange(9.0).view(1, 1, 3, 3), levels=(1, 2))
        tensor([[8., 4., 5., 7., 8.]])
    """
    check_tensor(_OP, "input", input)
    return _spatial_pyramid_pool_2d(input, *_checked(_OP, levels, mode))


def _checked(op: str, levels: Any, mode: Any) -> tuple[list[int], bool]:
    if not isinstance(levels, (list, tuple)):
        raise TypeError(f"{op}: levels must be a sequence of whole numbers; got {levels!r}")
    checked = [check_int(op, "levels", level, 1, expected="whole numbers, at least 1") for level in levels]
    if not 1 <= len(checked) <= _MOST_LEVELS or sum(level * level for level in checked) > _MOST_BINS:
        raise ValueError(
            f"{op}: levels must be from 1 to {_MOST_LEVELS}, of {_MOST_BINS} bins in all at most; got {levels!r}"
        )
    return checked, check_choice(op, "mode", mode, ("max", "avg")) == "avg"


# ---- module ----------------------------------------------------------------------------------------------------------


class SpatialPyramidPool2d(nn.Module):
    """:func:`spatial_pyramid_pool_2d` as a module: in front of a linear layer, it takes images of any size.

    Args:
        levels, mode: see :func:`spatial_pyramid_pool_2d`; checked here, so that a mistake shows at construction.

    Shape:
        (batch, channels, height, width) to (batch, channels * sum of n * n).

    Example:
        >>> SpatialPyramidPool2d((1, 2, 3, 6))(torch.ones(2, 16, 13, 9)).shape
        torch.Size([2, 800])
    """

    def __init__(self, levels: Sequence[int] = (1, 2, 4), mode: str = "max") -> None:
        super().__init__()
        checked, _ = _checked(type(self).__name__, levels, mode)
        self.levels = tuple(checked)
        self.mode = mode

    def forward(self, input: Tensor) -> Tensor:
        return spatial_pyramid_pool_2d(input, self.levels, self.mode)

    def extra_repr(self) -> str:
        return f"{self.levels}, mode={self.mode!r}"


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def spatial_pyramid_pool_2d_reference(input: Tensor, levels: list[int], average: bool) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition: a slice for each bin, and its largest or its mean."""
    height, width = input.shape[2:]
    pooled = []
    for level in levels:
        for_rows, for_columns = ([_bin(i, level, size) for i in range(level)] for size in (height, width))
        bins = [input[:, :, rows, columns].flatten(2) for rows in for_rows for columns in for_columns]
        pooled.append(torch.stack([bin.mean(2) if average else bin.max(2).values for bin in bins], 2).flatten(1))
    return torch.cat(pooled, 1)


def _bin(i: int, bins: int, size: int) -> slice:
    return slice(i * size // bins, ((i + 1) * size + bins - 1) // bins)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(input: Tensor, levels: list[int], average: bool) -> Tensor:
    if input.dim() != 4:
        raise RuntimeError(
            f"{_OP}: input must have 4 dimensions (batch, channels, height, width); got {tuple(input.shape)}"
        )
    return input.new_empty(input.shape[0], input.shape[1] * sum(level * level for level in levels))


def _gradient_like(tensor: Tensor) -> Tensor:
    return empty_image(tensor, tensor.shape, tensor) if tensor.dim() == 4 else tensor.new_empty(tensor.shape)


# ---- registration ----------------------------------------------------------------------------------------------------

_spatial_pyramid_pool_2d = Derivatives(
    "handgrad::spatial_pyramid_pool_2d",
    reference=spatial_pyramid_pool_2d_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=_gradient_like,
)
