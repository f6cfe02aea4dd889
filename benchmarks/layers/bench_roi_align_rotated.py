"""RoIAlign of rotated boxes, the head of a detector of aerial photographs: 512 boxes of a feature map; then more."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Sweep, compiled

_POOLED = 7


def _points(boxes: Tensor, sampling: int) -> tuple[Tensor, Tensor]:
    """y and x of all sampling points of all boxes, (boxes, rows, columns)."""
    along = (torch.arange(_POOLED * sampling, device=boxes.device) + 0.5) / (_POOLED * sampling) - 0.5
    x, y, width, height, angle = (number[:, None, None] for number in boxes[:, 1:].unbind(1))
    cosine, sine = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
    v, u = along[:, None] * height, along * width
    return y - 0.5 + v * cosine - u * sine, x - 0.5 + u * cosine + v * sine


def _averaged(samples: Tensor, count: int, sampling: int) -> Tensor:
    """(channels, boxes * rows, columns) of points to bins."""
    shape = (samples.shape[0], count, _POOLED, sampling, _POOLED, sampling)
    return samples.reshape(shape).mean((3, 5)).transpose(0, 1)


def _grid_sample(image: Tensor, boxes: Tensor, sampling: int) -> Tensor:
    """The points of all boxes as one grid over one image."""
    height, width = image.shape[2:]
    y, x = _points(boxes, sampling)
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], 3)
    samples = F.grid_sample(image, grid.flatten(0, 1)[None], padding_mode="border", align_corners=False)
    return _averaged(samples[0] * inside.flatten(0, 1), boxes.shape[0], sampling)


def _gathered(image: Tensor, boxes: Tensor, sampling: int) -> Tensor:
    """What one would write for torch.compile: the four pixels around every sampling point, weighted and averaged."""
    height, width = image.shape[2:]
    y, x = _points(boxes, sampling)
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.detach().floor(), x.detach().floor()
    number = boxes[:, 0].long()[:, None, None]
    samples = image.new_zeros(())
    for row, of_row in ((top, 1 - y + top), ((top + 1).clamp(max=height - 1), y - top)):
        for column, of_column in ((left, 1 - x + left), ((left + 1).clamp(max=width - 1), x - left)):
            weight = of_row * of_column * inside
            samples = samples + image[number, :, row.long(), column.long()] * weight[..., None]
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
        # Of all sizes, up to six tenths of the image, and of all angles.
        corner, extent = torch.rand(2, count, 2, device=device)
        low, extent = 0.6 * side * corner, 2 + (0.6 * side - 2) * extent
        angle = 360 * torch.rand(count, 1, device=device) - 180
        number = torch.randint(0, batch, (count, 1), device=device).to(torch.float32)
        boxes = torch.cat([number, low + extent / 2, extent, angle], 1)
        return image.requires_grad_(), boxes.requires_grad_(boxes_grad)

    def ours(image: Tensor, boxes: Tensor) -> Tensor:
        return handgrad.layers.roi_align_rotated(image, boxes, _POOLED, 1.0, sampling, boxes_grad=boxes_grad)

    def detectron2(image: Tensor, boxes: Tensor) -> Tensor:
        from detectron2.layers import roi_align_rotated

        return roi_align_rotated(image.float(), boxes, (_POOLED, _POOLED), 1.0, max(sampling, 0)).to(dtype)

    def mmcv(image: Tensor, boxes: Tensor) -> Tensor:
        from mmcv.ops import roi_align_rotated

        boxes = torch.cat([boxes[:, :5], torch.deg2rad(boxes[:, 5:])], 1)
        return roi_align_rotated(image.float(), boxes, (_POOLED, _POOLED), 1.0, max(sampling, 0)).to(dtype)

    peers: dict[str, Callable[..., Tensor]] = {} if boxes_grad else {"detectron2": detectron2, "mmcv": mmcv}
    if sampling > 0 and batch == 1 and dtype is torch.float32:
        peers["grid_sample"] = lambda image, boxes: _grid_sample(image, boxes, sampling)
    if sampling > 0 and compile_plain:
        plain = compiled(_gathered)
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
        forward_bytes=image_bytes + output_bytes + 24 * count,
        backward_bytes=image_bytes * (2 if boxes_grad else 1) + output_bytes + 24 * count,
        tolerance=1e-4 if dtype is torch.float32 else 2e-2,
    )


def benchmark(quick: bool) -> Benchmark:
    count, channels, side = (8, 12, 20) if quick else (512, 256, 100)
    text = f"{count} boxes of 1x{channels}x{side}x{side}, {_POOLED}x{_POOLED}"
    return Benchmark(
        op="roi_align_rotated",
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
        ],
    )
