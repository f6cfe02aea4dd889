"""Gaussian focal loss: 10 million elements, beside the formula in plain PyTorch, eager and compiled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.losses import gaussian_focal_loss


def _case(n: int, reduction: str) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        # One element in a thousand is a peak, one in ten lies around one.
        around = torch.rand(n, device=device) * (torch.rand(n, device=device) < 0.1)
        peaks = torch.rand(n, device=device) < 0.001
        return torch.randn(n, device=device, requires_grad=True), torch.where(peaks, 1.0, around)

    def ours(inputs: Tensor, targets: Tensor) -> Tensor:
        return gaussian_focal_loss(inputs, targets, reduction=reduction)

    # As detectors have it, of logits.
    def eager(inputs: Tensor, targets: Tensor) -> Tensor:
        p = inputs.sigmoid()
        positive = F.softplus(-inputs) * (1 - p).pow(2) * targets.eq(1)
        negative = F.softplus(inputs) * p.pow(2) * (1 - targets).pow(4)
        loss = positive + negative
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
    return Benchmark(op="gaussian_focal_loss", cases=[_case(n, "mean"), _case(n, "none")])
