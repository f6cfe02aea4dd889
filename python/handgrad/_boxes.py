"""Boxes that go with a row of numbers: what public functions take for them, and checks for fake kernels."""

from __future__ import annotations

import struct
from collections.abc import Callable

import torch
from torch import Tensor

from handgrad.arguments import check_integers, check_range, check_tensor


def numbers_of(tensor: Tensor) -> Tensor:
    """A tensor, or the numbers that a quantized one stands for: decisions about them need no type of their own."""
    return tensor.dequantize() if tensor.is_quantized else tensor


def dequantized(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    return numbers_of(boxes), numbers_of(scores)


def suppression_arguments(
    op: str, boxes: Tensor, scores: Tensor, iou_threshold: float, *idxs: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, float]:
    """What an op of greedy suppression takes, of what a user typed: boxes, scores, classes if there are such, and the
    threshold."""
    check_tensor(op, "boxes", boxes)
    check_tensor(op, "scores", scores)
    for classes in idxs:
        check_integers(op, "idxs", classes, or_bool=True)
    check_range(op, "iou_threshold", iou_threshold, 0.0, 1.0, "a number from 0 to 1")
    return (*dequantized(boxes, scores), idxs[0].to(torch.int64) if idxs else None, iou_threshold)


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
    check_rows(op, "boxes", boxes, **rows)


def check_rows(op: str, model_name: str, model: Tensor, **rows: Tensor | None) -> None:
    """Each of ``rows`` that is there has one number for each of the boxes, or what else ``model`` has in its first
    dimension, and is where that is."""
    for name, tensor in rows.items():
        if tensor is not None:
            _check_row(op, name, tensor, model_name, model)


def _check_row(op: str, name: str, tensor: Tensor, model_name: str, model: Tensor) -> None:
    torch._check(
        tensor.dim() == 1 and tensor.shape[0] == model.shape[0],
        lambda: (
            f"{op}: {name} must have one number for each of the {model_name}, shape ({model.shape[0]},); got "
            f"{tuple(tensor.shape)}"
        ),
    )
    torch._check(
        tensor.device == model.device,
        lambda: f"{op}: {name} must be on the device of {model_name}, {model.device}; got {tensor.device}",
    )


def rounded_down(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that is not above the threshold: the same decisions as in float64."""
    if dtype is torch.float64:
        return threshold
    bits = struct.unpack("<i", struct.pack("<f", threshold))[0]
    nearest = struct.unpack("<f", struct.pack("<i", bits))[0]
    return struct.unpack("<f", struct.pack("<i", bits - 1))[0] if nearest > threshold else nearest


_ROWS = 64


def decreasing_order(scores: Tensor, firsts: Tensor | None = None) -> Tensor:
    """The places of scores from the highest down, NaN before all; of equal ones the lower of ``firsts`` comes first,
    and then what stands first. For references: of comparisons alone, which every exporter can write, as it cannot
    stable sorts."""
    # (Not len, of which exporters would take what the example has.)
    numbers = torch.arange(scores.shape[0], device=scores.device)
    unordered = scores.isnan()
    before = (scores > scores[:, None]) | (unordered & ~unordered[:, None])
    # (Not ==, which older versions of ONNX have for integers only.)
    equal = ~(before | before.T)
    for key in (numbers,) if firsts is None else (firsts, numbers):
        before = before | (equal & (key < key[:, None]))
        equal = equal & (key == key[:, None])
    return torch.zeros_like(numbers).scatter(0, before.sum(1), numbers)


def kept_in_order(overlaps: Callable[[slice], Tensor], order: Tensor, idxs: Tensor | None) -> Tensor:
    """Those of ``order``, boxes by their scores, that are kept: each, unless it is dropped itself, drops those of its
    class after it that it overlaps. ``overlaps`` says of some places of the order, a slice, which of all they overlap
    too much. For references: it never asks for a value on the way, so it runs on a device without waiting for it."""
    classes = None if idxs is None else idxs.index_select(0, order)
    kept = torch.ones_like(order, dtype=torch.bool)
    numbers = torch.arange(len(order), device=order.device)
    for first in range(0, len(order), _ROWS):
        rows = slice(first, first + _ROWS)
        over = overlaps(rows)
        if classes is not None:
            over = over & (classes[rows, None] == classes)
        for index, of_box in enumerate(over, first):
            kept = kept & ~(kept[index] & of_box & (numbers > index))
    return order[kept]
