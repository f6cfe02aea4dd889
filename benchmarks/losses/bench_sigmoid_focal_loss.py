"""Sigmoid focal loss: RetinaNet's size, 100,000 anchors and 80 classes, one target in twenty positive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import handgrad
from handgrad.benchmarking import Benchmark, Case, Peer, compiled

ALPHA = 0.25


def _torchvision(gamma: float, reduction: str) -> Callable[..., Tensor]:
    def torchvision_focal(inputs: Tensor, targets: Tensor) -> Tensor:
        from torchvision.ops import sigmoid_focal_loss

        return sigmoid_focal_loss(inputs, targets, ALPHA, gamma, reduction)

    return torchvision_focal


def _compiled_torchvision(gamma: float, reduction: str) -> Callable[..., Tensor]:
    loss: list[Any] = []

    def compiled_focal(inputs: Tensor, targets: Tensor) -> Tensor:
        if not loss:
            from torchvision.ops import sigmoid_focal_loss

            loss.append(compiled(sigmoid_focal_loss))
        return loss[0](inputs, targets, ALPHA, gamma, reduction)

    return compiled_focal


def _by_hand(gamma: float, reduction: str) -> Callable[..., Tensor]:
    """The formula as one would write it to please a compiler: one exponential, one logarithm, one division."""

    def focal_by_hand(inputs: Tensor, targets: Tensor) -> Tensor:
        e = torch.exp(-inputs.abs())
        larger = 1 / (1 + e)
        smaller = e * larger
        positive = inputs >= 0
        p, not_p = torch.where(positive, larger, smaller), torch.where(positive, smaller, larger)
        q = p * (1 - targets) + not_p * targets
        power = q * q if gamma == 2 else q**gamma
        cross_entropy = inputs.clamp(min=0) - inputs * targets + torch.log1p(e)
        loss = (ALPHA * targets + (1 - ALPHA) * (1 - targets)) * power * cross_entropy
        return loss.mean() if reduction == "mean" else loss

    return focal_by_hand


def _one_graph(gamma: float) -> Peer:
    """Loss and gradient in one compiled loop, which autograd cannot do: it returns the loss before it goes back."""
    both = compiled(torch.func.grad_and_value(_by_hand(gamma, "mean")))

    def with_gradients(inputs: Tensor, targets: Tensor) -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad():
            gradient, loss = both(inputs.detach(), targets)
        return loss, [gradient]

    return Peer(None, with_gradients, "the gradient for a loss that is the last step; cannot be part of a larger loss")


def _kornia(gamma: float, reduction: str) -> Callable[..., Tensor]:
    def kornia_focal(inputs: Tensor, targets: Tensor) -> Tensor:
        from kornia.losses import binary_focal_loss_with_logits

        return binary_focal_loss_with_logits(inputs, targets, alpha=ALPHA, gamma=gamma, reduction=reduction)

    return kornia_focal


def _case(rows: int, dtype: torch.dtype, reduction: str, gamma: float = 2.0, extra: bool = False) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        logits = torch.randn(rows, 80, device=device).to(dtype).requires_grad_()
        targets = (torch.rand(rows, 80, device=device) < 0.05).to(dtype)
        return logits, targets

    def ours(inputs: Tensor, targets: Tensor) -> Tensor:
        return handgrad.losses.sigmoid_focal_loss(inputs, targets, ALPHA, gamma, reduction)

    peers: dict[str, Callable[..., Tensor] | Peer] = {
        "torchvision": _torchvision(gamma, reduction),
        "torchvision, torch.compile": _compiled_torchvision(gamma, reduction),
        "formula by hand, torch.compile": compiled(_by_hand(gamma, reduction)),
    }
    if extra:
        peers["formula by hand, torch.compile, loss and gradient in one graph"] = _one_graph(gamma)
        peers["kornia"] = _kornia(gamma, reduction)
    one_map = rows * 80 * dtype.itemsize
    # Logits and targets are read; a map of losses is written, or its gradient read, only without a reduction.
    unreduced = one_map if reduction == "none" else 0
    return Case(
        name=", ".join([f"{rows}x80 {str(dtype).removeprefix('torch.')}", reduction, f"gamma {gamma:g}"]),
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        forward_bytes=2 * one_map + unreduced,
        backward_bytes=2 * one_map + unreduced + one_map,
        # Peers round every step to bfloat16, we only the result.
        tolerance=1e-4 if dtype == torch.float32 else 5e-2,
        as_found=("torchvision", "torchvision, torch.compile") if extra else (),
    )


def benchmark(quick: bool) -> Benchmark:
    rows = 500 if quick else 100_000
    return Benchmark(
        op="sigmoid_focal_loss",
        cases=[
            _case(rows, torch.float32, "mean", extra=True),
            _case(rows, torch.float32, "none"),
            _case(rows, torch.float32, "mean", gamma=1.5),
            _case(rows, torch.bfloat16, "mean"),
        ],
    )
