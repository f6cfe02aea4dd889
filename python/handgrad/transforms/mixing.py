"""Erasing, mixup, cutmix and mosaic of images: rectangles that :func:`handgrad.transforms.paste` puts one over another
(docs/transforms/paste.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad._images import check_image_dtype
from handgrad.arguments import FLOAT_MAX, check_device, check_int, check_pair, check_range, check_tensor, dtype_name
from handgrad.transforms.paste import paste

#: More than an image has rows, columns or levels.
_ALL = 2**24
_OWN = [0, 0, _ALL, _ALL, 0, 0, 0, 0]

# ---- functions -------------------------------------------------------------------------------------------------------


def erase(
    inpt: Tensor, i: int, j: int, h: int, w: int, v: Tensor | float | Sequence[float], inplace: bool = False
) -> Tensor:
    """torchvision's ``erase``: a rectangle of an image is replaced.

    Args:
        inpt: (..., channels, height, width), uint8 or floating-point.
        i, j: the upper left corner: row and column.
        h, w: height and width.
        v: what is there then: a tensor that can be broadcast to (channels, h, w), converted as torch does; a number, or
            one a channel.
        inplace: whether ``inpt`` itself is changed, by torch, and returned.

    Returns:
        An image like ``inpt``, with derivatives with respect to it and to ``v``: in one pass, or, if it is small and on
        a CPU, by torch, which is as fast there.

    Example:
        >>> erase(torch.ones(1, 2, 3), 0, 1, 1, 2, 0.0)
        tensor([[[1., 0., 0.],
                 [1., 1., 1.]]])
    """
    op = "erase"
    check_tensor(op, "inpt", inpt)
    check_image_dtype(op, "inpt", inpt)
    if inpt.dim() < 3:
        raise RuntimeError(f"{op}: inpt must be (..., channels, height, width); got {tuple(inpt.shape)}")
    box = [check_int(op, name, value, 0, _ALL) for name, value in (("i", i), ("j", j), ("h", h), ("w", w))]
    numbers = None if is_small(inpt) else _numbers_of(op, inpt, v)
    value = _erased_value(op, inpt, v, box) if numbers is None or inplace else None
    if inplace:
        assert value is not None
        inpt[..., box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = value
        return inpt
    if inpt.numel() == 0:
        return inpt.clone()
    if value is not None and is_small(inpt):
        output = inpt.clone()
        output[..., box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = value
        return output
    images = inpt.flatten(0, -4) if inpt.dim() > 4 else inpt if inpt.dim() == 4 else inpt.unsqueeze(0)
    if value is None:
        assert numbers is not None
        output = paste(images, rectangles=[_OWN, [*box, -1, 0, 0, 0]], fill=numbers, group=1)
    else:
        second = value.to(images.dtype).expand(*inpt.shape[:-2], *box[2:])
        second = second.reshape(images.shape[0], images.shape[1], *box[2:])
        output = paste(images, None, second, rectangles=[_OWN, [*box, 1, 0, 0, 0]], group=1)
    if inpt.dim() > 4:
        return output.unflatten(0, inpt.shape[:-3])
    return output.squeeze(0) if inpt.dim() == 3 else output


def is_small(inpt: Tensor) -> bool:
    """Whether a clone and an assignment, by torch, are faster on a CPU than a call of the kernel: of images in a cache,
    and of all below the size from which the kernel's memory is of huge pages."""
    if inpt.device.type != "cpu" or type(inpt) is not Tensor or torch.compiler.is_compiling():
        return False
    return torch._C._functorch.maybe_current_level() is None and inpt.numel() * inpt.element_size() < 2**25


def _numbers_of(op: str, inpt: Tensor, v: Any) -> list[float] | None:
    """One, or one a channel, as the image's type has them; None of a tensor of others, or that only a device has."""
    if isinstance(v, Tensor):
        few = v.device.type == "cpu" and v.numel() <= inpt.shape[-3] and v.shape[-2:].numel() == 1 and v.dim() <= 3
        if not few or v.requires_grad or type(v) is not Tensor or torch.compiler.is_compiling():
            return None
        if torch._C._functorch.maybe_current_level() is not None:  # under vmap it may be many
            return None
        numbers = v.flatten().tolist()
    else:
        numbers = list(v) if isinstance(v, (list, tuple)) else [v]
        for number in numbers:
            check_range(op, "v", number, -FLOAT_MAX, FLOAT_MAX, "a tensor, or finite numbers")
    if len(numbers) not in (1, inpt.shape[-3]):
        raise ValueError(f"{op}: v must be a tensor, a number, or one a channel, {inpt.shape[-3]}; got {v!r}")
    if inpt.dtype is torch.uint8:
        # What is no level torch makes one of.
        return [float(int(number)) for number in numbers] if all(0 <= x < 256 for x in numbers) else None
    return [float(number) for number in numbers] if all(map(math.isfinite, numbers)) else None


