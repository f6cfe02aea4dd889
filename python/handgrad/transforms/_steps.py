"""What ``fuse`` understands of a pipeline: for each of torchvision's and timm's classes a step, which says what becomes
of the size of an image, draws what its class would draw, and puts that into the plan of one image. (From classes to
steps: ``_reading.py``.)

A step's own checks come first, by :class:`Recipe`, then sizes; only then is anything drawn.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from handgrad.transforms._pictures import interpolation_name
from handgrad.transforms.kernels import jitter_steps, resized_size


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
    #: Operations on colours and their factors, in their order, after all of these.
    colours: list[tuple[str, float]] = field(default_factory=list)

    def is_idle(self, height: int, width: int) -> bool:
        """Whether an image of this size keeps its shape."""
        same = self.box == (0, 0, height, width) and self.size in (None, (height, width)) and self.window is None
        return same and not self.horizontal_flip and not self.vertical_flip

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
    #: Whether it changes colours.
    colours: bool = False

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


# ---- colours ---------------------------------------------------------------------------------------------------------


@dataclass
class ColorJitter(Step):
    colours: bool = True

    def draw(self, height: int, width: int, plan: Plan) -> Any:
        t = self.transform
        if self.v2:
            params = t.make_params([])
        else:
            order, *factors = t.get_params(t.brightness, t.contrast, t.saturation, t.hue)
            names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
            params = {"fn_idx": order, **dict(zip(names, factors, strict=True))}
        plan.colours += zip(*jitter_steps(params), strict=True)
        return params


@dataclass
class Grayscale(Step):
    colours: bool = True
    #: Whether the class draws whether it does anything.
    random: bool = False

    def draw(self, height: int, width: int, plan: Plan) -> Any:
        if self.random and torch.rand(1) >= self.transform.p:
            return None
        plan.colours.append(("grayscale", 1.0))
        return {}


@dataclass
class RandomApply(Step):
    colours: bool = True
    inner: list[Step] = field(default_factory=list)

    def draw(self, height: int, width: int, plan: Plan) -> Any:
        drawn = torch.rand(1)
        if drawn >= self.transform.p if self.v2 else self.transform.p < drawn:
            return None
        for step in self.inner:
            step.draw(height, width, plan)
        return {}


@dataclass
class Tone(Step):
    """One operation, which its class draws whether to do."""

    colours: bool = True
    operation: str = ""
    number: float = 0.0

    def draw(self, height: int, width: int, plan: Plan) -> Any:
        if torch.rand(1) >= self.transform.p:
            return None
        plan.colours.append((self.operation, self.number))
        return {}
