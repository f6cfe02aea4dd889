"""What takes the place of torchvision's own kernels that move an image: as in kernels.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from handgrad.transforms._pictures import is_picture, wrapped
from handgrad.transforms._shifts import is_shift, shifted
from handgrad.transforms._sizes import interpolation_name
from handgrad.transforms.elastic import elastic as to_elastic
from handgrad.transforms.warp import affine as to_affine
from handgrad.transforms.warp import perspective as to_perspective
from handgrad.transforms.warp import rotate as to_rotated

Kernel = Callable[..., Any]


def affine(
    theirs: Kernel,
    inpt: Any,
    angle: float,
    translate: Any,
    scale: float,
    shear: Any,
    interpolation: Any = "nearest",
    fill: Any = None,
    center: Any = None,
) -> Any:
    shears = [shear, 0.0] if _is_number(shear) else shear
    shears = [*shears, *shears] if isinstance(shears, (list, tuple)) and len(shears) == 1 else shears
    pairs = all(_is_pair(pair) for pair in (translate, shears, center or (0, 0)))
    if pairs and _can_warp(inpt, interpolation, fill, angle, scale) and scale > 1e-37:
        how = {"interpolation": interpolation_name(interpolation), "fill": fill, "center": center}
        if how["interpolation"] == "nearest" and is_shift(inpt, angle, translate, scale, shears, fill):
            return wrapped(inpt, shifted(inpt.as_subclass(Tensor), int(translate[0]), int(translate[1]), fill))
        return wrapped(inpt, to_affine(inpt.as_subclass(Tensor), angle, translate, scale, shears, **how))
    return theirs(
        inpt,
        angle,
        translate=translate,
        scale=scale,
        shear=shear,
        interpolation=interpolation,
        fill=fill,
        center=center,
    )


def rotate(
    theirs: Kernel,
    inpt: Any,
    angle: float,
    interpolation: Any = "nearest",
    expand: bool = False,
    center: Any = None,
    fill: Any = None,
) -> Any:
    if _is_pair(center or (0, 0)) and type(expand) is bool and _can_warp(inpt, interpolation, fill, angle):
        how = {"expand": expand, "center": center, "fill": fill}
        return wrapped(inpt, to_rotated(inpt.as_subclass(Tensor), angle, interpolation_name(interpolation), **how))
    return theirs(inpt, angle, interpolation=interpolation, expand=expand, center=center, fill=fill)


def perspective(
    theirs: Kernel,
    inpt: Any,
    startpoints: Any,
    endpoints: Any,
    interpolation: Any = "bilinear",
    fill: Any = None,
    coefficients: Any = None,
) -> Any:
    # Of points torchvision finds the coefficients, as those of boxes and masks.
    given = isinstance(coefficients, (list, tuple)) and len(coefficients) == 8 and startpoints is endpoints is None
    if given and _can_warp(inpt, interpolation, fill, *coefficients):
        how = {"interpolation": interpolation_name(interpolation), "fill": fill, "coefficients": coefficients}
        return wrapped(inpt, to_perspective(inpt.as_subclass(Tensor), None, None, **how))
    return theirs(inpt, startpoints, endpoints, interpolation=interpolation, fill=fill, coefficients=coefficients)


def elastic(theirs: Kernel, inpt: Any, displacement: Any, interpolation: Any = "bilinear", fill: Any = None) -> Any:
    from PIL.Image import Image as Picture
    from torchvision.tv_tensors import Mask

    if isinstance(inpt, Picture):  # which is a tensor in between for torchvision too
        from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

        image = pil_to_tensor(inpt)
        if _can_move(image, displacement) and _can_warp(image, interpolation, fill):
            return to_pil_image(_moved(image, displacement, interpolation, fill), mode=inpt.mode)
    elif type(inpt) is Mask and inpt.dim() >= 2:
        mask = inpt.as_subclass(Tensor)
        mask = mask.unsqueeze(0) if inpt.dim() == 2 else mask
        if _can_move(mask, displacement) and _can_warp(mask, "nearest", fill):
            return wrapped(inpt, _moved(mask, displacement, "nearest", fill).reshape(inpt.shape))
    elif _can_move(inpt, displacement) and _can_warp(inpt, interpolation, fill):
        return wrapped(inpt, _moved(inpt.as_subclass(Tensor), displacement, interpolation, fill))
    return theirs(inpt, displacement=displacement, interpolation=interpolation, fill=fill)


def _can_move(inpt: Any, displacement: Any) -> bool:
    """Whether there is a displacement of numbers for its pixels; torchvision says what is wrong with another."""
    fits = is_picture(inpt) and isinstance(displacement, Tensor) and displacement.is_floating_point()
    return fits and displacement.shape == (1, *inpt.shape[-2:], 2)


def _moved(image: Tensor, displacement: Tensor, interpolation: Any, fill: Any) -> Tensor:
    field = displacement.as_subclass(Tensor).to(image.device)
    return to_elastic(image, field, interpolation_name(interpolation), fill)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e38


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(_is_number(number) for number in value)


def _can_warp(inpt: Any, interpolation: Any, fill: Any, *numbers: Any) -> bool:
    """Whether the kernel reads such an image in this way; torchvision says what is wrong with the rest."""
    if not is_picture(inpt) or interpolation_name(interpolation) not in ("nearest", "bilinear"):
        return False
    fills = [0] if fill is None else fill if isinstance(fill, (list, tuple)) else [fill]
    high = 255 if inpt.dtype is torch.uint8 else 1e38
    low = 0 if inpt.dtype is torch.uint8 else -1e38
    fits = len(fills) in (1, inpt.shape[-3]) and all(_is_number(number) and low <= number <= high for number in fills)
    return fits and all(_is_number(number) for number in numbers)
