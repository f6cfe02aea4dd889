"""IoU losses of rotated boxes: 100,000 pairs, beside the usual formula in plain PyTorch, eager and compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import rotated_boxes
from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.losses import rotated_box_iou_loss


def _formula(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return 1 - rotated_boxes.iou(boxes1, boxes2).mean()


def _case(n: int, mode: str) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        targets = rotated_boxes.boxes(n, device)
        return rotated_boxes.predictions(targets).requires_grad_(), targets

    def ours(boxes1: Tensor, boxes2: Tensor) -> Tensor:
        return rotated_box_iou_loss(boxes1, boxes2, mode, "mean")

    # Nobody is known to have the generalized one with a convex hull.
    peers = {"formula": _formula, "formula, torch.compile": compiled(_formula)} if mode == "iou" else {}
    return Case(
        name=f"{n} pairs float32, {mode}, mean",
        inputs=inputs,
        handgrad=ours,
        peers=peers,
        # Both sets are read, and one gradient is written.
        forward_bytes=40 * n,
        backward_bytes=60 * n,
    )


def benchmark(quick: bool) -> Benchmark:
    n = 1_000 if quick else 100_000
    return Benchmark(op="rotated_box_iou_loss", cases=[_case(n, "iou"), _case(n, "giou")])
