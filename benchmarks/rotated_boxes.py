"""Rotated boxes: some to compare, and how alike they are in plain PyTorch, as others compute it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from handgrad.benchmarking import Case, Peer, compiled
from handgrad.benchmarking.declaring import Forward

Measure = Callable[[Tensor, Tensor], Tensor]


def boxes(n: int, device: torch.device) -> Tensor:
    """Of 8 to 100 pixels in an aerial photograph of 1,024, at any angle."""
    numbers = torch.rand(n, 5, device=device)
    return torch.cat([1024 * numbers[:, :2], 8 + 92 * numbers[:, 2:4], 360 * numbers[:, 4:] - 180], 1)


def predictions(targets: Tensor) -> Tensor:
    """Boxes near others, as in training."""
    sizes = targets[:, 2:4]
    centres = targets[:, :2] + 0.5 * sizes * torch.randn_like(sizes)
    return torch.cat(
        [centres, sizes * (0.5 + torch.rand_like(sizes)), targets[:, 4:] + 30 * torch.randn_like(sizes[:, :1])], 1
    )


def corners(boxes: Tensor) -> Tensor:
    x, y, width, height, angle = boxes.unbind(-1)
    angle = torch.deg2rad(angle)
    cosine, sine = torch.cos(angle)[..., None], torch.sin(angle)[..., None]
    u = width[..., None] / 2 * boxes.new_tensor([1.0, -1, -1, 1])
    v = height[..., None] / 2 * boxes.new_tensor([1.0, 1, -1, -1])
    return torch.stack([x[..., None] + cosine * u + sine * v, y[..., None] - sine * u + cosine * v], -1)


def iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Of aligned, or broadcast, rows: the 16 points where edges cross and the 8 corners that are inside, put in order
    around their middle."""
    first, second = torch.broadcast_tensors(corners(boxes1), corners(boxes2))
    way1, way2 = first.roll(-1, -2) - first, second.roll(-1, -2) - second

    def cross(a: Tensor, b: Tensor) -> Tensor:
        return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]

    between = second[..., None, :, :] - first[..., :, None, :]
    below = cross(way1[..., :, None, :], way2[..., None, :, :])
    along1 = cross(between, way2[..., None, :, :]) / below
    along2 = cross(between, way1[..., :, None, :]) / below
    crosses = (along1 > 0) & (along1 < 1) & (along2 > 0) & (along2 < 1)
    crossings = first[..., :, None, :] + torch.where(crosses, along1, 0)[..., None] * way1[..., :, None, :]

    def inside(points: Tensor, boxes: Tensor) -> Tensor:
        x, y, width, height, angle = (each[..., None] for each in boxes.unbind(-1))
        cosine, sine = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
        across, down = points[..., 0] - x, points[..., 1] - y
        u, v = cosine * across - sine * down, sine * across + cosine * down
        return (u.abs() <= width / 2 * (1 + 1e-6)) & (v.abs() <= height / 2 * (1 + 1e-6))

    points = torch.cat([first, second, crossings.flatten(-3, -2)], -2)
    there = torch.cat([inside(first, boxes2), inside(second, boxes1), crosses.flatten(-2)], -1)
    count = there.sum(-1, keepdim=True)
    middle = torch.where(there[..., None], points, 0).sum(-2) / count.clamp(min=1)
    points = torch.where(there[..., None], points - middle[..., None, :], 0)
    angle = torch.where(there, torch.atan2(points[..., 1], points[..., 0]), torch.inf).detach()
    order = angle.sort(-1).indices
    points = points.gather(-2, order[..., None].expand(points.shape))
    # What is not there comes last, as often as it takes, as the first point.
    late = torch.arange(points.shape[-2], device=points.device) >= count
    points = torch.where(late[..., None], points[..., :1, :], points)
    shared = cross(points, points.roll(-1, -2)).sum(-1).abs() / 2
    return shared / (boxes1[..., 2] * boxes1[..., 3] + boxes2[..., 2] * boxes2[..., 3] - shared)


