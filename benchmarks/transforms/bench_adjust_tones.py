"""Tones of a photograph, by one operation and by three; then a batch with operations of its own, and numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import handgrad
from benchmarks.photographs import photograph
from handgrad.benchmarking import Benchmark, Case, Peer

_CHAIN = (("solarize", 200), ("autocontrast", 0), ("equalize", 0))
_Steps = Sequence[tuple[str, float]]


def _own(name: str, number: float) -> list[float]:
    if name == "posterize":
        return [int(number)]
    return [number] if name == "solarize" else []


def _in_turn(image: Tensor, steps: _Steps) -> Tensor:
    from torchvision.transforms.v2 import functional

    for name, number in steps:
        image = getattr(functional, name)(image, *_own(name, number))
    return image


def _pillow(steps: _Steps) -> Callable[..., Any]:
    def pillow(image: Tensor) -> Any:
        from PIL import Image, ImageOps

        height, width = image.shape[1:]
        picture = Image.frombuffer("RGB", (width, height), image.permute(1, 2, 0).numpy(), "raw", "RGB", 0, 1)
        for name, number in steps:
            picture = getattr(ImageOps, name)(picture, *_own(name, number))
        return picture

    return pillow


def _albumentations(name: str, number: float) -> Callable[..., Any] | None:
    """Of one operation that it has."""

    def albumentations(image: Tensor) -> Tensor:
        # It asks for its newest version otherwise, on every import.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        from albumentations.augmentations.pixel import functional

        pixels = image.permute(1, 2, 0).numpy()
        if name == "equalize":
            return functional.equalize(pixels, mode="pil")
        if name == "solarize":
            return functional.solarize(pixels, number / 255)
        return functional.posterize(pixels, int(number))

    return albumentations if name in ("equalize", "solarize", "posterize") else None


def _opencv(name: str) -> Callable[..., Any] | None:
    def opencv(image: Tensor) -> Any:
        import cv2

        pixels = image.permute(1, 2, 0).numpy()
        if name == "invert":
            return cv2.bitwise_not(pixels)
        return cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(pixels)])

    return opencv if name in ("invert", "equalize") else None


def _kornia(name: str, number: float) -> Callable[..., Any] | None:
    def kornia(image: Tensor) -> Tensor:
        from kornia import enhance

        numbers = image[None].float() / 255
        if name == "solarize":
            return enhance.solarize(numbers, number / 255)
        return enhance.posterize(numbers, int(number)) if name == "posterize" else getattr(enhance, name)(numbers)

    return kornia if name != "autocontrast" else None


def _case(name: str, side: int, steps: _Steps) -> Case:
    operations, given = [step for step, _ in steps], [number for _, number in steps]
    peers: dict[str, Callable[..., Any] | Peer] = {
        "torchvision": lambda image: _in_turn(image, steps),
        "Pillow": Peer(_pillow(steps), remark="from a tensor's memory and to a picture of its own", same=False),
    }
    if len(steps) == 1:
        others = {
            "albumentations": (_albumentations(*steps[0]), "to an array"),
            "OpenCV": (_opencv(steps[0][0]), "to an array; its equalize is another picture"),
            "kornia": (_kornia(*steps[0]), "by way of float32; rounds otherwise"),
        }
        peers |= {
            key: Peer(call, remark=remark, same=False) for key, (call, remark) in others.items() if call is not None
        }
    return Case(
        name=name,
        inputs=lambda device: (photograph(side, device, contrast=97),),
        handgrad=lambda image: handgrad.transforms.adjust_tones(image, operations, given),
        peers=peers,
        forward_bytes=6 * side * side,
    )


def _batch(name: str, images: int, side: int) -> Case:
    """Each with two operations of its own, as a random choice has."""
    operations = torch.stack([torch.tensor([1 + k % 5, 1 + (k + 3) % 5]) for k in range(images)])
    numbers = torch.where(operations == 1, 4.0, 128.0).double()
    names = ("", "posterize", "solarize", "invert", "autocontrast", "equalize")

    def torchvision(batch: Tensor) -> Tensor:
        pictures = []
        for image, row, own in zip(batch, operations.tolist(), numbers.tolist(), strict=True):
            pictures.append(_in_turn(image, [(names[k], number) for k, number in zip(row, own, strict=True)]))
        return torch.stack(pictures)

    return Case(
        name=name,
        inputs=lambda device: (torch.stack([photograph(side, device, packed=False, contrast=97)] * images),),
        handgrad=lambda batch: handgrad.transforms.adjust_tones(
            batch, operations.to(batch.device), numbers.to(batch.device)
        ),
        peers={"torchvision": torchvision},
        forward_bytes=6 * images * side * side,
    )


def _numbers(name: str, images: int, side: int) -> Case:
    """With a backward, as a differentiable augmentation has."""
    steps = (("solarize", 0.6), ("autocontrast", 0))
    operations, given = [step for step, _ in steps], [number for _, number in steps]
    return Case(
        name=name,
        inputs=lambda device: (torch.rand(images, 3, side, side, device=device).requires_grad_(),),
        handgrad=lambda batch: handgrad.transforms.adjust_tones(batch, operations, given),
        peers={"torchvision": lambda batch: _in_turn(batch, steps)},
        forward_bytes=24 * images * side * side,
        backward_bytes=36 * images * side * side,
    )


def benchmark(quick: bool) -> Benchmark:
    side, images = (48, 3) if quick else (512, 16)
    text = f"3x{side}x{side} uint8"
    single = (("posterize", 4), ("solarize", 128), ("invert", 0), ("autocontrast", 0), ("equalize", 0))
    return Benchmark(
        op="adjust_tones",
        cases=[
            *(_case(f"{text}, {name}", side, [(name, number)]) for name, number in single),
            _case(f"{text}, solarize, autocontrast, equalize", side, _CHAIN),
            _batch(f"{images}x{text}, two operations each", images, side),
            _numbers(f"4x3x{side}x{side} float32, solarize, autocontrast", 4, side),
        ],
    )
