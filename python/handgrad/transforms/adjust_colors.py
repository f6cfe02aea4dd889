"""Chains of colour operations in one pass. Rounding, kinks, derivatives: docs/transforms/adjust_colors.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad._chains import UNUSED, checked_operations
from handgrad._colours import OPERATIONS, of_levels, of_numbers
from handgrad._images import checked_finish, scaled
from handgrad._layout import empty_image
from handgrad._resampling import normalised
from handgrad.arguments import FLOAT_MAX, check_device, check_int, check_range, check_tensor, dtype_name
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "adjust_colors"

# ---- public functions ------------------------------------------------------------------------------------------------


@traceable
def adjust_colors(
    image: Tensor,
    operations: Sequence[str] | Tensor,
    factors: Sequence[float] | Tensor,
    *,
    dtype: torch.dtype | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    memory_format: torch.memory_format = torch.preserve_format,
    scaling: str = "product",
) -> Tensor:
    """Brightness, contrast, saturation, hue and grayscale in any order, and a normalisation, in one pass over memory.

    The pictures of torchvision's ``adjust_brightness``, ``adjust_contrast``, ``adjust_saturation``, ``adjust_hue`` and
    ``rgb_to_grayscale``, one after the other, then of ``to_dtype(scale=True)`` and ``normalize``
    (:mod:`torchvision.transforms.v2.functional`; torchvision need not be there). uint8 to the bit, on every device.
    Beyond them there are operations and factors of its own for every image of a batch, gradients of the factors,
    second derivatives, forward mode, bfloat16 and float16.

    Args:
        image: (channels, height, width) or (batch, channels, height, width) of 1 or 3 channels; uint8, float32,
            float64, bfloat16 or float16, any strides. Floating-point ones from 0 to 1.
        operations: at most eight of ``"brightness"``, ``"contrast"``, ``"saturation"``, ``"hue"`` and ``"grayscale"``,
            applied in that order to all images; or (batch, steps) integers, a row an image: 0 nothing, and 1 to 5 for
            these.
        factors: a number for each operation, or (steps,) or (batch, steps) of them: at least 0, where 1 changes
            nothing; of hue from -0.5 to 0.5, where 0 changes nothing. Grayscale looks at none.
        dtype: of the output. A uint8 image may become a floating-point one, from 0 to 1; others keep their type. None
            is the image's; float32 for a uint8 image that is normalised.
        mean, std: one number a channel, or one for all; subtracted, and divided by, in that order.
        memory_format: of the output: ``torch.contiguous_format``, ``torch.channels_last``, or as the image's is.
        scaling: how a level becomes a number from 0 to 1: ``"product"``, times 1 / 255, as torchvision's ``to_dtype``,
            or ``"quotient"``, by 255, as its ``to_tensor``. They differ in the last bit. ``"none"``: it stays a level.

    Returns:
        An image of the shape of ``image``.

    Raises:
        ValueError: an operation that there is none of, or a number out of range. (Those in tensors are not looked at,
            which would make the host wait for a device.)
        TypeError: an argument of another kind.
        RuntimeError: rank, channels or dtype of ``image`` out of range; tensors that do not go together.

    Example:
        >>> image = torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1)
        >>> adjust_colors(image, ["hue", "brightness"], [0.5, 0.5]).flatten()
        tensor([ 25,  75, 100], dtype=torch.uint8)
        >>> adjust_colors(image, ["grayscale"], [1.0], mean=[0.5], std=[0.25]).flatten()
        tensor([-0.0549, -0.0549, -0.0549])
    """
    check_tensor(_OP, "image", image)
    finish = checked_finish(_OP, "image", image, dtype, mean, std, memory_format, scaling)
    images = image.unsqueeze(0) if image.dim() == 3 else image
    table, shared = checked_operations(_OP, operations, OPERATIONS, images)
    steps = len(shared) if table is None else table.shape[1]
    numbers, shared_numbers = _checked_factors(factors, images, steps, shared)
    if image.dtype is torch.uint8 and numbers is not None:
        numbers = numbers.detach()  # whole levels have no slope
    shared = shared if table is None else UNUSED
    output = _adjust_colors(images, numbers, table, shared, shared_numbers, *finish)
    return output.squeeze(0) if image.dim() == 3 else output


def adjust_brightness(image: Tensor, brightness_factor: float | Tensor) -> Tensor:
    """torchvision's ``adjust_brightness``: every number times the factor, cut to the range of its type.

    Args:
        image: (..., 1 or 3, height, width), uint8 or floating-point from 0 to 1.
        brightness_factor: at least 0; or a tensor of one, or of one for each image of a batch, which may require grad.

    Returns:
        An image like ``image``.

    Example:
        >>> adjust_brightness(torch.tensor([[[100, 200]]], dtype=torch.uint8), 1.5)
        tensor([[[150, 255]]], dtype=torch.uint8)
    """
    return _adjusted("adjust_brightness", image, "brightness", "brightness_factor", brightness_factor)


def adjust_contrast(image: Tensor, contrast_factor: float | Tensor) -> Tensor:
    """torchvision's ``adjust_contrast``: every number blended with the mean of the image's gray.

    Args:
        image: (..., 1 or 3, height, width), uint8 or floating-point from 0 to 1.
        contrast_factor: at least 0; or a tensor of one, or of one for each image of a batch, which may require grad.

    Returns:
        An image like ``image``.

    Example:
        >>> adjust_contrast(torch.tensor([[[100, 200]]], dtype=torch.uint8), 0.5)
        tensor([[[125, 175]]], dtype=torch.uint8)
    """
    return _adjusted("adjust_contrast", image, "contrast", "contrast_factor", contrast_factor)


def adjust_saturation(image: Tensor, saturation_factor: float | Tensor) -> Tensor:
    """torchvision's ``adjust_saturation``: every number blended with the gray of its pixel.

    Args:
        image: (..., 1 or 3, height, width), uint8 or floating-point from 0 to 1. Of one channel it stays.
        saturation_factor: at least 0; or a tensor of one, or of one for each image of a batch, which may require grad.

    Returns:
        An image like ``image``.

    Example:
        >>> adjust_saturation(torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1), 0.5).flatten()
        tensor([162, 112,  87], dtype=torch.uint8)
    """
    return _adjusted("adjust_saturation", image, "saturation", "saturation_factor", saturation_factor)


def adjust_hue(image: Tensor, hue_factor: float | Tensor) -> Tensor:
    """torchvision's ``adjust_hue``: the hue of every pixel turned by a part of the circle.

    Args:
        image: (..., 1 or 3, height, width), uint8 or floating-point from 0 to 1. Of one channel it stays.
        hue_factor: from -0.5 to 0.5; or a tensor of one, or of one for each image of a batch, which may require grad.

    Returns:
        An image like ``image``.

    Example:
        >>> adjust_hue(torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1), 0.5).flatten()
        tensor([ 50, 150, 200], dtype=torch.uint8)
    """
    return _adjusted("adjust_hue", image, "hue", "hue_factor", hue_factor)


def rgb_to_grayscale(image: Tensor, num_output_channels: int = 1) -> Tensor:
    """torchvision's ``rgb_to_grayscale``.

    Args:
        image: (..., 1 or 3, height, width), uint8 or floating-point from 0 to 1.
        num_output_channels: 1 or 3, which are equal.

    Returns:
        An image of so many channels.

    Example:
        >>> rgb_to_grayscale(torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1))
        tensor([[[124]]], dtype=torch.uint8)
    """
    op = "rgb_to_grayscale"
    check_tensor(op, "image", image)
    channels = check_int(op, "num_output_channels", num_output_channels, 1, 3, "1 or 3")
    if channels == 2:
        raise ValueError(f"{op}: num_output_channels must be 1 or 3; got 2")
    gray = _adjusted(op, image, "grayscale", "", 1.0)
    if gray.shape[-3] == channels:
        return gray
    return gray[..., :1, :, :].contiguous() if channels == 1 else gray.repeat_interleave(3, -3)


def _adjusted(op: str, image: Any, operation: str, name: str, factor: Any) -> Tensor:
    """One operation on (..., channels, height, width)."""
    check_tensor(op, "image", image)
    if image.dim() < 3 or image.shape[-3] not in (1, 3):
        raise TypeError(
            f"{op}: image must be (..., channels, height, width) of 1 or 3 channels; got {tuple(image.shape)}"
        )
    if not isinstance(factor, Tensor):
        _check_factor(op, name, operation, factor)
    # A video's pictures have a mean each, as all images of a batch do.
    images = image.flatten(0, -4) if image.dim() > 4 else image
    numbers: Any = [factor]
    if isinstance(factor, Tensor):
        if factor.numel() != 1 and (image.dim() != 4 or factor.shape != (image.shape[0],)):
            raise RuntimeError(
                f"{op}: {name} must be a number, a tensor of one, or one for each image of a batch; got "
                f"{tuple(factor.shape)} beside an image of {tuple(image.shape)}"
            )
        numbers = factor.reshape(-1, 1) if factor.numel() != 1 else factor.reshape(1)
    output = adjust_colors(images, [operation], numbers)
    return output.unflatten(0, image.shape[:-3]) if image.dim() > 4 else output


def _check_factor(op: str, name: str, operation: str, factor: Any) -> None:
    if operation == "hue":
        check_range(op, name, factor, -0.5, 0.5, "a number from -0.5 to 0.5")
    elif operation != "grayscale":
        check_range(op, name, factor, 0.0, FLOAT_MAX, "a finite number, at least 0")


def _checked_factors(factors: Any, images: Tensor, steps: int, shared: list[int]) -> tuple[Tensor | None, list[float]]:
    """A table of them, or those of all images."""
    if isinstance(factors, Tensor):
        check_tensor(_OP, "factors", factors)
        if not factors.is_floating_point() or factors.dim() not in (1, 2):
            kind = dtype_name(factors.dtype)
            raise TypeError(
                f"{_OP}: factors must be numbers, or (steps,) or (batch, steps) of floating-point ones; got "
                f"{tuple(factors.shape)} of {kind}"
            )
        check_device(_OP, "factors", factors, "image", images)
        # Of doubles torch rounds what they and the rest to 1 are in the type of the image.
        return (factors.expand(images.shape[0], -1) if factors.dim() == 1 else factors).double(), []
    if not isinstance(factors, (list, tuple)):
        kind = type(factors).__name__
        raise TypeError(f"{_OP}: factors must be a list of numbers, or a tensor of them; got {kind}")
    if len(factors) != steps:
        raise ValueError(f"{_OP}: factors must be one for each operation, {steps}; got {len(factors)}")
    names = {number: name for name, number in OPERATIONS.items()}
    for number, factor in zip(shared or [1] * steps, factors, strict=True):
        if not shared:
            check_range(_OP, "factors", factor, -FLOAT_MAX, FLOAT_MAX, "finite numbers")
        else:
            _check_factor(_OP, "factors", names[number], factor)
    return None, [float(factor) for factor in factors]


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def adjust_colors_reference(
    image: Tensor, factors: Tensor | None, operations: Tensor | None, shared_operations: list[int],
    shared_factors: list[float], dtype: torch.dtype, mean: list[float], std: list[float], memory_format: int,
    scaling: int,
) -> Tensor:  # fmt: skip
    """Plain PyTorch. To be trusted because it is torchvision's definition, by way of hue, saturation and value; where
    images have operations of their own, all of them are computed and one is taken."""
    levels = image.dtype is torch.uint8
    computed = torch.float64 if image.dtype is torch.float64 else torch.float32
    output = image.to(computed)
    steps = len(shared_operations) if operations is None else operations.shape[1]
    for k in range(steps):
        if factors is None:
            number = torch.full((), shared_factors[k], dtype=torch.float64, device=image.device)
        else:
            number = factors[:, k, None, None, None]
        rest = (1 - number).to(computed)
        number = number.to(computed)
        made = of_levels if levels else of_numbers
        if operations is None:
            output = made(output, shared_operations[k], number, rest)
            continue
        which = operations[:, k, None, None, None]
        results = [made(output, operation, number, rest) for operation in OPERATIONS.values()]
        for operation, result in zip(OPERATIONS.values(), results, strict=True):
            output = torch.where(which == operation, result, output)
    if levels and dtype.is_floating_point:
        output = scaled(output.to(torch.float64 if dtype is torch.float64 else torch.float32), scaling)
    return normalised(output, mean, std).to(dtype)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(
    image: Tensor, factors: Tensor | None, operations: Tensor | None, shared_operations: list[int],
    shared_factors: list[float], dtype: torch.dtype, mean: list[float], std: list[float], memory_format: int,
    scaling: int,
) -> Tensor:  # fmt: skip
    if image.dim() != 4:
        raise RuntimeError(
            f"{_OP}: image must have 4 dimensions (batch, channels, height, width); got {tuple(image.shape)}"
        )
    if memory_format == 0:
        return empty_image(image.new_empty(0, dtype=dtype), image.shape, image)
    empty = image.new_empty(image.shape, dtype=dtype)
    return empty.contiguous(memory_format=torch.channels_last) if memory_format == 2 else empty


def _gradient_like(tensor: Tensor) -> Tensor:
    return empty_image(tensor, tensor.shape, tensor) if tensor.dim() == 4 else tensor.new_empty(tensor.shape)


# ---- registration ----------------------------------------------------------------------------------------------------

_adjust_colors = Derivatives(
    "handgrad::adjust_colors",
    reference=adjust_colors_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=_gradient_like,
)
