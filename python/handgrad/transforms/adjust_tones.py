"""Chains of operations on the tones of images. Rounding, kinks, derivatives: docs/transforms/adjust_tones.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad._chains import UNUSED, checked_operations
from handgrad._images import check_image
from handgrad._layout import empty_image
from handgrad.arguments import FLOAT_MAX, check_device, check_int, check_range, check_tensor, dtype_name
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "adjust_tones"
#: By the number that schemas, and tables of operations, have them by. 0 is nothing.
TONES = {"posterize": 1, "solarize": 2, "invert": 3, "autocontrast": 4, "equalize": 5}

# ---- public functions ------------------------------------------------------------------------------------------------


@traceable
def adjust_tones(image: Tensor, operations: Sequence[str] | Tensor, numbers: Sequence[float] | Tensor) -> Tensor:
    """Posterize, solarize, invert, autocontrast and equalize in any order, each channel by itself.

    The pictures of torchvision's functions of these names, one after the other
    (:mod:`torchvision.transforms.v2.functional`; torchvision need not be there). uint8 to the bit, on every device: all
    steps are one table of 256 for each channel, so that an image is read once for what must be known of it and once to
    be looked up. Beyond them there are operations of its own for every image of a batch, any number of channels, second
    derivatives, forward mode, bfloat16 and float16.

    Args:
        image: (channels, height, width) or (batch, channels, height, width); uint8, float32, float64, bfloat16 or
            float16, any strides. Floating-point ones from 0 to 1.
        operations: at most eight of ``"posterize"``, ``"solarize"``, ``"invert"``, ``"autocontrast"`` and
            ``"equalize"``, applied in that order to all images; or (batch, steps) integers, a row an image: 0 nothing,
            and 1 to 5 for these.
        numbers: one for each operation, or (steps,) or (batch, steps) of them: of posterize the bits that are kept,
            from 0 to 8; of solarize the threshold from which on tones are inverted, at most 255 for uint8 and 1 for
            others. The other operations look at none. They have no gradient.

    Returns:
        An image like ``image``.

    Raises:
        ValueError: an operation that there is none of, or a number out of range. (Those in tensors are not looked at,
            which would make the host wait for a device.)
        TypeError: an argument of another kind.
        RuntimeError: rank or dtype of ``image`` out of range; tensors that do not go together.

    Example:
        >>> image = torch.tensor([[[10, 60, 110, 210]]], dtype=torch.uint8)
        >>> adjust_tones(image, ["solarize", "autocontrast"], [128, 0])
        tensor([[[  0, 127, 254,  89]]], dtype=torch.uint8)
    """
    check_tensor(_OP, "image", image)
    check_image(_OP, "image", image)
    images = image.unsqueeze(0) if image.dim() == 3 else image
    table, shared = checked_operations(_OP, operations, TONES, images)
    steps = len(shared) if table is None else table.shape[1]
    given, shared_numbers = _checked_numbers(numbers, images, steps, shared)
    output = _adjust_tones(images, given, table, shared if table is None else UNUSED, shared_numbers)
    return output.squeeze(0) if image.dim() == 3 else output


def posterize(image: Tensor, bits: int) -> Tensor:
    """torchvision's ``posterize``: of every level the first bits.

    Args:
        image: (..., channels, height, width), uint8 or floating-point from 0 to 1.
        bits: from 0 to 8.

    Returns:
        An image like ``image``.

    Example:
        >>> posterize(torch.tensor([[[100, 200]]], dtype=torch.uint8), 2)
        tensor([[[ 64, 192]]], dtype=torch.uint8)
    """
    return _toned("posterize", image, float(check_int("posterize", "bits", bits, 0, 8, "an integer from 0 to 8")))


def solarize(image: Tensor, threshold: float) -> Tensor:
    """torchvision's ``solarize``: levels from a threshold on are inverted.

    Args:
        image: (..., channels, height, width), uint8 or floating-point from 0 to 1.
        threshold: at most 255 for uint8, and 1 for others.

    Returns:
        An image like ``image``.

    Example:
        >>> solarize(torch.tensor([[[100, 200]]], dtype=torch.uint8), 128)
        tensor([[[100,  55]]], dtype=torch.uint8)
    """
    check_tensor("solarize", "image", image)
    _check_number("solarize", "threshold", "solarize", threshold, image)
    return _toned("solarize", image, float(threshold))


def invert(image: Tensor) -> Tensor:
    """torchvision's ``invert``: dark for bright.

    Args:
        image: (..., channels, height, width), uint8 or floating-point from 0 to 1.

    Returns:
        An image like ``image``.

    Example:
        >>> invert(torch.tensor([[[100, 200]]], dtype=torch.uint8))
        tensor([[[155,  55]]], dtype=torch.uint8)
    """
    return _toned("invert", image)


def autocontrast(image: Tensor) -> Tensor:
    """torchvision's ``autocontrast``: every channel stretched, so that it reaches from 0 to the largest level.

    Args:
        image: (..., channels, height, width), uint8 or floating-point from 0 to 1.

    Returns:
        An image like ``image``.

    Example:
        >>> autocontrast(torch.tensor([[[100, 150, 200]]], dtype=torch.uint8))
        tensor([[[  0, 127, 255]]], dtype=torch.uint8)
    """
    return _toned("autocontrast", image)


def equalize(image: Tensor) -> Tensor:
    """torchvision's ``equalize``: the levels of every channel spread, so that all are about as frequent.

    Args:
        image: (..., channels, height, width), uint8 or floating-point from 0 to 1.

    Returns:
        An image like ``image``.

    Example:
        >>> equalize(torch.arange(100, 104, dtype=torch.uint8).repeat_interleave(255).view(1, 4, 255))[0, :, 0]
        tensor([  0,  85, 170, 255], dtype=torch.uint8)
    """
    return _toned("equalize", image)


def _toned(operation: str, image: Any, number: float = 0.0) -> Tensor:
    """One operation on (..., channels, height, width); a video's pictures each by itself."""
    check_tensor(operation, "image", image)
    if image.dim() < 3:
        raise TypeError(f"{operation}: image must be (..., channels, height, width); got {tuple(image.shape)}")
    images = image.flatten(0, -4) if image.dim() > 4 else image
    output = adjust_tones(images, [operation], [number])
    return output.unflatten(0, image.shape[:-3]) if image.dim() > 4 else output


