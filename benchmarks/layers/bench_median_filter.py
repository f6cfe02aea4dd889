"""A median filter of a batch of photographs, by three sizes of window, with a gradient; and one photograph without."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Peer


def _kornia(taps: int) -> Callable[[Tensor], Tensor]:
    def kornia(image: Tensor) -> Tensor:
        from kornia.filters import median_blur

        output: Tensor = median_blur(image, (taps, taps))
        return output

    return kornia


def _scipy(taps: int) -> Callable[[Tensor], Tensor]:
    def scipy(image: Tensor) -> Tensor:
        from scipy import ndimage

        size = (1, 1, taps, taps)
        return torch.from_numpy(ndimage.median_filter(image.numpy(), size=size, mode="mirror"))

    return scipy


def _opencv(taps: int) -> Callable[[Tensor], Tensor]:
    def opencv(image: Tensor) -> Tensor:
        import cv2

        cv2.setNumThreads(torch.get_num_threads())
        planes = [torch.from_numpy(cv2.medianBlur(plane.numpy(), taps)) for plane in image.flatten(0, 1)]
        return torch.stack(planes).view(image.shape)

    return opencv


def _case(name: str, images: int, side: int, taps: int, differentiated: bool) -> Case:
    values = images * 3 * side * side
    peers: dict[str, Callable[[Tensor], Tensor] | Peer] = {"kornia": _kornia(taps)}
    if not differentiated:
        peers["SciPy"] = _scipy(taps)
        if taps <= 5:
            peers["OpenCV"] = Peer(_opencv(taps), remark="its border is replicated", same=False)
    return Case(
        name=name,
        inputs=lambda device: (torch.rand(images, 3, side, side, device=device).requires_grad_(differentiated),),
        handgrad=lambda image: handgrad.layers.median_filter(image, taps),
        peers=peers,
        forward_bytes=8 * values,
        backward_bytes=12 * values,
    )


def benchmark(quick: bool) -> Benchmark:
    side, images = (32, 2) if quick else (256, 4)
    text = f"{images}x3x{side}x{side}"
    return Benchmark(
        op="median_filter",
        cases=[
            _case(f"{text}, 3x3, no gradient", images, side, 3, differentiated=False),
            _case(f"{text}, 5x5, no gradient", images, side, 5, differentiated=False),
            _case(f"{text}, 3x3", images, side, 3, differentiated=True),
            _case(f"{text}, 5x5", images, side, 5, differentiated=True),
            _case(f"{text}, 9x9", images, side, 9, differentiated=True),
        ],
    )
