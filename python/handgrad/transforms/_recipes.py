"""From the steps of a run to what the kernel is called with: once for each kind of image that comes."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from handgrad._chains import MOST_STEPS
from handgrad._colours import OPERATIONS
from handgrad.transforms import _pillow, _steps
from handgrad.transforms._steps import Plan, Step, UnfusableError
from handgrad.transforms.adjust_colors import adjust_colors
from handgrad.transforms.adjust_tones import TONES, adjust_tones
from handgrad.transforms.kernels import interpolation_name
from handgrad.transforms.resized_crop import resized_crop


@dataclass(frozen=True)
class Kind:
    """What an image is, its size aside."""

    container: str  #: "picture", of Pillow's; "tensor"; "image", torchvision's tensor of that name
    dtype: torch.dtype
    channels: int
    device: str


@dataclass
class Recipe:
    """What all images of a kind have in common."""

    source: str
    container: str
    dtype: torch.dtype
    antialias: bool = True
    rounding: str = "torch"
    scaling: str = "product"
    mean: list[float] | None = None
    std: list[float] | None = None

    def render(self, source: Tensor, plan: Plan) -> Tensor:
        """(..., channels, height, width) levels or numbers, by the plan."""
        # The order of a decoder's memory says nothing of what is best for a network.
        layout = torch.preserve_format
        if self.source == "picture":
            layout = torch.channels_last if self.container == "picture" else torch.contiguous_format
        resample: dict[str, Any] = {"antialias": self.antialias, "rounding": self.rounding}
        finish: dict[str, Any] = {
            "horizontal_flip": plan.horizontal_flip,
            "vertical_flip": plan.vertical_flip,
            "dtype": self.dtype,
            "mean": self.mean,
            "std": self.std,
            "scaling": self.scaling,
            "memory_format": layout,
        }
        if plan.colours:
            plain = Recipe(self.source, self.source, source.dtype, self.antialias)
            shaped = source if plan.is_idle(*source.shape[-2:]) else plain.render(source, replace(plan, colours=[]))
            return finished(shaped, [plan.colours], **finish)
        top, left, height, width = plan.box
        if plan.size is None:
            return resized_crop(source, top, left, height, width, (height, width), "nearest", **finish)
        mode, size = plan.interpolation, plan.size
        if self.rounding == "pillow" and _pillow.columns_first(height, width, *size):
            source = resized_crop(source, top, left, height, width, (size[0], width), mode, **resample)
            top, left, height = 0, 0, size[0]
        return resized_crop(source, top, left, height, width, size, mode, window=plan.window, **resample, **finish)


_Chain = list[tuple[str, float]]


def _layers(chains: list[_Chain]) -> list[tuple[bool, list[_Chain]]]:
    """Chains of several images as what kernels do one after the other, for all images each: whether it is one of tones,
    and what of each chain it does."""
    left, layers = [list(chain) for chain in chains], []
    while any(left):
        tones = next(chain[0][0] in TONES for chain in left if chain)
        rows: list[_Chain] = []
        for chain in left:
            count = 0
            while count < min(len(chain), MOST_STEPS) and (chain[count][0] in TONES) == tones:
                count += 1
            rows.append(chain[:count])
            del chain[:count]
        layers.append((tones, rows))
    return layers


def table_of(rows: Sequence[Any], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """One row an image, on the images' device: all that is copied to it."""
    return torch.tensor(rows, dtype=dtype).to(like.device, non_blocking=True)


def _arguments(rows: list[_Chain], image: Tensor, known: dict[str, int]) -> tuple[Any, Any]:
    """Operations and numbers for a kernel: lists of one chain, tables of several."""
    if len(rows) == 1:
        return [name for name, _ in rows[0]], [number for _, number in rows[0]]
    steps = max(map(len, rows))
    padded = [[*row, *[("", 0.0)] * (steps - len(row))] for row in rows]
    operations = table_of([[known.get(name, 0) for name, _ in row] for row in padded], image)
    return operations, table_of([[number for _, number in row] for row in padded], image, torch.float64)


def finished(image: Tensor, chains: list[_Chain], **finish: Any) -> Tensor:
    """An image, or a batch with a chain for each, after operations on colours and tones; and what is made of it."""
    finish = {key: value for key, value in finish.items() if not key.endswith("flip")}
    layers = _layers(chains)
    for index, (tones, rows) in enumerate(layers):
        if tones:
            image = adjust_tones(image, *_arguments(rows, image, TONES))
        elif index + 1 < len(layers):
            image = adjust_colors(image, *_arguments(rows, image, OPERATIONS))
        else:
            return adjust_colors(image, *_arguments(rows, image, OPERATIONS), **finish)
    memory_format = finish.get("memory_format", torch.preserve_format)
    if finish["dtype"] is image.dtype and not finish["mean"] and memory_format is torch.preserve_format:
        return image
    height, width = image.shape[-2:]
    return resized_crop(image, 0, 0, height, width, (height, width), "nearest", **finish)


def recipe(steps: list[Step], kind: Kind, exact: bool) -> Recipe:
    """Of a run for images of a kind.

    Raises:
        UnfusableError: for these images the kernel makes another picture than torchvision, or none.
    """
    if kind.container == "image" and not all(step.v2 for step in steps):
        raise UnfusableError("v1's transforms do not know torchvision's images")
    made = Recipe(kind.container, kind.container, kind.dtype)
    for step in steps:
        if step.resizes:
            _resized(made, step, kind, exact)
        elif step.colours:
            _coloured(made, step, kind, exact)
        elif isinstance(step, _steps.ToTensor):
            _to_tensor(made, step)
        elif isinstance(step, _steps.ToImage):
            made.container = "image"
        elif isinstance(step, _steps.ToPureTensor):
            made.container = "tensor" if made.container == "image" else made.container
        elif isinstance(step, _steps.ToDtype):
            _to_dtype(made, step)
        elif isinstance(step, _steps.Normalize):
            _normalised(made, step, kind)
    return made


