"""Chains of operations on images, as functions take them: names for all images, or a table with a row for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from handgrad.arguments import check_device, check_integers

#: The most steps of a chain, as in csrc.
MOST_STEPS = 8
#: Beside a table of operations nobody reads those of all images; of an empty list AOTInductor would make None.
UNUSED = [0]


def checked_operations(
    op: str, operations: Any, known: Mapping[str, int], images: Tensor
) -> tuple[Tensor | None, list[int]]:
    """A table of operations, or those of all images, by their numbers."""
    if isinstance(operations, Tensor):
        check_integers(op, "operations", operations, "names, or a tensor of integers, as int64")
        check_device(op, "operations", operations, "image", images)
        if operations.dim() != 2:
            raise RuntimeError(f"{op}: operations must be (batch, steps); got {tuple(operations.shape)}")
        return operations.long(), []
    if isinstance(operations, str) or not isinstance(operations, (list, tuple)):
        kind = type(operations).__name__
        raise TypeError(f"{op}: operations must be a list of names, or a tensor of integers; got {kind}")
    if len(operations) > MOST_STEPS:
        raise ValueError(f"{op}: operations must be at most {MOST_STEPS}; got {len(operations)}")
    for name in operations:
        if not isinstance(name, str) or name not in known:
            names = ", ".join(map(repr, known))
            raise ValueError(f"{op}: operations must be of {names}; got {name!r}")
    return None, [known[name] for name in operations]
