"""Crop, resize, flip, scale, normalise in one pass. Weights, rounding, derivatives: docs/transforms/resized_crop.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad._images import checked_boxes, checked_finish, checked_flips, scaled
from handgrad._layout import empty_image
from handgrad._resampling import integer_weights, normalised, rounded, weights
from handgrad.arguments import check_bool, check_choice, check_int, check_pair, check_tensor
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "resized_crop"
# As in csrc: the most pixels along an axis.
_MOST = 2**24
_INTERPOLATIONS = {"nearest": 0, "nearest-exact": 1, "bilinear": 2, "bicubic": 3}

# ---- public functions ------------------------------------------------------------------------------------------------


@traceable
def resized_crop(
    image: Tensor,
    top: int,
    left: int,
    height: int,
    width: int,
    size: int | tuple[int, int],
    interpolation: str = "bilinear",
    antialias: bool = True,
    *,
    horizontal_flip: bool = False,
    vertical_flip: bool = False,
    dtype: torch.dtype | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    memory_format: torch.memory_format = torch.preserve_format,
    window: Sequence[int] | None = None,
    rounding: str = "torch",
    scaling: str = "product",
) -> Tensor:
    """A box of an image, resized, flipped, scaled to numbers from 0 to 1 and normalised, in one pass over memory.

    The pictures of torchvision's ``resized_crop``, ``horizontal_flip``, ``vertical_flip``, ``to_dtype(scale=True)`` and
    ``normalize``, one after the other (:mod:`torchvision.transforms.v2.functional`; torchvision need not be there). A
    uint8 image gives, to the bit, what torchvision's uint8 kernels for the CPU give, on every device. Beyond them there
    are a deterministic gradient, second derivatives, forward mode, bfloat16 and float16.

    Args:
        image: (channels, height, width) or (batch, channels, height, width); uint8, float32, float64, bfloat16 or
            float16, any strides: ``torch.from_numpy(array).permute(2, 0, 1)`` is read where it lies.
        top, left, height, width: the box, in pixels; it must lie in the image.
        size: height and width of the output; one number is both.
        interpolation: ``"nearest"``, ``"nearest-exact"``, ``"bilinear"`` or ``"bicubic"``, or torchvision's
            ``InterpolationMode``.
        antialias: whether bilinear and bicubic filters are widened where the picture becomes smaller.
        horizontal_flip, vertical_flip: whether the output is mirrored left to right, and upside down.
        dtype: of the output. A uint8 image may become a floating-point one, from 0 to 1; others keep their type. None
            is the image's; float32 for a uint8 image that is normalised.
        mean, std: one number a channel, or one for all; subtracted, and divided by, in that order.
        memory_format: of the output: ``torch.contiguous_format``, ``torch.channels_last``, or as the image's is.
        window: top, left, height and width of what is wanted of the resized picture, in its pixels; only that is
            computed, as by a crop of it, and flipped. None is all.
        rounding: whose levels a uint8 image becomes, to the bit: ``"torch"``, or ``"pillow"``, which rounds the weights
            of its antialiased filters elsewhere, so that every few hundredth level is another by one.
        scaling: how a level becomes a number from 0 to 1: ``"product"``, times 1 / 255, as torchvision's ``to_dtype``,
            or ``"quotient"``, by 255, as its ``to_tensor``. They differ in the last bit. ``"none"``: it stays a level.

    Returns:
        An image of ``size``, or of the window's, with as many dimensions as ``image``.

    Raises:
        ValueError: a number out of range.
        TypeError: an argument of another kind.
        RuntimeError: a box that is not in the image; rank or dtype of ``image`` out of range.

    Example:
        >>> image = torch.arange(16, dtype=torch.uint8).view(1, 4, 4)
        >>> resized_crop(image, 0, 0, 4, 4, size=2)
        tensor([[[ 4,  5],
                 [10, 11]]], dtype=torch.uint8)
        >>> resized_crop(image, 0, 0, 2, 4, size=(1, 2), horizontal_flip=True, mean=[0.5], std=[0.25])
        tensor([[[-1.9373, -1.9529]]])
    """
    check_tensor(_OP, "image", image)
    box = [
        check_int(_OP, "top", top, 0, _MOST),
        check_int(_OP, "left", left, 0, _MOST),
        check_int(_OP, "height", height, 1, _MOST),
        check_int(_OP, "width", width, 1, _MOST),
        int(check_bool(_OP, "horizontal_flip", horizontal_flip)),
        int(check_bool(_OP, "vertical_flip", vertical_flip)),
    ]
    whole, *numbers = _checked(
        "image", image, size, interpolation, antialias, dtype, mean, std, memory_format, window, rounding, scaling
    )
    box += whole
    if image.dim() == 3:
        return _resized_crop(image.unsqueeze(0), None, None, None, box, *numbers).squeeze(0)
    return _resized_crop(image, None, None, None, box, *numbers)


@traceable
def batched_resized_crop(
    images: Tensor | Sequence[Tensor],
    boxes: Tensor,
    size: int | tuple[int, int],
    interpolation: str = "bilinear",
    antialias: bool = True,
    *,
    horizontal_flip: Tensor | bool = False,
    vertical_flip: Tensor | bool = False,
    dtype: torch.dtype | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    memory_format: torch.memory_format = torch.preserve_format,
    window: Sequence[int] | None = None,
    rounding: str = "torch",
    scaling: str = "product",
) -> Tensor:
    """:func:`resized_crop` of a batch, in which every image has a box and flips of its own.

    Args:
        images: (batch, channels, height, width), or a list of (channels, height, width) of any sizes, of one type and
            device.
        boxes: (batch, 4) integers, each top, left, height and width; on the device of the images.
        horizontal_flip, vertical_flip: (batch,) booleans, or one for all.
        size, interpolation, antialias, dtype, mean, std, memory_format, window, rounding, scaling: see
            :func:`resized_crop`.

    Returns:
        (batch, channels, *size), or a window of that.

    Raises:
        ValueError, TypeError: see :func:`resized_crop`.
        RuntimeError: tensors that do not go together, or a box that is not in its image. (On a CUDA device, which would
            have to be waited for, the result for such a box is NaN, or 0 in uint8.)

    Example:
        >>> images = torch.arange(32.0).view(2, 1, 4, 4)
        >>> boxes = torch.tensor([[0, 0, 2, 2], [2, 0, 2, 4]])
        >>> batched_resized_crop(images, boxes, 1, horizontal_flip=torch.tensor([True, False])).flatten()
        tensor([ 2.5000, 27.5000])
    """
    if not isinstance(images, Tensor) and isinstance(images, (list, tuple)):
        return _of_list(images, boxes, size, interpolation, antialias, horizontal_flip, vertical_flip,
                        dtype=dtype, mean=mean, std=std, memory_format=memory_format, window=window,
                        rounding=rounding, scaling=scaling)  # fmt: skip
    check_tensor(_OP, "images", images)
    assert isinstance(images, Tensor)
    if images.dim() != 4:
        raise RuntimeError(
            f"{_OP}: images must have 4 dimensions (batch, channels, height, width); got {tuple(images.shape)}"
        )
    boxes = checked_boxes(_OP, boxes, images)
    horizontal_flips, horizontal = checked_flips(_OP, "horizontal_flip", horizontal_flip, boxes)
    vertical_flips, vertical = checked_flips(_OP, "vertical_flip", vertical_flip, boxes)
    whole, *numbers = _checked(
        "images", images, size, interpolation, antialias, dtype, mean, std, memory_format, window, rounding, scaling
    )
    box = [0, 0, 1, 1, horizontal, vertical, *whole]
    return _resized_crop(images, boxes, horizontal_flips, vertical_flips, box, *numbers)


def _of_list(
    images: Sequence[Tensor], boxes: Tensor, size: Any, interpolation: str, antialias: bool,
    horizontal_flip: Any, vertical_flip: Any, **others: Any,
) -> Tensor:  # fmt: skip
    """Images of different sizes, one call each."""
    if not images:
        raise ValueError(f"{_OP}: images must be a tensor, or a list of at least one; got an empty list")
    for index, image in enumerate(images):
        check_tensor(_OP, f"images[{index}]", image)
        if image.dim() != 3:
            raise RuntimeError(
                f"{_OP}: images[{index}] must have 3 dimensions (channels, height, width); got {tuple(image.shape)}"
            )
    checked_boxes(_OP, boxes, images[0])
    if boxes.shape[0] != len(images):
        raise RuntimeError(f"{_OP}: boxes must have a row for each of images, {len(images)}; got {boxes.shape[0]}")
    outputs = []
    for index, image in enumerate(images):
        row = slice(index, index + 1)
        flips: dict[str, Any] = {
            name: flip[row] if isinstance(flip, Tensor) and flip.dim() else flip
            for name, flip in (("horizontal_flip", horizontal_flip), ("vertical_flip", vertical_flip))
        }
        one = image.unsqueeze(0)
        outputs.append(batched_resized_crop(one, boxes[row], size, interpolation, antialias, **flips, **others))
    return torch.cat(outputs)


def _checked(
    name: str, image: Tensor, size: Any, interpolation: Any, antialias: Any, dtype: Any, mean: Any, std: Any,
    memory_format: Any, window: Any, rounding: Any, scaling: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """The numbers of the box that are the same for all images, and the op's numbers after the box."""
    finish = checked_finish(_OP, name, image, dtype, mean, std, memory_format, scaling)
    height, width = check_pair(_OP, "size", size, 1, _MOST)
    mode = check_choice(_OP, "interpolation", getattr(interpolation, "value", interpolation), _INTERPOLATIONS)
    antialias = check_bool(_OP, "antialias", antialias)
    dtype, means, stds, order, how = finish
    pillow = check_choice(_OP, "rounding", rounding, ("torch", "pillow")) == "pillow"
    top, left, rows, columns = _checked_window(window, height, width)
    whole = [height, width, top, left]
    return whole, rows, columns, _INTERPOLATIONS[mode], antialias, dtype, means, stds, order, pillow, how


