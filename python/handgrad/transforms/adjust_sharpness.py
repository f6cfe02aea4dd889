"""A blend of an image with a blurred one. Rounding, derivatives, kinks: docs/transforms/adjust_sharpness.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from handgrad._images import check_image_dtype
from handgrad._layout import empty_image
from handgrad._linear import LinearInImage
from handgrad.arguments import FLOAT_MAX, check_device, check_range, check_tensor, computed_dtype, dtype_name
from handgrad.derivatives import BATCHED
from handgrad.tracing import traceable

_OP = "adjust_sharpness"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def adjust_sharpness(image: Tensor, sharpness_factor: float | Tensor) -> Tensor:
    """torchvision's ``adjust_sharpness``: every pixel blended with the mean around it, or moved away from that.

    The picture of :func:`torchvision.transforms.v2.functional.adjust_sharpness` (torchvision need not be there), in one
    pass; uint8 to the bit, on every device. Beyond it: a factor of its own for every image of a batch, any number of
    channels, gradients of the factor, second derivatives, forward mode, half types computed in float32.

    Args:
        image: (..., channels, height, width); uint8, float32, float64, bfloat16 or float16, any strides. Floating-point
            ones from 0 to 1. The pixels of the border stay as they are.
        sharpness_factor: at least 0: 0 is the mean, 1 the image, 2 as much beyond it. Or a tensor of one, or of one for
            each image of a batch, which may require grad.

    Returns:
        An image like ``image``, cut to the range of its type; as it is where height or width is less than 3.

    Raises:
        ValueError: a factor below 0, or one that is not finite. (Those in a tensor are not looked at, which would make
            the host wait for a device.)
        TypeError: an argument of another kind.
        RuntimeError: rank or dtype of ``image`` out of range, tensors that do not go together.

    Example:
        >>> image = torch.full((1, 3, 3), 100, dtype=torch.uint8)
        >>> image[0, 1, 1] = 113
        >>> adjust_sharpness(image, 2.0)
        tensor([[[100, 100, 100],
                 [100, 121, 100],
                 [100, 100, 100]]], dtype=torch.uint8)
    """
    check_tensor(_OP, "image", image)
    check_image_dtype(_OP, "image", image)
    if image.dim() < 3:
        raise RuntimeError(f"{_OP}: image must be (..., channels, height, width); got {tuple(image.shape)}")
    images = image.unsqueeze(0) if image.dim() == 3 else image.flatten(0, -4) if image.dim() > 4 else image
    table, shared = _checked_factor(sharpness_factor, images, image.dim() == 4)
    output = _adjust_sharpness(images, table, shared)
    if image.dim() > 4:
        return output.unflatten(0, image.shape[:-3])
    return output.squeeze(0) if image.dim() == 3 else output


def _checked_factor(factor: Any, images: Tensor, has_batch: bool) -> tuple[Tensor | None, float]:
    """That of each image, or that of all."""
    if factor is None:
        raise TypeError(f"{_OP}: sharpness_factor must be a number, or a tensor; got NoneType")
    if not isinstance(factor, Tensor):
        check_range(_OP, "sharpness_factor", factor, 0.0, FLOAT_MAX, "a finite number, at least 0")
        return None, float(factor)
    check_tensor(_OP, "sharpness_factor", factor)
    if not factor.is_floating_point():
        kind = dtype_name(factor.dtype)
        raise TypeError(f"{_OP}: sharpness_factor must be a number, or a tensor of floating-point ones; got {kind}")
    check_device(_OP, "sharpness_factor", factor, "image", images)
    # Traces have no sizes to ask; the op asks them again.
    one = torch.jit.is_tracing() or factor.shape in ((), (1,))
    if not one and not (has_batch and factor.shape == images.shape[:1]):
        raise RuntimeError(
            f"{_OP}: sharpness_factor must be a tensor of one number, or of one for each image of a batch; got "
            f"{tuple(factor.shape)} beside {tuple(images.shape) if has_batch else 'one image'}"
        )
    if images.dtype is torch.uint8:
        factor = factor.detach()  # whole levels have no slope
    return (factor.expand(images.shape[0]) if one else factor).double(), 0.0


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def adjust_sharpness_reference(image: Tensor, factor: Tensor | None, shared_factor: float) -> Tensor:
    """Plain PyTorch. To be trusted because it is torchvision's definition, written as a sum of nine moved images; the
    blend of levels in double, and rounded to the float32 that torch makes of it by one fused step."""
    levels = image.dtype is torch.uint8
    x = image.to(computed_dtype(image))
    padded = torch.nn.functional.pad(x, [1, 1, 1, 1])
    height, width = padded.shape[2] - 2, padded.shape[3] - 2
    # By ends from behind, which exporters to ONNX need not know sizes for.
    around = [padded[:, :, i : i - 2 or None, j : j - 2 or None] for i in range(3) for j in range(3)]
    mean = (sum(around[1:], around[0]) + 4 * x) / 13
    rows, columns = (torch.arange(size, device=image.device) for size in (height, width))
    inner = ((rows > 0) & (rows < height - 1))[:, None] & ((columns > 0) & (columns < width - 1))
    if factor is None:
        rest = torch.full((), 1 - shared_factor, dtype=torch.float64, device=image.device)
    else:
        rest = (1 - factor)[:, None, None, None]
    rest = rest.to(x.dtype)
    if levels:
        blended = (x.double() + rest.double() * (mean.round() - x).double()).float()
        blended = torch.where(blended.isnan(), torch.zeros_like(blended), blended)
    else:
        blended = x + rest * (mean - x)
    cut = torch.clamp(torch.where(inner, blended, x), 0, 255 if levels else 1)
    # Without an inner pixel the image stays.
    output = torch.where(inner.sum() > 0, cut, x)
    return output.floor().to(image.dtype) if levels else output.to(image.dtype)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(image: Tensor, factor: Tensor | None, shared_factor: float) -> Tensor:
    if image.dim() != 4:
        raise RuntimeError(
            f"{_OP}: image must have 4 dimensions (batch, channels, height, width); got {tuple(image.shape)}"
        )
    return empty_image(image, image.shape, image)


def _gradient_like(tensor: Tensor) -> Tensor:
    return empty_image(tensor, tensor.shape, tensor) if tensor.dim() == 4 else tensor.new_empty(tensor.shape)


# ---- registration ----------------------------------------------------------------------------------------------------

# Where it is not cut, and what is cut has no slope.
_adjust_sharpness = LinearInImage(
    "handgrad::adjust_sharpness",
    reference=adjust_sharpness_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=_gradient_like,
)
