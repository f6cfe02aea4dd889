"""A blur of a photograph of levels, by two sizes of window, and of one of numbers; then a batch with gradients, and a
sigma of its own for each image."""

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


def _torchvision(taps: int, sigma: float) -> Callable[..., Any]:
    def torchvision(image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        return functional.gaussian_blur(image, [taps, taps], [sigma, sigma])

    return torchvision


@functools.cache
def _as_pil(image: Tensor) -> Any:
    from torchvision.transforms.v2.functional import to_pil_image

    return to_pil_image(image)


def _pil(taps: int, sigma: float) -> Callable[..., Any]:
    def pil(image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        return functional.pil_to_tensor(functional.gaussian_blur(_as_pil(image), [taps, taps], [sigma, sigma]))

    return pil


def _opencv(taps: int, sigma: float) -> Callable[..., Any]:
    def opencv(image: Tensor) -> Tensor:
        import cv2

        cv2.setNumThreads(torch.get_num_threads())
        picture = cv2.GaussianBlur(image.permute(1, 2, 0).numpy(), (taps, taps), sigma)
        return torch.from_numpy(picture).permute(2, 0, 1)

    return opencv


@functools.cache
def _transform(taps: int, sigma: float) -> Any:
    # It asks for its newest version otherwise, on every import.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations.GaussianBlur(blur_limit=(taps, taps), sigma_limit=(sigma, sigma), p=1)


def _albumentations(taps: int, sigma: float) -> Callable[..., Any]:
    def with_albumentations(image: Tensor) -> Tensor:
        picture = _transform(taps, sigma)(image=image.permute(1, 2, 0).numpy())["image"]
        return torch.from_numpy(picture).permute(2, 0, 1)

    return with_albumentations


def _kornia(taps: int, sigma: float) -> Callable[..., Any]:
    def with_kornia(image: Tensor) -> Tensor:
        from kornia.filters import gaussian_blur2d

        batch = image[None] if image.dim() == 3 else image
        output = gaussian_blur2d(batch.float(), (taps, taps), (sigma, sigma))
        output = output if image.is_floating_point() else output.round().to(image.dtype)
        return output.view(image.shape)

    return with_kornia


def _by_hand(taps: int, sigma: float) -> Callable[..., Any]:
    """Two filters of one channel, as they are written for networks."""

    def by_hand(image: Tensor) -> Tensor:
        distance = (torch.arange(taps, device=image.device) - taps // 2) / sigma
        weights = torch.softmax(-0.5 * distance * distance, 0).expand(image.shape[-3], 1, 1, taps)
        batch = (image[None] if image.dim() == 3 else image).float()
        padded = torch.nn.functional.pad(batch, [taps // 2] * 4, mode="reflect")
        output = torch.nn.functional.conv2d(padded, weights, groups=image.shape[-3])
        output = torch.nn.functional.conv2d(output, weights.transpose(2, 3), groups=image.shape[-3])
        output = output if image.is_floating_point() else output.round().to(image.dtype)
        return output.view(image.shape)

    return by_hand


def _levels(name: str, side: int, taps: int, sigma: float, packed: bool) -> Case:
    peers: dict[str, Callable[..., Any] | Peer] = {
        "torchvision": _torchvision(taps, sigma),
        "kornia": _kornia(taps, sigma),
        "two convolutions, torch.compile": compiled(_by_hand(taps, sigma)),
    }
    if packed:
        remark = "weights of 8 bits: one level in twenty is another by 1"
        peers["torchvision on PIL"] = _pil(taps, sigma)
        peers["OpenCV"] = Peer(_opencv(taps, sigma), remark=remark)
        peers["albumentations"] = Peer(_albumentations(taps, sigma))
    return Case(
        name=name,
        inputs=lambda device: (photograph(side, device, packed, waves=(40, 30)),),
        handgrad=lambda image: handgrad.transforms.gaussian_blur(image, taps, sigma),
        peers=peers,
        forward_bytes=6 * side * side,
        levels=1,
    )


def _numbers(name: str, images: int, side: int, taps: int, sigma: float, differentiated: bool) -> Case:
    values = 3 * images * side * side
    return Case(
        name=name,
        inputs=lambda device: (torch.rand(images, 3, side, side, device=device).requires_grad_(differentiated),),
        handgrad=lambda image: handgrad.transforms.gaussian_blur(image, taps, sigma),
        peers={
            "torchvision": _torchvision(taps, sigma),
            "kornia": _kornia(taps, sigma),
            "two convolutions, torch.compile": compiled(_by_hand(taps, sigma)),
        },
        forward_bytes=8 * values,
        backward_bytes=8 * values,
    )


def _sigmas(name: str, images: int, side: int, taps: int) -> Case:
    """Each with its own, and a gradient of it."""
    values = 3 * images * side * side

    def kornia(image: Tensor, sigma: Tensor) -> Tensor:
        from kornia.filters import gaussian_blur2d

        # Its sigma of a column comes first.
        return gaussian_blur2d(image, (taps, taps), sigma.flip(1))

    return Case(
        name=name,
        inputs=lambda device: (
            torch.rand(images, 3, side, side, device=device).requires_grad_(),
            (torch.rand(images, 2, device=device) + 0.5).requires_grad_(),
        ),
        handgrad=lambda image, sigma: handgrad.transforms.gaussian_blur(image, taps, sigma),
        peers={"kornia": kornia},
        forward_bytes=8 * values,
        backward_bytes=12 * values,
        # Sums over images, in float32 there: 4e-3 off those of float64, ours 1e-4.
        tolerance=1e-2,
    )


def benchmark(quick: bool) -> Benchmark:
    side, images = (48, 2) if quick else (512, 8)
    text = f"3x{side}x{side}"
    return Benchmark(
        op="gaussian_blur",
        cases=[
            _levels(f"{text} uint8, 9 taps", side, 9, 1.7, packed=True),
            _levels(f"{text} uint8, 9 taps, in planes", side, 9, 1.7, packed=False),
            _levels(f"{text} uint8, 23 taps, in planes", side, 23, 4.0, packed=False),
            _numbers(f"{text} float32, 9 taps", 1, side, 9, 1.7, differentiated=False),
            _numbers(f"{images}x3x{side // 2}x{side // 2} float32, 5 taps", images, side // 2, 5, 1.1, True),
            _sigmas(f"{images}x3x{side // 2}x{side // 2} float32, 9 taps, a sigma each", images, side // 2, 9),
        ],
    )
