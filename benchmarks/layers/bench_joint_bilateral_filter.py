"""A bilateral filter of a batch of photographs, by two sizes of window; a guidance of another image, with
learnt sigmas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case


def _kornia(image: Tensor, *others: Any) -> Tensor:
    from kornia.filters import bilateral_blur, joint_bilateral_blur

    if isinstance(others[0], Tensor):
        guidance, taps, color, space = others
        return joint_bilateral_blur(image, guidance, (taps, taps), color, space)
    taps, color, space = others
    return bilateral_blur(image, (taps, taps), color, (space, space))


def _own(name: str, images: int, side: int, taps: int, differentiated: bool = True) -> Case:
    values = images * 3 * side * side
    color, space = 0.2, 0.3 * taps
    return Case(
        name=name,
        inputs=lambda device: (torch.rand(images, 3, side, side, device=device).requires_grad_(differentiated),),
        handgrad=lambda image: handgrad.layers.bilateral_filter(image, taps, color, space),
        peers={"kornia": lambda image: _kornia(image, taps, color, space)},
        forward_bytes=8 * values,
        backward_bytes=12 * values,
    )


def _joint(name: str, images: int, side: int, taps: int) -> Case:
    """A map of one channel guided by a photograph, everything with a gradient."""
    pixels = images * side * side
    space = 0.3 * taps

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        tensors = (
            torch.rand(images, 1, side, side, device=device),
            torch.rand(images, 3, side, side, device=device),
            torch.full((images,), 0.2, device=device),
            torch.full((images, 2), space, device=device),
        )
        return tuple(tensor.requires_grad_() for tensor in tensors)

    def ours(image: Tensor, guidance: Tensor, color: Tensor, space: Tensor) -> Tensor:
        return handgrad.layers.joint_bilateral_filter(image, guidance, taps, color, space)

    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers={"kornia": lambda image, guidance, color, space: _kornia(image, guidance, taps, color, space)},
        forward_bytes=4 * 5 * pixels,
        backward_bytes=4 * 9 * pixels,
        # Sums over images, in float32 there.
        tolerance=1e-2,
    )


def benchmark(quick: bool) -> Benchmark:
    side, images = (32, 2) if quick else (256, 4)
    text = f"{images}x3x{side}x{side}"
    return Benchmark(
        op="joint_bilateral_filter",
        cases=[
            _own(f"{text}, 5x5, no gradient", images, side, 5, differentiated=False),
            _own(f"{text}, 5x5", images, side, 5),
            _own(f"{text}, 9x9", images, side, 9),
            _joint(f"{images}x1x{side}x{side} guided by 3 channels, 5x5, sigmas", images, side, 5),
        ],
    )