def _erased_value(op: str, inpt: Tensor, v: Any, box: list[int]) -> Tensor:
    if not isinstance(v, Tensor):
        v = torch.tensor([float(number) for number in (v if isinstance(v, (list, tuple)) else [v])])
        v = v.reshape(-1, 1, 1).to(inpt.device)
    check_tensor(op, "v", v)
    if v.numel() != 1:
        check_device(op, "v", v, "inpt", inpt)
    shape = (*inpt.shape[:-2], *box[2:])
    sizes = zip(reversed(v.shape), reversed(shape), strict=False)
    if v.dim() > len(shape) or any(own not in (1, size) for own, size in sizes):
        raise RuntimeError(f"{op}: v must be a tensor that can be broadcast to {shape}; got {tuple(v.shape)}")
    return v if v.device == inpt.device else v.to(inpt.device)


def mixup(images: Tensor, lam: float | Tensor, partner: Tensor | None = None) -> Tensor:
    """Each image of a batch times ``lam``, plus its partner times ``1 - lam`` (Zhang et al., `mixup
    <https://arxiv.org/abs/1710.09412>`_, 2018).

    torchvision's ``roll(1, 0) * (1 - lam) + images * lam`` in one pass, to the bit for float32 and float64; of half
    types it is rounded once, of levels too, half to even (torchvision refuses those).

    Args:
        images: (batch, ..., channels, height, width), uint8 or floating-point.
        lam: a number for all images, or a tensor (batch,), which may require grad.
        partner: (batch,) indices of images. None: the one before, and of the first the last, as torchvision has it.

    Returns:
        Images like ``images``.

    Example:
        >>> mixup(torch.tensor([[[[0.0]]], [[[1.0]]]]), 0.75).flatten()
        tensor([0.2500, 0.7500])
    """
    op = "mixup"
    batch = _checked_batch(op, images)
    if isinstance(lam, Tensor):
        check_tensor(op, "lam", lam)
        if lam.dim() != 1 or lam.shape[0] != images.shape[0]:
            raise RuntimeError(f"{op}: lam must be a number or ({images.shape[0]},) of them; got {tuple(lam.shape)}")
    else:
        check_range(op, "lam", lam, -FLOAT_MAX, FLOAT_MAX, "a finite number, or a tensor")
    shifts = _shifts(op, "partner", partner, images)
    if shifts is None:
        rows: Any = [[0, 0, _ALL, _ALL, 0, -1, 0, 0], _OWN]
    else:
        rows = torch.tensor([_OWN, _OWN], device=images.device).repeat(images.shape[0], 1, 1)
        rows[:, 0, 5] = shifts
    weights = lam.unsqueeze(1) if isinstance(lam, Tensor) else [float(lam)]
    return paste(batch, weights, rectangles=rows).reshape(images.shape)


def cutmix(images: Tensor, box: Tensor | Sequence[int], partner: Tensor | None = None) -> Tensor:
    """Each image of a batch, with a box of its partner in the same place (Yun et al., `CutMix
    <https://arxiv.org/abs/1905.04899>`_, 2019).

    Args:
        images: (batch, ..., channels, height, width), uint8 or floating-point.
        box: top, left, height and width for all images, or a tensor (batch, 4) of integers.
        partner: (batch,) indices of images. None: the one before, and of the first the last, as torchvision has it.

    Returns:
        Images like ``images``, in one pass.

    Example:
        >>> cutmix(torch.tensor([[[[1, 1, 1]]], [[[2, 2, 2]]]]).byte(), [0, 1, 1, 1]).tolist()
        [[[[1, 2, 1]]], [[[2, 1, 2]]]]
    """
    batch = _checked_batch("cutmix", images)
    return paste(batch, rectangles=rectangles_of_box("cutmix", batch, box, partner)).reshape(images.shape)


def rectangles_of_box(op: str, images: Tensor, box: Any, partner: Tensor | None) -> Any:
    """The own image, and over it a box of its partner."""
    shifts = _shifts(op, "partner", partner, images)
    if shifts is None and not isinstance(box, Tensor):
        top, left, height, width = _checked_box(op, box)
        return [_OWN, [top, left, height, width, 0, -1, top, left]]
    if isinstance(box, Tensor):
        check_tensor(op, "box", box)
        check_device(op, "box", box, "images", images)
        if box.dim() not in (1, 2) or box.shape[-1] != 4 or box.is_floating_point():
            kind = dtype_name(box.dtype)
            raise RuntimeError(f"{op}: box must be (4,) or (batch, 4) integers; got {tuple(box.shape)} of {kind}")
    boxes = box if isinstance(box, Tensor) else torch.tensor(_checked_box(op, box), device=images.device)
    rows = torch.tensor([_OWN, _OWN], device=images.device).repeat(images.shape[0], 1, 1)
    rows[:, 1, :4], rows[:, 1, 6:] = boxes, boxes[..., :2]
    rows[:, 1, 5] = -1 if shifts is None else shifts
    return rows


