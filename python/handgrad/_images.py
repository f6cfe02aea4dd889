"""Checks of what transforms of images are given: boxes and flips of a batch, what becomes of images in the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad.arguments import (
    FLOAT_MAX,
    check_bool,
    check_choice,
    check_device,
    check_integers,
    check_range,
    check_tensor,
    dtype_name,
)

DTYPES = {torch.uint8, torch.float32, torch.float64, torch.bfloat16, torch.float16}
#: As in csrc/common/math/statistics.h.
_SCALINGS = {"product": 0, "quotient": 1, "none": 2}
_MEMORY_FORMATS = {torch.preserve_format: 0, torch.contiguous_format: 1, torch.channels_last: 2}


def checked_boxes(op: str, boxes: Any, images: Tensor) -> Tensor:
    check_integers(op, "boxes", boxes)
    check_device(op, "boxes", boxes, "images", images)
    return boxes.long()


def checked_flips(op: str, name: str, flip: Any, boxes: Tensor) -> tuple[Tensor | None, int]:
    """Those of each image, or None and that of all."""
    if not isinstance(flip, Tensor):
        return None, int(check_bool(op, name, flip))
    check_tensor(op, name, flip)
    if flip.dtype is not torch.bool or flip.dim() != 1:
        kind = dtype_name(flip.dtype)
        raise TypeError(f"{op}: {name} must be True, False or (batch,) booleans; got {tuple(flip.shape)} of {kind}")
    check_device(op, name, flip, "boxes", boxes)
    return flip, 0


def can_normalise(mean: Sequence[float], std: Sequence[float]) -> bool:
    """Whether the kernel takes these numbers, which :func:`checked_statistics` would otherwise refuse."""
    return all(abs(value) < 1e38 for value in (*mean, *std)) and min(std, default=0) >= 1e-37


def checked_statistics(op: str, mean: Any, std: Any) -> tuple[list[float], list[float]]:
    if mean is None and std is None:
        return [], []
    checked = []
    for name, values, low in (("mean", mean, -FLOAT_MAX), ("std", std, 1e-37)):
        if not isinstance(values, (list, tuple)) or not values:
            raise TypeError(
                f"{op}: {name} must be a list of one number a channel, or of one for all, and mean and std both be "
                f"given; got {values!r}"
            )
        for value in values:
            what = "numbers that are finite" if name == "mean" else "finite numbers greater than 0"
            check_range(op, name, value, low, FLOAT_MAX, what)
        checked.append([float(value) for value in values])
    return checked[0], checked[1]


def check_image_dtype(op: str, name: str, image: Tensor) -> None:
    if image.dtype not in DTYPES:
        kind = dtype_name(image.dtype)
        raise TypeError(f"{op}: {name} must be uint8, float32, float64, bfloat16 or float16; got {kind}")


def check_image(op: str, name: str, image: Tensor) -> None:
    """Of a rank and a type that kernels take."""
    check_image_dtype(op, name, image)
    if image.dim() not in (3, 4):
        raise RuntimeError(
            f"{op}: {name} must have 3 or 4 dimensions (batch, channels, height, width); got {tuple(image.shape)}"
        )


def checked_finish(
    op: str, name: str, image: Tensor, dtype: Any, mean: Any, std: Any, memory_format: Any, scaling: Any
) -> tuple[torch.dtype, list[float], list[float], int, int]:
    """An image of a rank and a type that kernels take; and what they make of it in the end, as schemas have it: dtype,
    mean, std, memory format and scaling."""
    check_image(op, name, image)
    means, stds = checked_statistics(op, mean, std)
    is_level = image.dtype is torch.uint8
    if dtype is None:
        dtype = torch.float32 if is_level and means else image.dtype
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{op}: dtype must be a torch.dtype or None; got {dtype!r}")
    if dtype is not image.dtype and not (is_level and dtype.is_floating_point):
        raise TypeError(f"{op}: dtype must be the image's, or a floating-point one beside a uint8 image; got {dtype}")
    if means and not dtype.is_floating_point:
        raise TypeError(f"{op}: dtype must be a floating-point one where there is a mean; got {dtype}")
    if memory_format not in _MEMORY_FORMATS:
        raise ValueError(
            f"{op}: memory_format must be torch.preserve_format, torch.contiguous_format or torch.channels_last; got "
            f"{memory_format!r}"
        )
    how = _SCALINGS[check_choice(op, "scaling", scaling, _SCALINGS)]
    return dtype, means, stds, _MEMORY_FORMATS[memory_format], how


def scaled(levels: Tensor, scaling: int) -> Tensor:
    """Levels as numbers, as a schema's ``scaling`` says, for references."""
    return (levels * (1 / 255), levels / 255, levels)[scaling]
