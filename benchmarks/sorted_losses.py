"""What the benchmarks of losses of sorted errors share: the authors' formula as their repository has it, a class after
the other, and the losses of segmentation_models_pytorch and kornia."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def weights_of(foreground: Tensor) -> Tensor:
    """Of a flat list in the order of its errors: differences of the Jaccard losses."""
    every = foreground.sum()
    jaccard = 1 - (every - foreground.cumsum(0)) / (every + (1 - foreground).cumsum(0))
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])


def extension(errors: Tensor, foreground: Tensor) -> Tensor:
    errors, order = errors.sort(0, descending=True)
    return torch.dot(errors, weights_of(foreground[order]))


def smp(mode: str, **options: Any) -> Callable[..., Tensor]:
    """segmentation_models_pytorch's loss."""
    made: list[Any] = []

    def with_smp(inputs: Tensor, targets: Tensor) -> Tensor:
        if not made:
            from segmentation_models_pytorch.losses import LovaszLoss

            made.append(LovaszLoss(mode, **options))
        return made[0](inputs, targets)

    return with_smp


def kornia(name: str) -> Callable[..., Tensor]:
    """kornia's loss of this name."""

    def with_kornia(inputs: Tensor, targets: Tensor) -> Tensor:
        from kornia import losses

        return getattr(losses, name)(inputs, targets)

    return with_kornia
