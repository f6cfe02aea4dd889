"""Varifocal loss: 10 million elements, beside the formula in plain PyTorch, eager and compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.losses import varifocal_loss

EPSILON = 0.1


def _case(n: int, reduction: str) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        return torch.randn(n, device=device, requires_grad=True), torch.randn(n, device=device)

    def ours(inputs: Tensor, targets: Tensor) -> Tensor:
        return varifocal_loss(inputs, targets, EPSILON, reduction=reduction)

    # TODO(author): the formula as your readers write it today, and whoever else has it.
    def eager(inputs: Tensor, targets: Tensor) -> Tensor:
        loss = torch.sqrt((inputs - targets) ** 2 + EPSILON**2) - EPSILON
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
    return Benchmark(op="varifocal_loss", cases=[_case(n, "mean"), _case(n, "none")])
