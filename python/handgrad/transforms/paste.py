"""Rectangles of images pasted one over another. Order of layers, edges, derivatives: docs/transforms/paste.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from handgrad._images import check_image
from handgrad._layout import empty_image
from handgrad._warping import checked_fill
from handgrad.arguments import (
    FLOAT_MAX,
    check_device,
    check_int,
    check_integers,
    check_pair,
    check_range,
    check_tensor,
    computed_dtype,
    dtype_name,
)
from handgrad.derivatives import BATCHED, Call, Derivatives
from handgrad.tracing import traceable

_OP = "paste"
_SOURCES = ("image", "second", "third", "fourth")
# As in csrc.
_NUMBERS, _MOST = 8, 32
# Beside numbers in a tensor nobody reads those of all images; of an empty list AOTInductor would make None.
_UNUSED = 0

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def paste(
    image: Tensor,
    opacity: Tensor | Sequence[float] | None = None,
    second: Tensor | None = None,
    third: Tensor | None = None,
    fourth: Tensor | None = None,
    *,
    rectangles: Tensor | Sequence[Sequence[int]],
    size: int | Sequence[int] | None = None,
    fill: float | Sequence[float] | None = 0,
    group: int | None = None,
) -> Tensor:
    """Images made of rectangles of images, in one pass: what erasing, mixup, cutmix and mosaic have in common.

    The lowest rectangle comes first, and each covers those before it. One has eight numbers: top, left, height and
    width in the output; which of the four sources it shows, 0 to 3, or -1 for the fill; which image of the batch, by
    how many images further on, around the end (0 is the own one, -1 the one before); and the row and the column of the
    source that come to its upper left corner. What lies beyond the output or the source is not there, so no number is
    wrong. The K uppermost are blended if ``opacity`` has K numbers: with w a pixel becomes w of the rectangle and 1 - w
    of what is below. With derivatives with respect to the images and the opacities, first and second, and forward mode.

    Args:
        image: (batch, channels, height, width); uint8, float32, float64, bfloat16 or float16, any strides.
        opacity: K numbers for all images, or a tensor (batch, K). None: all rectangles are opaque.
        second, third, fourth: further sources, of the batch, channels and dtype of ``image`` and of any size.
        rectangles: at most 32, (R, 8) for all images, or a tensor of integers, (batch, R, 8) or (R, 8).
        size: of the output, height and width; one number is both. None is the image's.
        fill: what is seen where no rectangle is, a number or one a channel; beside a uint8 image from 0 to 255.
            None is 0.
        group: how many consecutive images are a batch of their own, around whose end images are counted. None: all.

    Returns:
        A batch of images of ``size``, of the type of ``image``, channels_last where it is. Levels are rounded once,
        half to even.

    Raises:
        ValueError: a size, a fill or an opacity out of range.
        TypeError: an argument of another kind.
        RuntimeError: a shape that does not fit.

    Example:
        >>> image = torch.tensor([[[[1, 2, 3]]], [[[4, 5, 6]]]])
        >>> both = [[0, 0, 1, 3, 0, 0, 0, 0], [0, 1, 1, 1, 0, -1, 0, 1]]
        >>> paste(image.byte(), rectangles=both)
        tensor([[[[1, 5, 3]]],
        <BLANKLINE>
        <BLANKLINE>
                [[[4, 2, 6]]]], dtype=torch.uint8)
    """
    check_tensor(_OP, "image", image)
    check_image(_OP, "image", image)
    if image.dim() != 4:
        raise RuntimeError(f"{_OP}: image must be (batch, channels, height, width); got {tuple(image.shape)}")
    for name, source in zip(_SOURCES[1:], (second, third, fourth), strict=True):
        if source is not None:
            check_tensor(_OP, name, source)
            check_device(_OP, name, source, "image", image)
    height, width = image.shape[-2:] if size is None else check_pair(_OP, "size", size, 1)
    if group is not None:
        group = check_int(_OP, "group", group, 1)
    table, shared = _checked_rectangles(rectangles, image)
    weights, shared_weights = _checked_opacity(opacity, image)
    fills = checked_fill(_OP, fill, image)
    return _paste(
        image, second, third, fourth, weights, table, shared, shared_weights, height, width, fills, group or 0
    )


def _checked_rectangles(rectangles: Any, image: Tensor) -> tuple[Tensor | None, list[int]]:
    if not isinstance(rectangles, Tensor):
        rows = isinstance(rectangles, (list, tuple)) and all(isinstance(row, (list, tuple)) for row in rectangles)
        if not rows or any(len(row) != _NUMBERS for row in rectangles) or not 0 < len(rectangles) <= _MOST:
            raise TypeError(
                f"{_OP}: rectangles must be a tensor, or 1 to {_MOST} rows of {_NUMBERS} whole numbers; got "
                f"{rectangles if rows else type(rectangles).__name__}"
            )
        expected = "whole numbers of 63 bits"
        numbers = [number for row in rectangles for number in row]
        return None, [check_int(_OP, "rectangles", number, -(2**62), 2**62, expected) for number in numbers]
    check_integers(_OP, "rectangles", rectangles)
    check_device(_OP, "rectangles", rectangles, "image", image)
    if rectangles.dim() not in (2, 3):
        raise RuntimeError(f"{_OP}: rectangles must be (R, 8) or (batch, R, 8); got {tuple(rectangles.shape)}")
    table = rectangles.expand(image.shape[0], -1, -1) if rectangles.dim() == 2 else rectangles
    return table.long(), [_UNUSED] * _NUMBERS


def _checked_opacity(opacity: Any, image: Tensor) -> tuple[Tensor | None, list[float]]:
    if opacity is None:
        return None, []
    if not isinstance(opacity, Tensor):
        if not isinstance(opacity, (list, tuple)):
            raise TypeError(f"{_OP}: opacity must be a tensor, numbers, or None; got {type(opacity).__name__}")
        for number in opacity:
            check_range(_OP, "opacity", number, -FLOAT_MAX, FLOAT_MAX, "finite numbers")
        return None, [float(number) for number in opacity]
    check_tensor(_OP, "opacity", opacity)
    if not opacity.is_floating_point():
        kind = dtype_name(opacity.dtype)
        raise TypeError(f"{_OP}: opacity must be a tensor of floating-point numbers; got one of {kind}")
    check_device(_OP, "opacity", opacity, "image", image)
    if image.dtype is torch.uint8:
        opacity = opacity.detach()  # whole levels have no slope
    return opacity.double(), [float(_UNUSED)]


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def paste_reference(
    image: Tensor, second: Tensor | None, third: Tensor | None, fourth: Tensor | None, opacity: Tensor | None,
    rectangles: Tensor | None, shared_rectangles: list[int], shared_opacity: list[float], height: int, width: int,
    fill: list[float], group: int,
) -> Tensor:  # fmt: skip
    """Plain PyTorch. To be trusted because it is the definition: one rectangle after the other is gathered from its
    source, for all pixels of the output, and put over what is there."""
    sources, computed = (image, second, third, fourth), computed_dtype(image)
    batch, device = image.shape[0], image.device
    count = len(shared_rectangles) // _NUMBERS if rectangles is None else rectangles.shape[1]
    blended = len(shared_opacity) if opacity is None else opacity.shape[1]
    fills = [torch.full((1, 1, 1, 1), number, dtype=image.dtype, device=device) for number in fill or [0.0]]
    around = torch.cat(fills, 1).to(computed)
    value = around.expand(batch, image.shape[1], height, width)
    rows = torch.arange(height, device=device).reshape(1, -1, 1)
    columns = torch.arange(width, device=device).reshape(1, 1, -1)
    own = torch.arange(batch, device=device)
    first = own - own % group if group else own * 0
    size = torch.where(first + group < batch, own * 0 + group, batch - first) if group else own * 0 + batch
    for r in range(count):
        if rectangles is None:
            shared = shared_rectangles[r * _NUMBERS : (r + 1) * _NUMBERS]
            of = [torch.full((1,), number, dtype=torch.int64, device=device) for number in shared]
        else:
            of = list(rectangles[:, r].unbind(1))
        top, left, tall, wide, source, shift, row, column = of
        y, x = rows - top[:, None, None], columns - left[:, None, None]
        inside = (y >= 0) & (y < tall[:, None, None]) & (x >= 0) & (x < wide[:, None, None])
        y, x = y + row[:, None, None], x + column[:, None, None]
        partner = first + (own - first + shift) % size
        # Of no source it is the fill.
        pixels, there = around.expand_as(value), inside & ((source < 0) | (source > 3))[:, None, None]
        for k, tensor in enumerate(sources):
            # Of numbers it is known which source they mean; a graph that is exported holds no other.
            if tensor is None or (rectangles is None and k != shared_rectangles[r * _NUMBERS + 4]):
                continue
            if tensor.shape[2] * tensor.shape[3] == 0:
                value = value + tensor.sum().to(computed)  # of nothing, whose gradient is as large
                continue
            bounds = (y >= 0) & (y < tensor.shape[2]) & (x >= 0) & (x < tensor.shape[3])
            covered = inside & bounds & (source == k)[:, None, None]
            index = (partner[:, None, None] * tensor.shape[2] + y) * tensor.shape[3] + x
            flat = tensor.transpose(0, 1).flatten(1).to(computed)
            found = flat.index_select(1, torch.where(covered, index, 0).flatten())
            found = found.reshape(image.shape[1], batch, height, width).transpose(0, 1)
            pixels, there = torch.where(covered[:, None], found, pixels), there | covered
        if r >= count - blended:
            k = r - count + blended
            if opacity is None:
                pixels = value * (1.0 - shared_opacity[k]) + pixels * shared_opacity[k]
            else:
                weight = opacity[:, k, None, None, None]
                pixels = value * (1.0 - weight).to(computed) + pixels * weight.to(computed)
        value = torch.where(there[:, None], pixels, value)
    if image.dtype is torch.uint8:
        return torch.where(torch.isnan(value), 0, value).round().clamp(0, 255).to(image.dtype)
    return value.to(image.dtype)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(
    image: Tensor, second: Tensor | None, third: Tensor | None, fourth: Tensor | None, opacity: Tensor | None,
    rectangles: Tensor | None, shared_rectangles: list[int], shared_opacity: list[float], height: int, width: int,
    fill: list[float], group: int,
) -> Tensor:  # fmt: skip
    if image.dim() != 4:
        raise RuntimeError(
            f"{_OP}: image must have 4 dimensions (batch, channels, height, width); got {tuple(image.shape)}"
        )
    for name, source in zip(_SOURCES[1:], (second, third, fourth), strict=True):
        if source is not None:
            _check_batch(name, source, image, source.dim() == 4)
            torch._check(
                source.shape[1] == image.shape[1],
                lambda name=name: f"{_OP}: {name} must have the batch and the channels of image",  # type: ignore[misc]
            )
    if opacity is not None:
        _check_batch("opacity", opacity, image, opacity.dim() == 2)
    if rectangles is not None:
        _check_batch("rectangles", rectangles, image, rectangles.dim() == 3)
    return empty_image(image, (image.shape[0], image.shape[1], height, width), image)


def _check_batch(name: str, tensor: Tensor, image: Tensor, rank: bool) -> None:
    torch._check(
        rank and tensor.shape[0] == image.shape[0],
        lambda: f"{_OP}: {name} must have the batch of image; got {tuple(tensor.shape)} beside {tuple(image.shape)}",
    )


def _gradient_like(tensor: Tensor) -> Tensor:
    return empty_image(tensor, tensor.shape, tensor) if tensor.dim() == 4 else tensor.new_empty(tensor.shape)


# ---- autograd: images of a batch see each other, under vmap and in DTensors ------------------------------------------


class _Paste(Derivatives):
    def batched(self, call: Call) -> list[Tensor]:
        """What was a batch is a group of a larger one."""
        group = call.others["group"]
        size = call.tensors["image"].shape[1]
        # A last group that is shorter than the others would be no longer the last.
        if group and size % group:
            return self._one_by_one(call)
        return super().batched(replace(call, others={**call.others, "group": group or max(1, size)}))


def _splits(*, fill: list[float], group: int, **others: Any) -> list[dict[str, int | None]]:
    """Along channels, which do not see each other; along the batch where images do not."""
    names = (*_SOURCES, "opacity", "rectangles", "output")
    splits: list[dict[str, int | None]] = []
    if group == 1:
        splits.append(dict.fromkeys(names, 0))
    if len(fill) < 2:
        splits.append({**dict.fromkeys(names, 1), "opacity": None, "rectangles": None})
    return splits


# ---- registration ----------------------------------------------------------------------------------------------------

_paste = _Paste(
    "handgrad::paste",
    reference=paste_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=_gradient_like,
    splits=_splits,
)
