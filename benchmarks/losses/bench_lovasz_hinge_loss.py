"""Lovász hinge loss: 8 masks, beside segmentation_models_pytorch's, kornia's and the authors' formula."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from benchmarks.sorted_losses import extension, kornia, smp
from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.losses import lovasz_hinge_loss


def by_hand(inputs: Tensor, targets: Tensor) -> Tensor:
    foreground = targets.flatten().to(inputs.dtype)
    return extension((1 - inputs.flatten() * (2 * foreground - 1)).relu(), foreground)


def with_kornia(inputs: Tensor, targets: Tensor) -> Tensor:
    return kornia("lovasz_hinge_loss")(inputs, targets[:, 0])


def benchmark(quick: bool) -> Benchmark:
    batch, side = (2, 16) if quick else (8, 512)

    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        logits = torch.randn(batch, 1, side, side, device=device, requires_grad=True)
        return logits, torch.randint(0, 2, (batch, 1, side, side), device=device)

    positions = batch * side * side
    forward_bytes, backward_bytes = 12 * positions, 16 * positions
    shape = f"{batch} x 1 x {side}² float32"
    return Benchmark(
        op="lovasz_hinge_loss",
        cases=[
            Case(
                name=f"{shape}, per image",
                inputs=inputs,
                handgrad=lovasz_hinge_loss,
                peers={"smp": smp("binary", per_image=True), "kornia": with_kornia},
                # Of many positions differences of float32 scores, where ours are a formula in double.
                tolerance=1e-3,
                forward_bytes=forward_bytes,
                backward_bytes=backward_bytes,
            ),
            Case(
                name=f"{shape}, batch",
                inputs=inputs,
                handgrad=functools.partial(lovasz_hinge_loss, per_image=False),
                peers={
                    "smp": smp("binary"),
                    "torch": by_hand,
                    "torch, torch.compile": compiled(by_hand),
                },
                tolerance=1e-3,
                forward_bytes=forward_bytes,
                backward_bytes=backward_bytes,
            ),
        ],
    )
