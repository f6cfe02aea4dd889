"""A guided filter of a map by a photograph, gray or in colours, by two sizes of window; a photograph by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Peer, compiled

EPS = 0.01


def _kornia(taps: int) -> Callable[..., Tensor]:
    def kornia(guidance: Tensor, image: Tensor) -> Tensor:
        from kornia.filters import guided_blur

        output: Tensor = guided_blur(guidance, image, (taps, taps), EPS)
        return output

    return kornia


def _pooled(taps: int) -> Callable[..., Tensor]:
    """The paper's algorithm of a gray guidance, in means of avg_pool2d."""

    def mean(image: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(image, [taps // 2] * 4, mode="reflect"), taps, 1)

    def pooled(guidance: Tensor, image: Tensor) -> Tensor:
        mean_guidance, mean_image = mean(guidance), mean(image)
        variance = mean(guidance * guidance) - mean_guidance * mean_guidance
        covariance = mean(guidance * image) - mean_guidance * mean_image
        a = covariance / (variance + EPS)
        return mean(a) * guidance + mean(mean_image - a * mean_guidance)

    return pooled


def _opencv(taps: int) -> Callable[..., Tensor]:
    def opencv(guidance: Tensor, image: Tensor) -> Tensor:
        import cv2

        cv2.setNumThreads(torch.get_num_threads())
        guides, images = guidance.movedim(1, -1).numpy(), image.movedim(1, -1).numpy()
        planes = [
            torch.from_numpy(cv2.ximgproc.guidedFilter(guide, plane, taps // 2, EPS))
            for guide, plane in zip(guides, images, strict=True)
        ]
        return torch.stack(planes).view(image.shape)

    return opencv


def _case(name: str, images: int, side: int, guides: int, taps: int, differentiated: bool) -> Case:
    pixels = images * side * side

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        shapes = ((images, guides, side, side), (images, 1, side, side))
        return tuple(torch.rand(shape, device=device).requires_grad_(differentiated) for shape in shapes)

    peers: dict[str, Callable[..., Tensor] | Peer] = {"kornia": _kornia(taps)}
    if guides == 1:
        peers |= {"torch, avg_pool2d": _pooled(taps), "torch, avg_pool2d, torch.compile": compiled(_pooled(taps))}
    if not differentiated:
        peers["OpenCV"] = Peer(_opencv(taps), remark="its border has the last pixel twice", same=False)
    return Case(
        name=name,
        inputs=inputs,
        handgrad=lambda guidance, image: handgrad.layers.guided_filter(guidance, image, taps, EPS),
        peers=peers,
        forward_bytes=4 * (guides + 2) * pixels,
        backward_bytes=4 * (2 * guides + 3) * pixels,
        # Of means of squares.
        tolerance=1e-3,
    )


def benchmark(quick: bool) -> Benchmark:
    side, images = (32, 2) if quick else (512, 4)
    text = f"{images}x1x{side}x{side} guided by"
    return Benchmark(
        op="guided_filter",
        cases=[
            _case(f"{text} 1 channel, 9x9, no gradient", images, side, 1, 9, differentiated=False),
            _case(f"{text} 3 channels, 9x9, no gradient", images, side, 3, 9, differentiated=False),
            _case(f"{text} 1 channel, 9x9", images, side, 1, 9, differentiated=True),
            _case(f"{text} 1 channel, 31x31", images, side, 1, 31, differentiated=True),
            _case(f"{text} 3 channels, 9x9", images, side, 3, 9, differentiated=True),
        ],
    )
