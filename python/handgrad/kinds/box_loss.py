"""Losses of pairs of boxes, a row of numbers each: all but the formula.

The op's schema is ``foo(Tensor boxes1, Tensor boxes2, <numbers>, int reduction) -> Tensor``, its private ops' are as
:mod:`handgrad.derivatives` has them; the C++ half is ``csrc/common/kinds/box_loss.h``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from handgrad.arguments import FLOAT_MAX, check_like, check_range, check_tensor, computed_dtype, is_sharded
from handgrad.derivatives import ELEMENTWISE
from handgrad.kinds.reduced_loss import LossModule, ReducedLoss, reduced
from handgrad.reductions import MEAN, NONE, SUM, reduce_or_zero, reduce_samples_or_zero, reduction_code

__all__ = ["BoxLoss", "BoxLossModule", "BoxPair"]


#: The numbers of an axis-parallel box, and of a rotated one.
CORNERS = ("x1", "y1", "x2", "y2")
CENTRE_SIZE_ANGLE = ("cx", "cy", "w", "h", "angle")


class BoxLoss(ReducedLoss):
    """Registers a loss of pairs of boxes and calls it, with the checks and conversions that all of them share.

    Args:
        name: ``"namespace::op"``.
        reference: the loss of each pair in plain PyTorch, ``reference(boxes1, boxes2, *numbers)``, without a
            reduction; it gets float32 or float64.
        row: what a box is, (x1, y1, x2, y2) unless it is told.

    Example::

        >>> _loss = BoxLoss("my_ops::my_box_loss", my_box_loss_reference)
        >>> _loss(boxes1, boxes2, "mean", eps)
    """

    def __init__(self, name: str, reference: Callable[..., Tensor], row: tuple[str, ...] = CORNERS) -> None:
        self.row = row
        super().__init__(
            name,
            reference=reduced(_in_computed_type(reference), reduce_or_zero),
            fake=self.fake_loss,
            roles=ELEMENTWISE,
            autocast=torch.float32,
            splits=self.every_dimension_but_the_last,
        )

    def __call__(self, boxes1: Tensor, boxes2: Tensor, reduction: str, eps: float, *numbers: Any) -> Tensor:
        check_tensor(self.title, "boxes1", boxes1)
        check_tensor(self.title, "boxes2", boxes2)
        check_eps(self.title, eps)
        if boxes1.dtype is not boxes2.dtype or not boxes1.is_floating_point():
            boxes1, boxes2 = promoted(boxes1, boxes2)
        code = reduction_code(self.title, reduction)
        if code == MEAN and is_sharded(boxes1):
            # A mean of shards' means is the mean only if the shards are of one size; a sum of sums is the sum.
            return self.forward(boxes1, boxes2, eps, *numbers, SUM) / max(1, boxes1.numel() // len(self.row))
        return self.forward(boxes1, boxes2, eps, *numbers, code)

    def fake_loss(self, boxes1: Tensor, boxes2: Tensor, *numbers: Any) -> Tensor:
        torch._check(
            boxes1.dim() > 0 and boxes1.shape[-1] == len(self.row),
            lambda: (
                f"{self.title}: boxes1 must have shape (..., {len(self.row)}), a row for {', '.join(self.row)}; got "
                f"{tuple(boxes1.shape)}"
            ),
        )
        check_like(self.title, "boxes2", boxes2, "boxes1", boxes1)
        return boxes1.new_empty(boxes1.shape[:-1] if numbers[-1] == NONE else (), dtype=computed_dtype(boxes1))

    def losses_like(self, tensors: Mapping[str, Any]) -> Tensor:
        return tensors["boxes1"][..., 0]

    def reduce_samples(self, losses: Tensor, reduction: int) -> Tensor:
        return reduce_samples_or_zero(losses, reduction)

    def every_dimension_but_the_last(self, boxes1: Any, reduction: int, **_: Any) -> list[dict[str, int | None]]:
        """A sum over shards is a partial sum; the mean never gets here sharded, see ``__call__``."""
        dims = range(len(boxes1.shape) - 1 if reduction != MEAN else 0)
        return [{"boxes1": dim, "boxes2": dim, "output": None if reduction else dim} for dim in dims]


class BoxLossModule(LossModule):
    """A loss of pairs of boxes as a module, which averages unless told otherwise, as losses in torch.nn do."""

    def __init__(self, function: Callable[..., Tensor], reduction: str, eps: float) -> None:
        super().__init__(function, lambda eps: check_eps(function.__name__, eps), reduction, eps=eps)

    def forward(self, boxes1: Tensor, boxes2: Tensor) -> Tensor:
        return super().forward(boxes1, boxes2)


def check_eps(op: str, eps: float) -> None:
    check_range(op, "eps", eps, 0, FLOAT_MAX, "a finite number, at least 0")


class BoxPair:
    """What references are made of: the extents of two boxes, of their intersection and of the smallest box around both,
    each as (width, height), the way from centre to centre, and areas."""

    def __init__(self, boxes1: Tensor, boxes2: Tensor) -> None:
        # (Not dimension -1, which older versions of ONNX's Squeeze do not count from behind.)
        last = boxes1.dim() - 1
        (left1, top1, right1, bottom1), (left2, top2, right2, bottom2) = boxes1.unbind(last), boxes2.unbind(last)
        self.size1 = right1 - left1, bottom1 - top1
        self.size2 = right2 - left2, bottom2 - top2
        self.shared = (
            torch.minimum(right1, right2) - torch.maximum(left1, left2),
            torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2),
        )
        self.enclosing = (
            torch.maximum(right1, right2) - torch.minimum(left1, left2),
            torch.maximum(bottom1, bottom2) - torch.minimum(top1, top2),
        )
        self.way = (left2 + right2 - left1 - right1) / 2, (top2 + bottom2 - top1 - bottom1) / 2

    def intersection_and_union(self) -> tuple[Tensor, Tensor]:
        width, height = self.shared
        intersection = torch.where((width > 0) & (height > 0), width * height, 0)
        return intersection, self.size1[0] * self.size1[1] + self.size2[0] * self.size2[1] - intersection

    def iou(self, eps: float) -> Tensor:
        intersection, union = self.intersection_and_union()
        return intersection / (union + eps)

    def centre_distance(self, eps: float) -> Tensor:
        """The distance of the centres of the diagonal of the enclosing box, squared."""
        (x, y), (width, height) = self.way, self.enclosing
        return (x**2 + y**2) / (width**2 + height**2 + eps)

    def aspect_ratio(self, iou: Tensor, eps: float) -> Tensor:
        """How much the aspect ratios differ, as complete IoU has it: alpha v, of which alpha is not differentiated. A
        box without extent has no aspect ratio."""
        point1, angle1 = _angle(*self.size1)
        point2, angle2 = _angle(*self.size2)
        v = torch.where(point1 | point2, 0, 4 / math.pi**2 * (angle2 - angle1) ** 2)
        alpha = torch.where(v > 0, v / (1 - iou + v + eps), 0)
        return alpha.detach() * v


def _angle(width: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a box is a point; arctan of its aspect ratio, which no division by a height of 0 takes part in."""
    # (Not == 0, which older versions of ONNX have for integers only.)
    point = ~(width.bool() | height.bool())
    sign = torch.where(height < 0, -1, 1)
    return point, torch.atan2(sign * width, torch.where(point, 1, sign * height))


def _in_computed_type(reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(reference)
    def computed(boxes1: Tensor, boxes2: Tensor, *numbers: Any) -> Tensor:
        dtype = computed_dtype(boxes1)
        return reference(boxes1.to(dtype), boxes2.to(dtype), *numbers)

    return computed


def promoted(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Integers are converted to float32, and different types promoted as torch does: what torchvision makes of them."""
    if boxes1.is_complex() or boxes2.is_complex():
        return boxes1, boxes2  # the kernel says what it wants
    boxes1, boxes2 = (boxes if boxes.is_floating_point() else boxes.float() for boxes in (boxes1, boxes2))
    dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    return boxes1.to(dtype), boxes2.to(dtype)
