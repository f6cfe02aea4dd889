"""What the tests of measures of all pairs of boxes share: the spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from box_losses import boxes, with_grads
from handgrad.testing import Bad, OpSpec, Sample


def tables(*counts: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two tables of so many boxes, behind a batch if there are more than two numbers."""
    *batch, rows, columns = counts
    return boxes(*batch, rows, seed=3, dtype=dtype), boxes(*batch, columns, seed=4, dtype=dtype)


def one_by_one(function: Callable[..., Tensor], first: Tensor, second: Tensor) -> Tensor:
    """The matrix, an element at a time."""
    rows = [[function(a[None], b[None])[0, 0] for b in second] for a in first]
    return torch.stack([torch.stack(row) for row in rows])


def box_matrix_spec(
    function: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    identities: dict[str, Callable[[], None]],
    samples: list[Sample],
    bad: list[Bad] | None = None,
    tables: Callable[..., tuple[Tensor, Tensor]] = tables,
    row: str = "x1, y1, x2, y2",
    way: tuple[float, ...] = (3.0, -7.0, 3.0, -7.0),
    numel_beyond_int32: Callable[[], None] | None = None,
    floor_factors: dict[str, float] | None = None,
    **kwargs: Any,
) -> OpSpec:
    """``tables`` makes boxes, whose numbers are ``row``, and adding ``way`` moves them."""
    name = function.__name__
    boxes1, boxes2 = tables(3, 2)
    numbers = boxes1.shape[-1]

    def a_matrix_is_its_pairs() -> None:
        first, second = tables(7, 5)
        torch.testing.assert_close(function(first, second), one_by_one(function, first, second))

    def the_other_way_round_it_is_transposed() -> None:
        first, second = tables(300, 40)
        matrix, grad1, grad2 = with_grads(function, first, second)
        torch.testing.assert_close(with_grads(function, second, first), (matrix.T, grad2, grad1))

    def moving_both_changes_nothing() -> None:
        first, second = tables(50, 300)
        moved = [table + torch.tensor(way, dtype=table.dtype) for table in (first, second)]
        torch.testing.assert_close(with_grads(function, *moved), with_grads(function, first, second))

    def pairs_beyond_int32() -> None:
        """Of the gradients' matrix of pairs, which is never in memory."""
        first, second = (table[:1].float() for table in tables(1, 1))
        rows, columns = 2**16 + 8, 2**15
        backward = getattr(torch.ops.handgrad, f"_{name}_backward")
        grad = torch.ones(1, 1).expand(rows, columns)
        tables_of_one = first.expand(rows, numbers), second.expand(columns, numbers)
        grads = backward(grad, *tables_of_one, *kwargs.values(), [True, True])
        expected = with_grads(function, first, second, **kwargs)[1:]
        torch.testing.assert_close(grads[0], (columns * expected[0]).expand(rows, numbers), rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(grads[1], (rows * expected[1]).expand(columns, numbers), rtol=1e-5, atol=1e-3)

    return OpSpec(
        name=name,
        operator=f"handgrad::{name}",
        function=function,
        reference=reference,
        module=None,
        samples=samples,
        large=Sample("large", tables(307, 293, dtype=torch.float32), kwargs),
        empty=[
            Sample("no_rows", tables(0, 3), kwargs),
            Sample("no_columns", tables(3, 0), kwargs),
            Sample("nothing", tables(0, 0), kwargs),
            Sample("no_batch", tables(0, 2, 3), kwargs),
        ],
        autocast=torch.float32,
        widens=True,
        channels_last=False,
        # A matrix of a batch has its batch before rows and columns: see test_box_matrices.py.
        rows=("boxes1", "boxes2"),
        shards=[((0, None), 0), ((None, 0), 1)],
        bad=[
            Bad(
                "columns",
                lambda: function(boxes1[:, :3], boxes2[:, :3]),
                RuntimeError,
                rf"boxes1 must have shape \(\.\.\., boxes, {numbers}\), a row for {row}; got \(3, 3\)",
            ),
            Bad(
                "one_box", lambda: function(boxes1[0], boxes2), RuntimeError, rf"boxes1 must have .* got \({numbers},\)"
            ),
            Bad(
                "second",
                lambda: function(boxes1, boxes2[:, :3]),
                RuntimeError,
                rf"boxes2 must have shape \(\.\.\., boxes, {numbers}\).* got \(2, 3\)",
            ),
            Bad(
                "batches",
                lambda: function(boxes1.expand(2, 3, numbers), boxes2.expand(3, 2, numbers)),
                RuntimeError,
                rf"boxes2 must have the batches of boxes1, \(2,\), before its boxes; got \(3, 2, {numbers}\)",
            ),
            *(bad or []),
        ],
        identities={
            "pairs": a_matrix_is_its_pairs,
            "transposed": the_other_way_round_it_is_transposed,
            "moved": moving_both_changes_nothing,
            **identities,
        },
        numel_beyond_int32=numel_beyond_int32 or pairs_beyond_int32,
        # What each block of pairs has summed, and a second kernel that adds it up.
        device_calls={"backward": (2, 3, 0), "double_backward": (2, 3, 0)},
        device_scratch=16 * 1024 * numbers,
        # Each block of 32 rows reads the boxes of its columns again, and leaves what it has summed for the second
        # kernel: from and to the second-level cache. Of larger tables, in blocks of 64, it is 1.10 and 1.29.
        floor_factors=floor_factors or {"forward": 1.15, "backward": 1.47, "double_backward": 1.31},
    )


def eps_of(module: Callable[..., Tensor]) -> Bad:
    first, second = tables(3, 2)
    return Bad(
        "eps",
        lambda: module(first, second, eps=-1.0),
        ValueError,
        r"eps must be a finite number, at least 0; got -1\.0",
    )
