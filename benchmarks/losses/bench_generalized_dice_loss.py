"""Generalized dice loss: 8 images of 21 classes, beside MONAI's and in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from benchmarks import overlap_losses
from handgrad.benchmarking import Benchmark
from handgrad.losses import generalized_dice_loss


def by_hand(overlap: Tensor, predictions: Tensor, targets: Tensor) -> Tensor:
    weight = 1 / targets.square()
    return 1 - 2 * (weight * overlap).sum() / (weight * (predictions + targets)).sum()


def benchmark(quick: bool) -> Benchmark:
    return overlap_losses.benchmark(
        quick,
        generalized_dice_loss,
        by_hand,
        {"MONAI": overlap_losses.monai("GeneralizedDiceLoss", smooth_nr=0.0, smooth_dr=0.0)},
    )
