"""Focal Tversky loss: 8 images of 21 classes, beside its formula and in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from benchmarks import overlap_losses
from handgrad.benchmarking import Benchmark
from handgrad.losses import focal_tversky_loss


def by_hand(overlap: Tensor, predictions: Tensor, targets: Tensor) -> Tensor:
    index = overlap / (overlap + 0.3 * (predictions - overlap) + 0.7 * (targets - overlap))
    return ((1 - index) ** 0.75).mean()


def benchmark(quick: bool) -> Benchmark:
    return overlap_losses.benchmark(quick, focal_tversky_loss, by_hand, {})