def _checked_window(window: Any, height: int, width: int) -> tuple[int, ...]:
    if window is None:
        return 0, 0, height, width
    if not isinstance(window, (list, tuple)) or len(window) != 4:
        raise TypeError(f"{_OP}: window must be None, or top, left, height and width; got {window!r}")
    top, left, rows, columns = (check_int(_OP, "window", number, 0, _MOST) for number in window)
    if rows < 1 or columns < 1 or top + rows > height or left + columns > width:
        raise ValueError(f"{_OP}: window must be a box in the output of {height} x {width} pixels; got {window!r}")
    return top, left, rows, columns


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def resized_crop_reference(
    image: Tensor, boxes: Tensor | None, horizontal_flips: Tensor | None, vertical_flips: Tensor | None,
    box: list[int], height: int, width: int, interpolation: int, antialias: bool, dtype: torch.dtype,
    mean: list[float], std: list[float], memory_format: int, pillow: bool, scaling: int,
) -> Tensor:  # fmt: skip
    """Plain PyTorch. To be trusted because it says what the definition says: what every output pixel weighs every pixel
    of its row and of its column by, and the two products of matrices that apply these.

    A pixel that is not finite makes NaN of its whole row and column, where the kernels keep it where it is.
    """
    numbers = [torch.arange(number, number + 1, device=image.device) for number in box[:6]]
    if boxes is not None:
        numbers[:4] = boxes.unbind(1)
    top, left, crop_height, crop_width, horizontal_flip, vertical_flip = numbers
    whole_height, whole_width, window_top, window_left = box[6:]
    horizontal_flip = horizontal_flip if horizontal_flips is None else horizontal_flips
    vertical_flip = vertical_flip if vertical_flips is None else vertical_flips
    columns, largest_x = weights(
        left, crop_width, horizontal_flip, whole_width, (window_left, width), image.shape[3], interpolation, antialias
    )
    rows, largest_y = weights(
        top, crop_height, vertical_flip, whole_height, (window_top, height), image.shape[2], interpolation, antialias
    )
    if image.dtype is torch.uint8:
        columns, bits_x = integer_weights(columns, largest_x, pillow)
        rows, bits_y = integer_weights(rows, largest_y, pillow)
        levels = rounded(image.double() @ columns.transpose(-1, -2), bits_x)
        output = rounded(rows @ levels, bits_y)
        if not dtype.is_floating_point:
            return output.to(dtype)
        output = scaled(output.to(torch.float64 if dtype is torch.float64 else torch.float32), scaling)
    else:
        computed = torch.float64 if dtype is torch.float64 else torch.float32
        output = rows.to(computed) @ (image.to(computed) @ columns.transpose(-1, -2).to(computed))
    return normalised(output, mean, std).to(dtype)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(
    image: Tensor, boxes: Tensor | None, horizontal_flips: Tensor | None, vertical_flips: Tensor | None,
    box: list[int], height: int, width: int, *others: Any,
) -> Tensor:  # fmt: skip
    if image.dim() != 4:
        raise RuntimeError(
            f"{_OP}: image must have 4 dimensions (batch, channels, height, width); got {tuple(image.shape)}"
        )
    if boxes is not None:
        torch._check(
            boxes.dim() == 2 and boxes.shape[0] == image.shape[0] and boxes.shape[1] == 4,
            lambda: f"{_OP}: boxes must have a row for each of images, {image.shape[0]}; got {tuple(boxes.shape)}",
        )
    _, _, dtype, _, _, memory_format, _, _ = others
    shape = (image.shape[0], image.shape[1], height, width)
    if memory_format == 0:
        return empty_image(image.new_empty(0, dtype=dtype), shape, image)
    empty = image.new_empty(shape, dtype=dtype)
    return empty.contiguous(memory_format=torch.channels_last) if memory_format == 2 else empty


