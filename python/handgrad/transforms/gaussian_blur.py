"""Gaussian blur. Rounding, derivatives, edge cases: docs/transforms/gaussian_blur.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad._images import check_image_dtype
from handgrad._layout import empty_image
from handgrad._linear import LinearInImage
from handgrad.arguments import (
    FLOAT_MAX,
    check_device,
    check_pair,
    check_range,
    check_tensor,
    computed_dtype,
    dtype_name,
)
from handgrad.derivatives import BATCHED
from handgrad.tracing import traceable

_OP = "gaussian_blur"
# As in csrc.
_MOST_TAPS = 2**20 - 1
# Beside a tensor nobody reads those of all images; of an empty list AOTInductor would make None.
_UNUSED = [0.0, 0.0]

# ---- public function and module --------------------------------------------------------------------------------------


@traceable
def gaussian_blur(
    image: Tensor, kernel_size: int | Sequence[int], sigma: float | Sequence[float] | Tensor | None = None
) -> Tensor:
    """torchvision's ``gaussian_blur``, along rows and then along columns, with the border as a mirror.

    The picture of :func:`torchvision.transforms.v2.functional.gaussian_blur` (torchvision need not be there), in as
    many steps a pixel as a window is wide and high together, not as it has pixels; uint8 rounded once, the same levels
    on every device. Beyond it: a sigma of its own for every image of a batch, gradients of sigma, second derivatives,
    forward mode.

    Args:
        image: (..., channels, height, width); uint8, float32, float64, bfloat16 or float16, any strides.
        kernel_size: taps along a row, and along a column; one number for both. Odd, and less than twice the width and
            the height, since the mirror shows each pixel once.
        sigma: the standard deviation in pixels along a row, and along a column; one number for both. Greater than 0.
            Or a tensor of one, of two, or (batch, 2) of them, which may require grad. None: 0.15 * kernel_size + 0.35.

    Returns:
        An image like ``image``.

    Raises:
        ValueError: a number out of range. (Those in a tensor are not looked at, which would make the host wait for a
            device: a sigma of 0 leaves the image as it is, a negative one is as good as a positive one.)
        TypeError: an argument of another kind.
        RuntimeError: rank or dtype of ``image`` out of range, an image too small for the kernel, tensors that do not
            go together.

    Example:
        >>> image = torch.zeros(1, 3, 3, dtype=torch.uint8)
        >>> image[0, 1, 1] = 100
        >>> gaussian_blur(image, 3, 1.0)
        tensor([[[30, 25, 30],
                 [25, 20, 25],
                 [30, 25, 30]]], dtype=torch.uint8)
    """
    check_tensor(_OP, "image", image)
    check_image_dtype(_OP, "image", image)
    if image.dim() < 3:
        raise RuntimeError(f"{_OP}: image must be (..., channels, height, width); got {tuple(image.shape)}")
    taps = _checked_taps(kernel_size)
    images = image.unsqueeze(0) if image.dim() == 3 else image.flatten(0, -4) if image.dim() > 4 else image
    table, shared = _checked_sigma(sigma, taps, images, image.dim() == 4)
    output = _gaussian_blur(images, table, taps, shared)
    if image.dim() > 4:
        return output.unflatten(0, image.shape[:-3])
    return output.squeeze(0) if image.dim() == 3 else output


class GaussianBlur2d(torch.nn.Module):
    """:func:`handgrad.transforms.gaussian_blur` as a layer of a network: an antialiasing before a stride, a loss of
    smoothed maps, a blur whose width is learnt.

    Args:
        kernel_size, sigma: as the function takes them, but that sigma is no tensor.
        learnable: sigma is a parameter, ``(2,)``: along rows and columns. Its gradient vanishes towards 0, where
            nothing is blurred.

    Example:
        >>> layer = GaussianBlur2d(5, 1.0, learnable=True)
        >>> layer(torch.rand(1, 3, 8, 8)).sum().backward()
        >>> layer.sigma.grad.shape
        torch.Size([2])
    """

    sigma: Any

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        sigma: float | Sequence[float] | None = None,
        learnable: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = tuple(_checked_taps(kernel_size))
        numbers = _checked_numbers(sigma, list(self.kernel_size))
        self.sigma = torch.nn.Parameter(torch.tensor(numbers)) if learnable else tuple(numbers)

    def forward(self, image: Tensor) -> Tensor:
        return gaussian_blur(image, self.kernel_size, self.sigma)

    def extra_repr(self) -> str:
        learnable = isinstance(self.sigma, Tensor)
        sigma = "" if learnable else f", sigma={self.sigma}"
        return f"kernel_size={self.kernel_size}{sigma}, learnable={learnable}"


def _checked_taps(kernel_size: Any) -> list[int]:
    said = "an odd number, at least 1, or two of them"
    taps = list(check_pair(_OP, "kernel_size", kernel_size, 1, _MOST_TAPS, said))
    if any(size % 2 == 0 for size in taps):
        raise ValueError(f"{_OP}: kernel_size must be {said}; got {kernel_size!r}")
    return taps


def _checked_numbers(sigma: Any, taps: list[int]) -> list[float]:
    if sigma is None:
        return [size * 0.15 + 0.35 for size in taps]
    numbers = list(sigma) if isinstance(sigma, (list, tuple)) else [sigma]
    if len(numbers) not in (1, 2):
        raise TypeError(f"{_OP}: sigma must be a number, or two of them; got {sigma!r}")
    for number in numbers:
        check_range(_OP, "sigma", number, 5e-324, FLOAT_MAX, "a finite number greater than 0, or two of them")
    return [float(number) for number in numbers * (3 - len(numbers))]


def _checked_sigma(sigma: Any, taps: list[int], images: Tensor, has_batch: bool) -> tuple[Tensor | None, list[float]]:
    """That of each image, or those of all."""
    if not isinstance(sigma, Tensor):
        return None, _checked_numbers(sigma, taps)
    check_tensor(_OP, "sigma", sigma)
    if not sigma.is_floating_point():
        kind = dtype_name(sigma.dtype)
        raise TypeError(f"{_OP}: sigma must be a number, two of them, or a tensor of floating-point ones; got {kind}")
    check_device(_OP, "sigma", sigma, "image", images)
    # Traces have no sizes to ask; the op asks them again.
    fits = torch.jit.is_tracing() or (sigma.dim() < 2 and sigma.shape in ((), (1,), (2,)))
    if not fits and not (has_batch and sigma.dim() == 2 and sigma.shape[1] == 2):
        raise RuntimeError(
            f"{_OP}: sigma must be a tensor of one number, of two, or (batch, 2) beside a batch of images; got "
            f"{tuple(sigma.shape)} beside an image of {tuple(images.shape)}"
        )
    if images.dtype is torch.uint8:
        sigma = sigma.detach()  # whole levels have no slope
    return (sigma.expand(images.shape[0], 2) if sigma.dim() < 2 else sigma).double(), _UNUSED


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def gaussian_blur_reference(
    image: Tensor, sigma: Tensor | None, kernel_size: list[int], shared_sigma: list[float]
) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition: the image with its mirrors around it, moved by each
    tap and weighed, along one axis and then along the other."""
    computed = computed_dtype(image)
    output = image.to(computed)
    for axis in (0, 1):
        dim, reach = 3 - axis, kernel_size[axis] // 2
        taps = torch.arange(-reach, reach + 1, dtype=torch.float64, device=image.device)
        if sigma is None:
            deviation = torch.full((1, 1), shared_sigma[axis], dtype=torch.float64, device=image.device)
        else:
            deviation = sigma[:, axis, None]
        # Of a sigma of 0 the pixel itself, without a slope.
        narrow = deviation.abs() < 1e-150
        distance = taps / torch.where(narrow, torch.ones_like(deviation), deviation)
        weights = torch.softmax(-0.5 * distance * distance, 1)
        weights = torch.where(narrow, (taps.abs() < 0.5).double(), weights).to(computed)
        size = image.shape[dim]
        seen = (torch.arange(size + 2 * reach, device=image.device) - reach).abs()
        seen = (size - 1) - ((size - 1) - seen).abs()
        padded = output.index_select(dim, seen)
        # Even weights, summed from the middle outwards: the order decides of a level now and then.
        output = weights[:, reach, None, None, None] * _moved(padded, dim, reach, reach)
        for away in range(1, reach + 1):
            both = _moved(padded, dim, reach - away, reach) + _moved(padded, dim, reach + away, reach)
            output = output + weights[:, reach + away, None, None, None] * both
    return output.round().to(image.dtype) if image.dtype is torch.uint8 else output.to(image.dtype)


