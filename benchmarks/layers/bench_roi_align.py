"""RoIAlign, the head of a detector: 512 boxes of a feature map; then with more boxes and more channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Sweep, compiled

_POOLED = 7


def _plain(image: Tensor, boxes: Tensor, sampling: int) -> Tensor:
    """What one would write for torch.compile: the four pixels around every sampling point, weighted and averaged."""
    number, (x1, y1, x2, y2) = boxes[:, 0].long(), (boxes[:, 1:] - 0.5).unbind(1)
    along = (torch.arange(_POOLED * sampling, device=image.device) + 0.5) / (_POOLED * sampling)

    def axis(first: Tensor, second: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        position = first[:, None] + along * (second - first)[:, None]
        inside = (position >= -1) & (position <= size)
        position = position.clamp(0, size - 1)
        low = position.detach().floor()
        return (
            low.long(),
            (low + 1).clamp(max=size - 1).long(),
            (position - low) * inside,
            (1 - position + low) * inside,
        )

    top, bottom, down, up = axis(y1, y2, image.shape[2])
    left, right, to_right, to_left = axis(x1, x2, image.shape[3])
    corners = [
        image[number[:, None, None], :, y[:, :, None], x[:, None, :]] * (a[:, :, None] * b[:, None, :])[..., None]
        for y, a in ((top, up), (bottom, down))
        for x, b in ((left, to_left), (right, to_right))
    ]
    samples = torch.stack(corners).sum(0)
    shape = (boxes.shape[0], _POOLED, sampling, _POOLED, sampling, image.shape[1])
    return samples.reshape(shape).mean((2, 4)).permute(0, 3, 1, 2)


def _case(
    name: str,
    count: int,
    channels: int,
    side: int,
    batch: int = 1,
    sampling: int = 2,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    boxes_grad: bool = False,
    compile_plain: bool = True,
) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        image = torch.randn(batch, channels, side, side, device=device).to(dtype)
        if channels_last:
            image = image.to(memory_format=torch.channels_last)
        # Of all sizes, up to six tenths of the image.
        corner, extent = torch.rand(2, count, 2, device=device)
        low, high = 0.6 * side * corner, 0.6 * side * corner + 2 + (0.6 * side - 2) * extent
        number = torch.randint(0, batch, (count, 1), device=device).to(torch.float32)
        boxes = torch.cat([number, low, high], 1)
        return image.requires_grad_(), boxes.requires_grad_(boxes_grad)

    def ours(image: Tensor, boxes: Tensor) -> Tensor:
        return handgrad.layers.roi_align(image, boxes, _POOLED, 1.0, sampling, True, boxes_grad=boxes_grad)

    def torchvision(image: Tensor, boxes: Tensor) -> Tensor:
        from torchvision.ops import roi_align

        # In float32, as its own autocast rule does: it has no bfloat16 on a CPU, and none for coordinates anywhere.
        return roi_align(image.float(), boxes, _POOLED, 1.0, sampling, True).to(image.dtype)

    peers: dict[str, Callable[..., Tensor]] = {} if boxes_grad else {"torchvision": torchvision}
    if sampling > 0 and compile_plain:
        plain = compiled(_plain)
        peers["torch.compile"] = lambda image, boxes: plain(image, boxes, sampling)
    image_bytes = dtype.itemsize * batch * channels * side**2
    output_bytes = dtype.itemsize * count * channels * _POOLED**2
    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        # Forward: image and boxes read, the output written. Backward: its gradient and the boxes read, the image's
        # gradient written; for the boxes' gradient the image is read once more.
        forward_bytes=image_bytes + output_bytes + 20 * count,
        backward_bytes=image_bytes * (2 if boxes_grad else 1) + output_bytes + 20 * count,
        tolerance=1e-4 if dtype is torch.float32 else 2e-2,
    )


def benchmark(quick: bool) -> Benchmark:
    count, channels, side = (8, 12, 20) if quick else (512, 256, 100)
    text = f"{count} boxes of 1x{channels}x{side}x{side}, {_POOLED}x{_POOLED}"
    return Benchmark(
        op="roi_align",
        cases=[
            _case(f"{text}, sampling 2", count, channels, side),
            _case(f"{text}, sampling 2, two images", count, channels, side, batch=2),
            _case(f"{text}, sampling 2, channels_last", count, channels, side, channels_last=True),
            _case(f"{text}, adaptive sampling", count, channels, side, sampling=0),
            _case(f"{text}, sampling 2, bfloat16", count, channels, side, dtype=torch.bfloat16, compile_plain=False),
            _case(f"{text}, sampling 2, gradient to boxes", count, channels, side, boxes_grad=True),
        ],
        sweeps=[
            Sweep(
                f"boxes of 1x{channels}x{side}x{side}, {_POOLED}x{_POOLED}, sampling 2",
                "boxes",
                [4, 8] if quick else [32, 128, 512, 2048],
                lambda boxes: _case(f"{boxes} boxes", boxes, channels, side, compile_plain=False),
            ),
            Sweep(
                f"channels, {count} boxes of 1xCx{side}x{side}, {_POOLED}x{_POOLED}, sampling 2",
                "channels",
                [4, 8] if quick else [16, 64, 256, 1024],
                lambda wide: _case(f"{wide} channels", count, wide, side, compile_plain=False),
            ),
        ],
    )
