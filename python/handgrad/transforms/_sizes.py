"""What torchvision calls a way of interpolation, and what size it makes of an image."""

from __future__ import annotations

from typing import Any


def interpolation_name(mode: Any) -> str | None:
    """Of torchvision's or of one of Pillow's numbers; None for a number that is none of these."""
    if isinstance(mode, int) and not isinstance(mode, bool):
        return {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}.get(mode)
    return getattr(mode, "value", mode)


def resized_size(size: Any, max_size: int | None, height: int, width: int) -> tuple[int, int] | None:
    """What torchvision's ``Resize`` makes of an image of so many pixels; None where it raises an error."""
    size = [size] if isinstance(size, int) else size
    if size is not None and len(size) != 1:
        return (size[0], size[1]) if max_size is None and len(size) == 2 else None
    short, long = min(height, width), max(height, width)
    if size is None:
        if max_size is None:
            return None
        new_short, new_long = int(max_size * short / long), max_size
    else:
        new_short, new_long = size[0], int(size[0] * long / short)
        if max_size is not None:
            if max_size <= size[0]:
                return None
            if new_long > max_size:
                new_short, new_long = int(max_size * new_short / new_long), max_size
    return (new_long, new_short) if width <= height else (new_short, new_long)
