"""filtered_lrelu: layers of StyleGAN 3's synthesis network, beside the steps one after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.layers import bias_act, filtered_lrelu, upfirdn2d

# up, down, padding: with twelve taps for each factor of two, layers that keep their size and that double it.
_USES = {"same size": (2, 2, (11, 10, 11, 10)), "twice the size": (4, 2, (17, 14, 17, 14))}
_CLAMP = 256.0


def _lowpass(taps: int) -> Tensor:
    filter = torch.hann_window(taps + 2, periodic=False)[1:-1]
    return filter / filter.sum()


def _convolved(x: Tensor, filter: Tensor, up: int, down: int, padding: tuple[int, ...]) -> Tensor:
    channels = x.shape[1]
    if up > 1:
        x = F.pad(x.unsqueeze(4).unsqueeze(3), [0, up - 1, 0, 0, 0, up - 1]).flatten(4, 5).flatten(2, 3)
    taps = filter.flip(0) * up
    x = F.conv2d(
        F.pad(x, padding), taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1), stride=(1, down), groups=channels
    )
    return F.conv2d(x, taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1), stride=(down, 1), groups=channels)


def _case(use: str, batch: int, channels: int, side: int, last: bool = False) -> Case:
    up, down, padding = _USES[use]
    fu, fd = _lowpass(6 * up), _lowpass(6 * down)

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        memory = torch.channels_last if last else torch.contiguous_format
        x = torch.randn(batch, channels, side, side, device=device).to(memory_format=memory)
        return x.requires_grad_(), torch.randn(channels, device=device).requires_grad_()

    def ours(x: Tensor, b: Tensor) -> Tensor:
        return filtered_lrelu(x, fu.to(x), fd.to(x), b, up, down, padding, clamp=_CLAMP)

    def steps(x: Tensor, b: Tensor) -> Tensor:
        z = upfirdn2d(x + b.view(-1, 1, 1), fu.to(x), up, 1, padding, gain=up * up)
        return upfirdn2d(bias_act(z, act="lrelu", clamp=_CLAMP), fd.to(x), 1, down)

    def eager(x: Tensor, b: Tensor) -> Tensor:
        z = _convolved(x + b.view(-1, 1, 1), fu.to(x), up, 1, padding)
        y = (F.leaky_relu(z, 0.2) * 2**0.5).clamp(-_CLAMP, _CLAMP)
        return _convolved(y, fd.to(x), 1, down, (0, 0, 0, 0))

    peers: dict[str, Callable[..., Tensor]] = {
        "upfirdn2d, bias_act, upfirdn2d": steps,
        "torch, conv2d": eager,
        "torch, conv2d, torch.compile": compiled(eager),
    }
    count = 4 * batch * channels * side * side
    output = count * up * up // (down * down)
    return Case(
        name=f"{use}, {batch}x{channels}x{side}², {'channels_last' if last else 'NCHW'}",
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        # Forward: x read, y written. Backward: x and grad_output read, grad_x written.
        forward_bytes=count + output,
        backward_bytes=2 * count + output,
        # Sums of a thousand products, and over all pixels for the bias.
        tolerance=1e-3,
    )


def benchmark(quick: bool) -> Benchmark:
    batch, channels, side = (1, 3, 12) if quick else (2, 64, 128)
    cases = [_case(use, batch, channels, side) for use in _USES]
    return Benchmark(op="filtered_lrelu", cases=[*cases, _case("same size", batch, channels, side, last=True)])
