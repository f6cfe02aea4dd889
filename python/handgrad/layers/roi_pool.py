"""RoI pooling. Mathematics, derivatives and numerics: docs/layers/roi_pool.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from handgrad._layout import empty_image
from handgrad._rois import (
    ROLES,
    SPLITS,
    PooledRois,
    as_constants,
    check_rois,
    checked_size_and_scale,
    gradient_like,
    images_of,
    whole_bins,
)
from handgrad.arguments import check_tensor
from handgrad.tracing import traceable

_OP = "roi_pool"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
) -> Tensor:
    r"""The largest pixels in the bins of boxes, whose ends are rounded to whole pixels (Girshick, `Fast R-CNN
    <https://arxiv.org/abs/1504.08083>`_, 2015, section 2.1).

    Signature, values and gradient of :func:`torchvision.ops.roi_pool`; beyond it: second derivatives, forward mode,
    bfloat16 and float16, channels_last, a backward pass that is deterministic and keeps nothing but the inputs, and
    NaN that is not lost.

    Args:
        input: (batch, channels, height, width); float32, float64, bfloat16 or float16, any strides.
        boxes: (boxes, 5), each the number of an image, x1, y1, x2, y2; or for each image a tensor of (its boxes, 4).
            Of any floating-point type that the one which ``input`` is computed in can hold, or int64 or int32. They are
            constants: the output is the same all around them, but for jumps.
        output_size: height and width of the output, in bins; one number is both.
        spatial_scale: what coordinates are multiplied by to become pixels of ``input``, and are then rounded, a half
            away from zero. Both ends belong to the box, which is at least one pixel long.

    Returns:
        (boxes, channels, height, width) of ``output_size``, in the type of ``input``, channels_last if ``input`` is. 0
        for a bin without pixels, beyond the image; NaN for one with a pixel that is NaN, and for a box with a
        coordinate that is NaN or infinite.

    Raises:
        ValueError: ``output_size`` or ``spatial_scale`` out of range, or a list of boxes of another length than the
            batch.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together, or a box of an image that is not
            there. (On a CUDA device, which would have to be waited for, such a box gives NaN instead.)

    Example:
        >>> image = torch.arange(16.0).view(1, 1, 4, 4)
        >>> roi_pool(image, [torch.tensor([[0, 0, 1, 3]])], output_size=(2, 1)).flatten()
        tensor([ 5., 13.])
    """
    check_tensor(_OP, "input", input)
    boxes = as_constants(_OP, input, boxes)
    return _roi_pool(input, boxes, *checked_size_and_scale(_OP, output_size, spatial_scale), spatial_scale)


# ---- module ----------------------------------------------------------------------------------------------------------


class RoIPool(nn.Module):
    """:func:`roi_pool` as a module, in place of :class:`torchvision.ops.RoIPool`.

    Args:
        output_size, spatial_scale: see :func:`roi_pool`; checked here, so that a mistake shows at construction.

    Shape:
        ``forward(input, boxes)``: (batch, channels, height, width) and (boxes, 5), or a list of (boxes, 4), to (boxes,
        channels, height, width) of ``output_size``.

    Example:
        >>> pool = RoIPool(7, spatial_scale=1 / 16)
        >>> pool(torch.rand(2, 16, 20, 30), [torch.rand(3, 4) * 300, torch.rand(1, 4) * 300]).shape
        torch.Size([4, 16, 7, 7])
    """

    def __init__(self, output_size: int | tuple[int, int], spatial_scale: float = 1.0) -> None:
        super().__init__()
        checked_size_and_scale(_OP, output_size, spatial_scale)
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, input: Tensor, boxes: Tensor | list[Tensor]) -> Tensor:
        return roi_pool(input, boxes, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def roi_pool_reference(input: Tensor, boxes: Tensor, pooled_h: int, pooled_w: int, spatial_scale: float) -> Tensor:
    """Plain PyTorch. To be trusted because it says what the formula says: which rows and which columns each bin has,
    and the first of the largest pixels, in each row and then of the rows."""
    height, width = input.shape[2:]
    pixels, there = images_of(input, boxes[:, 0])
    rows, found_y = whole_bins(boxes[:, 2], boxes[:, 4], pooled_h, height, height, spatial_scale, True)
    columns, found_x = whole_bins(boxes[:, 1], boxes[:, 3], pooled_w, width, width, spatial_scale, True)
    # (boxes, channels, height, pooled_w, width), then (boxes, channels, pooled_h, pooled_w, height)
    of_rows = _first_largest(pixels[:, :, :, None], columns[:, None, None])
    output = _first_largest(of_rows.transpose(2, 3)[:, :, None], rows[:, None, :, None])
    empty = ~(rows.any(-1)[:, :, None] & columns.any(-1)[:, None, :])
    output = torch.where(empty[:, None], 0.0, output)
    return torch.where((there & found_y & found_x)[:, None, None, None], output, float("nan")).to(input.dtype)


def _first_largest(numbers: Tensor, counted: Tensor) -> Tensor:
    """Of those along the last dimension that are counted the largest, the first of several; the first NaN."""
    shape = torch.broadcast_shapes(numbers.shape, counted.shape)
    numbers, counted = numbers.expand(shape), counted.expand(shape)
    largest, index = torch.where(counted, numbers, float("-inf")).max(-1)
    # Where all that are counted are infinite, others are as large.
    index = torch.where(largest == float("-inf"), counted.to(torch.int32).argmax(-1), index)
    return numbers.gather(-1, index[..., None])[..., 0]


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(input: Tensor, boxes: Tensor, pooled_h: int, pooled_w: int, *_: Any) -> Tensor:
    check_rois(_OP, input, boxes)
    return empty_image(input, (boxes.shape[0], input.shape[1], pooled_h, pooled_w), input)


# ---- onnx: ONNX's own operator ---------------------------------------------------------------------------------------


def _onnx(input: Tensor, boxes: Tensor, pooled_h: int, pooled_w: int, spatial_scale: float) -> Any:
    from handgrad.onnx import operator

    if input.dtype is not torch.float32:
        return NotImplemented
    attributes = {"pooled_shape": [pooled_h, pooled_w], "spatial_scale": float(spatial_scale)}
    shape = (boxes.shape[0], input.shape[1], pooled_h, pooled_w)
    return operator("MaxRoiPool", [input, boxes], attributes, dtype=input.dtype, shape=shape)


# ---- registration ----------------------------------------------------------------------------------------------------


_roi_pool = PooledRois(
    "handgrad::roi_pool",
    reference=roi_pool_reference,
    fake=_fake,
    roles=ROLES,
    gradient_like=gradient_like,
    onnx=_onnx,
    splits=lambda **_: SPLITS,
)
