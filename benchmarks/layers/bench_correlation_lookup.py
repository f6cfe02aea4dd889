"""RAFT's lookup at 1/8 of 440 x 1024 pixels: one update of the flow, and all twelve with what comes before them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Sweep

_LEVELS, _RADIUS = 4, 4


def _case(
    name: str, size: tuple[int, int], channels: int, updates: int = 1, dtype: torch.dtype = torch.float32
) -> Case:
    height, width = size

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        maps = (torch.randn(1, channels, height, width, device=device).to(dtype) for _ in range(2))
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        coords = torch.stack([x, y])[None].to(device) + 4 * torch.randn(1, 2, height, width, device=device)
        # Away from whole pixels of every level, where peers round to the other side.
        coords = coords.floor() + (coords - coords.floor()).clamp(0.05, 0.95)
        one, other = (tensor.requires_grad_() for tensor in maps)
        return one, other, coords

    def looked_up(block: Any, one: Tensor, other: Tensor, coords: Tensor) -> Tensor:
        block.build_pyramid(one, other)
        output = block.index_pyramid(coords)
        for k in range(1, updates):
            output = output + block.index_pyramid(coords + k)
        return output

    def ours(one: Tensor, other: Tensor, coords: Tensor) -> Tensor:
        return looked_up(handgrad.layers.CorrBlock(num_levels=_LEVELS, radius=_RADIUS), one, other, coords)

    def torchvision(one: Tensor, other: Tensor, coords: Tensor) -> Tensor:
        """The volume of all pairs, pooled, and grid_sample."""
        from torchvision.models.optical_flow.raft import CorrBlock

        block = CorrBlock(num_levels=_LEVELS, radius=_RADIUS)
        return looked_up(block, one.float(), other.float(), coords).to(dtype)

    def grid_sample(one: Tensor, other: Tensor, coords: Tensor) -> Tensor:
        """Without the volume: features sampled at each offset, and a product."""
        outputs = []
        for k in range(updates):
            for level in range(_LEVELS):
                pooled = F.avg_pool2d(other, 2**level) if level else other
                points = (coords + k if k else coords) / 2**level
                sizes = torch.tensor([pooled.shape[3] - 1, pooled.shape[2] - 1], device=one.device)
                for a in range(-_RADIUS, _RADIUS + 1):
                    for b in range(-_RADIUS, _RADIUS + 1):
                        moved = points.permute(0, 2, 3, 1) + torch.tensor([a, b], device=one.device)
                        sample = F.grid_sample(pooled, 2 * moved / sizes - 1, align_corners=True)
                        outputs.append((one * sample).sum(1) / channels**0.5)
        return torch.stack(outputs, 1).unflatten(1, (updates, -1)).sum(1)

    pixels, map_bytes = height * width, dtype.itemsize * channels * height * width
    output_bytes = dtype.itemsize * _LEVELS * (2 * _RADIUS + 1) ** 2 * pixels
    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers={"torchvision": torchvision} | ({"grid_sample": grid_sample} if updates == 1 else {}),
        # Forward: maps and points read, the output written. Backward: they and its gradient read, two gradients too.
        forward_bytes=2 * map_bytes + 8 * pixels + output_bytes,
        backward_bytes=4 * map_bytes + 8 * pixels + output_bytes,
        # Points are between -1 and 1 in between; with more updates the outputs are sums.
        tolerance=1e-2 if dtype is torch.float32 else 1.0,
    )


def benchmark(quick: bool) -> Benchmark:
    size, channels = ((16, 17), 4) if quick else ((55, 128), 256)
    text = f"1 x {channels} x {size[0]} x {size[1]}, {_LEVELS} levels"
    return Benchmark(
        op="correlation_lookup",
        cases=[
            _case(f"{text}, one update", size, channels),
            _case(f"{text}, 12 updates", size, channels, 2 if quick else 12),
        ],
        sweeps=[
            Sweep(
                f"height, width twice that, {channels} channels",
                "height",
                [16, 20] if quick else [16, 32, 64],
                lambda height: _case(f"{height} x {2 * height}", (height, 2 * height), channels),
            )
        ],
    )
