"""grid_sample of features and volumes that are moved by a smooth flow; then of more channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Sweep, compiled


def _plain(image: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(image, grid, mode, "zeros", False)


def _flow(batch: int, sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """(batch, *sizes, axes): every pixel's own place, moved by a few pixels, smoothly."""
    axes = [torch.linspace(-1, 1, size, device=device) for size in sizes]
    own = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)
    moved = 0.1 * torch.randn(batch, len(sizes), *[4] * len(sizes), device=device)
    mode = "bilinear" if len(sizes) == 2 else "trilinear"
    return own + F.interpolate(moved, sizes, mode=mode, align_corners=True).movedim(1, -1)


def _case(
    name: str,
    batch: int,
    channels: int,
    sizes: tuple[int, ...],
    mode: str = "bilinear",
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    compile_plain: bool = True,
) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        image = torch.randn(batch, channels, *sizes, device=device).to(dtype)
        if channels_last:
            image = image.to(memory_format=torch.channels_last if len(sizes) == 2 else torch.channels_last_3d)
        return image.requires_grad_(), _flow(batch, sizes, device).requires_grad_()

    def ours(image: Tensor, grid: Tensor) -> Tensor:
        return handgrad.layers.grid_sample(image, grid, mode)

    def torchs(image: Tensor, grid: Tensor) -> Tensor:
        # It takes a grid of the image's type alone, and half types in float32, to say where a pixel is.
        return _plain(image.float(), grid, mode).to(image.dtype)

    peers: dict[str, Callable[..., Tensor]] = {"torch": torchs}
    if compile_plain:
        plain = compiled(_plain)
        peers["torch.compile"] = lambda image, grid: plain(image, grid, mode)
    points = batch
    for size in sizes:
        points *= size
    image_bytes = dtype.itemsize * points * channels
    grid_bytes = 4 * points * len(sizes)
    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        # Forward: image and grid read, the output, which has the image's size, written. Backward: these and the
        # gradient of the output read, the gradients of both written.
        forward_bytes=2 * image_bytes + grid_bytes,
        backward_bytes=3 * image_bytes + 2 * grid_bytes,
        tolerance=1e-3 if dtype is torch.float32 else 2e-2,
    )


def benchmark(quick: bool) -> Benchmark:
    side, deep, channels = (8, 4, 5) if quick else (128, 48, 64)
    plane, volume = (side, side), (deep, deep, deep)
    text = f"4x{channels}x{side}x{side}"
    return Benchmark(
        op="grid_sample",
        cases=[
            _case(f"{text}, bilinear", 4, channels, plane),
            _case(f"{text}, bilinear, channels_last", 4, channels, plane, channels_last=True),
            _case(f"{text}, bicubic", 4, channels, plane, "bicubic", compile_plain=False),
            _case(f"{text}, bilinear, bfloat16", 4, channels, plane, dtype=torch.bfloat16, compile_plain=False),
            _case(f"2x{channels // 2}x{deep}x{deep}x{deep}, trilinear", 2, channels // 2, volume),
            _case(f"4x3x{2 * side}x{2 * side}, bilinear", 4, 3, (2 * side, 2 * side), compile_plain=False),
            _case(f"1x1x{2 * deep}x{2 * deep}x{2 * deep}, trilinear", 1, 1, (2 * deep,) * 3, compile_plain=False),
        ],
        sweeps=[
            Sweep(
                f"channels, 2xCx{side}x{side}, bilinear",
                "channels",
                [4, 8] if quick else [1, 4, 16, 64, 256],
                lambda wide: _case(f"{wide} channels", 2, wide, plane, compile_plain=False),
            )
        ],
    )
