"""Infogain loss: maps of a segmentation with 21 classes and rows of 1,000, beside a matrix looked up and torch's cross
entropy of soft targets, eager and compiled; with and without a gradient of the matrix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.losses import infogain_loss


def _by_torch(inputs: Tensor, targets: Tensor, matrix: Tensor) -> Tensor:
    return F.cross_entropy(inputs, matrix[targets].movedim(-1, 1))


def _case(name: str, shape: tuple[int, ...], learnt: bool = False) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        targets = torch.randint(shape[1], (shape[0], *shape[2:]), device=device)
        matrix = torch.eye(shape[1], device=device) + 0.1 * torch.rand(shape[1], shape[1], device=device)
        return torch.randn(shape, device=device).requires_grad_(), targets, matrix.requires_grad_(learnt)

    rows = torch.Size(shape).numel() // shape[1]
    logits = 4 * rows * shape[1]
    return Case(
        name=name,
        inputs=inputs,
        handgrad=infogain_loss,
        peers={"matrix[targets] and cross_entropy": _by_torch, "the same, torch.compile": compiled(_by_torch)},
        # Logits and class numbers are read; backward reads both again and writes a gradient.
        forward_bytes=logits + 8 * rows,
        backward_bytes=2 * logits + 8 * rows,
    )


def benchmark(quick: bool) -> Benchmark:
    side = 16 if quick else 256
    maps = (8, 21, side, side)
    text = f"8x21x{side}x{side}"
    return Benchmark(
        op="infogain_loss",
        cases=[
            _case(text, maps),
            _case(f"{text}, gradient of the matrix", maps, learnt=True),
            _case("512x1000", (512, 1000)),
        ],
    )