def _gradient_like(tensor: Tensor) -> Tensor:
    return empty_image(tensor, tensor.shape, tensor)


# ---- autograd, vmap: what is special ---------------------------------------------------------------------------------


class _ResizedCrop(Derivatives):
    """Linear in the image, but for the mean: of its gradient only grad_output is differentiated."""

    def second_derivative(self, ctx: Any, *grad_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        nones: list[Tensor | None] = [None] * (len(self.backward_op.tensors) + len(self.backward_op.others))
        if grad_grads[0] is not None:
            nones[0] = self.double_backward(grad_grads[0], *ctx.saved_tensors, *ctx.others, [True, False])[0]
        return tuple(nones)


# ---- onnx: ONNX's own operator, where it means the same --------------------------------------------------------------


def _onnx(
    image: Tensor, boxes: Tensor | None, horizontal_flips: Tensor | None, vertical_flips: Tensor | None,
    box: list[int], height: int, width: int, interpolation: int, antialias: bool, dtype: torch.dtype,
    mean: list[float], std: list[float], memory_format: int, pillow: bool, scaling: int,
) -> Any:  # fmt: skip
    from handgrad.onnx import operator

    # Of levels ONNX's operator makes others, and no box of it is a tensor. The nearest pixel is another one for it.
    tables = boxes is not None or horizontal_flips is not None or vertical_flips is not None
    if tables or image.dtype is not torch.float32 or interpolation < 2:
        return NotImplemented
    top, left, crop_height, crop_width, horizontal_flip, vertical_flip, *whole, window_top, window_left = box
    crop = image[:, :, top : top + crop_height, left : left + crop_width]
    sizes = torch.cat([torch.arange(size, size + 1) for size in whole])
    attributes = {
        "antialias": int(antialias),
        "axes": [2, 3],
        "coordinate_transformation_mode": "half_pixel",
        "cubic_coeff_a": -0.5 if antialias else -0.75,
        "exclude_outside": int(antialias),
        "mode": "cubic" if interpolation == 3 else "linear",
    }
    shape = (image.shape[0], image.shape[1], *whole)
    # Empty, not left out, which the classic exporter cannot do in between: a region and factors, in place of sizes.
    empty = torch.zeros(0)
    output = operator("Resize", [crop, empty, empty, sizes], attributes, dtype=image.dtype, shape=shape, since=18)
    if whole != [height, width]:
        output = output[:, :, window_top : window_top + height, window_left : window_left + width]
    flips = [dim for dim, flip in ((2, vertical_flip), (3, horizontal_flip)) if flip]
    return normalised(output.flip(flips) if flips else output, mean, std)


# ---- registration ----------------------------------------------------------------------------------------------------

_resized_crop = _ResizedCrop(
    "handgrad::resized_crop",
    reference=resized_crop_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=_gradient_like,
    onnx=_onnx,
)
