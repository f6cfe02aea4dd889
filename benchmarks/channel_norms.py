"""What the benchmarks of normalisations over channels share: ConvNeXt-T's first stage, 8 images of 96 x 56 x 56."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, Peer
from handgrad.benchmarking.peers import as_peer

Norm = Callable[..., Tensor]


def permuted(norm: Norm) -> Norm:
    """A norm of the last dimension, between two permutations."""

    def of_channels(input: Tensor, *others: Tensor) -> Tensor:
        return norm(input.permute(0, 2, 3, 1), (input.shape[1],), *others, eps=1e-6).permute(0, 3, 1, 2)

    return of_channels


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
        # Half types beside weights of their own type, as torch's norms want them.
        weights = [torch.rand(shape[1], device=device).to(dtype) for _ in range(of_channels)]
        return tuple(tensor.requires_grad_() for tensor in (x, *weights))

    one_map = dtype.itemsize * shape[0] * shape[1] * shape[2] * shape[3]
    batch, channels, side = shape[:3]
    kind = str(dtype).removeprefix("torch.")
    if dtype is not torch.float32:
        # Ones that are added up in bfloat16 end at 256.
        remark = "sums over 25,088 rows of gradients of bfloat16 weights may be in bfloat16, whose ones end at 256"
        peers = {name: replace(as_peer(peer), remark=remark, same=False) for name, peer in peers.items()}
    return Case(
        name=f"{batch}x{channels}x{side}² {kind}, {'channels_last' if last else 'NCHW'}",
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        # Forward: x read, y written. Backward: x and grad_output read, grad_input written.
        forward_bytes=2 * one_map,
        backward_bytes=3 * one_map,
    )


def benchmark(quick: bool, ours: Norm, peers: Mapping[str, Norm | Peer], of_channels: int) -> Benchmark:
    shape = (2, 16, 7, 7) if quick else (8, 96, 56, 56)
    return Benchmark(
        op=ours.__name__,
        cases=[
            _case(ours, peers, shape, of_channels, last, dtype)
            for dtype, last in ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False))
        ],
    )
