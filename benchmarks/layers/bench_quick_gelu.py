"""QuickGELU: the hidden layer of a CLIP ViT-B/32's MLPs, a batch of 32, beside what people write in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.layers import quick_gelu


def _eager(input: Tensor) -> Tensor:
    return input * torch.sigmoid(1.702 * input)


def _case(batch: int, dtype: torch.dtype) -> Case:
    # Tokens of an image, and four times the width of 768.
    shape = (batch, 50, 3072)

    def inputs(device: torch.device) -> tuple[Tensor]:
        return (torch.randn(shape, device=device).to(dtype).requires_grad_(),)

    count = batch * 50 * 3072 * dtype.itemsize
    return Case(
        name=f"{batch}x50x3072 {str(dtype).removeprefix('torch.')}",
        inputs=inputs,
        handgrad=quick_gelu,
        peers={"torch": _eager, "torch, torch.compile": compiled(_eager)},
        # Forward: x read, y written. Backward: x and grad_output read, grad_input written.
        forward_bytes=2 * count,
        backward_bytes=3 * count,
        # The steps of torch's in half types are each rounded.
        tolerance=1e-4 if dtype is torch.float32 else 2e-2,
    )


def benchmark(quick: bool) -> Benchmark:
    batch = 1 if quick else 32
    return Benchmark(op="quick_gelu", cases=[_case(batch, torch.float32), _case(batch, torch.bfloat16)])
