"""The sums of overlap losses: 8 images of 21 classes, beside the same in plain PyTorch, eager and compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import overlap_losses
from handgrad.benchmarking import Benchmark
from handgrad.losses import overlap_sums


def sums(inputs: Tensor, targets: Tensor, activation: str, batch: bool) -> Tensor:
    return overlap_sums(inputs, targets, activation).sum(0)


sums.__name__ = "overlap_sums"


def by_hand(overlap: Tensor, predictions: Tensor, targets: Tensor) -> Tensor:
    return torch.stack([overlap, predictions, targets], -1)


def benchmark(quick: bool) -> Benchmark:
    return overlap_losses.benchmark(quick, sums, by_hand, {})
