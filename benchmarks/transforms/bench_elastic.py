"""A photograph seen through water: the picture of a field, torchvision's class with its draws, the blur of a field; a
batch with fields of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import handgrad
from benchmarks.photographs import photograph
from handgrad.benchmarking import Benchmark, Case, Peer

_OPENCV = "roundings of its own: other levels"
_ALPHA, _SIGMA = 50.0, 5.0


def _field(side: int, device: torch.device, images: int = 1) -> Tensor:
    """Of torchvision's class and its defaults: some pixels' displacement."""
    generator = torch.Generator().manual_seed(0)
    noise = 2 * torch.rand(images, 2, side, side, generator=generator) - 1
    taps = min(41, side // 2 * 2 - 1)
    blurred = handgrad.transforms.gaussian_blur(noise, taps, _SIGMA) * (_ALPHA / side)
    return blurred.permute(0, 2, 3, 1).to(device)


def _torchvision(mode: str) -> Callable[..., Any]:
    def torchvision(image: Tensor, displacement: Tensor) -> Tensor:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        return functional.elastic(image, displacement, InterpolationMode(mode), fill=0)

    return torchvision


def _opencv(mode: str) -> Callable[..., Any]:
    def opencv(image: Tensor, displacement: Tensor) -> Any:
        import cv2
        import numpy as np

        side = image.shape[-1]
        # From halves of the side to pixels, as whoever has a field in pixels need not.
        moved = displacement[0].numpy() * np.float32(side / 2)
        index = np.arange(side, dtype=np.float32)
        x, y = moved[..., 0] + index, moved[..., 1] + index[:, None]
        flag = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR}[mode]
        return cv2.remap(image.permute(1, 2, 0).numpy(), x, y, flag)

    return opencv


def _case(mode: str, side: int, packed: bool) -> Case:
    peers: dict[str, Callable[..., Any] | Peer] = {"torchvision": _torchvision(mode)}
    if packed:
        peers["OpenCV"] = Peer(_opencv(mode), remark=_OPENCV, same=False)
    return Case(
        name=f"3x{side}x{side} uint8{'' if packed else ' in planes'}, {mode}",
        inputs=lambda device: (photograph(side, device, packed, waves=(40, 0)), _field(side, device)),
        handgrad=lambda image, displacement: handgrad.transforms.elastic(image, displacement, mode, 0),
        peers=peers,
        # Levels are read once, and written; the field is read.
        forward_bytes=(6 + 8) * side * side,
    )


def _seeded(transform: Any, image: Tensor) -> Any:
    torch.manual_seed(0)
    return transform(image)


def _albumentations(image: Tensor) -> Any:
    import albumentations

    transform = albumentations.ElasticTransform(alpha=_ALPHA, sigma=_SIGMA, p=1.0)
    return transform(image=image.permute(1, 2, 0).numpy())["image"]


def _kornia(image: Tensor) -> Tensor:
    from kornia.geometry.transform import elastic_transform2d

    side = image.shape[-1]
    noise = 2 * torch.rand(1, 2, side, side) - 1
    size, deviation = (41, 41), (_SIGMA, _SIGMA)
    return elastic_transform2d(image[None].float(), noise, size, deviation, (_ALPHA / side, _ALPHA / side))[0]


def _class(side: int) -> Case:
    def handgrads(image: Tensor) -> Tensor:
        return _seeded(handgrad.transforms.ElasticTransform(_ALPHA, _SIGMA), image)

    def torchvisions(image: Tensor) -> Tensor:
        from torchvision.transforms import v2

        return _seeded(v2.ElasticTransform(_ALPHA, _SIGMA), image)

    return Case(
        name=f"3x{side}x{side} uint8, ElasticTransform(50, 5)",
        inputs=lambda device: (photograph(side, device),),
        handgrad=handgrads,
        peers={
            "torchvision": torchvisions,
            "albumentations": Peer(_albumentations, remark="draws of its own, normal ones", same=False),
            "kornia": Peer(_kornia, remark="float32 numbers in place of levels, draws of its own", same=False),
        },
        forward_bytes=(6 + 8) * side * side,
        # The field has other last bits.
        levels=1,
    )


def _blur(side: int, sigma: float) -> Case:
    def field_of(module: Any) -> Callable[[Tensor], Tensor]:
        def make(image: Tensor) -> Tensor:
            torch.manual_seed(0)
            return module.ElasticTransform(_ALPHA, sigma).make_params([image])["displacement"]

        return make

    def torchvisions(image: Tensor) -> Tensor:
        from torchvision.transforms import v2

        return field_of(v2)(image)

    return Case(
        name=f"{side}x{side}, the field of sigma {sigma:g}",
        inputs=lambda device: (torch.zeros(3, side, side, dtype=torch.uint8, device=device),),
        handgrad=field_of(handgrad.transforms),
        peers={"torchvision": torchvisions},
        forward_bytes=8 * side * side,
    )


def _numbers(images: int, side: int) -> Case:
    """With gradients of the images and the fields, as a registration has them."""

    def grid_sample(image: Tensor, displacement: Tensor) -> Tensor:
        still = torch.eye(2, 3, device=image.device)[None]
        grid = torch.nn.functional.affine_grid(still, [1, 1, side, side], align_corners=False)
        return torch.nn.functional.grid_sample(image, grid + displacement, align_corners=False)

    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        fields = _field(side, device, images).contiguous()
        return torch.rand(images, 3, side, side, device=device).requires_grad_(), fields.requires_grad_()

    return Case(
        name=f"{images}x3x{side}x{side} float32, a field each",
        inputs=inputs,
        handgrad=lambda image, displacement: handgrad.transforms.elastic(image, displacement),
        peers={"affine_grid, grid_sample": grid_sample},
        forward_bytes=(24 + 8) * images * side * side,
        backward_bytes=(36 + 16) * images * side * side,
        # Where a position is nearly whole, its last bit decides of the side that the slope is of.
        tolerance=1e-3,
    )


def benchmark(quick: bool) -> Benchmark:
    side = 64 if quick else 512
    return Benchmark(
        op="elastic",
        cases=[
            _case("bilinear", side, True),
            _case("nearest", side, True),
            _case("bilinear", side, False),
            _class(side),
            _blur(side, 3.0 if quick else 30.0),
            _numbers(2, side // 2),
        ],
    )
