"""What the tests of box losses share: boxes, pairs of them in every relation, the spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad.reductions import reduction_code
from handgrad.testing import Bad, OpSpec, Sample, reseeded


def boxes(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Boxes of some tens of pixels in an image of a hundred: of two sets most pairs overlap, some do not."""
    numbers = torch.rand(*shape, 4, dtype=torch.float64, generator=reseeded(seed))
    corner, size = 60 * numbers[..., :2], 5 + 40 * numbers[..., 2:]
    return torch.cat([corner, corner + size], -1).to(dtype)


def pairs(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return boxes(*shape, seed=len(shape), dtype=dtype), boxes(*shape, seed=10 + len(shape), dtype=dtype)


# A box, and another in each relation to it that a definition treats apart.
RELATIONS = {
    "identical": ((10.0, 20, 30, 50), (10.0, 20, 30, 50)),
    "one_edge_shared": ((10.0, 20, 30, 50), (10.0, 25, 40, 60)),
    "nested": ((10.0, 20, 30, 50), (12.0, 25, 20, 40)),
    "nested_at_a_corner": ((10.0, 20, 30, 50), (10.0, 20, 20, 40)),
    "same_centre": ((10.0, 20, 30, 50), (15.0, 30, 25, 40)),
    "touching_edges": ((10.0, 20, 30, 50), (30.0, 25, 40, 45)),
    "touching_corners": ((10.0, 20, 30, 50), (30.0, 50, 40, 70)),
    "beside_each_other": ((10.0, 20, 30, 50), (35.0, 20, 55, 50)),
    "far_apart": ((10.0, 20, 30, 50), (1e4, 2e4, 1.1e4, 2.1e4)),
}
# With boxes that have no inside.
DEGENERATE = {
    "a_point": ((10.0, 20, 10, 20), (10.0, 20, 30, 50)),
    "a_point_inside": ((20.0, 30, 20, 30), (10.0, 20, 30, 50)),
    "a_point_outside": ((0.0, 0, 0, 0), (10.0, 20, 30, 50)),
    "the_same_point": ((10.0, 20, 10, 20), (10.0, 20, 10, 20)),
    "two_points": ((0.0, 0, 0, 0), (10.0, 20, 10, 20)),
    "a_line_inside": ((20.0, 30, 20, 40), (10.0, 20, 30, 50)),
    "the_same_line": ((10.0, 20, 10, 50), (10.0, 20, 10, 50)),
    "two_lines": ((10.0, 20, 30, 20), (10.0, 20, 40, 20)),
    "against_a_point": ((10.0, 20, 30, 50), (10.0, 20, 10, 20)),
    "swapped_corners": ((30.0, 50, 10, 20), (10.0, 20, 30, 50)),
}


def related(relations: dict[str, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    first, second = (torch.tensor([pair[side] for pair in relations.values()], dtype=dtype) for side in (0, 1))
    return first, second


def with_grads(function: Callable[..., Tensor], *tensors: Tensor, **kwargs: Any) -> tuple[Tensor, ...]:
    """The losses, and the gradients of their sum."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    losses = function(*leaves, **kwargs)
    return losses.detach(), *torch.autograd.grad(losses.sum(), leaves)


def reference_of(op: str, reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The public signature over an op's reference."""

    def public(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
        losses = reference(boxes1, boxes2, eps)
        if reduction_code(op, reduction) == 0:
            return losses
        return losses.sum() / max(1, losses.numel()) if reduction == "mean" else losses.sum()

    return public


def box_loss_spec(
    function: Callable[..., Tensor],
    module: Callable[..., torch.nn.Module],
    reference: Callable[..., Tensor],
    identities: dict[str, Callable[[], None]],
    *,
    pairs: Callable[..., tuple[Tensor, Tensor]] = pairs,
    row: str = "x1, y1, x2, y2",
    way: tuple[float, ...] = (3.0, -7.0, 3.0, -7.0),
    public_reference: Callable[..., Tensor] | None = None,
    numel_beyond_int32: Callable[[], None] | None = None,
    more_bad: Sequence[Bad] = (),
    least_eps: str = "at least 0",
    **fields: Any,
) -> OpSpec:
    """``pairs`` makes boxes, whose numbers are ``row``, and adding ``way`` moves them. ``least_eps`` says how large eps
    must be."""
    name = function.__name__
    boxes1, boxes2 = pairs(3)
    numbers = boxes1.shape[-1]

    def sum_is_the_sum_of_all() -> None:
        first, second = pairs(37, 41)
        losses = function(first, second)
        torch.testing.assert_close(function(first, second, reduction="sum"), losses.sum())
        torch.testing.assert_close(function(first, second, reduction="mean"), losses.mean())

    def both_sides_are_alike() -> None:
        first, second = pairs(50)
        loss, grad1, grad2 = with_grads(function, first, second)
        torch.testing.assert_close(with_grads(function, second, first), (loss, grad2, grad1))

    def moving_both_changes_nothing() -> None:
        first, second = pairs(50)
        moved = [each + torch.tensor(way, dtype=each.dtype) for each in (first, second)]
        torch.testing.assert_close(with_grads(function, *moved), with_grads(function, first, second))

    def pairs_beyond_int32() -> None:
        first, second = (tensor[:1] for tensor in pairs(1, dtype=torch.float32))
        n = 2**29 + 64
        many = function(first.expand(n, numbers), second.expand(n, numbers), reduction="mean")
        torch.testing.assert_close(many, function(first, second)[0])

    return OpSpec(
        name=name,
        operator=f"handgrad::{name}",
        function=function,
        reference=public_reference or reference_of(name, reference),
        module=module,
        **{
            "samples": [
                Sample("none", pairs(4), {"reduction": "none", "eps": 1e-7}),
                Sample("mean", pairs(3, 2), {"reduction": "mean", "eps": 0.5}),
                Sample("sum", pairs(5), {"reduction": "sum", "eps": 1e-3}),
            ],
            **fields,
        },
        large=Sample("large", pairs(40009, dtype=torch.float32), {"reduction": "sum"}),
        empty=[
            Sample("no_pairs_none", pairs(0), {"reduction": "none"}),
            Sample("no_pairs_sum", pairs(3, 0), {"reduction": "sum"}),
            Sample("no_pairs_mean", pairs(0), {"reduction": "mean"}),
        ],
        autocast=torch.float32,
        widens=True,
        channels_last=False,
        bad=[
            Bad("eps", lambda: module(eps=-1.0), ValueError, rf"eps must be a finite number, {least_eps}; got -1\.0"),
            Bad("reduction", lambda: module(reduction="avg"), ValueError, "reduction must be .* got 'avg'"),
            Bad(
                "columns",
                lambda: function(boxes1[:, :3], boxes2[:, :3]),
                RuntimeError,
                rf"boxes1 must have shape \(\.\.\., {numbers}\), a row for {row}; got \(3, 3\)",
            ),
            Bad("number", lambda: function(boxes1[0, 0], boxes2[0, 0]), RuntimeError, r"boxes1 must have .* got \(\)"),
            Bad(
                "shape",
                lambda: function(boxes1, boxes2[:2]),
                RuntimeError,
                rf"boxes2 must have the shape of boxes1, \(3, {numbers}\); got \(2, {numbers}\)",
            ),
            Bad(
                "broadcast",
                lambda: function(boxes1, boxes2[0]),
                RuntimeError,
                rf"boxes2 must have the shape of boxes1, \(3, {numbers}\); got \({numbers},\)",
            ),
            *more_bad,
        ],
        identities={
            "sum": sum_is_the_sum_of_all,
            "sides": both_sides_are_alike,
            "moved": moving_both_changes_nothing,
            **identities,
        },
        numel_beyond_int32=numel_beyond_int32 or pairs_beyond_int32,
    )
