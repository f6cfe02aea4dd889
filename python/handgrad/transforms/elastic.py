"""An image read beside its pixels, each moved by itself. Rounding, kinks: docs/transforms/elastic.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad._layout import empty_image
from handgrad._warping import checked_fill, checked_image, checked_mode, fused, read_corners
from handgrad.arguments import check_device, check_tensor, computed_dtype, dtype_name
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "elastic"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def elastic(
    image: Tensor,
    displacement: Tensor,
    interpolation: Any = "bilinear",
    fill: float | Sequence[float] | None = None,
) -> Tensor:
    """torchvision's ``elastic``: each pixel of the output is read beside its own place, in one pass over memory.

    The picture of :func:`torchvision.transforms.v2.functional.elastic` (torchvision need not be there), without a grid
    in memory; uint8 the same levels on every device. Beyond it: a field of its own for every image of a batch,
    gradients of the displacement, second derivatives, forward mode.

    Args:
        image: (..., channels, height, width); uint8, float32, float64, bfloat16 or float16, any strides.
        displacement: (1, height, width, 2), or (batch, height, width, 2) beside a batch of images; how far right and
            how far down a pixel is read, in halves of the image's width and height. Computed with in float64 beside
            float64 images, otherwise in float32.
        interpolation: ``"nearest"`` or ``"bilinear"``, or torchvision's ``InterpolationMode``.
        fill: what is around the image, a number or one a channel; beside a uint8 image from 0 to 255. None is 0 that
            blends in, as at the border of a convolution; a number blends by the square of how much of it is seen, as
            in torchvision.

    Returns:
        An image like ``image``.

    Raises:
        ValueError: a mode or a fill out of range.
        TypeError: an argument of another kind.
        RuntimeError: a shape that does not fit.

    Example:
        >>> image = torch.tensor([[[10, 20], [30, 40]]], dtype=torch.uint8)
        >>> displacement = torch.zeros(1, 2, 2, 2)
        >>> displacement[0, 0, 0] = torch.tensor([0.5, 1.0])  # half a pixel to the right, one down
        >>> elastic(image, displacement)
        tensor([[[35, 20],
                 [30, 40]]], dtype=torch.uint8)
    """
    images = checked_image(_OP, image, any_rank=True)
    field = _checked_displacement(displacement, images)
    mode, fills = checked_mode(_OP, interpolation), checked_fill(_OP, fill, images)
    if images.dim() < 5:
        output = _elastic(images, _for_all(field, images), mode, fills)
        return output.squeeze(0) if image.dim() == 3 else output
    if image.numel() == 0:
        return image.new_empty(image.shape)
    images = image.flatten(0, -4)
    return _elastic(images, _for_all(field, images), mode, fills).unflatten(0, image.shape[:-3])


def _for_all(field: Tensor, images: Tensor) -> Tensor:
    return field.expand(images.shape[0], -1, -1, -1)


def _checked_displacement(displacement: Any, images: Tensor) -> Tensor:
    check_tensor(_OP, "displacement", displacement)
    if not displacement.is_floating_point():
        kind = dtype_name(displacement.dtype)
        raise TypeError(f"{_OP}: displacement must be a tensor of floating-point numbers; got one of {kind}")
    check_device(_OP, "displacement", displacement, "image", images)
    # Traces have no sizes to ask; the op asks them.
    if not torch.jit.is_tracing():
        fits = displacement.dim() == 4 and displacement.shape[1:] == (*images.shape[-2:], 2)
        if not fits or displacement.shape[0] not in (1, images.shape[0] if images.dim() == 4 else 1):
            height, width = images.shape[-2:]
            raise RuntimeError(
                f"{_OP}: displacement must be (1, height, width, 2), here (1, {height}, {width}, 2), or (batch, "
                f"height, width, 2) beside a batch of images; got {tuple(displacement.shape)}"
            )
    if images.dtype is torch.uint8:
        displacement = displacement.detach()  # whole levels have no slope
    return displacement.to(computed_dtype(images))


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def elastic_reference(image: Tensor, displacement: Tensor, interpolation: int, fill: list[float]) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition: positions, whole and fractional parts, four gathers.
    Levels are rounded where kernels round, so that they are the same."""
    levels = image.dtype is torch.uint8
    computed = torch.float64 if image.dtype is torch.float64 else torch.float32
    positions = []
    for axis, size in enumerate((image.shape[3], image.shape[2])):
        index = torch.arange(size, device=image.device).to(computed)
        centre = _centres(index, size, levels).reshape((1, -1) if axis == 0 else (-1, 1))
        place = centre + displacement[..., axis].to(computed)
        positions.append(fused(place + 1, torch.full_like(place, size / 2), torch.full_like(place, -0.5), levels))
    read, mask = read_corners(image.to(computed), positions[0], positions[1], interpolation == 1, levels)
    if fill:
        levels_around = [torch.full((1, 1, 1, 1), number, dtype=computed, device=image.device) for number in fill]
        around = torch.cat(levels_around, 1)
        read = (read - around) * mask + around if interpolation == 1 else torch.where(mask > 0, read, around)
    if levels:
        return torch.where(torch.isnan(read), 0, read).round().to(image.dtype)
    return read.to(image.dtype)


def _centres(index: Tensor, size: int, levels: bool) -> Tensor:
    """Of pixels between -1 and 1, counted from the nearer end as ``linspace`` does: last bits decide of levels."""
    start, end = (torch.full_like(index, sign * (1 - size) / size) for sign in (1, -1))
    # Of one pixel there is no step.
    step = (end - start) / torch.full_like(index, size - 1).clamp(min=1)
    upper = fused(-step, (size - 1) - index, end, levels)
    return torch.where(2 * index + 1 < size, fused(step, index, start, levels), upper)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(image: Tensor, displacement: Tensor, interpolation: int, fill: list[float]) -> Tensor:
    if image.dim() != 4:
        raise RuntimeError(
            f"{_OP}: image must have 4 dimensions (batch, channels, height, width); got {tuple(image.shape)}"
        )
    torch._check(
        displacement.dim() == 4 and displacement.shape[1:3] == image.shape[2:] and displacement.shape[3] == 2,
        lambda: f"{_OP}: displacement must have shape (batch, height, width, 2); got {tuple(displacement.shape)}",
    )
    return empty_image(image, image.shape, image)


def _gradient_like(tensor: Tensor) -> Tensor:
    return empty_image(tensor, tensor.shape, tensor) if tensor.dim() == 4 else tensor.new_empty(tensor.shape)


# ---- registration ----------------------------------------------------------------------------------------------------

_elastic = Derivatives(
    "handgrad::elastic", reference=elastic_reference, fake=_fake, roles=BATCHED, gradient_like=_gradient_like
)
