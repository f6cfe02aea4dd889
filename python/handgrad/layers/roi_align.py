"""RoIAlign. Mathematics, derivatives and numerics: docs/layers/roi_align.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from handgrad._layout import empty_image
from handgrad._rois import (
    ROLES,
    SPLITS,
    SampledRois,
    as_table,
    check_rois,
    checked_grid,
    checked_size_and_scale,
    gradient_like,
    sampled_bins,
)
from handgrad.arguments import check_bool, check_tensor
from handgrad.tracing import traceable

_OP = "roi_align"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    boxes_grad: bool = False,
) -> Tensor:
    r"""Averages of an image over the bins of boxes, sampled between pixels (He et al., `Mask R-CNN
    <https://arxiv.org/abs/1703.06870>`_, 2017, section 3).

    .. math:: y_{kcpq} = \frac{1}{G_y G_x} \sum_{i < G_y,\, j < G_x} x_{n_k c}\left(
        y_1 + \left(p + \tfrac{i + 1/2}{G_y}\right) \tfrac{y_2 - y_1}{P_y},\;
        x_1 + \left(q + \tfrac{j + 1/2}{G_x}\right) \tfrac{x_2 - x_1}{P_x}\right)

    Signature, values and first derivatives of :func:`torchvision.ops.roi_align`; beyond it: gradients with respect to
    the boxes, second derivatives, forward mode, bfloat16 and float16 beside float32 boxes, channels_last, and a
    backward pass that is deterministic and takes no memory beside its result but a block of channels.

    Args:
        input: (batch, channels, height, width); float32, float64, bfloat16 or float16, any strides.
        boxes: (boxes, 5), each the number of an image, x1, y1, x2, y2; or for each image a tensor of (its boxes, 4).
            Of any floating-point type that the one which ``input`` is computed in can hold: float64 beside a float64
            ``input``, otherwise float32, bfloat16 or float16.
        output_size: height and width of the output, in bins; one number is both.
        spatial_scale: what coordinates are multiplied by to become pixels of ``input``.
        sampling_ratio: how many points are sampled in each bin along either axis. 0 or less: as many as the bin is
            pixels long, rounded up, which differs from box to box; 65,536 at most.
        aligned: False is the older rule: pixel centres are at whole coordinates, and boxes are at least one pixel long.
            True moves the boxes half a pixel, so that pixel centres are at a half, and takes boxes as they are.
        boxes_grad: whether ``boxes`` gets a gradient. Without, they are constants, as they are to torchvision.

    Returns:
        (boxes, channels, height, width) of ``output_size``, in the type of ``input``, channels_last if ``input`` is.
        NaN for a box with a coordinate that is NaN or infinite.

    Raises:
        ValueError: ``output_size``, ``spatial_scale`` or ``sampling_ratio`` out of range, or a list of boxes of another
            length than the batch.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together, or a box of an image that is not
            there. (On a CUDA device, which would have to be waited for, such a box gives NaN instead.)

    Example:
        >>> image = torch.arange(16.0).view(1, 1, 4, 4)
        >>> roi_align(image, [torch.tensor([[0.0, 0.0, 2.0, 4.0]])], output_size=(2, 1), aligned=True).flatten()
        tensor([ 2.5000, 10.5000])
    """
    check_tensor(_OP, "input", input)
    boxes = as_table(_OP, input, boxes)
    pooled_h, pooled_w, grid, aligned, boxes_grad = _checked_numbers(
        output_size, spatial_scale, sampling_ratio, aligned, boxes_grad
    )
    if not boxes_grad:
        boxes = boxes.detach()
    return _roi_align(input, boxes, pooled_h, pooled_w, spatial_scale, grid, aligned)


def _checked_numbers(
    output_size: Any, spatial_scale: float, sampling_ratio: int, aligned: bool, boxes_grad: bool
) -> tuple[int, int, int, bool, bool]:
    """Height and width of the output, sampling points of a bin along an axis (0: adaptive), and the two flags."""
    pooled_h, pooled_w = checked_size_and_scale(_OP, output_size, spatial_scale)
    grid = checked_grid(_OP, sampling_ratio)
    return pooled_h, pooled_w, grid, check_bool(_OP, "aligned", aligned), check_bool(_OP, "boxes_grad", boxes_grad)


# ---- module ----------------------------------------------------------------------------------------------------------


class RoIAlign(nn.Module):
    """:func:`roi_align` as a module, in place of :class:`torchvision.ops.RoIAlign`.

    Args:
        output_size, spatial_scale, sampling_ratio, aligned, boxes_grad: see :func:`roi_align`; checked here, so that a
            mistake shows at construction.

    Shape:
        ``forward(input, boxes)``: (batch, channels, height, width) and (boxes, 5), or a list of (boxes, 4), to (boxes,
        channels, height, width) of ``output_size``.

    Example:
        >>> pool = RoIAlign(7, spatial_scale=0.25, sampling_ratio=2)
        >>> pool(torch.rand(2, 16, 20, 30), [torch.rand(3, 4) * 80, torch.rand(1, 4) * 80]).shape
        torch.Size([4, 16, 7, 7])
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        aligned: bool = False,
        *,
        boxes_grad: bool = False,
    ) -> None:
        super().__init__()
        _checked_numbers(output_size, spatial_scale, sampling_ratio, aligned, boxes_grad)
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.boxes_grad = boxes_grad

    def forward(self, input: Tensor, boxes: Tensor | list[Tensor]) -> Tensor:
        return roi_align(
            input, boxes, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned,
            boxes_grad=self.boxes_grad,
        )  # fmt: skip

    def extra_repr(self) -> str:
        text = f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"
        text += f", sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        return f"{text}, boxes_grad=True" if self.boxes_grad else text


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def roi_align_reference(
    input: Tensor, boxes: Tensor, pooled_h: int, pooled_w: int, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Plain PyTorch. To be trusted because it says what the formula says: the sampling points along each axis, the
    weights that they give to rows and to columns, and the two products of matrices that apply these.

    A pixel that is infinite makes NaN of what touches it, where the kernels keep the infinity.
    """
    batch, channels, height, width = input.shape
    count = boxes.shape[0]
    image = boxes[:, 0]
    there = (image > -1) & (image < batch)
    image = torch.where(there, image, 0.0).long()
    x1, y1, x2, y2 = boxes[:, 1:].unbind(1)
    sizes = (spatial_scale, sampling_ratio, aligned)
    rows, touched_rows, found_y = sampled_bins(y1, y2, pooled_h, height, *sizes)
    columns, touched_columns, found_x = sampled_bins(x1, x2, pooled_w, width, *sizes)

    def apply(pixels: Tensor, of_rows: Tensor, of_columns: Tensor) -> Tensor:
        # Rows of all images in a row: a box has weights for those of its own.
        own = (image[:, None] == torch.arange(batch, device=image.device)).to(of_rows.dtype)
        of_all = of_rows[:, :, None, :] * own[:, None, :, None]
        # (boxes * pooled_h, batch * height) x (batch * height, channels * width)
        summed = of_all.reshape(count * pooled_h, batch * height) @ pixels.transpose(1, 2).reshape(
            batch * height, channels * width
        )
        # (boxes, pooled_h * channels, width) x (boxes, width, pooled_w)
        summed = summed.reshape(count, pooled_h * channels, width) @ of_columns.transpose(1, 2)
        return summed.reshape(count, pooled_h, channels, pooled_w).transpose(1, 2)

    # A product of matrices multiplies every pixel, if by 0: one that is not finite must not go in.
    finite = input.isfinite()
    output = apply(torch.where(finite, input, 0.0).to(boxes.dtype), rows, columns)
    non_finite = apply((~finite).to(boxes.dtype), touched_rows, touched_columns) > 0
    nowhere = ~(there & found_y & found_x)[:, None, None, None]
    return torch.where(non_finite | nowhere, float("nan"), output).to(input.dtype)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(input: Tensor, boxes: Tensor, pooled_h: int, pooled_w: int, *_: Any) -> Tensor:
    check_rois(_OP, input, boxes)
    return empty_image(input, (boxes.shape[0], input.shape[1], pooled_h, pooled_w), input)


# ---- onnx: ONNX's own operator ---------------------------------------------------------------------------------------


def _onnx(
    input: Tensor, boxes: Tensor, pooled_h: int, pooled_w: int, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> Any:
    from handgrad.onnx import operator

    if input.dtype is not torch.float32:
        return NotImplemented
    attributes = {
        "coordinate_transformation_mode": "half_pixel" if aligned else "output_half_pixel",
        "mode": "avg",
        "output_height": pooled_h,
        "output_width": pooled_w,
        "sampling_ratio": sampling_ratio,
        "spatial_scale": float(spatial_scale),
    }
    shape = (boxes.shape[0], input.shape[1], pooled_h, pooled_w)
    inputs = [input, boxes[:, 1:], boxes[:, 0].long()]
    return operator("RoiAlign", inputs, attributes, dtype=input.dtype, shape=shape, since=16)


# ---- registration ----------------------------------------------------------------------------------------------------

_roi_align = SampledRois(
    "handgrad::roi_align",
    reference=roi_align_reference,
    fake=_fake,
    roles=ROLES,
    gradient_like=gradient_like,
    onnx=_onnx,
    splits=lambda **_: SPLITS,
)
