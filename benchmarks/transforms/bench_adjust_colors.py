"""Colours of a photograph, by one operation and by a jitter of four; then a batch with factors of its own."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import handgrad
from benchmarks.photographs import photograph
from handgrad.benchmarking import Benchmark, Case, Peer

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_JITTER = (("saturation", 1.3), ("hue", 0.08), ("contrast", 0.8), ("brightness", 1.1))


def _in_turn(image: Tensor, steps: Sequence[tuple[str, float]]) -> Tensor:
    from torchvision.transforms.v2 import functional

    for name, factor in steps:
        image = getattr(functional, f"adjust_{name}")(image, factor)
    return image


def _torchvision(steps: Sequence[tuple[str, float]], normalises: bool) -> Callable[..., Any]:
    def torchvision(image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        image = _in_turn(image, steps)
        if not normalises:
            return image
        return functional.normalize(functional.to_dtype(image, torch.float32, scale=True), _MEAN, _STD)

    return torchvision


@functools.cache
def _jitter() -> Any:
    # It asks for its newest version otherwise, on every import.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    ranges = {name: (factor, factor) for name, factor in _JITTER}
    return albumentations.Compose(
        [albumentations.ColorJitter(**ranges, p=1), albumentations.Normalize(_MEAN, _STD), albumentations.ToTensorV2()]
    )


def _albumentations(image: Tensor) -> Tensor:
    return _jitter()(image=image.permute(1, 2, 0).numpy())["image"]


def _kornia(image: Tensor) -> Tensor:
    from kornia import enhance

    numbers = image[None].float() / 255
    for name, factor in _JITTER:
        numbers = getattr(enhance, f"adjust_{name}")(numbers, factor * (6.2831853 if name == "hue" else 1))
    return enhance.normalize(numbers, torch.tensor(_MEAN), torch.tensor(_STD))[0]


def _case(name: str, side: int, steps: Sequence[tuple[str, float]], normalises: bool) -> Case:
    finish: dict[str, Any] = {"mean": _MEAN, "std": _STD} if normalises else {}
    operations, factors = [step for step, _ in steps], [factor for _, factor in steps]
    peers: dict[str, Callable[..., Any] | Peer] = {"torchvision": _torchvision(steps, normalises)}
    if normalises:
        peers["albumentations"] = Peer(
            _albumentations, remark="an order of its own, hue in 8 bits: another picture", same=False
        )
        peers["kornia"] = Peer(_kornia, remark="its contrast and saturation are others: another picture", same=False)
    return Case(
        name=name,
        inputs=lambda device: (photograph(side, device),),
        handgrad=lambda image: handgrad.transforms.adjust_colors(image, operations, factors, **finish),
        peers=peers,
        # Levels are read, and levels or numbers are written.
        forward_bytes=(15 if normalises else 6) * side * side,
    )


def _batch(name: str, images: int, side: int) -> Case:
    """Each with an order and factors of its own."""
    drawn = torch.rand(images, 4, generator=torch.Generator().manual_seed(0)).double()
    operations = torch.stack([torch.roll(torch.tensor([1, 2, 3, 4]), k) for k in range(images)])
    factors = torch.where(operations == 4, 0.2 * drawn - 0.1, 0.6 + 0.8 * drawn)
    names = ("", "brightness", "contrast", "saturation", "hue")

    def torchvision(batch: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        pictures = []
        for image, row, own in zip(batch, operations.tolist(), factors.tolist(), strict=True):
            pictures.append(_in_turn(image, [(names[k], factor) for k, factor in zip(row, own, strict=True)]))
        numbers = functional.to_dtype(torch.stack(pictures), torch.float32, scale=True)
        return functional.normalize(numbers, _MEAN, _STD)

    return Case(
        name=name,
        inputs=lambda device: (torch.stack([photograph(side, device, packed=False)] * images),),
        handgrad=lambda batch: handgrad.transforms.adjust_colors(
            batch, operations.to(batch.device), factors.to(batch.device), mean=_MEAN, std=_STD
        ),
        peers={"torchvision": torchvision},
        forward_bytes=15 * images * side * side,
    )


def _numbers(name: str, images: int, side: int) -> Case:
    """With a backward, as a differentiable augmentation has; torchvision's hue has none."""
    steps = [step for step in _JITTER if step[0] != "hue"]
    operations, factors = [step for step, _ in steps], [factor for _, factor in steps]
    return Case(
        name=name,
        inputs=lambda device: (torch.rand(images, 3, side, side, device=device).requires_grad_(),),
        handgrad=lambda batch: handgrad.transforms.adjust_colors(batch, operations, factors),
        peers={"torchvision": _torchvision(steps, False)},
        forward_bytes=24 * images * side * side,
        backward_bytes=36 * images * side * side,
    )


def benchmark(quick: bool) -> Benchmark:
    side, images = (48, 3) if quick else (224, 32)
    text = f"3x{side}x{side} uint8"
    return Benchmark(
        op="adjust_colors",
        cases=[
            *(_case(f"{text}, {name}", side, [(name, factor)], False) for name, factor in _JITTER),
            _case(f"{text} to float32, four operations", side, _JITTER, True),
            _batch(f"{images}x{text} to float32, four operations, an order each", images, side),
            _numbers(f"4x3x{side}x{side} float32, three operations", 4, side),
        ],
    )
