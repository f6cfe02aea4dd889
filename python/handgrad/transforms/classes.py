"""torchvision's transforms over handgrad's kernels: the same names, arguments, draws and pictures (docs/transforms.md).

Each is a subclass of torchvision's class of its name, from :mod:`torchvision.transforms.v2`, which checks arguments,
draws the parameters and transforms boxes, masks, keypoints and PIL images. Overridden is what becomes of a tensor.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from handgrad.transforms._torchvision import v2
from handgrad.transforms.resized_crop import resized_crop

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
_DTYPES = (torch.uint8, torch.float32, torch.float64)


def _is_picture(inpt: Any) -> bool:
    """Whether the kernel takes it: an image or a video of a type that it computes as torchvision does."""
    from torchvision.tv_tensors import Image, Video

    return type(inpt) in (Tensor, Image, Video) and inpt.dtype in _DTYPES and inpt.dim() >= 3 and inpt.numel() > 0


def _by_kernel(inpt: Tensor, *numbers: Any, **others: Any) -> Tensor:
    """:func:`resized_crop` of an image, a batch or a video, which stays what it is."""
    from torchvision.tv_tensors import wrap

    image = inpt.as_subclass(Tensor)
    if image.dim() > 4:
        output = resized_crop(image.flatten(0, -4), *numbers, **others).unflatten(0, image.shape[:-3])
    else:
        output = resized_crop(image, *numbers, **others)
    return output if type(inpt) is Tensor else wrap(output, like=inpt)


def interpolation_of(transform: Any) -> str | None:
    """The name of a transform's interpolation; None for one of Pillow's numbers that is none."""
    mode = transform.interpolation
    if isinstance(mode, int) and not isinstance(mode, bool):
        return {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}.get(mode)
    return getattr(mode, "value", mode)


def resized_size(size: Any, max_size: int | None, height: int, width: int) -> tuple[int, int] | None:
    """What torchvision's ``Resize`` makes of an image of so many pixels; None where it raises an error."""
    if size is not None and len(size) == 2:
        return (size[0], size[1]) if max_size is None else None
    short, long = min(height, width), max(height, width)
    if size is None:
        if max_size is None:
            return None
        new_short, new_long = int(max_size * short / long), max_size
    else:
        new_short, new_long = size[0], int(size[0] * long / short)
        if max_size is not None:
            if max_size <= size[0]:
                return None
            if new_long > max_size:
                new_short, new_long = int(max_size * new_short / new_long), max_size
    return (new_long, new_short) if width <= height else (new_short, new_long)


class Resize(v2.Resize):
    """torchvision's ``Resize``, with images and videos resized by :func:`handgrad.transforms.resized_crop`: uint8 to
    the bit as torchvision does on a CPU, on every device."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        mode = interpolation_of(self)
        if _is_picture(inpt) and mode in _INTERPOLATIONS:
            height, width = inpt.shape[-2:]
            size = resized_size(self.size, self.max_size, height, width)
            if size == (height, width):
                return inpt
            if size and min(size) > 0:
                return _by_kernel(inpt, 0, 0, height, width, size, mode, bool(self.antialias))
        return super().transform(inpt, params)


class RandomResizedCrop(v2.RandomResizedCrop):
    """torchvision's ``RandomResizedCrop``, with images and videos cropped and resized in one pass by
    :func:`handgrad.transforms.resized_crop`: uint8 to the bit as torchvision does on a CPU, on every device."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        mode = interpolation_of(self)
        if _is_picture(inpt) and mode in _INTERPOLATIONS:
            box = params["top"], params["left"], params["height"], params["width"]
            return _by_kernel(inpt, *box, tuple(self.size), mode, bool(self.antialias))
        return super().transform(inpt, params)


class CenterCrop(v2.CenterCrop):
    """torchvision's ``CenterCrop``, which is a view of memory already."""


class RandomCrop(v2.RandomCrop):
    """torchvision's ``RandomCrop``, which is a view of memory already."""


class RandomHorizontalFlip(v2.RandomHorizontalFlip):
    """torchvision's ``RandomHorizontalFlip``; alone it is one pass over memory already."""


class RandomVerticalFlip(v2.RandomVerticalFlip):
    """torchvision's ``RandomVerticalFlip``; alone it is one pass over memory already."""


class ToDtype(v2.ToDtype):
    """torchvision's ``ToDtype``; alone it is one pass over memory already."""


class Normalize(v2.Normalize):
    """torchvision's ``Normalize`` in one pass over memory in place of two. Mean and deviation are arguments of the
    kernel, so that a device is neither waited for nor copied to (vision#9576)."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if _is_picture(inpt) and inpt.is_floating_point() and not self.inplace:
            mean, std = ([float(x) for x in numbers] for numbers in (self.mean, self.std))
            channels, height, width = inpt.shape[-3:]
            fits = all(len(numbers) in (1, channels) for numbers in (mean, std))
            if fits and all(map(math.isfinite, (*mean, *std))) and min(std) > 1e-37:
                return _by_kernel(inpt, 0, 0, height, width, (height, width), "nearest", mean=mean, std=std)
        return super().transform(inpt, params)
