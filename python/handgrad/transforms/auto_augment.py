"""torchvision's automatic augmentations over handgrad's kernels, which move boxes, masks and keypoints too.

Subclasses of the classes of these names in :mod:`torchvision.transforms.v2`, which draw the operations. Overridden is
what an operation calls, and what becomes of the other inputs.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import Any

import torch

from handgrad.transforms import kernels
from handgrad.transforms._torchvision import v2

#: The moves of the call at hand, in their order; of threads and of tasks each has its own.
_moves: ContextVar[list[tuple[str, dict[str, Any]]]] = ContextVar("moves")

_IN_PLACE = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}


def _move(operation: str, magnitude: float) -> tuple[str, dict[str, Any]] | None:
    """torchvision's functional and its arguments for an operation that moves pixels; None for one that does not."""
    if operation == "Rotate":
        return "rotate", {"angle": magnitude}
    along = 0 if operation.endswith("X") else 1
    if operation in ("ShearX", "ShearY"):
        shear = [0.0, 0.0]
        # The magnitude is a tangent.
        shear[along] = math.degrees(math.atan(magnitude))
        return "affine", {**_IN_PLACE, "shear": shear, "center": [0, 0]}
    if operation in ("TranslateX", "TranslateY"):
        translate = [0, 0]
        translate[along] = int(magnitude)
        return "affine", {**_IN_PLACE, "translate": translate}
    return None


def _change(operation: str, magnitude: float, image: Any) -> tuple[str, dict[str, Any]]:
    """The same for one that changes colours."""
    for named, functional, factor in (
        ("Brightness", "adjust_brightness", "brightness_factor"),
        ("Color", "adjust_saturation", "saturation_factor"),
        ("Contrast", "adjust_contrast", "contrast_factor"),
        ("Sharpness", "adjust_sharpness", "sharpness_factor"),
    ):
        if operation == named:
            return functional, {factor: 1.0 + magnitude}
    if operation == "Posterize":
        return "posterize", {"bits": int(magnitude)}
    if operation == "Solarize":
        return "solarize", {"threshold": _largest(image) * magnitude}
    return operation.lower(), {}


def _largest(image: Any) -> float:
    """The number of white."""
    if not isinstance(image, torch.Tensor):
        return 255.0
    return 1.0 if image.is_floating_point() else float(torch.iinfo(image.dtype).max)


class _Kernels:
    """What torchvision's class calls for an image or a video becomes a call of handgrad's kernel, where it has one."""

    fill: Any
    interpolation: Any

    def _apply_image_or_video_transform(
        self, image: Any, transform_id: str, magnitude: float, interpolation: Any, fill: Any
    ) -> Any:
        if transform_id == "Identity":
            return image
        move = _move(transform_id, magnitude)
        if move is not None:
            functional, arguments = move
            if (moves := _moves.get(None)) is not None:
                moves.append(move)
            arguments = {**arguments, "interpolation": interpolation, "fill": _fill_of(fill, image)}
        else:
            functional, arguments = _change(transform_id, magnitude, image)
        theirs = getattr(v2.functional, functional)
        kernel = kernels.KERNELS.get(functional)
        return kernel(theirs, image, **arguments) if kernel else theirs(image, **arguments)


class _Moves(_Kernels):
    """Boxes, masks and keypoints go where the image goes."""

    def forward(self, *inputs: Any) -> Any:
        before = _moves.set([])
        try:
            return super().forward(*inputs)  # type: ignore[misc]
        finally:
            _moves.reset(before)

    def _flatten_and_extract_image_or_video(self, inputs: Any, unsupported_types: tuple[type, ...] = ()) -> Any:
        return super()._flatten_and_extract_image_or_video(inputs, unsupported_types)  # type: ignore[misc]

    def _unflatten_and_insert_image_or_video(self, flat_inputs_with_spec: Any, image_or_video: Any) -> Any:
        flat, spec, place = flat_inputs_with_spec
        moved = [self._moved(inpt) if index != place else inpt for index, inpt in enumerate(flat)]
        return super()._unflatten_and_insert_image_or_video((moved, spec, place), image_or_video)  # type: ignore[misc]

    def _moved(self, inpt: Any) -> Any:
        from torchvision.tv_tensors import BoundingBoxes, KeyPoints, Mask

        if isinstance(inpt, (BoundingBoxes, KeyPoints, Mask)):
            for functional, arguments in _moves.get():
                how = {"interpolation": self.interpolation, "fill": _fill_of(self._fill, inpt)}  # type: ignore[attr-defined]
                inpt = getattr(v2.functional, functional)(inpt, **arguments, **how)
        return inpt


def _fill_of(fill: dict[Any, Any], inpt: Any) -> Any:
    """Of the dictionary that torchvision makes of a fill."""
    return fill[type(inpt)] if type(inpt) in fill else fill.get("others")


class AutoAugment(_Moves, v2.AutoAugment):
    """torchvision's ``AutoAugment`` (Cubuk et al., `AutoAugment <https://arxiv.org/abs/1805.09501>`_, 2019) by
    handgrad's kernels; boxes, masks and keypoints beside the image, which torchvision refuses (vision#6609), move with
    it.

    Example:
        >>> AutoAugment()(torch.zeros(3, 8, 8, dtype=torch.uint8)).shape
        torch.Size([3, 8, 8])
    """


class RandAugment(_Moves, v2.RandAugment):
    """torchvision's ``RandAugment`` (Cubuk et al., `RandAugment <https://arxiv.org/abs/1909.13719>`_, 2019) by
    handgrad's kernels; boxes, masks and keypoints beside the image, which torchvision refuses (vision#6609), move with
    it.

    Example:
        >>> RandAugment()(torch.zeros(3, 8, 8, dtype=torch.uint8)).shape
        torch.Size([3, 8, 8])
    """


class TrivialAugmentWide(_Moves, v2.TrivialAugmentWide):
    """torchvision's ``TrivialAugmentWide`` (Müller, Hutter, `TrivialAugment <https://arxiv.org/abs/2103.10158>`_, 2021)
    by handgrad's kernels; boxes, masks and keypoints beside the image, which torchvision refuses (vision#6609), move
    with it.

    Example:
        >>> TrivialAugmentWide()(torch.zeros(3, 8, 8, dtype=torch.uint8)).shape
        torch.Size([3, 8, 8])
    """


class AugMix(_Kernels, v2.AugMix):
    """torchvision's ``AugMix`` (Hendrycks et al., `AugMix <https://arxiv.org/abs/1912.02781>`_, 2020) by handgrad's
    kernels. It mixes pictures that were moved apart, so there is no place where a box would be: boxes, masks and
    keypoints are refused, as by torchvision.

    Example:
        >>> AugMix()(torch.zeros(3, 8, 8, dtype=torch.uint8)).shape
        torch.Size([3, 8, 8])
    """
