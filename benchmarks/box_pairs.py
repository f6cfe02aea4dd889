"""Losses of pairs of boxes: 100,000 pairs, beside torchvision's or the formula in plain PyTorch, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, compiled

Loss = Callable[..., Tensor]
#: Of the boxes alone, with its reduction.
Reduced = Callable[[Tensor, Tensor], Tensor]


def boxes(n: int, device: torch.device) -> Tensor:
    corner, size = 600 * torch.rand(n, 2, device=device), 8 + 400 * torch.rand(n, 2, device=device)
    return torch.cat([corner, corner + size], 1)


def predictions(targets: Tensor) -> Tensor:
    """Boxes near others, as in training: most a little off, some far, all with an inside."""
    sizes = targets[:, 2:] - targets[:, :2]
    way = sizes * torch.randn_like(sizes) * torch.rand_like(sizes[:, :1])
    corner = targets[:, :2] + way
    return torch.cat([corner, corner + sizes * (0.5 + torch.rand_like(sizes))], 1)


def _case(n: int, reduction: str, ours: Loss, peers: dict[str, Reduced]) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        targets = boxes(n, device)
        return predictions(targets).requires_grad_(), targets

    one_set = 16 * n
    # Both sets are read, one gradient is written; a loss for each pair is written, and its gradient read, without a
    # reduction only.
    unreduced = 4 * n if reduction == "none" else 0
    return Case(
        name=f"{n} pairs float32, {reduction}",
        inputs=inputs,
        handgrad=lambda boxes1, boxes2: ours(boxes1, boxes2, reduction=reduction),
        peers=peers,
        forward_bytes=2 * one_set + unreduced,
        backward_bytes=3 * one_set + unreduced,
    )


def formula(by_hand: Loss, reduction: str) -> dict[str, Reduced]:
    """The loss of each pair, and torch's reduction."""

    def eager(boxes1: Tensor, boxes2: Tensor) -> Tensor:
        losses = by_hand(boxes1, boxes2)
        return losses.mean() if reduction == "mean" else losses

    return {"formula": eager}


def torchvisions(name: str, reduction: str) -> dict[str, Reduced]:
    """torchvision's loss. torch.compile of it breaks the graph, at a mask that indexes."""

    def eager(boxes1: Tensor, boxes2: Tensor) -> Tensor:
        import torchvision

        return getattr(torchvision.ops, name)(boxes1, boxes2, reduction=reduction)

    return {"torchvision": eager}


def benchmark(quick: bool, ours: Loss, by_hand: Loss, peers: Callable[[str], dict[str, Reduced]]) -> Benchmark:
    """`by_hand` is the loss of each pair in plain PyTorch, without what breaks a compiler's graph; `peers` are the
    others, for a reduction."""
    n = 1_000 if quick else 100_000
    cases = []
    for reduction in ("mean", "none"):
        compiled_formula = compiled(formula(by_hand, reduction)["formula"])
        cases.append(_case(n, reduction, ours, {**peers(reduction), "formula, torch.compile": compiled_formula}))
    return Benchmark(op=ours.__name__, cases=cases)
