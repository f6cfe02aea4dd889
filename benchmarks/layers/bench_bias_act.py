"""An activation behind a bias: a block of StyleGAN 2's generator, beside what people write in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.layers import bias_act

_CLAMP = 256.0


def _ours(act: str) -> Callable[[Tensor, Tensor], Tensor]:
    def call(x: Tensor, b: Tensor) -> Tensor:
        return bias_act(x, b, act=act, clamp=_CLAMP)

    return call


def _eager(act: str) -> Callable[[Tensor, Tensor], Tensor]:
    def call(x: Tensor, b: Tensor) -> Tensor:
        z = x + b.to(x.dtype).view(-1, 1, 1)
        y = F.leaky_relu(z, 0.2) if act == "lrelu" else z * torch.sigmoid(z)
        return (y * 2**0.5).clamp(-_CLAMP, _CLAMP)

    return call


def _case(batch: int, act: str, dtype: torch.dtype, last: bool) -> Case:
    shape = (batch, 128, 128, 128)

    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        memory = torch.channels_last if last else torch.contiguous_format
        x = torch.randn(shape, device=device).to(dtype).to(memory_format=memory)
        # A bias that a half type has: otherwise torch's sums, of a rounded one, have other signs near zero.
        bias = torch.randn(128, device=device).to(dtype).float()
        return x.requires_grad_(), bias.requires_grad_()

    count = batch * 128**3 * dtype.itemsize
    kind = str(dtype).removeprefix("torch.")
    return Case(
        name=f"{act}, {batch}x128x128² {kind}, {'channels_last' if last else 'NCHW'}",
        inputs=inputs,
        handgrad=_ours(act),
        peers={"torch": _eager(act), "torch, torch.compile": compiled(_eager(act))},
        # Forward: x read, y written. Backward: x and grad_output read, grad_x written.
        forward_bytes=2 * count,
        backward_bytes=3 * count,
        # The steps of torch's in half types are each rounded; a sum over 16,384 positions.
        tolerance=1e-3 if dtype is torch.float32 else 5e-2,
    )


def benchmark(quick: bool) -> Benchmark:
    batch = 1 if quick else 8
    cases = [
        _case(batch, "lrelu", torch.float32, last=False),
        _case(batch, "lrelu", torch.float32, last=True),
        _case(batch, "lrelu", torch.bfloat16, last=False),
        _case(batch, "swish", torch.float32, last=False),
    ]
    return Benchmark(op="bias_act", cases=cases)
