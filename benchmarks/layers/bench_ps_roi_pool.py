"""Position-sensitive RoI pooling, the head of R-FCN: 300 boxes, 21 classes, two images, channels_last."""

from __future__ import annotations

import torch
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Sweep

_POOLED = 7


def _case(
    name: str,
    count: int,
    classes: int,
    size: tuple[int, int],
    batch: int = 2,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Case:
    height, width = size

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        image = torch.randn(batch, classes * _POOLED**2, height, width, device=device).to(dtype)
        if channels_last:
            image = image.to(memory_format=torch.channels_last)
        # Of all sizes, up to four tenths of the image, and short of its end: there torchvision's gradient is not that
        # of its values (docs/layers/ps_roi_pool.md).
        corner, extent = torch.rand(2, count, 2, device=device)
        sides = torch.tensor([width, height], device=device) - 2
        low, high = 0.6 * sides * corner, 0.6 * sides * corner + 2 + (0.4 * sides - 2) * extent
        number = torch.randint(0, batch, (count, 1), device=device).to(torch.float32)
        return image.requires_grad_(), torch.cat([number, low, high], 1)

    def ours(image: Tensor, boxes: Tensor) -> Tensor:
        return handgrad.layers.ps_roi_pool(image, boxes, _POOLED)

    def torchvision(image: Tensor, boxes: Tensor) -> Tensor:
        from torchvision.ops import ps_roi_pool

        # In float32, as its own autocast rule does: it has no bfloat16.
        image = image.float()
        return ps_roi_pool(image, boxes, _POOLED).to(dtype)

    image_bytes = dtype.itemsize * batch * classes * _POOLED**2 * height * width
    output_bytes = dtype.itemsize * count * classes * _POOLED**2
    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers={"torchvision": torchvision},
        # Forward: image and boxes read, the output written. Backward: its gradient and the boxes read, the image's
        # gradient written.
        forward_bytes=image_bytes + output_bytes + 20 * count,
        backward_bytes=image_bytes + output_bytes + 20 * count,
        tolerance=1e-4 if dtype is torch.float32 else 2e-2,
    )


def benchmark(quick: bool) -> Benchmark:
    count, classes, size = (8, 2, (20, 24)) if quick else (300, 21, (38, 63))
    text = f"{count} boxes of 2x{classes * _POOLED**2:,}x{size[0]}x{size[1]}, {_POOLED}x{_POOLED}"
    return Benchmark(
        op="ps_roi_pool",
        cases=[
            _case(text, count, classes, size),
            _case(f"{text}, channels_last", count, classes, size, channels_last=True),
            _case(f"{text}, bfloat16", count, classes, size, dtype=torch.bfloat16),
        ],
        sweeps=[
            Sweep(
                f"boxes of 2x{classes * _POOLED**2:,}x{size[0]}x{size[1]}, {_POOLED}x{_POOLED}",
                "boxes",
                [4, 8] if quick else [64, 256, 1024],
                lambda boxes: _case(f"{boxes} boxes", boxes, classes, size),
            )
        ],
    )
