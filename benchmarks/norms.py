"""What the benchmarks of normalisations share: ConvNeXt-T's first stage, 8 images of 96 x 56 x 56."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from handgrad.benchmarking import Benchmark, Case, Peer
from handgrad.benchmarking.peers import as_peer

Norm = Callable[..., Tensor]


def permuted(norm: Norm) -> Norm:
    """A norm of the last dimension, between two permutations."""

    def of_channels(input: Tensor, *others: Tensor) -> Tensor:
        return norm(input.permute(0, 2, 3, 1), (input.shape[1],), *others, eps=1e-6).permute(0, 3, 1, 2)

    return of_channels


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
    tolerance: float | None,
) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        memory = torch.channels_last if last else torch.contiguous_format
        x = torch.randn(shape, device=device).to(dtype).to(memory_format=memory)
        # Half types beside parameters of their own type, as torch's norms want them.
        parameters = [torch.rand(shape[1], device=device).to(dtype) for _ in range(of_channels)]
        return tuple(tensor.requires_grad_() for tensor in (x, *parameters))

    one_map = dtype.itemsize * shape[0] * shape[1] * shape[2] * shape[3]
    batch, channels, side = shape[:3]
    kind = str(dtype).removeprefix("torch.")
    if tolerance is None:
        remark = "sums over 25,088 rows of gradients of bfloat16 weights may be in bfloat16, whose ones end at 256"
        peers = {name: replace(as_peer(peer), remark=remark, same=False) for name, peer in peers.items()}
    return Case(
        name=f"{batch}x{channels}x{side}² {kind}, {'channels_last' if last else 'NCHW'}",
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        # Forward: x read, y written. Backward: x and grad_output read, grad_input written. What is read a second time
        # is in the cache.
        forward_bytes=2 * one_map,
        backward_bytes=3 * one_map,
        tolerance=tolerance or 0,
    )


def benchmark(
    quick: bool,
    ours: Norm,
    peers: Mapping[str, Norm | Peer],
    of_channels: int,
    channels: int = 96,
    tolerance: float = 1e-4,
    half: bool = True,
    half_tolerance: float | None = None,
) -> Benchmark:
    """``half``: in bfloat16 too, where None for a tolerance leaves results uncompared."""
    shape = (2, 16, 7, 7) if quick else (8, channels, 56, 56)
    cases = [
        (torch.float32, False, tolerance),
        (torch.float32, True, tolerance),
        (torch.bfloat16, False, half_tolerance),
    ]
    return Benchmark(
        op=ours.__name__,
        cases=[_case(ours, peers, shape, of_channels, last, dtype, within) for dtype, last, within in cases],
    )
