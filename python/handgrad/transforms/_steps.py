"""What ``fuse`` understands of a pipeline: for each of torchvision's and timm's classes a step, which says what becomes
of the size of an image, draws what its class would draw, and puts that into the plan of one image.

A step's own checks come first, by :class:`Recipe`, then sizes; only then is anything drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from handgrad._images import can_normalise
from handgrad.transforms.kernels import interpolation_name, resized_size


class UnfusableError(Exception):
    """Why a step, or a sample, is left to torchvision."""


@dataclass
class Plan:
    """What the kernel is to do with an image: a box of it becomes ``size``; of that a window is kept, and flipped."""

    box: tuple[int, int, int, int]  #: top, left, height, width
    interpolation: str = "bilinear"
    size: tuple[int, int] | None = None
    window: tuple[int, int, int, int] | None = None
    horizontal_flip: bool = False
    vertical_flip: bool = False

    def crop(self, top: int, left: int, height: int, width: int) -> None:
        """A crop of what there is so far, which may be flipped."""
        old = self.window or ((0, 0, *self.size) if self.size else self.box)
        top = old[2] - height - top if self.vertical_flip else top
        left = old[3] - width - left if self.horizontal_flip else left
        new = (old[0] + top, old[1] + left, height, width)
        if self.size:
            self.window = new
        else:
            self.box = new


def _probe(height: int, width: int) -> Tensor:
    """An image for those who want to know its size, and nothing else."""
    return torch.empty(()).expand(1, height, width)


@dataclass
class Step:
    """One transform of a pipeline."""

    transform: Any
    v2: bool
    #: Whether boxes, masks and keypoints have a part in it.
    moves: bool = False
    #: Whether it makes an image of another size by interpolation.
    resizes: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Of the result."""
        return height, width

    def draw(self, height: int, width: int, plan: Plan) -> Any:
        """What the transform draws for an image of this size, put into the plan; for :meth:`replay`."""
        return {}

    def replay(self, value: Any, params: Any) -> Any:
        """What the transform makes of a box, a mask or keypoints, with what was drawn."""
        return value if params is None else self.transform.transform(value, params)

    def __str__(self) -> str:
        return type(self.transform).__name__


@dataclass
class Resize(Step):
    moves: bool = True
    resizes: bool = True

    def size(self, height: int, width: int) -> tuple[int, int]:
        size = resized_size(self.transform.size, self.transform.max_size, height, width)
        if size is None or min(size) < 1:
            raise UnfusableError(f"an image of {height} x {width} pixels cannot be resized so")
        return size

    def draw(self, height: int, width: int, plan: Plan) -> Any:
        plan.size = self.size(height, width)
        plan.interpolation = interpolation_name(self.transform.interpolation) or ""
        return {}


@dataclass
class RandomResizedCrop(Step):
    moves: bool = True
    resizes: bool = True

    def size(self, height: int, width: int) -> tuple[int, int]:
        height, width = self.transform.size
        return height, width

    def draw(self, height: int, width: int, plan: Plan) -> Any:
        transform, probe, interpolation = self.transform, _probe(height, width), self.transform.interpolation
        if self.v2:
            params = transform.make_params([probe])
            box = params["top"], params["left"], params["height"], params["width"]
        else:
            params = box = transform.get_params(probe, transform.scale, transform.ratio)
        if isinstance(interpolation, (tuple, list)):  # timm draws it too
            interpolation = random.choice(interpolation)
            plan.interpolation = interpolation.value
        else:
            plan.interpolation = interpolation_name(transform.interpolation) or ""
        plan.crop(*box)
        plan.size = self.size(height, width)
        return params


@dataclass
class CenterCrop(Step):
    moves: bool = True

    def size(self, height: int, width: int) -> tuple[int, int]:
        crop_height, crop_width = self.transform.size
        if crop_height > height or crop_width > width:
            raise UnfusableError("a crop larger than its image is padded")
        return crop_height, crop_width

    def draw(self, height: int, width: int, plan: Plan) -> Any:
        crop_height, crop_width = self.transform.size
        plan.crop(round((height - crop_height) / 2.0), round((width - crop_width) / 2.0), crop_height, crop_width)
        return {}


@dataclass
class RandomCrop(CenterCrop):
    def draw(self, height: int, width: int, plan: Plan) -> Any:
        transform, probe = self.transform, _probe(height, width)
        if self.v2:
            params = transform.make_params([probe])
            plan.crop(params["top"], params["left"], params["height"], params["width"])
        else:
            params = transform.get_params(probe, transform.size)
            plan.crop(*params)
        return params


@dataclass
class Flip(Step):
    moves: bool = True
    horizontal: bool = True

    def draw(self, height: int, width: int, plan: Plan) -> Any:
        if torch.rand(1) >= self.transform.p:
            return None
        if self.horizontal:
            plan.horizontal_flip = not plan.horizontal_flip
        else:
            plan.vertical_flip = not plan.vertical_flip
        return {}


@dataclass
class ToTensor(Step):
    """A picture of Pillow's becomes a tensor: of levels, or of numbers from 0 to 1; ``lenient``: if it is none yet."""

    scales: bool = False
    lenient: bool = False


@dataclass
class ToImage(Step):
    pass


@dataclass
class ToPureTensor(Step):
    moves: bool = True


@dataclass
class ToDtype(Step):
    dtype: torch.dtype = torch.float32
    scales: bool = True
    scaling: str = "product"


@dataclass
class Normalize(Step):
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)


# ---- from classes to steps -------------------------------------------------------------------------------------------


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
