"""RoIAlign of rotated boxes. Mathematics, derivatives and numerics: docs/layers/roi_align_rotated.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from handgrad._layout import empty_image
from handgrad._rois import (
    FINEST_GRID,
    ROLES,
    SPLITS,
    SampledRois,
    as_table,
    check_rois,
    checked_grid,
    checked_size_and_scale,
    gradient_like,
)
from handgrad.arguments import check_bool, check_tensor
from handgrad.tracing import traceable

_OP = "roi_align_rotated"
_COORDINATES = "center x, center y, width, height, angle"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def roi_align_rotated(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = True,
    clockwise: bool = False,
    *,
    boxes_grad: bool = False,
) -> Tensor:
    r"""Averages of an image over the bins of rotated boxes, sampled between pixels: RoIAlign (He et al., `Mask R-CNN
    <https://arxiv.org/abs/1703.06870>`_, 2017) in the frame of each box, as `RRPN <https://arxiv.org/abs/1703.01086>`_
    (Ma et al., 2018) pools it.

    .. math:: y_{kcpq} = \frac{1}{G_v G_u} \sum_{i < G_v,\, j < G_u} x_{n_k c}\left(
        c_y + v_{pi} \cos\alpha - u_{qj} \sin\alpha,\; c_x + u_{qj} \cos\alpha + v_{pi} \sin\alpha\right), \quad
        v_{pi} = h \left(\frac{p + \frac{i + 1/2}{G_v}}{P} - \frac{1}{2}\right),\;
        u_{qj} = w \left(\frac{q + \frac{j + 1/2}{G_u}}{Q} - \frac{1}{2}\right)

    Values of detectron2's ``ROIAlignRotated``, and of mmcv's ``roi_align_rotated`` with its angles in degrees; beyond
    these: gradients with respect to the boxes, second derivatives, forward mode, bfloat16 and float16 beside float32
    boxes, channels_last, export, and a backward pass that is deterministic.

    Args:
        input: (batch, channels, height, width); float32, float64, bfloat16 or float16, any strides.
        boxes: (boxes, 6), each the number of an image, the centre's x and y, width, height and an angle in degrees; or
            for each image a tensor of (its boxes, 5). An angle turns a box counter-clockwise as the image is seen, its
            y pointing downwards, as everywhere in handgrad. Of any floating-point type that the one which ``input`` is
            computed in can hold: float64 beside a float64 ``input``, otherwise float32, bfloat16 or float16.
        output_size: height and width of the output, in bins; one number is both.
        spatial_scale: what centres and extents are multiplied by to become pixels of ``input``.
        sampling_ratio: how many points are sampled in each bin along either axis. 0 or less: as many as the bin is
            pixels long, rounded up, which differs from box to box; 65,536 at most.
        aligned: True: pixel centres are at a half, and boxes are taken as they are. False is an older rule: pixel
            centres are at whole coordinates, and boxes are at least one pixel wide and high.
        clockwise: whether angles turn boxes the other way, as mmcv's argument has it.
        boxes_grad: whether ``boxes`` gets a gradient. Without, they are constants, as they are to the others.

    Returns:
        (boxes, channels, height, width) of ``output_size``, in the type of ``input``, channels_last if ``input`` is.
        Sampling points more than a pixel outside the image are 0. NaN for a box with a number that is NaN or infinite.

    Raises:
        ValueError: ``output_size``, ``spatial_scale`` or ``sampling_ratio`` out of range, or a list of boxes of another
            length than the batch.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together, or a box of an image that is not
            there. (On a CUDA device, which would have to be waited for, such a box gives NaN instead.)

    Example:
        >>> image = torch.arange(16.0).view(1, 1, 4, 4)
        >>> upright, turned = [2.0, 2.0, 4.0, 2.0, 0.0], [2.0, 2.0, 4.0, 2.0, 90.0]
        >>> roi_align_rotated(image, [torch.tensor([upright, turned])], output_size=(1, 2), sampling_ratio=2).flatten(1)
        tensor([[ 6.5000,  8.5000],
                [11.5000,  3.5000]])
    """
    check_tensor(_OP, "input", input)
    boxes = as_table(_OP, input, boxes, _COORDINATES)
    pooled_h, pooled_w, grid, aligned, clockwise, boxes_grad = _checked_numbers(
        output_size, spatial_scale, sampling_ratio, aligned, clockwise, boxes_grad
    )
    if not boxes_grad:
        boxes = boxes.detach()
    return _roi_align_rotated(input, boxes, pooled_h, pooled_w, spatial_scale, grid, aligned, clockwise)


def _checked_numbers(
    output_size: Any, spatial_scale: float, sampling_ratio: int, aligned: bool, clockwise: bool, boxes_grad: bool
) -> tuple[int, int, int, bool, bool, bool]:
    """Height and width of the output, sampling points of a bin along an axis (0: adaptive), and the three flags."""
    pooled_h, pooled_w = checked_size_and_scale(_OP, output_size, spatial_scale)
    grid = checked_grid(_OP, sampling_ratio)
    aligned, clockwise = check_bool(_OP, "aligned", aligned), check_bool(_OP, "clockwise", clockwise)
    return pooled_h, pooled_w, grid, aligned, clockwise, check_bool(_OP, "boxes_grad", boxes_grad)


# ---- module ----------------------------------------------------------------------------------------------------------


class RoIAlignRotated(nn.Module):
    """:func:`roi_align_rotated` as a module, in place of detectron2's ``ROIAlignRotated`` and mmcv's
    ``RoIAlignRotated``, whose angles are in radians.

    Args:
        output_size, spatial_scale, sampling_ratio, aligned, clockwise, boxes_grad: see :func:`roi_align_rotated`;
            checked here, so that a mistake shows at construction.

    Shape:
        ``forward(input, boxes)``: (batch, channels, height, width) and (boxes, 6), or a list of (boxes, 5), to (boxes,
        channels, height, width) of ``output_size``.

    Example:
        >>> pool = RoIAlignRotated(7, spatial_scale=0.25, sampling_ratio=2)
        >>> pool(torch.rand(2, 16, 20, 30), [torch.rand(3, 5) * 80, torch.rand(1, 5) * 80]).shape
        torch.Size([4, 16, 7, 7])
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        aligned: bool = True,
        clockwise: bool = False,
        *,
        boxes_grad: bool = False,
    ) -> None:
        super().__init__()
        _checked_numbers(output_size, spatial_scale, sampling_ratio, aligned, clockwise, boxes_grad)
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.clockwise = clockwise
        self.boxes_grad = boxes_grad

    def forward(self, input: Tensor, boxes: Tensor | list[Tensor]) -> Tensor:
        return roi_align_rotated(
            input, boxes, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned, self.clockwise,
            boxes_grad=self.boxes_grad,
        )  # fmt: skip

    def extra_repr(self) -> str:
        text = f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"
        text += f", sampling_ratio={self.sampling_ratio}, aligned={self.aligned}, clockwise={self.clockwise}"
        return f"{text}, boxes_grad=True" if self.boxes_grad else text


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def roi_align_rotated_reference(
    input: Tensor,
    boxes: Tensor,
    pooled_h: int,
    pooled_w: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> Tensor:
    """Plain PyTorch. To be trusted because it says what the formula says: the points of each box in its own frame, the
    rotation, and the four pixels around every point.

    A pixel that is infinite makes NaN of what touches it, where the kernels keep the infinity.
    """
    batch, channels, height, width = input.shape
    image = boxes[:, 0]
    there = (image > -1) & (image < batch)
    image = torch.where(there, image, 0.0).long()[:, None, None]
    found = (boxes[:, 1:] * 0).sum(1).isfinite() & there
    x, y, of_columns, of_rows, angle = torch.where(found[:, None], boxes[:, 1:], 0.0).unbind(1)
    half = 0.5 if aligned else 0.0
    x, y = x * spatial_scale - half, y * spatial_scale - half
    of_rows, of_columns = of_rows * spatial_scale, of_columns * spatial_scale
    if not aligned:
        of_rows, of_columns = torch.where(of_rows < 1, 1.0, of_rows), torch.where(of_columns < 1, 1.0, of_columns)
    cosine, sine = _turn(-angle if clockwise else angle)
    # The middle of the image along the box' axes: of a grid that is fine only what is around it is followed.
    right, down = ((width - 1) / 2 - x).detach(), ((height - 1) / 2 - y).detach()
    sizes = (sampling_ratio, (height + width) / 2 + 2, height + width)
    v, rows = _points_along(of_rows, pooled_h, right * sine.detach() + down * cosine.detach(), *sizes)
    u, columns = _points_along(of_columns, pooled_w, right * cosine.detach() - down * sine.detach(), *sizes)
    # (boxes, rows of points, columns of points)
    cosine, sine, v, u = cosine[:, None, None], sine[:, None, None], v[:, :, None], u[:, None]
    point_y, point_x = y[:, None, None] + v * cosine - u * sine, x[:, None, None] + u * cosine + v * sine
    inside = (point_y >= -1) & (point_y <= height) & (point_x >= -1) & (point_x <= width)
    top, bottom, to_bottom = _pixels_beside(point_y, inside, height)
    left, right, to_right = _pixels_beside(point_x, inside, width)

    def apply(pixels: Tensor, weights: list[Tensor], rows: Tensor, columns: Tensor) -> Tensor:
        pixels = pixels.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
        samples = []
        for weight, row, column in zip(weights, (top, top, bottom, bottom), (left, right) * 2, strict=True):
            corner = pixels.index_select(0, ((image * height + row) * width + column).reshape(-1))
            samples.append(corner.reshape(*row.shape, channels) * torch.where(inside, weight, 0.0)[..., None])
        sampled = samples[0] + samples[1] + samples[2] + samples[3]
        # (boxes, pooled_h, points) x (boxes, points, points * channels), and columns likewise
        sampled = (rows @ sampled.flatten(2)).unflatten(2, (columns.shape[2], channels)).transpose(2, 3)
        return (sampled @ columns.transpose(1, 2)[:, None]).transpose(1, 2)

    of_top, of_left = 1 - to_bottom, 1 - to_right
    weights = [of_top * of_left, of_top * to_right, to_bottom * of_left, to_bottom * to_right]
    # A pixel that is not finite must not go into a product, if with 0.
    finite = input.isfinite()
    output = apply(torch.where(finite, input, 0.0).to(boxes.dtype), weights, rows, columns)
    touched = [torch.where(part > 0, 1.0, 0.0).to(boxes.dtype) for part in (rows, columns)]
    non_finite = apply((~finite).to(boxes.dtype), [torch.ones_like(to_right)] * 4, *touched) > 0
    return torch.where(non_finite | ~found[:, None, None, None], float("nan"), output).to(input.dtype)


def _turn(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine, exact for quarter turns."""
    turns = torch.floor(degrees / 90 + 0.5).detach()
    rest = (degrees - 90 * turns) * (math.pi / 180)
    cosine, sine = torch.cos(rest), torch.sin(rest)
    # 0 to 3. (Not compared by ==, which older versions of ONNX have for integers only.)
    turns = turns - 4 * torch.floor(turns / 4)
    one, two, three = (turns - 1).abs() < 0.5, (turns - 2).abs() < 0.5, (turns - 3).abs() < 0.5
    return (
        torch.where(one, -sine, torch.where(two, -cosine, torch.where(three, sine, cosine))),
        torch.where(one, cosine, torch.where(two, -sine, torch.where(three, -cosine, sine))),
    )


def _points_along(
    length: Tensor, bins: int, middle: Tensor, sampling_ratio: int, farthest: float, most: int
) -> tuple[Tensor, Tensor]:
    """For boxes of some length: their points from the middle of the box, (boxes, points); and each point's part of each
    bin, 0 for a bin that it is not in, (boxes, bins, points). Of an adaptive grid those that are ``farthest`` from
    ``middle`` at most, where ``most`` pixels are."""
    length = length[:, None]
    if sampling_ratio > 0:
        grid = torch.full_like(length, sampling_ratio).detach()
        index = torch.arange(bins * sampling_ratio, device=length.device).to(length.dtype).expand(length.shape[0], -1)
    else:
        # Points are half a pixel apart or more; or there is one in a bin.
        grid = (length.detach() / bins).ceil()
        grid = torch.where(grid > FINEST_GRID, float(FINEST_GRID), torch.where(grid > 0, grid, 0.0))
        spacing = length.detach() / torch.where(grid > 0, grid * bins, 1.0)
        before = ((middle[:, None] - farthest + length.detach() / 2) / spacing - 0.5).floor() - 1
        before = torch.where((grid > 0) & (before > 0), before, 0.0)
        index = before + torch.arange(2 * most + bins + 16, device=length.device)
    count = torch.where(grid > 0, grid, 1.0)
    point = ((index + 0.5) / (count * bins) - 0.5) * length
    of_bins = torch.arange(bins, device=length.device).to(length.dtype)[:, None]
    own = ((torch.floor(index / count)[:, None] - of_bins).abs() < 0.5) & (grid > 0)[:, None]
    return point, torch.where(own, (1 / count)[:, None], 0.0)


def _pixels_beside(point: Tensor, inside: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis: the pixels beside each point, and what the second weighs. Beyond the first and the last the image
    goes on as they are."""
    point = torch.where(inside & (point >= 0), point, 0.0)
    point = torch.where(point > size - 1, point * 0 + (size - 1), point)
    low = point.detach().floor()
    high = torch.where(low < size - 1, low + 1, low)
    return low.long(), high.long(), point - low


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(input: Tensor, boxes: Tensor, pooled_h: int, pooled_w: int, *_: Any) -> Tensor:
    check_rois(_OP, input, boxes, 6)
    return empty_image(input, (boxes.shape[0], input.shape[1], pooled_h, pooled_w), input)


# ---- registration ----------------------------------------------------------------------------------------------------

_roi_align_rotated = SampledRois(
    "handgrad::roi_align_rotated",
    reference=roi_align_rotated_reference,
    fake=_fake,
    roles=ROLES,
    gradient_like=gradient_like,
    splits=lambda **_: SPLITS,
)
