"""Tversky loss: 8 images of 21 classes, beside segmentation_models_pytorch's, MONAI's and in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from benchmarks import overlap_losses
from handgrad.benchmarking import Benchmark
from handgrad.losses import tversky_loss


def by_hand(overlap: Tensor, predictions: Tensor, targets: Tensor) -> Tensor:
    return (1 - overlap / (overlap + (predictions - overlap) / 2 + (targets - overlap) / 2)).mean()


def benchmark(quick: bool) -> Benchmark:
    return overlap_losses.benchmark(
        quick,
        tversky_loss,
        by_hand,
        {"smp": overlap_losses.smp("TverskyLoss"), "MONAI": overlap_losses.monai("TverskyLoss")},
    )
