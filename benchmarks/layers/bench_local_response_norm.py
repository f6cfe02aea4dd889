"""Local response normalisation: AlexNet's second norm, 96 channels, batch 8; then wider windows and more channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Sweep, compiled


def _case(name: str, shape: tuple[int, ...], size: int, channels_last: bool = False, with_compile: bool = True) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor]:
        x = torch.randn(shape, device=device)
        return (x.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format).requires_grad_(),)

    # An alpha at which the sum over the window weighs in the result; at the default 1e-4 a wrong one would not show.
    alpha = 0.5

    def ours(x: Tensor) -> Tensor:
        return handgrad.layers.local_response_norm(x, size, alpha=alpha)

    def eager(x: Tensor) -> Tensor:
        return F.local_response_norm(x, size, alpha=alpha)

    peers = {"torch": eager}
    if with_compile:
        peers["torch, torch.compile"] = compiled(eager)
    one_map = 4 * shape[0] * shape[1] * shape[2] * shape[3]
    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        # Forward: x read, y written. Backward: x and grad_output read, grad_input written.
        forward_bytes=2 * one_map,
        backward_bytes=3 * one_map,
    )


def benchmark(quick: bool) -> Benchmark:
    batch, side = (2, 7) if quick else (8, 56)
    text = f"{batch}x96x{side}x{side}, size 5"
    shape = (batch, 96, side, side)
    return Benchmark(
        op="local_response_norm",
        cases=[
            _case(f"{text}, NCHW", shape, 5),
            _case(f"{text}, channels_last", shape, 5, channels_last=True),
        ],
        sweeps=[
            Sweep(
                f"window, {batch}x96x{side}x{side}",
                "size",
                [3, 5] if quick else [3, 5, 9, 17, 33, 63],
                lambda size: _case(f"size {size}", shape, size, with_compile=False),
            ),
            Sweep(
                f"channels, {batch}xCx{side // 2}x{side // 2}, size 5",
                "channels",
                [16, 32] if quick else [16, 32, 64, 128, 256, 512],
                lambda channels: _case(
                    f"{channels} channels", (batch, channels, side // 2, side // 2), 5, with_compile=False
                ),
            ),
        ],
    )
