"""Contrastive loss: 65,536 pairs of 256 numbers, beside the formula in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.losses import contrastive_loss


def by_hand(input1: Tensor, input2: Tensor, targets: Tensor) -> Tensor:
    distance = F.pairwise_distance(input1, input2, eps=0.0)
    return (torch.where(targets.bool(), distance**2, (1 - distance).relu() ** 2) / 2).mean()


def benchmark(quick: bool) -> Benchmark:
    pairs, width = (100, 16) if quick else (65_536, 256)

    def inputs(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        # Distances around the margin.
        input1, input2 = (0.05 * torch.randn(pairs, width, device=device) for _ in range(2))
        targets = torch.randint(0, 2, (pairs,), device=device)
        return input1.requires_grad_(), input2.requires_grad_(), targets

    embeddings, labels = 2 * 4 * pairs * width, 8 * pairs
    return Benchmark(
        op="contrastive_loss",
        cases=[
            Case(
                name=f"{pairs} x {width} float32",
                inputs=inputs,
                handgrad=contrastive_loss,
                peers={"torch": by_hand, "torch, torch.compile": compiled(by_hand)},
                forward_bytes=embeddings + labels,
                backward_bytes=2 * embeddings + labels,
            )
        ],
    )
