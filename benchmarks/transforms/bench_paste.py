"""Mixup and cutmix of a batch, an erased rectangle of noise, a mosaic of four photographs of different sizes."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.photographs import photograph
from handgrad.benchmarking import Benchmark, Case, Peer, compiled
from handgrad.transforms import cutmix, erase, mixup, mosaic

_LAM = 0.3
_PARTNER = "another partner, and draws"


def _mixed(images: Tensor) -> Tensor:
    """As torchvision's MixUp has it."""
    return images.roll(1, 0).mul_(1.0 - _LAM).add_(images.mul(_LAM))


def _mixed_by_hand(images: Tensor, lam: Tensor) -> Tensor:
    by = lam[:, None, None, None]
    return images.roll(1, 0) * (1 - by) + images * by


def _box(side: int) -> tuple[int, int, int, int]:
    return side // 4, side // 5, side // 2, side // 3


def _cut(images: Tensor) -> Tensor:
    """As torchvision's CutMix has it."""
    top, left, height, width = _box(images.shape[-1])
    output = images.clone()
    output[..., top : top + height, left : left + width] = images.roll(1, 0)[
        ..., top : top + height, left : left + width
    ]
    return output


@functools.cache
def _timm(cuts: bool) -> Any:
    from timm.data import Mixup

    return Mixup(mixup_alpha=0.0 if cuts else 1.0, cutmix_alpha=1.0 if cuts else 0.0, num_classes=10)


def _timms(cuts: bool) -> Callable[[Tensor], Any]:
    # It works in place.
    return lambda images: _timm(cuts)(images.clone(), torch.zeros(len(images), dtype=torch.long, device=images.device))[
        0
    ]


@functools.cache
def _kornia(name: str) -> Any:
    import kornia.augmentation

    return getattr(kornia.augmentation, name)(p=1.0, data_keys=["input", "class"])


def _kornias(name: str) -> Callable[[Tensor], Any]:
    return lambda images: _kornia(name)(images, torch.zeros(len(images), dtype=torch.long, device=images.device))[0]


def _erased(image: Tensor, noise: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional

    side = image.shape[-1]
    return functional.erase(image, side // 4, side // 5, *noise.shape[-2:], noise)


def _pasted(*images: Tensor) -> Any:
    """As ultralytics has it: a canvas of numpy's, and four assignments."""
    import numpy as np

    side = images[0].shape[-1]
    canvas = np.full((2 * side, 2 * side, 3), 114, dtype=np.uint8)
    y, x = side - 7, side + 9
    for k, image in enumerate(images):
        picture = image.permute(1, 2, 0).numpy()
        tall, wide = picture.shape[:2]
        top, left = (y - tall if k < 2 else y), (x - wide if k % 2 == 0 else x)
        from_y, from_x = max(-top, 0), max(-left, 0)
        to_y, to_x = min(tall, 2 * side - top), min(wide, 2 * side - left)
        canvas[top + from_y : top + to_y, left + from_x : left + to_x] = picture[from_y:to_y, from_x:to_x]
    return torch.from_numpy(canvas).permute(2, 0, 1)


@functools.cache
def _mosaic_transform(side: int) -> Any:
    # It asks for its newest version otherwise, on every import.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations.Mosaic(target_size=(2 * side, 2 * side), cell_shape=(side, side), p=1.0)


def _albumentations(*images: Tensor) -> Any:
    pictures = [image.permute(1, 2, 0).numpy() for image in images]
    metadata = [{"image": picture} for picture in pictures[1:]]
    return _mosaic_transform(images[0].shape[-1])(image=pictures[0], mosaic_metadata=metadata)["image"]


def _mixup(images: int, side: int, differentiated: bool) -> Case:
    values = 3 * images * side * side
    peers: dict[str, Callable[..., Any] | Peer] = {"torchvision": _mixed, "torch.compile": compiled(_mixed)}
    if differentiated:
        peers = {"by hand": _mixed_by_hand, "torch.compile": compiled(_mixed_by_hand)}
    else:
        peers["timm"] = Peer(_timms(False), remark=_PARTNER, same=False)
        peers["kornia"] = Peer(_kornias("RandomMixUpV2"), remark=_PARTNER, same=False)

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        batch = torch.rand(images, 3, side, side, device=device)
        if not differentiated:
            return (batch,)
        return batch.requires_grad_(), torch.rand(images, device=device).requires_grad_()

    return Case(
        name=f"mixup, {images}x3x{side}x{side} float32{', a lam each' if differentiated else ''}",
        inputs=inputs,
        handgrad=mixup if differentiated else lambda batch: mixup(batch, _LAM),
        peers=peers,
        forward_bytes=8 * values,
        backward_bytes=12 * values,
        # Sums over images, in float32 there.
        tolerance=1e-2 if differentiated else 1e-4,
    )


def _cutmix(images: int, side: int) -> Case:
    return Case(
        name=f"cutmix, {images}x3x{side}x{side} uint8",
        inputs=lambda device: (torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8, device=device),),
        handgrad=lambda batch: cutmix(batch, _box(side)),
        peers={
            "torchvision": _cut,
            "torch.compile": compiled(_cut),
            "timm": Peer(_timms(True), remark=_PARTNER, same=False),
        },
        forward_bytes=6 * images * side * side,
    )


def _erase(side: int) -> Case:
    return Case(
        name=f"erase, 3x{side}x{side} float32, noise",
        inputs=lambda device: (
            torch.rand(3, side, side, device=device),
            torch.randn(3, side // 3, side // 2, device=device),
        ),
        handgrad=lambda image, noise: erase(image, side // 4, side // 5, side // 3, side // 2, noise),
        peers={"torchvision": _erased},
        forward_bytes=24 * side * side,
    )


def _mosaic(side: int) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        sizes = [(side, side), (side - 9, side), (side, side - 30), (side - 20, side - 8)]
        return tuple(photograph(side, device)[:, :height, :width] for height, width in sizes)

    return Case(
        name=f"mosaic of four of {side}x{side} uint8",
        inputs=inputs,
        handgrad=lambda *images: mosaic(images, (side - 7, side + 9), 2 * side),
        peers={
            "numpy, as ultralytics": _pasted,
            "albumentations": Peer(_albumentations, remark="crops, resizes and draws", same=False),
        },
        forward_bytes=24 * side * side,
    )


def benchmark(quick: bool) -> Benchmark:
    images, side = (2, 48) if quick else (32, 224)
    return Benchmark(
        op="paste",
        cases=[
            _mixup(images, side, False),
            _mixup(images // 2, side, True),
            _cutmix(images, side),
            _erase(side),
            _mosaic(48 if quick else 640),
        ],
    )
