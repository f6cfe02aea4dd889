"""RAFT's lookup at 1/8 of 440 x 1024 pixels: one update of the flow, and all twelve with what comes before them.

Features sampled one offset after the other, by grid_sample, take 12 seconds forward and backward there, on one core:
they are a peer at 16 x 32 alone. Twelve updates are differentiated at a quarter of the pixels, where the volume that
torchvision makes has a sixteenth of the elements; and the sweep ends at a third. So all is done in about three minutes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Sweep

_LEVELS, _RADIUS = 4, 4


def _case(
    name: str,
    size: tuple[int, int],
    channels: int,
    updates: int = 1,
    sampled: bool = False,
    differentiated: bool = True,
) -> Case:
    height, width = size

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        maps = (torch.randn(1, channels, height, width, device=device) for _ in range(2))
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        coords = torch.stack([x, y])[None].to(device) + 4 * torch.randn(1, 2, height, width, device=device)
        # Away from whole pixels of every level, where peers round to the other side.
        coords = coords.floor() + (coords - coords.floor()).clamp(0.05, 0.95)
        one, other = (tensor.requires_grad_(differentiated) for tensor in maps)
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
        return looked_up(block, one, other, coords)

    def grid_sample(one: Tensor, other: Tensor, coords: Tensor) -> Tensor:
        """Without the volume: features sampled at each offset, and a product."""
        outputs = []
        for level in range(_LEVELS):
            pooled = F.avg_pool2d(other, 2**level) if level else other
            points = (coords / 2**level).permute(0, 2, 3, 1)
            sizes = torch.tensor([pooled.shape[3] - 1, pooled.shape[2] - 1], device=one.device)
            for a in range(-_RADIUS, _RADIUS + 1):
                for b in range(-_RADIUS, _RADIUS + 1):
                    moved = points + torch.tensor([a, b], device=one.device)
                    sample = F.grid_sample(pooled, 2 * moved / sizes - 1, align_corners=True)
                    outputs.append((one * sample).sum(1) / channels**0.5)
        return torch.stack(outputs, 1)

    pixels, map_bytes = height * width, 4 * channels * height * width
    output_bytes = 4 * _LEVELS * (2 * _RADIUS + 1) ** 2 * pixels
    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers={"torchvision": torchvision} | ({"grid_sample": grid_sample} if sampled else {}),
        # Forward: maps and points read, the output written. Backward: they and its gradient read, two gradients too.
        forward_bytes=2 * map_bytes + 8 * pixels + output_bytes,
        backward_bytes=4 * map_bytes + 8 * pixels + output_bytes if differentiated else 0,
        # Points are between -1 and 1 in between; with more updates the outputs are sums.
        tolerance=1e-2,
    )


def benchmark(quick: bool) -> Benchmark:
    size, channels = ((16, 17), 4) if quick else ((55, 128), 256)
    quarter, few = ((16, 16), (16, 17)) if quick else ((28, 64), (16, 32))
    updates = 2 if quick else 12

    def text(size: tuple[int, int]) -> str:
        return f"1 x {channels} x {size[0]} x {size[1]}, {_LEVELS} levels"

    return Benchmark(
        op="correlation_lookup",
        cases=[
            _case(f"{text(size)}, one update", size, channels),
            _case(f"{text(size)}, 12 updates without gradients", size, channels, updates, differentiated=False),
            _case(f"{text(quarter)}, 12 updates", quarter, channels, updates),
            _case(f"{text(few)}, one update, without a volume too", few, channels, sampled=True),
        ],
        sweeps=[
            Sweep(
                f"height, width twice that, {channels} channels",
                "height",
                [16, 20] if quick else [16, 24, 32],
                lambda height: _case(f"{height} x {2 * height}", (height, 2 * height), channels),
            )
        ],
    )
