"""Measures of all pairs of two tables of boxes, a row of numbers each: all but the formula.

The op's schema is ``foo(Tensor boxes1, Tensor boxes2, <numbers>) -> Tensor``, its private ops' are as
:mod:`handgrad.derivatives` has them; the C++ half is ``csrc/common/kinds/box_matrix.h``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from handgrad.arguments import check_tensor, computed_dtype
from handgrad.derivatives import ELEMENTWISE, Derivatives
from handgrad.kinds.box_loss import CORNERS, BoxPair, promoted

__all__ = ["BoxMatrix", "BoxPairs", "part_of"]


class BoxMatrix(Derivatives):
    """Registers a measure of all pairs of boxes and calls it, with the checks and conversions that all of them share.

    Args:
        name: ``"namespace::op"``.
        reference: the measure of each pair in plain PyTorch, ``reference(boxes1, boxes2, *numbers)``; it gets float32
            or float64, (..., N, 4) and (..., M, 4), and :class:`BoxPairs` has what it is made of.
        row: what a box is, (x1, y1, x2, y2) unless it is told.

    Example::

        >>> _matrix = BoxMatrix("my_ops::my_measure", my_measure_reference)
        >>> _matrix(boxes1, boxes2, eps)
    """

    def __init__(self, name: str, reference: Callable[..., Tensor], row: tuple[str, ...] = CORNERS) -> None:
        self.row = row
        super().__init__(
            name,
            reference=_in_computed_type(reference),
            fake=self.fake_matrix,
            # A batch in front of both changes nothing.
            roles=ELEMENTWISE,
            autocast=torch.float32,
            splits=self.batches_rows_and_columns,
        )

    def __call__(self, boxes1: Tensor, boxes2: Tensor, *numbers: Any) -> Tensor:
        check_tensor(self.title, "boxes1", boxes1)
        check_tensor(self.title, "boxes2", boxes2)
        if boxes1.dtype is not boxes2.dtype or not boxes1.is_floating_point():
            boxes1, boxes2 = promoted(boxes1, boxes2)
        if boxes1.dim() != boxes2.dim() or boxes1.shape[:-2] != boxes2.shape[:-2]:
            boxes1, boxes2 = _of_one_batch(boxes1, boxes2)
        return self.forward(boxes1, boxes2, *numbers)

    def fake_matrix(self, boxes1: Tensor, boxes2: Tensor, *numbers: Any) -> Tensor:
        for name, boxes in (("boxes1", boxes1), ("boxes2", boxes2)):
            self._check_table(name, boxes)
        torch._check(
            boxes1.shape[:-2] == boxes2.shape[:-2],
            lambda: (
                f"{self.title}: boxes2 must have the batches of boxes1, {tuple(boxes1.shape[:-2])}, before its boxes; "
                f"got {tuple(boxes2.shape)}"
            ),
        )
        torch._check(
            boxes1.device == boxes2.device,
            lambda: f"{self.title}: boxes2 must be on the device of boxes1, {boxes1.device}; got {boxes2.device}",
        )
        return boxes1.new_empty((*boxes1.shape[:-1], boxes2.shape[-2]), dtype=computed_dtype(boxes1))

    def batches_rows_and_columns(self, boxes1: Any, **_: Any) -> list[dict[str, int | None]]:
        """A shard of either table has the matrix' rows or columns, and a share of the other's gradient."""
        rows = len(boxes1.shape) - 2
        batches: list[dict[str, int | None]] = [dict.fromkeys(("boxes1", "boxes2", "output"), d) for d in range(rows)]
        return [
            *batches,
            {"boxes1": rows, "boxes2": None, "output": rows},
            {"boxes1": None, "boxes2": rows, "output": rows + 1},
        ]

    def _check_table(self, name: str, boxes: Tensor) -> None:
        torch._check(
            boxes.dim() > 1 and boxes.shape[-1] == len(self.row),
            lambda: (
                f"{self.title}: {name} must have shape (..., boxes, {len(self.row)}), a row for {', '.join(self.row)}; "
                f"got {tuple(boxes.shape)}"
            ),
        )


class BoxPairs(BoxPair):
    """All pairs of two tables, (..., N, 4) and (..., M, 4), as what references are made of: as :class:`BoxPair` has it,
    each a matrix, or a row or column of it."""

    def __init__(self, boxes1: Tensor, boxes2: Tensor) -> None:
        rows = boxes1.dim() - 1
        super().__init__(boxes1.unsqueeze(rows), boxes2.unsqueeze(rows - 1))

    def iou(self, eps: float = 0.0) -> Tensor:
        intersection, union = self.intersection_and_union()
        return part_of(intersection, union + eps)

    def centre_distance(self, eps: float) -> Tensor:
        (x, y), (width, height) = self.way, self.enclosing
        return part_of(x**2 + y**2, width**2 + height**2 + eps)


def part_of(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``, 0 where there is no whole; neither has the derivative of a division by 0 there."""
    # (Not == 0, which older versions of ONNX have for integers only.)
    there = whole.bool()
    return torch.where(there, part / torch.where(there, whole, 1), 0)


def _of_one_batch(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the batches of both, where these can be broadcast; if not, the kernel says what it wants."""
    if min(boxes1.dim(), boxes2.dim()) < 2:
        return boxes1, boxes2
    try:
        batch = torch.broadcast_shapes(boxes1.shape[:-2], boxes2.shape[:-2])
    except RuntimeError:
        return boxes1, boxes2
    return boxes1.expand(*batch, *boxes1.shape[-2:]), boxes2.expand(*batch, *boxes2.shape[-2:])


def _in_computed_type(reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(reference)
    def computed(boxes1: Tensor, boxes2: Tensor, *numbers: Any) -> Tensor:
        dtype = computed_dtype(boxes1)
        return reference(boxes1.to(dtype), boxes2.to(dtype), *numbers)

    return computed
