"""Deformable convolution, version 2, in the middle of a ResNet; then with more channels."""

from __future__ import annotations

import torch
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Sweep


def _case(name: str, batch: int, channels: int, side: int, mask: bool = True, channels_last: bool = False) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        made = [
            torch.randn(batch, channels, side, side, device=device),
            torch.randn(batch, 18, side, side, device=device),
            torch.randn(channels, channels, 3, 3, device=device) / (3 * channels**0.5),
            torch.randn(channels, device=device),
        ]
        if mask:
            made.append(torch.rand(batch, 9, side, side, device=device))
        if channels_last:
            made[0] = made[0].to(memory_format=torch.channels_last)
        return tuple(tensor.requires_grad_() for tensor in made)

    def ours(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, m: Tensor | None = None) -> Tensor:
        return handgrad.layers.deform_conv2d(x, offset, weight, bias, padding=1, mask=m)

    def torchvision(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, m: Tensor | None = None) -> Tensor:
        from torchvision.ops import deform_conv2d

        return deform_conv2d(x, offset, weight, bias, padding=1, mask=m)

    positions = batch * side * side
    read = 4 * (positions * (channels + 18 + 9 * mask) + 9 * channels * channels)
    written = 4 * positions * channels
    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers={"torchvision": torchvision},
        # Forward: all tensors read, the output written. Backward: they and its gradient read, their gradients written.
        # The multiplications take longer than either: docs/layers/deform_conv2d.md.
        forward_bytes=read + written,
        backward_bytes=2 * read + written,
    )


def benchmark(quick: bool) -> Benchmark:
    batch, channels, side = (2, 8, 7) if quick else (2, 64, 64)
    text = f"{batch}x{channels}x{side}x{side}, 3x3"
    return Benchmark(
        op="deform_conv2d",
        cases=[
            _case(f"{text}, version 2", batch, channels, side),
            _case(f"{text}, version 2, channels_last", batch, channels, side, channels_last=True),
            _case(f"{text}, version 1", batch, channels, side, mask=False),
        ],
        sweeps=[
            Sweep(
                f"channels, {batch}xCx{side // 2}x{side // 2}, 3x3",
                "channels",
                [4, 8] if quick else [16, 32, 64, 128, 256],
                lambda count: _case(f"{count} channels", batch, count, side // 2),
            )
        ],
    )