def _check_number(op: str, name: str, operation: str, number: Any, image: Tensor) -> None:
    if operation == "posterize":
        check_range(op, name, number, 0.0, 8.0, "for posterize an integer from 0 to 8")
        if number != int(number):
            raise ValueError(f"{op}: {name} must be for posterize an integer from 0 to 8; got {number}")
    elif operation == "solarize":
        most = 1.0 if image.is_floating_point() else 255.0
        check_range(op, name, number, -FLOAT_MAX, most, f"a finite number, at most {most:g} for {image.dtype}")


def _checked_numbers(numbers: Any, images: Tensor, steps: int, shared: list[int]) -> tuple[Tensor | None, list[float]]:
    """A table of them, or those of all images."""
    if isinstance(numbers, Tensor):
        check_tensor(_OP, "numbers", numbers)
        if numbers.is_complex() or numbers.dtype is torch.bool or numbers.dim() not in (1, 2):
            kind = dtype_name(numbers.dtype)
            raise TypeError(
                f"{_OP}: numbers must be numbers, or (steps,) or (batch, steps) of them; got {tuple(numbers.shape)} of "
                f"{kind}"
            )
        check_device(_OP, "numbers", numbers, "image", images)
        rows = numbers.expand(images.shape[0], -1) if numbers.dim() == 1 else numbers
        return rows.detach().double(), []
    if not isinstance(numbers, (list, tuple)):
        kind = type(numbers).__name__
        raise TypeError(f"{_OP}: numbers must be a list of numbers, or a tensor of them; got {kind}")
    # (What TorchScript's tracer records of a size is no number to be compared.)
    if not torch.jit.is_tracing() and len(numbers) != steps:
        raise ValueError(f"{_OP}: numbers must be one for each operation, {steps}; got {len(numbers)}")
    names = {number: name for name, number in TONES.items()}
    for number, given in zip(shared or [0] * len(numbers), numbers, strict=True):
        check_range(_OP, "numbers", given, -FLOAT_MAX, FLOAT_MAX, "finite numbers")
        _check_number(_OP, "numbers", names.get(number, ""), given, images)
    return None, [float(given) for given in numbers]


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def adjust_tones_reference(
    image: Tensor, numbers: Tensor | None, operations: Tensor | None, shared_operations: list[int],
    shared_numbers: list[float],
) -> Tensor:  # fmt: skip
    """Plain PyTorch. To be trusted because it is torchvision's definition, on numbers from 0 to 1 and on whole levels
    in float32; where images have operations of their own, all of them are computed and one is taken."""
    levels = image.dtype is torch.uint8
    most = 255 if levels else 1
    output = image.to(torch.float64 if image.dtype is torch.float64 else torch.float32)
    steps = len(shared_operations) if operations is None else operations.shape[1]
    for k in range(steps):
        if numbers is None:
            number = torch.full((), shared_numbers[k], dtype=torch.float64, device=image.device)
        else:
            number = numbers[:, k, None, None, None]
        if operations is None:
            output = _tone(output, shared_operations[k], number, most)
            continue
        which = operations[:, k, None, None, None]
        for operation in TONES.values():
            chosen = (which > operation - 1) & (which < operation + 1)
            output = torch.where(chosen, _tone(output, operation, number, most), output)
    return output.to(image.dtype)


