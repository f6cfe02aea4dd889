"""blur_pool_2d: half the size of 64 channels, by timm's default and in channels_last, beside timm's module and the
convolution that it is."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.layers import blur_pool_2d


@functools.cache
def _timm(channels: int, size: int) -> Any:
    from timm.layers import BlurPool2d

    return BlurPool2d(channels, size)


def _case(shape: tuple[int, ...], size: int, channels_last: bool = False) -> Case:
    channels, height, width = shape[1:]

    def inputs(device: torch.device) -> tuple[Tensor]:
        x = torch.randn(shape, device=device)
        return (x.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format).requires_grad_(),)

    def eager(x: Tensor) -> Tensor:
        taps = torch.tensor([[1.0, 2.0, 1.0], [1.0, 4.0, 6.0, 4.0, 1.0]][size == 5], device=x.device)
        weight = torch.outer(taps, taps) / taps.sum() ** 2
        padded = F.pad(x, [size // 2] * 4, mode="reflect")
        return F.conv2d(padded, weight.expand(channels, 1, size, size), stride=2, groups=channels)

    moved = 4 * shape[0] * channels * (height * width + ((height + 1) // 2) * ((width + 1) // 2))
    return Case(
        name=f"{'x'.join(map(str, shape))}, size {size}, {'channels_last' if channels_last else 'NCHW'}",
        inputs=inputs,
        handgrad=lambda x: blur_pool_2d(x, size),
        peers={
            "timm": lambda x: _timm(channels, size).to(x.device)(x),
            "torch, conv2d": eager,
            "torch, conv2d, torch.compile": compiled(eager),
        },
        # Forward: the input read, the output written. Backward: grad_output read, grad_input written.
        forward_bytes=moved,
        backward_bytes=moved,
    )


def benchmark(quick: bool) -> Benchmark:
    shape = (1, 3, 8, 9) if quick else (8, 64, 112, 112)
    return Benchmark(op="blur_pool_2d", cases=[_case(shape, 3), _case(shape, 5), _case(shape, 3, channels_last=True)])
