"""Probabilistic IoU loss of rotated boxes: 100,000 pairs, beside ultralytics' formula in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import rotated_boxes
from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.losses import probiou_loss


def _formula(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return 1 - rotated_boxes.probabilistic_iou(boxes1, boxes2).mean()


def _case(n: int) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        targets = rotated_boxes.boxes(n, device)
        return rotated_boxes.predictions(targets).requires_grad_(), targets

    def ours(boxes1: Tensor, boxes2: Tensor) -> Tensor:
        return probiou_loss(boxes1, boxes2, "mean")

    return Case(
        name=f"{n} pairs float32, mean",
        inputs=inputs,
        handgrad=ours,
        peers={"formula": _formula, "formula, torch.compile": compiled(_formula)},
        # Both sets are read, and one gradient is written.
        forward_bytes=40 * n,
        backward_bytes=60 * n,
    )


def benchmark(quick: bool) -> Benchmark:
    return Benchmark(op="probiou_loss", cases=[_case(1_000 if quick else 100_000)])
