"""What layers that pool the pixels of boxes share: how boxes are given, what fakes check, and the rules of vmap, of
DTensors and of second derivatives."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from handgrad._layout import empty_image
from handgrad.arguments import (
    FLOAT_MAX,
    INT32_MAX,
    as_computed,
    check_int,
    check_pair,
    check_range,
    check_tensor,
    computed_dtype,
)
from handgrad.derivatives import BATCHED, Call, Derivatives, Role, unfold_batch

# As in csrc: sampling points of a bin that follow from the size of the box are at most so many.
FINEST_GRID = 65536

# ---- what a user typed -----------------------------------------------------------------------------------------------


def as_table(op: str, input: Tensor, boxes: Any, coordinates: str = "x1, y1, x2, y2") -> Tensor:
    """Rows of a batch index and ``coordinates``, in the type that ``input`` is computed in: from such a table, or from
    a list with a tensor of coordinates for each image."""
    if isinstance(boxes, (list, tuple)):
        if not all(isinstance(of_image, Tensor) for of_image in boxes):
            kinds = sorted({type(of_image).__name__ for of_image in boxes})
            raise TypeError(f"{op}: boxes must be a torch.Tensor or a list of them; got a list of {', '.join(kinds)}")
        if input.dim() and len(boxes) != input.shape[0]:
            raise ValueError(
                f"{op}: boxes must be one tensor for each image of input, {input.shape[0]}; got {len(boxes)}"
            )
        count = len(coordinates.split(","))
        rows = [input.new_empty((0, 1 + count), dtype=computed_dtype(input))]
        for image, of_image in enumerate(boxes):
            check_tensor(op, f"boxes[{image}]", of_image)
            # The number of the image never passes through a type that cannot hold it.
            of_image = as_computed(op, f"boxes[{image}]", of_image, "an input", input)
            if of_image.dim() != 2 or of_image.shape[1] != count:
                raise RuntimeError(
                    f"{op}: boxes[{image}] must have shape (boxes, {count}): {coordinates}; got {tuple(of_image.shape)}"
                )
            rows.append(torch.cat([torch.full_like(of_image[:, :1], image), of_image], 1))
        return torch.cat(rows)
    check_tensor(op, "boxes", boxes)
    return as_computed(op, "boxes", boxes, "an input", input)


def as_constants(op: str, input: Tensor, boxes: Any) -> Tensor:
    """The same of boxes that have no gradient, and may be whole numbers."""

    def computed(name: str, tensor: Any) -> Any:
        if not isinstance(tensor, Tensor) or tensor.dtype not in (torch.int64, torch.int32):
            return tensor
        check_tensor(op, name, tensor)
        return tensor.to(computed_dtype(input))

    if isinstance(boxes, (list, tuple)):
        boxes = [computed(f"boxes[{image}]", of_image) for image, of_image in enumerate(boxes)]
    return as_table(op, input, computed("boxes", boxes)).detach()


def checked_size_and_scale(op: str, output_size: Any, spatial_scale: float) -> tuple[int, int]:
    """Height and width of the output."""
    pooled_h, pooled_w = check_pair(op, "output_size", output_size, 1)
    check_range(op, "spatial_scale", spatial_scale, sys.float_info.min, FLOAT_MAX, "a finite number greater than 0")
    return pooled_h, pooled_w


def checked_grid(op: str, sampling_ratio: int) -> int:
    """Sampling points of a bin along an axis; 0: adaptive."""
    expected = "a whole number below 2^31, or at most 0"
    return max(check_int(op, "sampling_ratio", sampling_ratio, -sys.maxsize, INT32_MAX, expected), 0)


# ---- fakes -----------------------------------------------------------------------------------------------------------


def check_rois(op: str, input: Tensor, boxes: Tensor, columns: int = 5) -> None:
    """Shapes and devices."""
    if input.dim() != 4:
        raise RuntimeError(
            f"{op}: input must have 4 dimensions (batch, channels, height, width); got {tuple(input.shape)}"
        )
    if boxes.dim() != 2:
        raise RuntimeError(f"{op}: boxes must have shape (boxes, {columns}); got {tuple(boxes.shape)}")
    torch._check(
        boxes.shape[1] == columns,
        lambda: f"{op}: boxes must have shape (boxes, {columns}); got {tuple(boxes.shape)}",
    )
    if boxes.device != input.device:
        raise RuntimeError(f"{op}: boxes must be on the device of input, {input.device}; got {boxes.device}")


def gradient_like(tensor: Tensor) -> Tensor:
    """An empty gradient of the image or of the boxes, which are no image."""
    return empty_image(tensor, tensor.shape, tensor) if tensor.dim() == 4 else tensor.new_empty(tensor.shape)


# ---- rules -----------------------------------------------------------------------------------------------------------


def _fold_boxes(boxes: Tensor, call: Call) -> Tensor:
    """What vmap adds becomes further images, and boxes of them. A batch index that was none must not become one."""
    batch = call.tensors["input"].shape[1]
    index = boxes[..., :1]
    valid = (index > -1) & (index < batch)
    shift = torch.arange(call.size, device=boxes.device).to(boxes.dtype)[:, None, None] * batch
    # Cut first: -0.5 is image 0.
    index = torch.where(valid, index.trunc() + shift, -1.0)
    return torch.cat([index, boxes[..., 1:]], -1).flatten(0, 1)


ROLES = {"input": BATCHED, "boxes": Role(_fold_boxes, unfold_batch, gradient=BATCHED), "output": BATCHED}

#: Either the boxes are split, and each device has all images; or the channels, and each has all boxes.
SPLITS: list[dict[str, int | None]] = [
    {"input": None, "boxes": 0, "output": 0},
    {"input": 1, "boxes": None, "output": 1},
]


class SampledRois(Derivatives):
    """An op whose boxes may have a gradient, and which is linear in input: where the boxes do not move, a derivative
    along it is the op itself, which is cheaper."""

    def jvp(self, ctx: Any, *tangents: Tensor | None) -> Tensor:
        input_tangent, boxes_tangent = tangents[:2]
        if input_tangent is not None and boxes_tangent is None:
            return self.forward(input_tangent, ctx.saved_tensors[1], *ctx.others)
        return super().jvp(ctx, *tangents)

    def second_derivative(self, ctx: Any, *grad_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        needs_boxes = ctx.needs_input_grad[2]
        if list(ctx.mask) == [True, False] and not needs_boxes and grad_grads[0] is not None:
            # grad_input is linear in grad_output, and does not depend on input.
            grad_grad_output = self.forward(grad_grads[0], ctx.saved_tensors[2], *ctx.others)
            return grad_grad_output, *[None] * (2 + len(self.backward_op.others))
        return super().second_derivative(ctx, *grad_grads)


class PooledRois(Derivatives):
    """An op whose boxes are constants, and which is linear in the image wherever it has a derivative: of the image's
    gradient only grad_output is differentiated."""

    def second_derivative(self, ctx: Any, *grad_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        nones: list[Tensor | None] = [None] * (len(self.backward_op.tensors) + len(self.backward_op.others))
        if grad_grads[0] is not None:
            nones[0] = self.double_backward(grad_grads[0], *ctx.saved_tensors, *ctx.others, [True, False])[0]
        return tuple(nones)


# ---- references ------------------------------------------------------------------------------------------------------


def images_of(input: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """The image of each box, of zeros where there is none; and where there is one, (boxes,)."""
    batch = input.shape[0]
    there = (image > -1) & (image < batch)
    images = torch.cat([input.new_zeros(1, *input.shape[1:]), input])
    return images[torch.where(there, image, -1.0).long() + 1], there


def whole_bins(
    first: Tensor, second: Tensor, bins: int, size: int, limit: int, scale: float, inclusive: bool
) -> tuple[Tensor, Tensor]:
    """For boxes from ``first`` to ``second``, rounded: which of ``size`` pixels below ``limit`` each bin has, (boxes,
    bins, size); and whether the box is anywhere, (boxes,)."""

    def rounded(coordinate: Tensor) -> Tensor:
        away = (coordinate * scale).abs()
        below = away.floor()
        return torch.where(away - below >= 0.5, below + 1, below) * coordinate.sign()

    start = rounded(first)
    length = rounded(second) - start + (1 if inclusive else 0)
    found = length.isfinite()
    start, length = torch.where(found, start, 0.0)[:, None], torch.where(found, length, 1.0).clamp(min=1)[:, None]
    of_bins = torch.arange(bins, device=first.device).to(first.dtype)
    # Its own type, and no product that is fused with the sum: floor and ceil decide.
    begin = ((of_bins * (length / bins)).floor() + start).clamp(0, limit)
    end = (((of_bins + 1) * (length / bins)).ceil() + start).clamp(0, limit)
    pixel = torch.arange(size, device=first.device).to(first.dtype)
    return (pixel >= begin[..., None]) & (pixel < end[..., None]), found


def sampled_bins(
    first: Tensor, second: Tensor, bins: int, size: int, scale: float, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """For boxes from ``first`` to ``second``: what each bin weighs each of ``size`` pixels by, (boxes, bins, size);
    which it touches; and whether the box is anywhere, (boxes,)."""
    half = 0.5 if aligned else 0.0
    start, end = first * scale - half, second * scale - half
    length = end - start
    found = length.isfinite()
    start, length = torch.where(found, start, 0.0), torch.where(found, length, 0.0)
    if not aligned:
        length = torch.where(length < 1, 1.0, length)
    bin_size = (length / bins)[:, None, None]
    of_bins = torch.arange(bins, device=first.device).to(first.dtype)[:, None]
    bin_start = start[:, None, None] + of_bins * bin_size
    if sampling_ratio > 0:
        grid = torch.full_like(bin_size, sampling_ratio)
        sample = torch.arange(sampling_ratio, device=first.device).to(first.dtype).expand(1, bins, -1)
    else:
        # Points of an adaptive grid are half a pixel apart or more, if there are several: so many can be in the image,
        # from the first one that is.
        grid = bin_size.detach().ceil().clamp(0, FINEST_GRID)
        spacing = bin_size.detach() / grid.clamp(min=1)
        before = ((-1 - bin_start.detach()) / spacing - 0.5).floor() - 1
        before = torch.where(grid > 0, before, 0.0).clamp(min=0)
        sample = before + torch.arange(2 * size + 8, device=first.device)
    point = bin_start + (sample + 0.5) * bin_size / grid.clamp(min=1)
    inside = (sample < grid) & (point >= -1) & (point <= size) & found[:, None, None]
    # Beyond the first and the last pixel the image goes on as they are. (Not clamp(min=0): its derivative at 0 is 0.)
    point = torch.where(inside & (point >= 0), point, 0.0).clamp(max=size - 1)
    low = point.detach().floor()
    high = (low + 1).clamp(max=size - 1)
    part = torch.where(inside, 1 / grid.clamp(min=1), 0.0)
    right = point - low
    zeros = first.new_zeros(first.shape[0], bins, size)
    weights, touched = zeros, zeros
    for pixel, weight in ((low, 1 - right), (high, right)):
        weights = weights.scatter_add(2, pixel.long(), weight * part)
        touched = touched.scatter_add(2, pixel.long(), inside.to(first.dtype))
    return weights, touched, found


Bins = tuple[Tensor, Tensor, Tensor]


def pooled_by_position(input: Tensor, image: Tensor, rows: Bins, columns: Bins) -> Tensor:
    """What bins of rows and of columns make of an image in which each bin has channels of its own. ``image``: the batch
    index of each box. Of rows and columns: what each bin weighs each pixel by, which it touches, and whether the box is
    anywhere.

    A pixel that is infinite makes NaN of what touches it, where the kernels keep the infinity.
    """
    pixels, there = images_of(input, image)
    (of_rows, touched_rows, found_y), (of_columns, touched_columns, found_x) = rows, columns
    pooled_h, pooled_w = of_rows.shape[1], of_columns.shape[1]
    pixels = pixels.unflatten(1, (input.shape[1] // (pooled_h * pooled_w), pooled_h, pooled_w))

    def apply(pixels: Tensor, of_rows: Tensor, of_columns: Tensor) -> Tensor:
        weights = of_rows[:, :, None, :, None] * of_columns[:, None, :, None, :]
        return (pixels.to(weights.dtype) * weights[:, None]).sum((-2, -1))

    # A sum of products multiplies every pixel, if by 0: one that is not finite must not go in.
    finite = pixels.isfinite()
    output = apply(torch.where(finite, pixels, 0.0), of_rows, of_columns)
    non_finite = apply(~finite, touched_rows, touched_columns) > 0
    nowhere = ~(there & found_y & found_x)[:, None, None, None]
    return torch.where(non_finite | nowhere, float("nan"), output).to(input.dtype)


def check_channels(op: str, input: Tensor, pooled_h: int, pooled_w: int) -> None:
    """Each bin has as many channels."""
    torch._check(
        input.shape[1] % (pooled_h * pooled_w) == 0,
        lambda: (
            f"{op}: input must have a multiple of output_size's bins as channels, here of {pooled_h * pooled_w}; got "
            f"{tuple(input.shape)}"
        ),
    )
