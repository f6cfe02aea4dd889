"""Wing loss: 10 million elements, beside the formula in plain PyTorch, eager and compiled."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.losses import wing_loss

W, EPSILON = 10.0, 2.0


def _case(n: int, reduction: str) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        # Pixels: most errors are in the bend, some beyond it.
        return (8 * torch.randn(n, device=device)).requires_grad_(), torch.randn(n, device=device)

    def ours(inputs: Tensor, targets: Tensor) -> Tensor:
        return wing_loss(inputs, targets, W, EPSILON, reduction=reduction)

    # As mmpose has it.
    def eager(inputs: Tensor, targets: Tensor) -> Tensor:
        size = (inputs - targets).abs()
        loss = torch.where(size < W, W * torch.log(1 + size / EPSILON), size - (W - W * math.log(1 + W / EPSILON)))
        return loss.mean() if reduction == "mean" else loss

    one_map = 4 * n
    # Inputs and targets are read; a map of losses is written, or its gradient read, only without a reduction.
    unreduced = one_map if reduction == "none" else 0
    return Case(
        name=f"{n} float32, {reduction}",
        inputs=inputs,
        handgrad=ours,
        peers={"torch": eager, "torch, torch.compile": compiled(eager)},
        forward_bytes=2 * one_map + unreduced,
        backward_bytes=3 * one_map + unreduced,
    )


def benchmark(quick: bool) -> Benchmark:
    n = 10_000 if quick else 10_000_000
    return Benchmark(op="wing_loss", cases=[_case(n, "mean"), _case(n, "none")])
