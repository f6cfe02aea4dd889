"""upfirdn2d: StyleGAN 2's filter on 64 channels, up, down and at one resolution, beside the convolution that people
write without such an op."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.layers import upfirdn2d

# up, down, padding (the same along both axes), gain
_USES = {"up 2": (2, 1, (2, 1, 2, 1), 4.0), "down 2": (1, 2, (1, 1, 1, 1), 1.0), "blur": (1, 1, (2, 1, 2, 1), 1.0)}


def _convolved(filter: Tensor, up: int, down: int, padding: tuple[int, ...], gain: float) -> Callable[[Tensor], Tensor]:
    taps = torch.outer(filter, filter).flip([0, 1]) * gain

    def convolved(input: Tensor) -> Tensor:
        channels = input.shape[1]
        if up > 1:
            apart = F.pad(input.unsqueeze(4).unsqueeze(3), [0, up - 1, 0, 0, 0, up - 1])
            input = apart.flatten(4, 5).flatten(2, 3)
        weight = taps.to(input).expand(channels, 1, *taps.shape)
        return F.conv2d(F.pad(input, padding), weight, stride=down, groups=channels)

    return convolved


def _case(use: str, shape: tuple[int, ...], channels_last: bool = False) -> Case:
    up, down, padding, gain = _USES[use]
    filter = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8

    def inputs(device: torch.device) -> tuple[Tensor]:
        x = torch.randn(shape, device=device)
        return (x.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format).requires_grad_(),)

    def ours(x: Tensor) -> Tensor:
        return upfirdn2d(x, filter.to(x.device), up, down, padding, gain=gain)

    eager = _convolved(filter, up, down, padding, gain)
    count = 4 * shape[0] * shape[1] * shape[2] * shape[3]
    moved = count + count * up * up // (down * down)
    return Case(
        name=f"{use}, {'x'.join(map(str, shape))}, {'channels_last' if channels_last else 'NCHW'}",
        inputs=inputs,
        handgrad=ours,
        peers={"torch, conv2d": eager, "torch, conv2d, torch.compile": compiled(eager)},
        # Forward: the input read, the output written. Backward: grad_output read, grad_input written.
        forward_bytes=moved,
        backward_bytes=moved,
    )


def benchmark(quick: bool) -> Benchmark:
    shape = (1, 3, 8, 8) if quick else (4, 64, 128, 128)
    cases = [_case(use, shape) for use in _USES]
    return Benchmark(op="upfirdn2d", cases=[*cases, _case("blur", shape, channels_last=True)])