def _resized(made: Recipe, step: Step, kind: Kind, exact: bool) -> None:
    given = step.transform.interpolation
    modes = [mode.value for mode in given] if isinstance(given, (tuple, list)) else [interpolation_name(given)]
    if made.container == "picture":
        if not set(modes) <= {"bilinear", "bicubic"}:
            raise UnfusableError(f"Pillow's {' and '.join(map(str, modes))} is its own")
        if exact and not _pillow.order_is_known():
            raise UnfusableError("this version of Pillow resizes in an order that handgrad does not know")
        made.rounding = "pillow"
        return
    made.antialias = bool(getattr(step.transform, "antialias", True))
    if not set(modes) <= {"nearest", "bilinear", "bicubic"}:
        raise UnfusableError(f"of tensors it does not resize by {' and '.join(map(str, modes))}")
    if not exact:
        return
    if kind.dtype is torch.uint8:
        reason = _other_levels(step, modes, kind)
        if reason:
            raise UnfusableError(f"{reason}; exact=False takes the levels of v2 on a CPU")
    elif "nearest" in modes and kind.dtype is torch.float64:
        raise UnfusableError("torch takes other nearest pixels of float64 images than of others")


def _coloured(made: Recipe, step: Step, kind: Kind, exact: bool) -> None:
    if made.container == "picture":
        raise UnfusableError("Pillow's colours are others than a tensor's")
    several = step.inner if isinstance(step, _steps.RandomApply) else [step]
    if all(isinstance(one, _steps.Tone) for one in several):
        _toned(several, kind, exact)
        return
    if kind.channels not in (1, 3):
        raise UnfusableError(f"colours of {kind.channels} channels")
    _toned([one for one in several if isinstance(one, _steps.Tone)], kind, exact)
    if kind.channels == 1 and any(isinstance(one, _steps.Grayscale) and not one.random for one in several):
        raise UnfusableError("it makes three channels of one")
    if not exact or kind.dtype is not torch.uint8:
        return
    reason = ""
    if not step.v2:
        reason = "torchvision's v1 rounds the colours of levels in another way"
    elif kind.device != "cpu" or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        reason = "torch rounds products of levels here before it adds them"
    if reason:
        raise UnfusableError(f"{reason}; exact=False takes the levels of v2 on a CPU")


def _toned(several: Sequence[Step], kind: Kind, exact: bool) -> None:
    for step in several:
        assert isinstance(step, _steps.Tone)
        stretches = step.operation == "autocontrast"
        if step.operation == "solarize" and step.number > (255 if kind.dtype is torch.uint8 else 1):
            raise UnfusableError("torchvision says what is wrong with its threshold")
        if step.operation == "solarize" and step.number < 0 and type(step.transform.threshold) is int:
            raise UnfusableError("torch takes a negative whole number for another level")
        if stretches and kind.channels not in (1, 3):
            raise UnfusableError("torchvision says what is wrong with its channels")
        if not step.v2 and (kind.dtype is not torch.uint8 or (stretches and exact)):
            raise UnfusableError("torchvision's v1 has another definition of these tones")


def _other_levels(step: Step, modes: list[str | None], kind: Kind) -> str:
    """Why torchvision's levels are not those of its own uint8 kernels for the CPU; empty if they are."""
    if "nearest" in modes:
        return ""
    if not step.v2:
        return "torchvision's v1 resizes levels by way of float32"
    if kind.device != "cpu":
        return f"torchvision resizes levels on {kind.device} by way of float32"
    capable = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    if "bilinear" in modes and not capable and platform.machine() not in ("aarch64", "arm64"):
        return "on this processor torchvision resizes levels by way of float32"
    return "torch resizes more than four channels of levels in another way" if kind.channels > 4 else ""


def _to_tensor(made: Recipe, step: _steps.ToTensor) -> None:
    if made.container != "picture":
        if not step.lenient:
            raise UnfusableError(f"{step} takes no tensors")
        return
    made.container = "tensor"
    if step.scales:
        if torch.get_default_dtype() not in (torch.float32, torch.float64):
            raise UnfusableError("torch's default type is neither float32 nor float64")
        made.dtype, made.scaling = torch.get_default_dtype(), "quotient"


def _to_dtype(made: Recipe, step: _steps.ToDtype) -> None:
    if made.container == "picture":
        raise UnfusableError(f"{step} does nothing to Pillow's images")
    if step.dtype is made.dtype:
        return
    if made.dtype is not torch.uint8 or step.dtype not in (torch.float32, torch.float64) or not step.scales:
        raise UnfusableError(f"of {made.dtype} to {step.dtype}{'' if step.scales else ' without a scale'}")
    made.dtype, made.scaling = step.dtype, step.scaling


def _normalised(made: Recipe, step: _steps.Normalize, kind: Kind) -> None:
    if made.container == "picture" or not made.dtype.is_floating_point:
        raise UnfusableError(f"{step} takes tensors of floating-point numbers")
    if any(len(values) not in (1, kind.channels) for values in (step.mean, step.std)):
        raise UnfusableError(f"{step} has numbers for {len(step.mean)} channels, and the image has {kind.channels}")
    made.mean, made.std = step.mean, step.std
