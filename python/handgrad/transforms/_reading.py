"""From torchvision's and timm's classes to the steps that ``fuse`` understands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad._images import can_normalise
from handgrad.transforms._steps import (
    CenterCrop,
    ColorJitter,
    Flip,
    Grayscale,
    Normalize,
    RandomApply,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    Sharpness,
    Step,
    ToDtype,
    ToImage,
    Tone,
    ToPureTensor,
    ToTensor,
    UnfusableError,
)
from handgrad.transforms.kernels import can_adjust


def _resize(t: Any, v2: bool) -> Step:
    return Resize(t, v2)


def _random_resized_crop(t: Any, v2: bool) -> Step:
    return RandomResizedCrop(t, v2)


def _random_crop(t: Any, v2: bool) -> Step:
    if t.padding is not None or t.pad_if_needed:
        raise UnfusableError("it pads, which the kernel does not")
    return RandomCrop(t, v2)


def _dtype(t: Any, v2: bool) -> Step:
    if not isinstance(t.dtype, torch.dtype):
        raise UnfusableError("its types are a dictionary's")
    return ToDtype(t, v2, dtype=t.dtype, scales=getattr(t, "scale", True), scaling="product" if v2 else "quotient")


def _normalize(t: Any, v2: bool) -> Step:
    if t.inplace:
        raise UnfusableError("it works in place")
    mean, std = (
        [float(x) for x in (values.flatten().tolist() if isinstance(values, Tensor) else values)]
        for values in (t.mean, t.std)
    )
    if not can_normalise(mean, std):
        raise UnfusableError("its deviations must be greater than 0, and all of its numbers finite")
    return Normalize(t, v2, mean=mean, std=std)


def _grayscale(t: Any, v2: bool) -> Step:
    if t.num_output_channels not in (1, 3):
        raise UnfusableError("torchvision says what is wrong with its channels")
    return Grayscale(t, v2, single=t.num_output_channels == 1)


def _sharpness(t: Any, v2: bool) -> Step:
    if not can_adjust("sharpness", t.sharpness_factor):
        raise UnfusableError("torchvision says what is wrong with its factor")
    return Sharpness(t, v2)


def _tone(operation: str, attribute: str = "") -> Callable[[Any, bool], Step]:
    def read(t: Any, v2: bool) -> Step:
        number = getattr(t, attribute) if attribute else 0
        if type(number) not in (int, float) or (attribute == "bits" and number not in range(9)):
            raise UnfusableError(f"torchvision says what is wrong with its {attribute}")
        return Tone(t, v2, operation=operation, number=float(number))

    return read


def _random_apply(t: Any, v2: bool) -> Step:
    inner = [step for transform in t.transforms for step in steps_of(transform)]
    if not inner or not all(step.colours for step in inner):
        raise UnfusableError("the kernel knows it around colours only")
    if any(isinstance(step, Grayscale) and step.single for step in inner):
        raise UnfusableError("of some images it makes one channel, of others none")
    return RandomApply(t, v2, inner=inner)


_READERS: dict[str, Callable[[Any, bool], Step]] = {
    "Resize": _resize,
    "RandomResizedCrop": _random_resized_crop,
    "CenterCrop": lambda t, v2: CenterCrop(t, v2),
    "RandomCrop": _random_crop,
    "RandomHorizontalFlip": lambda t, v2: Flip(t, v2),
    "RandomVerticalFlip": lambda t, v2: Flip(t, v2, horizontal=False),
    "ToTensor": lambda t, v2: ToTensor(t, v2, scales=True, lenient=v2),
    "PILToTensor": lambda t, v2: ToTensor(t, v2, lenient=v2),
    "ToImage": lambda t, v2: ToImage(t, v2),
    "ToPureTensor": lambda t, v2: ToPureTensor(t, v2),
    "ToDtype": _dtype,
    "ConvertImageDtype": _dtype,
    "Normalize": _normalize,
    "ColorJitter": lambda t, v2: ColorJitter(t, v2),
    "Grayscale": _grayscale,
    "RandomGrayscale": lambda t, v2: Grayscale(t, v2, random=True),
    "RandomAdjustSharpness": _sharpness,
    "RandomApply": _random_apply,
    "RandomPosterize": _tone("posterize", "bits"),
    "RandomSolarize": _tone("solarize", "threshold"),
    "RandomInvert": _tone("invert"),
    "RandomAutocontrast": _tone("autocontrast"),
    "RandomEqualize": _tone("equalize"),
}
_TIMM: dict[str, Callable[[Any], Step]] = {
    "RandomResizedCropAndInterpolation": lambda t: RandomResizedCrop(t, False),
    "MaybeToTensor": lambda t: ToTensor(t, False, scales=True, lenient=True),
    "MaybePILToTensor": lambda t: ToTensor(t, False, lenient=True),
}


def steps_of(transform: Any) -> list[Step]:
    """Of a transform that ``fuse`` understands; a preset of torchvision's weights is five.

    Raises:
        UnfusableError: it does not.
    """
    kind = type(transform)
    if kind.__module__ == "handgrad.transforms.classes":
        kind = kind.__bases__[0]
    name, module = kind.__name__, kind.__module__
    if module == "timm.data.transforms" and name in _TIMM:
        return [_TIMM[name](transform)]
    if module == "torchvision.transforms._presets" and name == "ImageClassification":
        return _preset(transform)
    v2 = module.startswith("torchvision.transforms.v2.")
    if (v2 or module == "torchvision.transforms.transforms") and name in _READERS:
        # torchvision's v2 has a class for v1's names too, which computes as v2 does.
        return [_READERS[name](transform, v2)]
    raise UnfusableError("the kernel does not know it")


def _preset(preset: Any) -> list[Step]:
    from torchvision.transforms import transforms as v1

    parts: Sequence[Any] = (
        v1.Resize(preset.resize_size, preset.interpolation, antialias=preset.antialias),
        v1.CenterCrop(preset.crop_size),
        v1.ConvertImageDtype(torch.float),
        v1.Normalize(preset.mean, preset.std),
    )
    resize, crop, dtype, normalize = (steps_of(part)[0] for part in parts)
    return [resize, crop, ToTensor(preset, False, lenient=True), dtype, normalize]