def probabilistic_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """Of aligned, or broadcast, rows: from the covariance matrices of both."""
    (xx1, yy1, xy1), (xx2, yy2, xy2) = _covariance(boxes1), _covariance(boxes2)
    xx, yy, xy = xx1 + xx2, yy1 + yy2, xy1 + xy2
    x, y = boxes1[..., 0] - boxes2[..., 0], boxes1[..., 1] - boxes2[..., 1]
    determinant = xx * yy - xy**2
    apart = (xx * y**2 + yy * x**2 - 2 * xy * x * y) / (determinant + eps) / 4
    alone = ((xx1 * yy1 - xy1**2).clamp(min=0) * (xx2 * yy2 - xy2**2).clamp(min=0)).sqrt()
    distance = (apart + (determinant / (4 * alone + eps) + eps).log() / 2).clamp(eps, 100)
    return 1 - (1 - (-distance).exp() + eps).sqrt()


def _covariance(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    along, across = boxes[..., 2] ** 2 / 12, boxes[..., 3] ** 2 / 12
    angle = torch.deg2rad(boxes[..., 4])
    cosine, sine = torch.cos(angle), torch.sin(angle)
    return along * cosine**2 + across * sine**2, along * sine**2 + across * cosine**2, (across - along) * cosine * sine


# ---- cases -----------------------------------------------------------------------------------------------------------


def _peers(formula: Measure | None, compiles: bool) -> dict[str, Forward | Peer]:
    """``compiles`` is whether torch.compile is done with a formula in a time that anybody waits: for :func:`iou`, with
    its sort of 24 points of each pair, it takes more than seven minutes on two cores, at every size and number of
    threads anew."""
    if formula is None:
        return {}
    peers: dict[str, Forward | Peer] = {"formula": formula}
    if compiles:
        peers["formula, torch.compile"] = compiled(formula)
    return peers


def matrix_case(
    rows: int,
    columns: int,
    differentiated: bool,
    ours: Measure,
    of_pairs: Measure | None,
    without_gradient: Mapping[str, Measure] | None = None,
    compiles: bool = True,
) -> Case:
    """All pairs of two tables, beside a formula of aligned pairs, and peers ``without_gradient`` if none is asked."""

    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        return boxes(rows, device).requires_grad_(differentiated), boxes(columns, device)

    def formula(boxes1: Tensor, boxes2: Tensor) -> Tensor:
        assert of_pairs is not None
        return of_pairs(boxes1[:, None], boxes2[None])

    tables, matrix = 20 * (rows + columns), 4 * rows * columns
    others = {} if differentiated else without_gradient or {}
    return Case(
        name=f"{rows} x {columns} float32" + (", gradient of boxes1" if differentiated else ""),
        inputs=inputs,
        handgrad=ours,
        peers={**others, **_peers(of_pairs and formula, compiles)},
        # Both tables are read and the matrix is written; then its gradient and they are read, and one gradient written.
        forward_bytes=tables + matrix,
        backward_bytes=tables + matrix + 20 * rows if differentiated else 0,
    )


def pairs_case(n: int, name: str, ours: Measure, formula: Measure | None, compiles: bool = True) -> Case:
    """A mean over so many pairs, beside a formula if anybody has one."""

    def inputs(device: torch.device) -> tuple[Tensor, Tensor]:
        targets = boxes(n, device)
        return predictions(targets).requires_grad_(), targets

    return Case(
        name=f"{n} pairs float32, {name}",
        inputs=inputs,
        handgrad=ours,
        peers=_peers(formula, compiles),
        # The gradient of iou() in float32 is 8e-4 of the largest away from its own in float64, ours 6e-8.
        tolerance=2e-3,
        # Both sets are read, and one gradient is written.
        forward_bytes=40 * n,
        backward_bytes=60 * n,
    )
