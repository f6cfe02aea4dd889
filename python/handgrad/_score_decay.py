"""Scores that decay by overlaps with items of higher score: what the public functions of such ops check, their
references, and the sizes of their results."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from handgrad._boxes import decreasing_order
from handgrad.arguments import FLOAT_MAX, check_choice, check_range, computed_dtype
from handgrad.registration import dynamic_size

_KERNELS = ("linear", "gaussian")


def is_gaussian(op: str, kernel: str, sigma: float) -> bool:
    check_choice(op, "kernel", kernel, _KERNELS)
    check_range(op, "sigma", sigma, sys.float_info.min, FLOAT_MAX, "a number above 0")
    return kernel == "gaussian"


def decayed_scores(
    overlaps: Callable[[Tensor], Tensor],
    scores: Tensor,
    classes: Tensor | None,
    limits: tuple[float | None, float | None],
    counts: tuple[int | None, int | None],
    sigma: float,
    gaussian: bool,
) -> tuple[Tensor, Tensor]:
    """The indices of items and their decayed scores, in decreasing order of these, in plain PyTorch. To be trusted
    because it is the definition, with the matrices of all pairs.

    ``overlaps`` says of some items, given by index, how much each overlaps each. ``limits`` are the lowest score
    before, and the lowest after; ``counts`` is how many are looked at, and how many returned."""
    order = _first(decreasing_order(scores), counts[0])
    before = scores.index_select(0, order).to(computed_dtype(scores))
    numbers = torch.arange(order.shape[0], device=scores.device)
    lowers = (numbers[:, None] < numbers) & ~before.isnan() & ~before.isnan()[:, None]
    if classes is not None:
        classes = classes.index_select(0, order)
        lowers = lowers & (classes[:, None] == classes)
    # Row j, column i: of what stands before.
    iou = torch.where(lowers, overlaps(order), 0.0)
    # A row more, so that there is one of nothing too.
    cover = torch.cat([iou, iou.new_zeros(1, order.shape[0])]).amax(0)[:, None]
    if gaussian:
        exponent = cover * cover - iou * iou
        parts = torch.where(exponent < 0, torch.exp(sigma * exponent), 1.0)
    else:
        left = 1 - cover
        covered = left <= 0
        parts = torch.where(covered, 1.0, (1 - iou) / torch.where(covered, 1.0, left))
    parts = torch.where(iou > 0, parts, 1.0)
    after = before * torch.cat([parts, parts.new_ones(1, order.shape[0])]).amin(0)
    by_decayed = decreasing_order(after)
    indices, final_scores = order.index_select(0, by_decayed), after.index_select(0, by_decayed)
    if limits == (None, None):
        return _first(indices, counts[1]), _first(final_scores, counts[1]).to(scores.dtype)
    before = before.index_select(0, by_decayed)
    lowest, lowest_after = (-torch.inf if limit is None else limit for limit in limits)
    kept = (before >= lowest) & (before >= lowest_after) & (final_scores >= lowest_after)
    return _first(indices[kept], counts[1]), _first(final_scores[kept], counts[1]).to(scores.dtype)


def _first(items: Tensor, most: int | None) -> Tensor:
    return items if most is None else items[: torch.sym_min(items.shape[0], most)]


def result_size(
    count: Any,
    limits: tuple[float | None, float | None],
    counts: tuple[int | None, int | None] = (None, None),
) -> Any:
    """For fake kernels: how many items are returned. Without a limit all are."""
    for most in counts:
        count = count if most is None else torch.sym_min(count, most)
    return count if limits == (None, None) else dynamic_size(count)