def _tone(x: Tensor, operation: int, number: Tensor, most: int) -> Tensor:
    if operation == 1:
        bits = torch.clamp(number, 0, 8).floor().to(x.dtype)
        if most == 255:
            step = 2 ** (8 - bits)
            return (x / step).floor() * step
        count = 2**bits
        return torch.minimum(torch.clamp((x * count).floor(), min=0), count - 1) / count
    if operation == 2:
        return torch.where(x >= number.to(x.dtype), most - x, x)
    if operation == 3:
        return most - x
    if operation == 4:
        low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        even = ~((high > low) | (high < low) | high.isnan())
        scale = torch.where(even, torch.ones_like(low), (high - low) * (1.0 / most))
        stretched = torch.where(even, torch.clamp(x, 0, most), (x - low) / scale)
        return torch.clamp(stretched, 0, most).floor() if most == 255 else stretched
    return _equalized(x, most) if operation == 5 else x


def _equalized(x: Tensor, most: int) -> Tensor:
    """By how many pixels of its channel a level is more than; Pillow's definition."""
    whole = x.detach()
    if most == 1:
        whole = torch.clamp(whole * (255 + 1.0 - 1e-3), 0, 255).nan_to_num(0).floor()
    places = whole.flatten(2).long()
    ones = torch.ones_like(places, dtype=torch.float64)
    counts = ones.new_zeros(*places.shape[:2], 256).scatter_add(2, places, ones)
    upto = counts.cumsum(2)
    levels = torch.arange(256, dtype=torch.float64, device=x.device)
    last = torch.where(counts > 0, levels, torch.zeros_like(levels)).amax(2, keepdim=True).long()
    step = ((upto[:, :, -1:] - counts.gather(2, last)) / 255).floor()
    rank = ((upto - counts + (step / 2).floor()) / torch.clamp(step, min=1)).floor()
    table = torch.where(step > 0, torch.clamp(rank, max=255), levels)
    level = table.gather(2, places).view(x.shape).to(x.dtype)
    return level if most == 255 else torch.where(x.isnan(), x, level * (1 / 255))


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(
    image: Tensor, numbers: Tensor | None, operations: Tensor | None, shared_operations: list[int],
    shared_numbers: list[float],
) -> Tensor:  # fmt: skip
    if image.dim() != 4:
        raise RuntimeError(
            f"{_OP}: image must have 4 dimensions (batch, channels, height, width); got {tuple(image.shape)}"
        )
    return _like(image)


def _like(tensor: Tensor) -> Tensor:
    return empty_image(tensor, tensor.shape, tensor) if tensor.dim() == 4 else tensor.new_empty(tensor.shape)


# ---- registration ----------------------------------------------------------------------------------------------------

_adjust_tones = Derivatives(
    "handgrad::adjust_tones", reference=adjust_tones_reference, fake=_fake, roles=BATCHED, gradient_like=_like
)