def _moved(padded: Tensor, dim: int, first: int, reach: int) -> Tensor:
    # By an end from behind, which exporters to ONNX need not know the size for.
    part = slice(first, first - 2 * reach or None)
    return padded[:, :, part] if dim == 2 else padded[:, :, :, part]


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(image: Tensor, sigma: Tensor | None, kernel_size: list[int], shared_sigma: list[float]) -> Tensor:
    if image.dim() != 4:
        raise RuntimeError(
            f"{_OP}: image must have 4 dimensions (batch, channels, height, width); got {tuple(image.shape)}"
        )
    return empty_image(image, image.shape, image)


def _gradient_like(tensor: Tensor) -> Tensor:
    return empty_image(tensor, tensor.shape, tensor) if tensor.dim() == 4 else tensor.new_empty(tensor.shape)


# ---- onnx: ONNX's own operators, where one filter is for all images --------------------------------------------------


def _onnx(image: Tensor, sigma: Tensor | None, kernel_size: list[int], shared_sigma: list[float]) -> Any:
    # Of float64 onnxruntime has no convolution.
    if sigma is not None or image.dtype is torch.float64:
        return NotImplemented
    computed = computed_dtype(image)
    # Every channel is an image of its own, with the same two filters.
    output = image.to(computed).flatten(0, 1).unsqueeze(1)
    reach = [size // 2 for size in kernel_size]
    output = torch.nn.functional.pad(output, [reach[0], reach[0], reach[1], reach[1]], mode="reflect")
    for axis, shape in ((0, (1, 1, 1, -1)), (1, (1, 1, -1, 1))):
        taps = torch.arange(kernel_size[axis], dtype=torch.float64, device=image.device) - reach[axis]
        distance = taps / shared_sigma[axis]
        weights = torch.softmax(-0.5 * distance * distance, 0).to(computed)
        output = torch.nn.functional.conv2d(output, weights.view(shape))
    output = output.reshape(image.shape)
    return output.round().to(image.dtype) if image.dtype is torch.uint8 else output.to(image.dtype)


# ---- registration ----------------------------------------------------------------------------------------------------

_gaussian_blur = LinearInImage(
    "handgrad::gaussian_blur",
    reference=gaussian_blur_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=_gradient_like,
    onnx=_onnx,
)
