"""Asymmetric loss: 10 million elements, beside the formula in plain PyTorch, eager and compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.losses import asymmetric_loss

GAMMA_NEG, GAMMA_POS, CLIP = 4.0, 1.0, 0.05


def _case(n: int, reduction: str) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        return torch.randn(n, device=device, requires_grad=True), (torch.rand(n, device=device) < 0.05).float()

    def ours(inputs: Tensor, targets: Tensor) -> Tensor:
        return asymmetric_loss(inputs, targets, GAMMA_NEG, GAMMA_POS, CLIP, reduction)

    # As the paper writes it and most people after it; not for soft targets.
    def eager(inputs: Tensor, targets: Tensor) -> Tensor:
        p = torch.sigmoid(inputs)
        likely = torch.where(targets == 1, p, (1 - p + CLIP).clamp(max=1))
        loss = (1 - likely) ** torch.where(targets == 1, GAMMA_POS, GAMMA_NEG) * -torch.log(likely.clamp(min=1e-8))
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
    return Benchmark(op="asymmetric_loss", cases=[_case(n, "mean"), _case(n, "none")])
