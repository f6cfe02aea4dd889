"""Checks of what transforms of images are given: boxes and flips of a batch, and what an image is normalised with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad.arguments import FLOAT_MAX, check_bool, check_range, check_tensor


def checked_boxes(op: str, boxes: Any, images: Tensor) -> Tensor:
    check_tensor(op, "boxes", boxes)
    if boxes.is_floating_point() or boxes.is_complex() or boxes.dtype is torch.bool:
        kind = str(boxes.dtype).removeprefix("torch.")
        raise TypeError(f"{op}: boxes must be a tensor of integers, as int64; got one of {kind}")
    if boxes.device != images.device:
        raise RuntimeError(f"{op}: boxes must be on the device of images, {images.device}; got {boxes.device}")
    return boxes.long()


def checked_flips(op: str, name: str, flip: Any, boxes: Tensor) -> tuple[Tensor | None, int]:
    """Those of each image, or None and that of all."""
    if not isinstance(flip, Tensor):
        return None, int(check_bool(op, name, flip))
    check_tensor(op, name, flip)
    if flip.dtype is not torch.bool or flip.dim() != 1:
        kind = str(flip.dtype).removeprefix("torch.")
        raise TypeError(f"{op}: {name} must be True, False or (batch,) booleans; got {tuple(flip.shape)} of {kind}")
    if flip.device != boxes.device:
        raise RuntimeError(f"{op}: {name} must be on the device of boxes, {boxes.device}; got {flip.device}")
    return flip, 0


def can_normalise(mean: Sequence[float], std: Sequence[float]) -> bool:
    """Whether the kernel takes these numbers, which :func:`checked_statistics` would otherwise refuse."""
    return all(abs(value) < 1e38 for value in (*mean, *std)) and min(std, default=0) >= 1e-37


def checked_statistics(op: str, mean: Any, std: Any) -> tuple[list[float], list[float]]:
    if mean is None and std is None:
        return [], []
    checked = []
    for name, values, low in (("mean", mean, -FLOAT_MAX), ("std", std, 1e-37)):
        if not isinstance(values, (list, tuple)) or not values:
            raise TypeError(
                f"{op}: {name} must be a list of one number a channel, or of one for all, and mean and std both be "
                f"given; got {values!r}"
            )
        for value in values:
            what = "numbers that are finite" if name == "mean" else "finite numbers greater than 0"
            check_range(op, name, value, low, FLOAT_MAX, what)
        checked.append([float(value) for value in values])
    return checked[0], checked[1]
