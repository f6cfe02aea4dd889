"""Adaptive wing loss: 10 million elements, beside the formula in plain PyTorch, eager and compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.losses import adaptive_wing_loss

ALPHA, OMEGA, EPSILON, THETA = 2.1, 14.0, 1.0, 0.5


def _case(n: int, reduction: str) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        # Heat maps: nearly all is background.
        targets = torch.rand(n, device=device) * (torch.rand(n, device=device) < 0.05)
        return (targets + 0.3 * torch.randn(n, device=device)).requires_grad_(), targets

    def ours(inputs: Tensor, targets: Tensor) -> Tensor:
        return adaptive_wing_loss(inputs, targets, ALPHA, OMEGA, EPSILON, THETA, reduction=reduction)

    # As mmpose has it.
    def eager(inputs: Tensor, targets: Tensor) -> Tensor:
        size, power = (targets - inputs).abs(), ALPHA - targets
        at_theta = torch.pow(THETA / EPSILON, power)
        slope = OMEGA * (1 / (1 + at_theta)) * power * torch.pow(THETA / EPSILON, power - 1) * (1 / EPSILON)
        offset = THETA * slope - OMEGA * torch.log(1 + at_theta)
        bent = OMEGA * torch.log(1 + torch.pow(size / EPSILON, power))
        loss = torch.where(size < THETA, bent, slope * size - offset)
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
    return Benchmark(op="adaptive_wing_loss", cases=[_case(n, "mean"), _case(n, "none")])
