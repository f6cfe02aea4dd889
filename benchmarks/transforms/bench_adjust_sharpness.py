"""A photograph of levels made sharper, pixels packed and in planes, and one of numbers; then a batch with gradients,
and a factor of its own for each image."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import handgrad
from benchmarks.photographs import photograph
from handgrad.benchmarking import Benchmark, Case, Peer, compiled


def _torchvision(factor: float) -> Callable[..., Any]:
    def torchvision(image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        return functional.adjust_sharpness(image, factor)

    return torchvision


@functools.cache
def _as_pil(image: Tensor) -> Any:
    from torchvision.transforms.v2.functional import to_pil_image

    return to_pil_image(image)


def _pil(factor: float) -> Callable[..., Any]:
    def pil(image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        return functional.pil_to_tensor(functional.adjust_sharpness(_as_pil(image), factor))

    return pil


def _opencv(factor: float) -> Callable[..., Any]:
    """A filter of whole numbers, and a weighed sum; its border is blurred too."""
    import numpy

    kernel = numpy.ones((3, 3), numpy.float32) / 13
    kernel[1, 1] = 5 / 13

    def opencv(image: Tensor) -> Tensor:
        import cv2

        cv2.setNumThreads(torch.get_num_threads())
        picture = image.permute(1, 2, 0).numpy()
        made = cv2.addWeighted(picture, factor, cv2.filter2D(picture, -1, kernel), 1 - factor, 0)
        return torch.from_numpy(made).permute(2, 0, 1)

    return opencv


@functools.cache
def _transform(factor: float) -> Any:
    # It asks for its newest version otherwise, on every import.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations.Sharpen(alpha=(factor - 1, factor - 1), lightness=(1.0, 1.0), p=1)


def _albumentations(factor: float) -> Callable[..., Any]:
    def with_albumentations(image: Tensor) -> Tensor:
        picture = _transform(factor)(image=image.permute(1, 2, 0).numpy())["image"]
        return torch.from_numpy(picture).permute(2, 0, 1)

    return with_albumentations


def _kornia(image: Tensor, factor: float | Tensor) -> Tensor:
    from kornia.enhance import sharpness

    output = sharpness(image.float() / 255 if image.dtype is torch.uint8 else image, factor)
    return output if image.is_floating_point() else (output * 255).round().to(torch.uint8)


def _by_hand(image: Tensor, factor: Any) -> Tensor:
    """A filter of one channel, as it is written for networks."""
    batch = (image[None] if image.dim() == 3 else image).float()
    weights = torch.ones(3, 3, device=image.device) / 13
    weights[1, 1] = 5 / 13
    mean = torch.nn.functional.conv2d(batch, weights.expand(batch.shape[1], 1, 3, 3), groups=batch.shape[1])
    most = 1.0 if image.is_floating_point() else 255.0
    mean = mean if image.is_floating_point() else mean.round()
    inner = batch[:, :, 1:-1, 1:-1]
    factor = factor.view(-1, 1, 1, 1) if isinstance(factor, Tensor) else factor
    padded = torch.nn.functional.pad((1 - factor) * (mean - inner), [1, 1, 1, 1])
    return (batch + padded).clamp(0, most).to(image.dtype).view(image.shape)


def _levels(name: str, side: int, factor: float, packed: bool) -> Case:
    peers: dict[str, Callable[..., Any] | Peer] = {
        "torchvision": _torchvision(factor),
        "kornia": Peer(
            lambda image: _kornia(image, factor), remark="of numbers, with its own rounding: other levels", same=False
        ),
        "a convolution, torch.compile": compiled(lambda image: _by_hand(image, factor)),
    }
    if packed:
        peers["torchvision on PIL"] = _pil(factor)
        peers["OpenCV"] = Peer(_opencv(factor), remark="rounds the blend; blurs the border", same=False)
        peers["albumentations"] = Peer(_albumentations(factor), remark="another filter", same=False)
    return Case(
        name=name,
        inputs=lambda device: (photograph(side, device, packed, waves=(40, 30)),),
        handgrad=lambda image: handgrad.transforms.adjust_sharpness(image, factor),
        peers=peers,
        forward_bytes=6 * side * side,
        levels=1,
    )


def _numbers(name: str, images: int, side: int, each: bool, differentiated: bool) -> Case:
    values = 3 * images * side * side

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        # Not beyond 0 to 1, even where it is sharper.
        image = (torch.rand(images, 3, side, side, device=device) * 0.3 + 0.35).requires_grad_(differentiated)
        factors = torch.rand(images, device=device) + 0.5
        return (image, factors.requires_grad_(differentiated)) if each else (image,)

    def kornia(image: Tensor, *factors: Tensor) -> Tensor:
        return _kornia(image, factors[0] if factors else 1.5)

    peers: dict[str, Callable[..., Any] | Peer] = {
        "kornia": kornia,
        "a convolution, torch.compile": compiled(lambda image, *factors: _by_hand(image, *(factors or (1.5,)))),
    }
    if not each:
        peers["torchvision"] = _torchvision(1.5)
    return Case(
        name=name,
        inputs=inputs,
        handgrad=lambda image, *factors: handgrad.transforms.adjust_sharpness(image, *(factors or (1.5,))),
        peers=peers,
        forward_bytes=8 * values,
        backward_bytes=12 * values,
        # Sums over images, in float32 there.
        tolerance=1e-2 if each else 1e-4,
    )


def benchmark(quick: bool) -> Benchmark:
    side, images = (48, 2) if quick else (512, 8)
    text, batch = f"3x{side}x{side}", f"{images}x3x{side // 2}x{side // 2}"
    return Benchmark(
        op="adjust_sharpness",
        cases=[
            _levels(f"{text} uint8", side, 1.9, packed=True),
            _levels(f"{text} uint8, in planes", side, 1.9, packed=False),
            _numbers(f"{text} float32", 1, side, each=False, differentiated=False),
            _numbers(f"{batch} float32", images, side // 2, each=False, differentiated=True),
            _numbers(f"{batch} float32, a factor each", images, side // 2, each=True, differentiated=True),
        ],
    )
