"""Softmax focal loss: maps of a segmentation with 21 classes, rows of 1,000 and of 50,000 classes, beside log-softmax
and gather in plain PyTorch, eager and compiled; and at gamma 0 torch's cross entropy."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.losses import softmax_focal_loss


def _by_hand(gamma: float, smoothing: float) -> Callable[..., Tensor]:
    """As it stands in most repositories; with label smoothing, a sum over all classes."""

    def smoothed(inputs: Tensor, targets: Tensor) -> Tensor:
        log_p = F.log_softmax(inputs, 1)
        counts = torch.full_like(log_p, smoothing / inputs.shape[1])
        counts.scatter_add_(1, targets.unsqueeze(1), counts.new_full((), 1 - smoothing).expand_as(targets.unsqueeze(1)))
        return -(counts * (1 - log_p.exp()) ** gamma * log_p).sum(1).mean()

    def focal(inputs: Tensor, targets: Tensor) -> Tensor:
        log_p = F.log_softmax(inputs, 1).gather(1, targets.unsqueeze(1)).squeeze(1)
        return (-((1 - log_p.exp()) ** gamma) * log_p).mean()

    return smoothed if smoothing else focal


def _case(name: str, shape: tuple[int, ...], gamma: float = 2.0, smoothing: float = 0.0, last: bool = False) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        logits = torch.randn(shape, device=device)
        if last:
            logits = logits.to(memory_format=torch.channels_last)
        return logits.requires_grad_(), torch.randint(shape[1], (shape[0], *shape[2:]), device=device)

    def ours(inputs: Tensor, targets: Tensor) -> Tensor:
        return softmax_focal_loss(inputs, targets, gamma, label_smoothing=smoothing)

    peers: dict[str, Callable[..., Tensor]] = {}
    if gamma == 0:
        peers = {"torch's cross_entropy": F.cross_entropy, "the same, torch.compile": compiled(F.cross_entropy)}
    else:
        by_hand = _by_hand(gamma, smoothing)
        peers = {"log_softmax and gather": by_hand, "the same, torch.compile": compiled(by_hand)}
    rows = torch.Size(shape).numel() // shape[1]
    logits = 4 * rows * shape[1]
    return Case(
        name=name,
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        # Logits and class numbers are read; backward reads both again and writes a gradient.
        forward_bytes=logits + 8 * rows,
        backward_bytes=2 * logits + 8 * rows,
    )


def benchmark(quick: bool) -> Benchmark:
    side = 16 if quick else 256
    maps = (8, 21, side, side)
    text = f"8x21x{side}x{side}"
    many = (4, 50_000) if quick else (512, 50_000)
    return Benchmark(
        op="softmax_focal_loss",
        cases=[
            _case(f"{text}, gamma 2", maps),
            _case(f"{text}, gamma 2, channels_last", maps, last=True),
            _case(f"{text}, gamma 0", maps, gamma=0.0),
            _case(f"{text}, gamma 2, label_smoothing 0.1", maps, smoothing=0.1),
            _case("512x1000, gamma 2", (512, 1000)),
            _case(f"{many[0]}x{many[1]}, gamma 2", many),
        ],
    )
