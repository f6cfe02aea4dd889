"""Crop, resize, flip, scale and normalise a photograph for a classifier; then batches, and images of numbers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import handgrad
from benchmarks.photographs import smooth
from handgrad.benchmarking import Benchmark, Case, Peer

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def _box(side: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop as large as a random one usually is."""
    return side // 10, side // 8, int(side * 0.78), int(side * 0.74)


def _torchvision(side: int, size: int, mode: str, antialias: bool) -> Callable[..., Any]:
    def torchvision(image: Tensor) -> Tensor:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        image = functional.resized_crop(image, *_box(side), [size, size], InterpolationMode(mode), antialias)
        image = functional.to_dtype(functional.horizontal_flip(image), torch.float32, scale=True)
        return functional.normalize(image, _MEAN, _STD)

    return torchvision


@functools.cache
def _as_pil(image: Tensor) -> Any:
    from torchvision.transforms.v2.functional import to_pil_image

    return to_pil_image(image)


def _pil(side: int, size: int, mode: str) -> Callable[..., Any]:
    def pil(image: Tensor) -> Tensor:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        picture = functional.resized_crop(_as_pil(image), *_box(side), [size, size], InterpolationMode(mode))
        image = functional.pil_to_tensor(functional.horizontal_flip(picture))
        return functional.normalize(functional.to_dtype(image, torch.float32, scale=True), _MEAN, _STD)

    return pil


def _opencv(side: int, size: int, interpolation: str) -> Callable[..., Any]:
    def opencv(image: Tensor) -> Tensor:
        import cv2

        cv2.setNumThreads(torch.get_num_threads())
        top, left, height, width = _box(side)
        crop = image.permute(1, 2, 0).numpy()[top : top + height, left : left + width]
        picture = cv2.flip(cv2.resize(crop, (size, size), interpolation=getattr(cv2, interpolation)), 1)
        numbers = torch.from_numpy(picture).permute(2, 0, 1).contiguous().to(torch.float32).mul_(1 / 255)
        return numbers.sub_(torch.tensor(_MEAN)[:, None, None]).div_(torch.tensor(_STD)[:, None, None])

    return opencv


@functools.cache
def _compose(side: int, size: int, interpolation: str) -> Any:
    # It asks for its newest version otherwise, on every import.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations
    import cv2

    top, left, height, width = _box(side)
    return albumentations.Compose(
        [
            albumentations.Crop(left, top, left + width, top + height),
            albumentations.Resize(size, size, interpolation=getattr(cv2, interpolation)),
            albumentations.HorizontalFlip(p=1),
            albumentations.Normalize(_MEAN, _STD),
            albumentations.ToTensorV2(),
        ]
    )


def _albumentations(side: int, size: int, interpolation: str) -> Callable[..., Any]:
    def with_albumentations(image: Tensor) -> Tensor:
        return _compose(side, size, interpolation)(image=image.permute(1, 2, 0).numpy())["image"]

    return with_albumentations


def _kornia(side: int, size: int) -> Callable[..., Any]:
    def with_kornia(image: Tensor) -> Tensor:
        from kornia import enhance, geometry

        top, left, height, width = _box(side)
        numbers = image[None, :, top : top + height, left : left + width].float() / 255
        picture = geometry.hflip(geometry.resize(numbers, (size, size), antialias=True))
        return enhance.normalize(picture, torch.tensor(_MEAN), torch.tensor(_STD))[0]

    return with_kornia


