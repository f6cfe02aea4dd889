"""Automatic augmentations of a photograph, 28 draws of each, beside torchvision's on tensors and on Pillow's images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import handgrad.transforms
from benchmarks.photographs import photograph
from handgrad.benchmarking import Benchmark, Case, Peer

_DRAWS = 28


def _drawn(transform: Callable[[Any], Any], image: Any) -> list[Any]:
    torch.manual_seed(0)
    return [transform(image) for _ in range(_DRAWS)]


def _case(name: str, side: int, packed: bool) -> Case:
    # Pictures as they come: stacking so many takes as long as making them.
    def ours(image: Tensor) -> tuple[Tensor, ...]:
        return tuple(_drawn(getattr(handgrad.transforms, name)(), image))

    def torchvision(image: Tensor) -> tuple[Tensor, ...]:
        from torchvision.transforms import v2

        return tuple(_drawn(getattr(v2, name)(), image))

    def pillow(image: Tensor) -> list[Any]:
        from PIL import Image
        from torchvision.transforms import v2

        return _drawn(getattr(v2, name)(), Image.fromarray(image.permute(1, 2, 0).numpy()))

    return Case(
        name=f"{_DRAWS} of 3x{side}x{side} uint8{'' if packed else ' in planes'}, {name}",
        inputs=lambda device: (photograph(side, device, packed, waves=(40, 0)),),
        handgrad=ours,
        peers={
            "torchvision": torchvision,
            "torchvision on Pillow": Peer(pillow, remark="Pillow's operations: other pictures", same=False),
        },
        # Were each draw one pass.
        forward_bytes=_DRAWS * 6 * side * side,
    )


def benchmark(quick: bool) -> Benchmark:
    side = 48 if quick else 512
    cases = [_case(name, side, True) for name in ("RandAugment", "TrivialAugmentWide", "AutoAugment")]
    return Benchmark(op="auto_augment", cases=[*cases, _case("RandAugment", side, False)])
