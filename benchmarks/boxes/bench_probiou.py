"""Probabilistic IoU of all pairs of rotated boxes, 1,000 against 1,000, beside ultralytics' formula in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import rotated_boxes
from handgrad.benchmarking import Benchmark, Case, compiled
from handgrad.boxes import probiou


def _formula(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return rotated_boxes.probabilistic_iou(boxes1[:, None], boxes2[None])


def _case(rows: int, columns: int, differentiated: bool) -> Case:
    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        boxes = rotated_boxes.boxes(rows, device).requires_grad_(differentiated)
        return boxes, rotated_boxes.boxes(columns, device)

    tables, matrix = 20 * (rows + columns), 4 * rows * columns
    return Case(
        name=f"{rows} x {columns} float32" + (", gradient of boxes1" if differentiated else ""),
        inputs=inputs,
        handgrad=probiou,
        peers={"formula": _formula, "formula, torch.compile": compiled(_formula)},
        # Both tables are read and the matrix is written; then its gradient and they are read, and one gradient written.
        forward_bytes=tables + matrix,
        backward_bytes=tables + matrix + 20 * rows if differentiated else 0,
    )


def benchmark(quick: bool) -> Benchmark:
    size = (20, 30) if quick else (1_000, 1_000)
    return Benchmark(op="probiou", cases=[_case(*size, differentiated) for differentiated in (False, True)])