def _case(
    name: str, side: int, size: int, packed: bool = True, mode: str = "bilinear", antialias: bool = True
) -> Case:  # fmt: skip
    def ours(image: Tensor) -> Tensor:
        return handgrad.transforms.resized_crop(
            image, *_box(side), size, mode, antialias, horizontal_flip=True, mean=_MEAN, std=_STD,
            memory_format=torch.contiguous_format,
        )  # fmt: skip

    peers: dict[str, Callable[..., Any] | Peer] = {"torchvision": _torchvision(side, size, mode, antialias)}
    if packed and antialias:
        peers["torchvision on PIL"] = _pil(side, size, mode)
    if packed and mode == "bilinear":
        kind = "INTER_AREA" if antialias else "INTER_LINEAR"
        remark = "averages over pixels' areas in place of a triangle: another picture" if antialias else ""
        peers["OpenCV"] = Peer(_opencv(side, size, kind), remark=remark)
        peers["albumentations"] = Peer(_albumentations(side, size, kind), remark=remark)
        if antialias:
            peers["kornia"] = Peer(_kornia(side, size), remark="blurs before it resizes: another picture")
    _, _, height, width = _box(side)
    return Case(
        name=name,
        inputs=lambda device: (smooth(side, device, packed),),
        handgrad=ours,
        peers=peers,
        # The crop is read, numbers are written.
        forward_bytes=3 * height * width + 12 * size * size,
        # A level of 255, of numbers that are at most 2.6: filters and roundings differ.
        tolerance=0.05,
    )


def _batch(name: str, images: int, side: int, size: int) -> Case:
    boxes = torch.tensor([[k % 8, k % 5, side - 16 - k % 9, side - 24 + k % 7] for k in range(images)])
    flips = torch.arange(images) % 2 == 0

    def ours(batch: Tensor) -> Tensor:
        return handgrad.transforms.batched_resized_crop(batch, boxes, size, horizontal_flip=flips, mean=_MEAN, std=_STD)

    def torchvision(batch: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        pictures = []
        for image, box, flip in zip(batch, boxes.tolist(), flips.tolist(), strict=True):
            picture = functional.resized_crop(image, *box, [size, size])
            pictures.append(functional.horizontal_flip(picture) if flip else picture)
        numbers = functional.to_dtype(torch.stack(pictures), torch.float32, scale=True)
        return functional.normalize(numbers, _MEAN, _STD)

    return Case(
        name=name,
        inputs=lambda device: (torch.stack([smooth(side, device, packed=False)] * images),),
        handgrad=ours,
        peers={"torchvision": torchvision},
        forward_bytes=images * (3 * side * side + 12 * size * size),
    )


def _numbers(name: str, images: int, side: int, size: int) -> Case:
    """With a backward, as a differentiable augmentation has."""

    def ours(batch: Tensor) -> Tensor:
        return handgrad.transforms.resized_crop(batch, *_box(side), size)

    def torchvision(batch: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        return functional.resized_crop(batch, *_box(side), [size, size])

    _, _, height, width = _box(side)
    crop, output = 12 * images * height * width, 12 * images * size * size
    return Case(
        name=name,
        inputs=lambda device: (torch.rand(images, 3, side, side, device=device).requires_grad_(),),
        handgrad=ours,
        peers={"torchvision": torchvision},
        forward_bytes=crop + output,
        backward_bytes=12 * images * side * side + output,
    )


def benchmark(quick: bool) -> Benchmark:
    side, size, images = (64, 24, 3) if quick else (512, 224, 32)
    text = f"3x{side}x{side} uint8 to {size}x{size} float32"
    return Benchmark(
        op="resized_crop",
        cases=[
            _case(f"{text}, antialiased", side, size),
            _case(f"{text}, antialiased, in planes", side, size, packed=False),
            _case(f"{text}, bicubic, antialiased", side, size, mode="bicubic"),
            _case(f"{text}, not antialiased", side, size, antialias=False),
            _case(f"3x{4 * side}x{4 * side} uint8 to {size}x{size} float32, antialiased", 4 * side, size),
            _batch(f"{images}x3x{side // 2}x{side // 2} uint8, a box each, to {size}x{size}", images, side // 2, size),
            _numbers(f"4x3x{side}x{side} float32 to {size}x{size}, antialiased", 4, side, size),
        ],
    )
