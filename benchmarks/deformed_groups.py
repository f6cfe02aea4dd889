"""Cases of convolutions whose groups of channels look where they are told: InternImage's first and third stage."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, Sweep, compiled

_POINTS = 9


def _grid_sample(image: Tensor, offset: Tensor, mask: Tensor, group: int) -> Tensor:
    """The points as a grid for each group, which is an image of its own, as OpenGVLab's code has it where its kernels
    are not; of a window of 3 x 3 with stride 1."""
    batch, height, width, channels = image.shape
    points = torch.arange(3, device=image.device, dtype=torch.float32) - 1
    taps = torch.stack([points[:, None].expand(3, 3), points.expand(3, 3)], -1).reshape(_POINTS, 2)
    rows = torch.arange(height, device=image.device, dtype=torch.float32)
    columns = torch.arange(width, device=image.device, dtype=torch.float32)
    pixels = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], -1)
    moved = pixels[:, :, None, None] + taps + offset.view(batch, height, width, group, _POINTS, 2)
    grid = (2 * moved + 1) / torch.tensor([width, height], device=image.device) - 1
    grid = grid.permute(0, 3, 1, 2, 4, 5).reshape(batch * group, height * width, _POINTS, 2)
    images = image.permute(0, 3, 1, 2).reshape(batch * group, channels // group, height, width)
    samples = F.grid_sample(images, grid, align_corners=False)
    factors = mask.view(batch, height * width, group, _POINTS).transpose(1, 2)
    output = (samples * factors.reshape(batch * group, 1, height * width, _POINTS)).sum(-1)
    return output.view(batch, channels, height, width).permute(0, 2, 3, 1)


def _case(
    ours: Callable[..., Tensor],
    is_packed: bool,
    name: str,
    side: int,
    group: int,
    batch: int,
    dtype: torch.dtype = torch.float32,
    compile_plain: bool = True,
) -> Case:
    channels = 16 * group

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        image = torch.randn(batch, side, side, channels, device=device).to(dtype)
        # Away from the centres of pixels, where derivatives jump, and peers round to the other side.
        offset = torch.randn(batch, side, side, group, 2 * _POINTS, device=device)
        offset = offset.floor() + (offset - offset.floor()).clamp(0.01, 0.99)
        mask = torch.rand(batch, side, side, group, _POINTS, device=device).softmax(-1)
        if is_packed:
            both = torch.cat([offset, mask], -1).flatten(-2)
            return image.requires_grad_(), F.pad(both, (0, -both.shape[-1] % 8)).requires_grad_()
        return image.requires_grad_(), offset.flatten(-2).requires_grad_(), mask.flatten(-2).requires_grad_()

    def handgrads(image: Tensor, *points: Tensor) -> Tensor:
        return ours(image, *points, 3, 3, 1, 1, 1, 1, 1, 1, group, 16)

    def grid_sample(image: Tensor, *points: Tensor) -> Tensor:
        if is_packed:
            both = points[0][..., : 3 * _POINTS * group].unflatten(-1, (group, 3 * _POINTS))
            points = both[..., : 2 * _POINTS].flatten(3), both[..., 2 * _POINTS :].flatten(3)
        return _grid_sample(image.float(), points[0], points[1], group).contiguous().to(dtype)

    peers = {"grid_sample": grid_sample}
    if compile_plain:
        peers["torch.compile"] = compiled(grid_sample)
    image_bytes = dtype.itemsize * batch * side**2 * channels
    numbers = 3 * _POINTS * group
    filled = numbers + -numbers % 8 if is_packed else numbers
    point_bytes = 4 * batch * side**2 * filled
    return Case(
        name=name,
        inputs=inputs,
        handgrad=handgrads,
        peers=peers,
        # Forward: all tensors read, the output written. Backward: they and its gradient read, their gradients written.
        forward_bytes=2 * image_bytes + point_bytes,
        backward_bytes=3 * image_bytes + 2 * point_bytes,
        tolerance=1e-3 if dtype is torch.float32 else 2e-2,
    )


def benchmark(op: str, ours: Callable[..., Tensor], is_packed: bool, quick: bool) -> Benchmark:
    batch, sides = (1, (6, 4)) if quick else (2, (56, 14))
    cases = [
        _case(ours, is_packed, f"{batch}x{side}x{side}, {group} groups of 16", side, group, batch)
        for side, group in zip(sides, (4, 16), strict=True)
    ]
    text = f"{batch}x{sides[0]}x{sides[0]}, 4 groups of 16"
    half = _case(ours, is_packed, f"{text}, bfloat16 input", sides[0], 4, batch, torch.bfloat16, False)
    return Benchmark(
        op=op,
        cases=[*cases, half],
        sweeps=[
            Sweep(
                f"height and width, {batch} images, 4 groups of 16",
                "height and width",
                [4, 6] if quick else [14, 28, 56, 112],
                lambda side: _case(ours, is_packed, f"{side}x{side}", side, 4, batch, compile_plain=False),
            )
        ],
    )
