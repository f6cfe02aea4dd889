"""What the tests of losses of sorted errors share: inputs with targets, the reference with a reduction, and the Jaccard
loss of a set of positions, which the losses extend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from handgrad.kinds.sorted_loss import SortedLoss
from handgrad.testing import reseeded

#: What no target of the samples is but those that are ignored.
IGNORED = 255


def numbered(*shape: int, dtype: torch.dtype = torch.float64, absent: int = 0) -> tuple[Tensor, Tensor]:
    """Logits, (N, C, ...), and classes, of which the last ``absent`` are not there."""
    generator = reseeded(sum(shape))
    logits = 1.5 * torch.randn(*shape, dtype=torch.float64, generator=generator)
    targets = torch.randint(0, shape[1] - absent, (shape[0], *shape[2:]), generator=generator)
    return logits.to(dtype), targets


def binary(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits and masks, (N, ...). The logits have the distances of a lattice: in half precision too no two errors are
    equal, nor at the kink."""
    generator = reseeded(sum(shape))
    count = max(1, torch.Size(shape).numel())
    logits = (torch.randperm(count, generator=generator).view(shape) if count > 1 else torch.zeros(shape)) + 0.3
    targets = torch.randint(0, 2, shape, generator=generator)
    return (logits.to(torch.float64) * (4 / count) - 2).to(dtype), targets


def ignoring(tensors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The same with every fifth target ignored."""
    inputs, targets = tensors
    targets.view(-1)[::5] = IGNORED
    return inputs, targets


def reference_losses(
    loss: SortedLoss, inputs: Tensor, targets: Tensor, weight: Tensor | None, *numbers: bool, **options: Any
) -> Tensor:
    """The kind's losses of (samples, classes, positions...) in plain PyTorch, and torch's reductions."""
    groups = 1 if options["per_image"] else 0
    losses = loss.losses(inputs.unsqueeze(groups), targets.unsqueeze(groups), weight, *numbers, options["ignore_index"])
    if options["reduction"] == "none":
        return losses
    losses = losses.sum() if options["reduction"] == "sum" else losses.sum() / max(1, losses.numel())
    return losses


def with_grad(function: Callable[..., Tensor], inputs: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """The loss, and the gradient of its sum with respect to the inputs."""
    leaf = inputs.detach().requires_grad_()
    loss = function(leaf, *args, **kwargs)
    return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]


def jaccard_loss_of_sets(predicted: Tensor, actual: Tensor) -> Tensor:
    """One minus intersection over union of two masks; of two empty ones 0."""
    union = (predicted | actual).sum()
    return 1 - (predicted & actual).sum() / union.clamp(min=1) if union else torch.zeros(())
