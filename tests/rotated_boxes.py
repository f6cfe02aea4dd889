"""What the tests of ops on rotated boxes share: boxes, pairs of them that rounding tells apart from what they are, and
areas by other ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from box_losses import boxes as straight_boxes
from box_losses import with_grads
from handgrad.testing import reseeded


def boxes(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Boxes of some tens of pixels in an image of a hundred, at any angle: of two sets most pairs overlap."""
    corners = straight_boxes(*shape, seed=seed)
    low, high = corners.split(2, -1)
    angle = 720 * torch.rand(*shape, 1, dtype=torch.float64, generator=reseeded(seed + 100)) - 360
    return torch.cat([(low + high) / 2, high - low, angle], -1).to(dtype)


def pairs(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return boxes(*shape, seed=len(shape), dtype=dtype), boxes(*shape, seed=10 + len(shape), dtype=dtype)


def tables(*counts: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two tables of so many boxes, behind a batch if there are more than two numbers."""
    *batch, rows, columns = counts
    return boxes(*batch, rows, seed=3, dtype=dtype), boxes(*batch, columns, seed=4, dtype=dtype)


def turned(corners: Tensor, degrees: float = 0.0) -> Tensor:
    """Axis-parallel boxes as rotated ones, turned around the origin."""
    low, high = corners.split(2, -1)
    (x, y), angle = ((low + high) / 2).unbind(-1), torch.tensor(degrees, dtype=corners.dtype)
    cosine, sine = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
    centre = torch.stack([cosine * x + sine * y, cosine * y - sine * x], -1)
    return torch.cat([centre, high - low, angle.expand(*low.shape[:-1], 1)], -1)


# A box, and another in each relation to it that a derivative may stumble over.
RELATIONS = {
    "identical": ((20.0, 35, 20, 30, 30), (20.0, 35, 20, 30, 30)),
    "identical_by_a_quarter": ((20.0, 35, 20, 30, 30), (20.0, 35, 30, 20, 120)),
    "identical_by_a_half": ((20.0, 35, 20, 30, 30), (20.0, 35, 20, 30, -150)),
    "turned_by_almost_nothing": ((20.0, 35, 20, 30, 30), (20.0, 35, 20, 30, 30 + 1e-7)),
    "moved_by_almost_nothing": ((20.0, 35, 20, 30, 30), (20.0 + 1e-9, 35, 20, 30, 30)),
    "nested": ((20.0, 35, 20, 30, 30), (21.0, 34, 5, 6, 70)),
    "nested_of_one_angle": ((20.0, 35, 20, 30, 30), (20.0, 35, 10, 15, 30)),
    "nested_with_a_shared_edge": ((20.0, 35, 20, 30, 0), (15.0, 35, 10, 15, 0)),
    "corner_on_an_edge": ((0.0, 0, 2, 2, 0), (0.0, 1, 2**0.5, 2**0.5, 45)),
    "corners_on_corners": ((0.0, 0, 2, 2, 0), (0.0, 0, 2, 2, 45)),
    "touching_edges": ((0.0, 0, 2, 2, 0), (2.0, 0, 2, 2, 90)),
    "touching_corners": ((0.0, 0, 2, 2, 0), (2.0, 2, 2, 2, 180)),
    "touching_by_a_corner": ((0.0, 0, 2, 2, 0), (1.0 + 2**0.5, 0, 2, 2, 45)),
    "a_cross": ((0.0, 0, 10, 2, 20), (0.0, 0, 10, 2, 110)),
    "far_apart": ((0.0, 0, 10, 2, 20), (1e4, 2e4, 10, 2, 110)),
}
# With boxes that have no inside.
DEGENERATE = {
    "a_point": ((10.0, 20, 0, 0, 0), (10.0, 20, 30, 50, 30)),
    "a_point_outside": ((100.0, 20, 0, 0, 10), (10.0, 20, 30, 50, 30)),
    "the_same_point": ((10.0, 20, 0, 0, 0), (10.0, 20, 0, 0, 0)),
    "two_points": ((10.0, 20, 0, 0, 0), (0.0, 0, 0, 0, 30)),
    "a_line_inside": ((10.0, 20, 0, 10, 0), (10.0, 20, 30, 50, 30)),
    "a_line_through": ((10.0, 20, 200, 0, 50), (10.0, 20, 30, 50, 30)),
    "a_line_along_an_edge": ((10.0, 20, 0, 10, 0), (20.0, 20, 20, 50, 0)),
    "the_same_line": ((10.0, 20, 0, 10, 40), (10.0, 20, 0, 10, 40)),
    "crossing_lines": ((10.0, 20, 0, 10, 40), (10.0, 20, 0, 10, 70)),
    "against_a_point": ((10.0, 20, 30, 50, 30), (10.0, 20, 0, 0, 0)),
    "negative_extents": ((10.0, 20, -30, -50, 30), (10.0, 20, 30, 50, 30)),
}


def related(relations: dict[str, Any], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    first, second = (torch.tensor([pair[side] for pair in relations.values()], dtype=dtype) for side in (0, 1))
    return first, second


# ---- pairs that implementations are wrong for ------------------------------------------------------------------------


def adversarial(count: int, dtype: torch.dtype = torch.float64) -> dict[str, tuple[Tensor, Tensor]]:
    """So many pairs of each kind; what is to be exact of them is so after they are rounded to ``dtype``."""
    generator = reseeded(7)
    first = boxes(count, seed=20)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    def choice(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)[torch.randint(len(values), (count,), generator=generator)]

    def changed(base: Tensor, **columns: Tensor) -> Tensor:
        names = ("x", "y", "width", "height", "angle")
        return torch.stack([columns.get(name, base[:, k]) for k, name in enumerate(names)], 1)

    near = first + (2 * random(count, 5) - 1) * 10 ** (-1 - 14 * random(count, 1))
    tiny = changed(first, angle=first[:, 4] + choice(1e-7, -1e-7, 1e-9, -1e-12, 1e-14, 1e-5))
    nested = changed(first, width=first[:, 2] * random(count), height=first[:, 3] * random(count))
    whole = (first / 8).round() * 8
    straight = changed(whole, width=whole[:, 2] + 8, height=whole[:, 3] + 8, angle=choice(-270, -90, 0, 90, 180, 720))
    moved = changed(straight.roll(1, 0), x=straight[:, 0] + choice(-16, -8, 0, 8, 16), y=straight[:, 1])
    thin = changed(first, width=choice(1e-3, 1e-2, 500), height=choice(1e-3, 1e-2, 500))
    along = changed(thin, x=thin[:, 0] + choice(0, 1e-3), angle=thin[:, 4] + choice(0, 1e-7, 1e-4, 90, 180))
    far = torch.tensor([1e4, -1e4, 0, 0, 0], dtype=torch.float64)
    quarters = changed(first, width=first[:, 3], height=first[:, 2], angle=first[:, 4].round() + 90)
    found = {
        "near": (first, near),
        "tiny_angles": (first, tiny),
        "nested": (first, nested),
        "shared_edges": (straight, moved),
        "thin": (thin, along),
        "far_centres": (first + far, boxes(count, seed=21) + far),
        "quarters": (changed(first, angle=first[:, 4].round()), quarters),
        "large_angles": (changed(first, angle=first[:, 4] + 360 * 10**6), near),
    }
    return {name: (a.to(dtype), b.to(dtype)) for name, (a, b) in found.items()}


# ---- areas by other ways ---------------------------------------------------------------------------------------------


def corners_of(rows: Tensor, centre: Any) -> Any:
    """[n, 4, 2] in numbers of 80 bits, as seen from ``centre``."""
    x, y, width, height, angle = (column.astype(np.longdouble) for column in rows.double().numpy().T)
    pi = np.longdouble("3.14159265358979323846264338327950288")
    radians = np.fmod(angle, 360) * pi / 180
    cosine, sine = np.cos(radians), np.sin(radians)
    signs = np.array([[1, -1, -1, 1], [1, 1, -1, -1]])
    u, v = width[:, None] / 2 * signs[0], height[:, None] / 2 * signs[1]
    across, down = (x - centre[:, 0])[:, None], (y - centre[:, 1])[:, None]
    return np.stack(
        [across + cosine[:, None] * u + sine[:, None] * v, down - sine[:, None] * u + cosine[:, None] * v], 2
    )


def _both(first: Tensor, second: Tensor) -> tuple[Any, Any]:
    centre = first[:, :2].double().numpy().astype(np.longdouble)
    return corners_of(first, centre), corners_of(second, centre)


def _area(points: Any) -> Any:
    after = np.roll(points, -1, 1)
    return abs((points[..., 0] * after[..., 1] - points[..., 1] * after[..., 0]).sum(1)) / 2


def clipped_iou(first: Tensor, second: Tensor) -> Tensor:
    """By clipping one box by each edge of the other, one after the other, in 80 bits: Sutherland and Hodgman's way,
    which no near-coincidence misleads. A polygon has twice the points after each edge, some of them more than once."""
    points, edges = _both(first, second)
    whole = _area(points), _area(edges)
    turn = np.sign(
        (edges[:, 1, 0] - edges[:, 0, 0]) * (edges[:, 2, 1] - edges[:, 1, 1])
        - (edges[:, 1, 1] - edges[:, 0, 1]) * (edges[:, 2, 0] - edges[:, 1, 0])
    )
    empty = np.zeros(len(points), dtype=bool)
    for k in range(4):
        start, end = edges[:, k], edges[:, (k + 1) % 4]
        way = end - start
        normal = np.stack([-way[:, 1], way[:, 0]], 1) * (turn / np.hypot(*way.T))[:, None]
        depth = ((points - start[:, None]) * normal[:, None]).sum(2)
        after, after_depth = np.roll(points, -1, 1), np.roll(depth, -1, 1)
        crosses = (depth < 0) != (after_depth < 0)
        part = np.where(crosses, depth / np.where(crosses, depth - after_depth, 1), 0)[..., None]
        crossing = points + part * (after - points)
        inside = depth >= 0
        empty |= ~inside.any(1)
        new = np.stack([points, np.where(crosses[..., None], crossing, points)], 2).reshape(len(points), -1, 2)
        there = np.stack([inside, inside | crosses], 2).reshape(len(points), -1)
        # What is outside becomes the last point that is not, from the end around.
        last = np.take_along_axis(new, (there.shape[1] - 1 - there[:, ::-1].argmax(1))[:, None, None], 1)[:, 0]
        for index in range(there.shape[1]):
            last = np.where(there[:, index, None], new[:, index], last)
            new[:, index] = last
        points = new
    shared = np.where(empty, 0, _area(points))
    return torch.from_numpy((shared / (whole[0] + whole[1] - shared)).astype(np.float64))


def shapely_areas(shapely: Any, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the intersections, the unions and the convex hulls."""
    a, b = (shapely.polygons(points.astype(np.float64)) for points in _both(first, second))
    shared = shapely.area(shapely.intersection(a, b))
    united = shapely.area(a) + shapely.area(b) - shared
    hull = shapely.area(shapely.convex_hull(shapely.multipolygons(np.stack([a, b], 1))))
    return torch.from_numpy(shared), torch.from_numpy(united), torch.from_numpy(hull)


def rows_beyond_int32(function: Callable[..., Tensor]) -> None:
    """Rows so far apart that no index of 32 bits reaches them; memory between them is never touched."""
    step = 2**30 + 7
    rows = torch.empty(2 * step + 5, dtype=torch.bfloat16).as_strided((3, 5), (step, 1))
    other = boxes(3, seed=1, dtype=torch.bfloat16)
    rows.copy_(boxes(3, dtype=torch.bfloat16))
    torch.testing.assert_close(function(rows, other), function(rows.clone(), other))
    leaf = rows.detach().requires_grad_()
    (grad,) = torch.autograd.grad(function(leaf, other).sum(), leaf)
    near = rows.clone().requires_grad_()
    torch.testing.assert_close(grad, torch.autograd.grad(function(near, other).sum(), near)[0])


# ---- what each op on them is asked -----------------------------------------------------------------------------------


def spoils_a_row_and_a_column_alone(function: Callable[..., Tensor], column: int, value: float) -> None:
    """A box of either table that is not finite, in a matrix of all pairs."""
    first, second = tables(40, 300, dtype=torch.float32)
    expected = function(first, second)
    first[7, column] = value
    second[299, column] = value
    found, grad1, grad2 = with_grads(function, first, second)
    bad = torch.zeros_like(found, dtype=torch.bool)
    bad[7] = bad[:, 299] = True
    assert torch.equal(found.isnan(), bad)
    assert torch.equal(found[~bad], expected[~bad])
    # Each box has met a bad one.
    assert grad1.isnan().any(1).all()
    assert grad2.isnan().any(1).all()


def spoils_a_pair_alone(function: Callable[..., Tensor], value: float) -> None:
    """A box that is not finite, in a row of pairs."""
    first, second = pairs(100, dtype=torch.float32)
    _, *expected = with_grads(function, first, second)
    first[7, 4] = value
    second[50, 2] = value
    loss, *grads = with_grads(function, first, second)
    assert loss.isnan().nonzero().flatten().tolist() == [7, 50]
    good = ~loss.isnan()
    torch.testing.assert_close([grad[good] for grad in grads], [grad[good] for grad in expected])