def mosaic(
    images: Tensor | Sequence[Tensor],
    center: Tensor | Sequence[int],
    size: int | Sequence[int],
    fill: float | Sequence[float] = 114,
    partners: Tensor | None = None,
) -> Tensor:
    r"""Four images on one canvas that meet at a point: upper left, upper right, lower left, lower right. What is beyond
    the canvas is cut off, what is left of it is the fill. One gather; no image is padded or copied before.

    Args:
        images: four images (channels, height, width), of any sizes; or a batch (batch, channels, height, width), of
            which each image gets a canvas.
        center: row and column of the point; of a batch also a tensor (batch, 2) of integers.
        size: of the canvas, height and width; one number is both.
        fill: a number, or one a channel.
        partners: of a batch, (batch, 4) indices of images. None: the own one and the next three, around the end.

    Returns:
        (channels, \*size), or (batch, channels, \*size).

    Example:
        >>> four = [torch.full((1, 2, 2), k, dtype=torch.uint8) for k in (1, 2, 3, 4)]
        >>> mosaic(four, (1, 2), 4)
        tensor([[[  1,   1,   2,   2],
                 [  3,   3,   4,   4],
                 [  3,   3,   4,   4],
                 [114, 114, 114, 114]]], dtype=torch.uint8)
    """
    op = "mosaic"
    height, width = check_pair(op, "size", size, 1)
    if not isinstance(images, Tensor):
        if not isinstance(images, (list, tuple)) or len(images) != 4:
            raise TypeError(f"{op}: images must be a batch, or four images; got {type(images).__name__}")
        for image in images:
            check_tensor(op, "images", image)
            if image.dim() != 3:
                raise RuntimeError(f"{op}: images must be (channels, height, width) each; got {tuple(image.shape)}")
        y, x = check_pair(op, "center", center, -_ALL)
        rows = [
            [top, left, *image.shape[-2:], k, 0, 0, 0]
            for k, (image, (top, left)) in enumerate(zip(images, mosaic_corners(images, y, x), strict=True))
        ]
        first, second, third, fourth = (image.unsqueeze(0) for image in images)
        return paste(
            first, None, second, third, fourth, rectangles=rows, size=(height, width), fill=fill, group=1
        ).squeeze(0)
    batch = _checked_batch(op, images)
    tall, wide = images.shape[-2:]
    table = torch.tensor([[0, 0, tall, wide, 0, k, 0, 0] for k in range(4)], device=images.device)
    table = table.repeat(images.shape[0], 1, 1)
    if isinstance(center, Tensor):
        check_tensor(op, "center", center)
        check_device(op, "center", center, "images", images)
        table[:, :, :2] = center.long().expand(images.shape[0], 2).unsqueeze(1)
    else:
        table[:, :, 0], table[:, :, 1] = check_pair(op, "center", center, -_ALL)
    table[:, :2, 0] -= tall
    table[:, ::2, 1] -= wide
    shifts = _shifts(op, "partners", partners, images, 4)
    if shifts is not None:
        table[:, :, 5] = shifts
    return paste(batch, rectangles=table, size=(height, width), fill=fill)


def mosaic_corners(images: Sequence[Any], y: int, x: int) -> list[tuple[int, int]]:
    """Where the upper left corners of four images come that meet at a point."""
    sizes = [image.shape[-2:] for image in images]
    return [(y - (tall if k < 2 else 0), x - (wide if k % 2 == 0 else 0)) for k, (tall, wide) in enumerate(sizes)]


# ---- checks ----------------------------------------------------------------------------------------------------------


def _checked_batch(op: str, images: Any) -> Tensor:
    """Videos' frames are channels."""
    check_tensor(op, "images", images)
    check_image_dtype(op, "images", images)
    if images.dim() < 4:
        raise RuntimeError(f"{op}: images must be (batch, ..., channels, height, width); got {tuple(images.shape)}")
    return images if images.dim() == 4 else images.flatten(1, -3)


def _checked_box(op: str, box: Any) -> list[int]:
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        raise TypeError(f"{op}: box must be top, left, height and width, or a tensor of them; got {box!r}")
    return [check_int(op, "box", number, -_ALL, _ALL) for number in box]


def _shifts(op: str, name: str, partner: Any, images: Tensor, count: int | None = None) -> Tensor | None:
    """From indices of images to how many images further on they are."""
    if partner is None:
        return None
    check_tensor(op, name, partner)
    check_device(op, name, partner, "images", images)
    shape = (images.shape[0],) if count is None else (images.shape[0], count)
    if tuple(partner.shape) != shape or partner.is_floating_point() or partner.dtype is torch.bool:
        kind = dtype_name(partner.dtype)
        raise RuntimeError(f"{op}: {name} must be {shape} indices of images; got {tuple(partner.shape)} of {kind}")
    own = torch.arange(images.shape[0], device=images.device)
    return partner.long() - (own if count is None else own[:, None])
