"""Asymmetric loss: MS-COCO at the size of the paper, 80 classes, beside the formula in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.losses import asymmetric_loss


def _case(n: int, reduction: str) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        return torch.randn(n, device=device, requires_grad=True), (torch.rand(n, device=device) < 0.05).float()

    def ours(inputs: Tensor, targets: Tensor) -> Tensor:
        return asymmetric_loss(inputs, targets, reduction=reduction)

    # The authors' own code, without its in-place variant.
    def eager(inputs: Tensor, targets: Tensor) -> Tensor:
        p = torch.sigmoid(inputs)
        rest = (1 - p + 0.05).clamp(max=1)
        cross_entropy = targets * p.clamp(min=1e-8).log() + (1 - targets) * rest.clamp(min=1e-8).log()
        right = p * targets + rest * (1 - targets)
        loss = -cross_entropy * (1 - right) ** (targets + 4 * (1 - targets))
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
    n = 8_000 if quick else 80 * 100_000
    return Benchmark(op="asymmetric_loss", cases=[_case(n, "mean"), _case(n, "none")])
