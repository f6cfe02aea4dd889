"""Lovász-softmax loss: 8 images of 21 classes, beside segmentation_models_pytorch's, kornia's and the formula as the
authors have it."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from benchmarks.sorted_losses import extension, kornia, smp
from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.losses import lovasz_softmax_loss


def by_hand(inputs: Tensor, targets: Tensor) -> Tensor:
    p = inputs.softmax(1).movedim(1, 0).flatten(1)
    losses = []
    for c in range(inputs.shape[1]):
        foreground = (targets.flatten() == c).to(p.dtype)
        losses.append(extension((foreground - p[c]).abs(), foreground))
    return torch.stack(losses).mean()


def benchmark(quick: bool) -> Benchmark:
    batch, channels, side = (2, 5, 16) if quick else (8, 21, 256)

    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        logits = torch.randn(batch, channels, side, side, device=device, requires_grad=True)
        return logits, torch.randint(0, channels, (batch, side, side), device=device)

    positions = batch * side * side
    logits, classes = 4 * channels * positions, 8 * positions
    forward_bytes, backward_bytes = logits + classes, 2 * logits + classes
    shape = f"{batch} x {channels} x {side}² float32"
    return Benchmark(
        op="lovasz_softmax_loss",
        cases=[
            Case(
                name=f"{shape}, batch",
                inputs=inputs,
                handgrad=lovasz_softmax_loss,
                peers={
                    "smp": smp("multiclass"),
                    "torch": by_hand,
                    "torch, torch.compile": compiled(by_hand),
                },
                # Of half a million positions differences of float32 scores, 1.7e-3 off those of float64; ours, a
                # formula in double, are 2.8e-5 off.
                tolerance=3e-3,
                forward_bytes=forward_bytes,
                backward_bytes=backward_bytes,
            ),
            Case(
                name=f"{shape}, per image",
                inputs=inputs,
                handgrad=functools.partial(lovasz_softmax_loss, classes="all", per_image=True),
                peers={"kornia": kornia("lovasz_softmax_loss")},
                tolerance=3e-3,
                forward_bytes=forward_bytes,
                backward_bytes=backward_bytes,
            ),
        ],
    )
