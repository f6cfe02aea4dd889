"""RoI pooling, the head of Fast R-CNN: 1,000 boxes of two feature maps, as they come and channels_last."""

from __future__ import annotations

import torch
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Sweep

_POOLED = 7


def _case(
    name: str,
    count: int,
    channels: int,
    size: tuple[int, int],
    batch: int = 2,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Case:
    height, width = size

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        image = torch.randn(batch, channels, height, width, device=device).to(dtype)
        if channels_last:
            image = image.to(memory_format=torch.channels_last)
        # Of all sizes, up to six tenths of the image.
        corner, extent = torch.rand(2, count, 2, device=device)
        sides = torch.tensor([width, height], device=device)
        low, high = 0.6 * sides * corner, 0.6 * sides * corner + 2 + (0.4 * sides - 2) * extent
        number = torch.randint(0, batch, (count, 1), device=device).to(torch.float32)
        return image.requires_grad_(), torch.cat([number, low, high], 1)

    def ours(image: Tensor, boxes: Tensor) -> Tensor:
        return handgrad.layers.roi_pool(image, boxes, _POOLED)

    def torchvision(image: Tensor, boxes: Tensor) -> Tensor:
        from torchvision.ops import roi_pool

        # In float32, as its own autocast rule does: it has no bfloat16.
        return roi_pool(image.float(), boxes, _POOLED).to(image.dtype)

    image_bytes = dtype.itemsize * batch * channels * height * width
    output_bytes = dtype.itemsize * count * channels * _POOLED**2
    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers={"torchvision": torchvision},
        # Forward: image and boxes read, the output written. Backward: its gradient, the image and the boxes read, the
        # image's gradient written.
        forward_bytes=image_bytes + output_bytes + 20 * count,
        backward_bytes=2 * image_bytes + output_bytes + 20 * count,
        tolerance=1e-4 if dtype is torch.float32 else 2e-2,
    )


def benchmark(quick: bool) -> Benchmark:
    count, channels, size = (8, 12, (20, 24)) if quick else (1000, 256, (50, 76))
    text = f"{count:,} boxes of 2x{channels}x{size[0]}x{size[1]}, {_POOLED}x{_POOLED}"
    return Benchmark(
        op="roi_pool",
        cases=[
            _case(text, count, channels, size),
            _case(f"{text}, channels_last", count, channels, size, channels_last=True),
            _case(f"{text}, bfloat16", count, channels, size, dtype=torch.bfloat16),
        ],
        sweeps=[
            Sweep(
                f"boxes of 2x{channels}x{size[0]}x{size[1]}, {_POOLED}x{_POOLED}",
                "boxes",
                [4, 8] if quick else [64, 256, 1024],
                lambda boxes: _case(f"{boxes} boxes", boxes, channels, size),
            )
        ],
    )
