"""What the benchmarks of overlap losses share: Pascal VOC's 21 classes, 8 images of 256 x 256, beside the losses of
segmentation_models_pytorch and MONAI, and the formula as one would write it, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, Peer, compiled

Formula = Callable[[Tensor, Tensor, Tensor], Tensor]


def sums_by_hand(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of every class of the batch: intersection, predictions, targets."""
    p = inputs.softmax(1)
    t = F.one_hot(targets, inputs.shape[1]).movedim(-1, 1)
    dims = (0, 2, 3)
    return (p * t).sum(dims), p.sum(dims), t.sum(dims)


def benchmark(
    quick: bool, ours: Callable[..., Tensor], by_hand: Formula, peers: dict[str, Callable[..., Tensor] | Peer]
) -> Benchmark:
    """``by_hand`` is the loss of the three sums; all have a score for each class of the whole batch."""
    batch, channels, side = (2, 5, 16) if quick else (8, 21, 256)

    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        logits = torch.randn(batch, channels, side, side, device=device, requires_grad=True)
        return logits, torch.randint(0, channels, (batch, side, side), device=device)

    def eager(inputs: Tensor, targets: Tensor) -> Tensor:
        return by_hand(*sums_by_hand(inputs, targets))

    positions = batch * side * side
    logits, classes = 4 * channels * positions, 8 * positions
    return Benchmark(
        op=ours.__name__,
        cases=[
            Case(
                name=f"{batch} x {channels} x {side}² float32, softmax",
                inputs=inputs,
                handgrad=lambda inputs, targets: ours(inputs, targets, "softmax", batch=True),
                peers={**peers, "torch": eager, "torch, torch.compile": compiled(eager)},
                # Logits and classes are read once; in the backward once more, and the gradient is written.
                forward_bytes=logits + classes,
                backward_bytes=2 * logits + classes,
                # Weights that are powers of sums, and differences of scores, in float32 where ours are double.
                tolerance=1e-3,
            )
        ],
    )


def smp(name: str, **options: Any) -> Callable[..., Tensor]:
    """A loss of segmentation_models_pytorch for classes."""
    made: list[Any] = []

    def with_smp(inputs: Tensor, targets: Tensor) -> Tensor:
        if not made:
            from segmentation_models_pytorch import losses

            made.append(getattr(losses, name)("multiclass", **options))
        return made[0](inputs, targets)

    return with_smp


def monai(name: str, **options: Any) -> Callable[..., Tensor]:
    """A loss of MONAI for classes."""
    made: list[Any] = []

    def with_monai(inputs: Tensor, targets: Tensor) -> Tensor:
        if not made:
            from monai import losses

            made.append(getattr(losses, name)(softmax=True, to_onehot_y=True, batch=True, **options))
        return made[0](inputs, targets[:, None])

    return with_monai
