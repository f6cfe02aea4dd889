"""Spatial pyramid pooling of a network's last feature maps: SPP-net's levels, largest and mean; then other sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Sweep, compiled

_LEVELS = (1, 2, 3, 6)


def _case(
    name: str,
    shape: tuple[int, int, int, int],
    mode: str = "max",
    channels_last: bool = False,
    compile_plain: bool = True,
) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        image = torch.randn(shape, device=device)
        if channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        return (image.requires_grad_(),)

    def ours(image: Tensor) -> Tensor:
        return handgrad.layers.spatial_pyramid_pool_2d(image, _LEVELS, mode)

    def adaptive_pools(image: Tensor) -> Tensor:
        pool = F.adaptive_max_pool2d if mode == "max" else F.adaptive_avg_pool2d
        return torch.cat([pool(image, level).flatten(1) for level in _LEVELS], 1)

    peers = {"adaptive pools": adaptive_pools}
    if compile_plain:
        peers["torch.compile"] = compiled(adaptive_pools)
    input_bytes = 4 * shape[0] * shape[1] * shape[2] * shape[3]
    output_bytes = 4 * shape[0] * shape[1] * sum(level * level for level in _LEVELS)
    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        # Forward: the image read, the output written. Backward: it and its gradient read, the gradient written.
        forward_bytes=input_bytes + output_bytes,
        backward_bytes=2 * input_bytes + output_bytes,
    )


def benchmark(quick: bool) -> Benchmark:
    shape = (1, 8, 7, 6) if quick else (16, 512, 13, 13)
    text = " x ".join(map(str, shape))
    return Benchmark(
        op="spatial_pyramid_pool_2d",
        cases=[
            _case(f"{text}, max", shape),
            _case(f"{text}, avg", shape, "avg"),
            _case(f"{text}, max, channels_last", shape, channels_last=True, compile_plain=False),
        ],
        sweeps=[
            Sweep(
                f"height and width, {shape[1]} channels",
                "side",
                [6, 8] if quick else [7, 13, 26, 52],
                lambda side: _case(f"{side} x {side}", (shape[0], shape[1], side, side), compile_plain=False),
            )
        ],
    )
