"""Boxes that go with a row of numbers: what public functions take for them, and checks for fake kernels."""

from __future__ import annotations

import struct

import torch
from torch import Tensor


def dequantized(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers that quantized boxes and scores stand for: decisions about them need no type of their own."""
    return boxes.dequantize() if boxes.is_quantized else boxes, scores.dequantize() if scores.is_quantized else scores


def check_boxes(
    op: str, boxes: Tensor, numbers: tuple[str, ...] = ("x1", "y1", "x2", "y2"), **rows: Tensor | None
) -> None:
    """``boxes`` has a row of ``numbers`` for each box, and each of ``rows`` that is there one number for each."""
    torch._check(
        boxes.dim() == 2 and boxes.shape[1] == len(numbers),
        lambda: (
            f"{op}: boxes must have shape (boxes, {len(numbers)}), a row for {', '.join(numbers)}; got "
            f"{tuple(boxes.shape)}"
        ),
    )
    for name, tensor in rows.items():
        if tensor is not None:
            _check_row(op, name, tensor, boxes)


def _check_row(op: str, name: str, tensor: Tensor, boxes: Tensor) -> None:
    torch._check(
        tensor.dim() == 1 and tensor.shape[0] == boxes.shape[0],
        lambda: (
            f"{op}: {name} must have one number for each of the boxes, shape ({boxes.shape[0]},); got "
            f"{tuple(tensor.shape)}"
        ),
    )
    torch._check(
        tensor.device == boxes.device,
        lambda: f"{op}: {name} must be on the device of boxes, {boxes.device}; got {tensor.device}",
    )


def rounded_down(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that is not above the threshold: the same decisions as in float64."""
    if dtype is torch.float64:
        return threshold
    bits = struct.unpack("<i", struct.pack("<f", threshold))[0]
    nearest = struct.unpack("<f", struct.pack("<i", bits))[0]
    return struct.unpack("<f", struct.pack("<i", bits - 1))[0] if nearest > threshold else nearest
