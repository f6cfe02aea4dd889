"""Rotated boxes in plain PyTorch: what references are made of. docs/boxes.md leads to the mathematics.

Areas are computed in float64 whatever the boxes are, as in the kernels.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from handgrad.arguments import FLOAT_MAX, check_range


class RotatedPair:
    """Rows of (cx, cy, w, h, angle in degrees), broadcast against each other."""

    def __init__(self, boxes1: Tensor, boxes2: Tensor) -> None:
        boxes1, boxes2 = boxes1.double(), boxes2.double()
        # (Not dimension -1, which older versions of ONNX's Squeeze do not count from behind.)
        x1, y1, width1, height1, angle1 = boxes1.unbind(boxes1.dim() - 1)
        x2, y2, width2, height2, angle2 = boxes2.unbind(boxes2.dim() - 1)
        # Angles are compared without whole turns, which may be many.
        (rest1, odd1), (rest2, odd2) = _rest(angle1), _rest(angle2)
        rest, odd = _rest(rest1 - rest2)
        frame_cosine, frame_sine = _turn(rest2)
        self.cosine, self.sine = _turn(rest)
        # The first box, seen from the second, which is not turned there. A quarter turn is an exchange of extents.
        x, y = x1 - x2, y2 - y1
        self.u, self.v = frame_cosine * x + frame_sine * y, frame_cosine * y - frame_sine * x
        self.p, self.q = _halves(width1, height1, odd1 ^ odd)
        self.a, self.b = _halves(width2, height2, odd2)
        # NaN where a number is not finite.
        self.nothing = (boxes1 * 0).sum(boxes1.dim() - 1) + (boxes2 * 0).sum(boxes2.dim() - 1)
        self.sum = 4 * (self.p * self.q + self.a * self.b)

    def _corners(self, u: Tensor, v: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """Of the first box, (..., 4), counter-clockwise from (p, -q)."""
        along = torch.stack([self.p, self.p, -self.p, -self.p], self.p.dim())
        across = torch.stack([-self.q, self.q, self.q, -self.q], self.q.dim())
        u, v, cosine, sine = (each.unsqueeze(each.dim()) for each in (u, v, self.cosine, sine))
        return u + cosine * along - sine * across, v + sine * along + cosine * across

    def _meet(self) -> Tensor:
        """Whether the shadows of both on the axes of each overlap."""
        cosine, sine = self.cosine, self.sine.abs()
        along, across = self.cosine * self.u + self.sine * self.v, self.cosine * self.v - self.sine * self.u
        first = (self.u.abs() < self.a + (cosine * self.p + sine * self.q)) & (
            self.v.abs() < self.b + (sine * self.p + cosine * self.q)
        )
        second = (along.abs() < self.p + (cosine * self.a + sine * self.b)) & (
            across.abs() < self.q + (sine * self.a + cosine * self.b)
        )
        return first & second

    def intersection(self) -> Tensor:
        """The outline of the first box, every point of it moved to the nearest of the second, goes around the
        intersection, and otherwise to and fro: the area is what it goes around."""
        x, y = self._corners(self.u, self.v, self.sine)
        x, y = _clamp_outline(x, y, self.a)
        y, x = _clamp_outline(y, x, self.b)
        most = torch.minimum(self.p * self.q, self.a * self.b) * 4
        area = torch.minimum(_area(x, y).clamp(min=0), most)
        return torch.where(self._meet(), area, 0) + self.nothing

    def hull(self) -> Tensor:
        """The area of the convex hull. Between the normals of two edges that follow each other, of both boxes, each box
        has one corner that is farthest out; the hull has those of the box that is farther out."""
        # Reflected, so that the first box is not turned clockwise: normals of both boxes come by turns.
        sign = torch.where(self.sine < 0, -1, 1)
        sine, v = sign * self.sine, sign * self.v
        x, y = self._corners(self.u, v, sine)
        first = _ring(x, y, [0, 1, 1, 2, 2, 3, 3, 0])
        a, b = torch.broadcast_tensors(self.a + 0 * self.u, self.b + 0 * self.u)
        second = _ring(
            torch.stack([a, -a, -a, a], a.dim()), torch.stack([b, b, -b, -b], b.dim()), [0, 0, 1, 1, 2, 2, 3, 3]
        )
        one, none = torch.ones_like(a), torch.zeros_like(a)
        cosine, sine = self.cosine + none, sine + none
        normals = (
            torch.stack([one, cosine, none, -sine, -one, -cosine, none, sine], a.dim()),
            torch.stack([none, sine, one, cosine, none, -sine, -one, -cosine], a.dim()),
        )
        farther = _dot(first, normals) > _dot(second, normals)
        after = torch.cat([farther[..., 1:], farther[..., :1]], farther.dim() - 1)
        corners = [
            torch.stack([torch.where(farther, one, other), torch.where(after, one, other)], farther.dim()).flatten(-2)
            for one, other in zip(first, second, strict=True)
        ]
        return torch.maximum(_area(*corners), (self.sum - self.intersection()).detach())


def _rest(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """What an angle is beyond whole quarter turns, and whether these are odd."""
    quarters = torch.round(degrees / 90).detach()
    # (Not != 0, which older versions of ONNX have for integers only.)
    return degrees - 90 * quarters, (quarters - 2 * torch.floor(quarters / 2)).bool()


def _turn(rest: Tensor) -> tuple[Tensor, Tensor]:
    radians = rest * (math.pi / 180)
    return torch.cos(radians), torch.sin(radians)


def _halves(width: Tensor, height: Tensor, exchanged: Tensor) -> tuple[Tensor, Tensor]:
    """Half extents; a negative one is none."""
    width, height = width.clamp(min=0) / 2, height.clamp(min=0) / 2
    return torch.where(exchanged, height, width), torch.where(exchanged, width, height)


def _following(x: Tensor) -> Tensor:
    return torch.cat([x[..., 1:], x[..., :1]], x.dim() - 1)


def _area(x: Tensor, y: Tensor) -> Tensor:
    """What an outline, (..., points), goes around, counter-clockwise."""
    return (x * _following(y) - y * _following(x)).sum(x.dim() - 1) / 2


def _clamp_outline(x: Tensor, y: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """An outline with x clamped to [-limit, limit]: three points for each edge, of which two are where it crosses."""
    limit = limit.unsqueeze(limit.dim())
    way_x, way_y = _following(x) - x, _following(y) - y
    turns = way_x.bool()
    by = 1 / torch.where(turns, way_x, 1)
    low, high = (torch.where(turns, ((end - x) * by).clamp(0, 1), 0) for end in (-limit, limit))
    at = torch.stack([torch.zeros_like(low), torch.minimum(low, high), torch.maximum(low, high)], x.dim())
    x, y, way_x, way_y, limit = (each.unsqueeze(each.dim()) for each in (x, y, way_x, way_y, limit))
    clamped = torch.minimum(torch.maximum(x + way_x * at, -limit), limit)
    return clamped.flatten(-2), (y + way_y * at).flatten(-2)


def _ring(x: Tensor, y: Tensor, corners: list[int]) -> tuple[Tensor, Tensor]:
    return (
        torch.stack([x[..., k] for k in corners], x.dim() - 1),
        torch.stack([y[..., k] for k in corners], y.dim() - 1),
    )


def _dot(points: tuple[Tensor, Tensor], normals: tuple[Tensor, Tensor]) -> Tensor:
    return points[0] * normals[0] + points[1] * normals[1]


# ---- normal distributions --------------------------------------------------------------------------------------------


def check_positive_eps(op: str, eps: float) -> None:
    check_range(op, "eps", eps, sys.float_info.min, FLOAT_MAX, "a finite number, above 0")


def probabilistic_iou(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    """1 less the Hellinger distance of the normal distributions of boxes, broadcast against each other."""
    boxes1, boxes2 = boxes1.double(), boxes2.double()
    x1, y1, width1, height1, _ = boxes1.unbind(boxes1.dim() - 1)
    x2, y2, width2, height2, _ = boxes2.unbind(boxes2.dim() - 1)
    xx, yy, xy = (one + other for one, other in zip(_covariance(boxes1), _covariance(boxes2), strict=True))
    x, y = x1 - x2, y1 - y2
    # Of thin boxes that are parallel it may be less than nothing, by its rounding.
    determinant = _not_negative(xx * yy - xy**2)
    # The root of the product of both determinants, which are w^2 h^2 / 144.
    area1 = _not_negative(width1) * _not_negative(height1)
    area2 = _not_negative(width2) * _not_negative(height2)
    alone = area1 * area2 / 144
    apart = (xx * y**2 + yy * x**2 - 2 * xy * x * y) / (4 * (determinant + eps))
    distance = apart + torch.log(determinant / (4 * alone + eps) + eps) / 2
    nothing = (boxes1 * 0).sum(boxes1.dim() - 1) + (boxes2 * 0).sum(boxes2.dim() - 1)
    distance = torch.where(distance < eps, eps, torch.where(distance > 100, 100.0, distance))
    return 1 - torch.sqrt(1 - torch.exp(-distance) + eps) + nothing


def _not_negative(x: Tensor) -> Tensor:
    # (Not clamp, here and above, which onnxruntime has of float64 since version 12 of ONNX's operators.)
    return torch.where(x < 0, 0.0, x)


def _covariance(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Variances along x and y, and the covariance: a side of length w has w^2 / 12 along it."""
    _, _, width, height, angle = boxes.unbind(boxes.dim() - 1)
    along, across = _not_negative(width) ** 2 / 12, _not_negative(height) ** 2 / 12
    cosine, sine = _turn(angle)
    # y points downwards: a box' width lies along (cosine, -sine).
    return (
        along * cosine**2 + across * sine**2,
        along * sine**2 + across * cosine**2,
        (across - along) * cosine * sine,
    )
