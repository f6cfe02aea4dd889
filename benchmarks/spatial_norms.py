"""What the benchmarks of normalisations by sums over positions share: 8 images of a ConvNeXt's first stage."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from handgrad.benchmarking import Benchmark, Case, Peer

Norm = Callable[..., Tensor]


@cache
def _made(path: str, name: str, arguments: tuple[tuple[str, object], ...], channels: int) -> nn.Module:
    module: nn.Module = getattr(importlib.import_module(path), name)(channels, **dict(arguments))
    return module


def of_module(path: str, name: str, parameters: Sequence[str], **arguments: object) -> Norm:
    """Another library's module as a function of its input and parameters."""

    def call(input: Tensor, *given: Tensor) -> Tensor:
        module = _made(path, name, tuple(arguments.items()), input.shape[1])
        output: Tensor = torch.func.functional_call(module, dict(zip(parameters, given, strict=True)), (input,))
        return output

    return call


def _case(
    ours: Norm,
    peers: Mapping[str, Norm | Peer],
    shape: tuple[int, ...],
    of_channels: int,
    last: bool,
    dtype: torch.dtype,
) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        memory = torch.channels_last if last else torch.contiguous_format
        x = torch.randn(shape, device=device).to(dtype).to(memory_format=memory)
        # Half types beside parameters of their own type, as torch wants them.
        of_each = [torch.rand(shape[1], device=device).to(dtype) for _ in range(of_channels)]
        return tuple(tensor.requires_grad_() for tensor in (x, *of_each))

    one_map = dtype.itemsize * shape[0] * shape[1] * shape[2] * shape[3]
    batch, channels, side = shape[:3]
    kind = str(dtype).removeprefix("torch.")
    return Case(
        name=f"{batch}x{channels}x{side}² {kind}, {'channels_last' if last else 'NCHW'}",
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        # Forward: x read, y written. Backward: x and grad_output read, grad_input written. Were an image in the cache,
        # so that its second reading costs nothing.
        forward_bytes=2 * one_map,
        backward_bytes=3 * one_map,
        # torch sums the gradients of bfloat16 parameters in their own type.
        tolerance=1e-3 if dtype is torch.float32 else 1e-1,
    )


def benchmark(
    quick: bool, ours: Norm, peers: Mapping[str, Norm | Peer], of_channels: int, channels: int, half: bool = True
) -> Benchmark:
    """``half``: in bfloat16 too."""
    shape = (2, 16, 7, 7) if quick else (8, channels, 56, 56)
    return Benchmark(
        op=ours.__name__,
        cases=[
            _case(ours, peers, shape, of_channels, last, dtype)
            for dtype, last in ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False))
            if half or dtype is torch.float32
        ],
    )
