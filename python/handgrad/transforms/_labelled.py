"""What belongs to images that become one: boxes, masks, keypoints and labels of several samples, moved, cut to what is
seen of them, and joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from handgrad.transforms.paste import paste

# ---- elements of any type --------------------------------------------------------------------------------------------

_AS = {torch.int64: torch.float64, torch.int32: torch.float32, torch.int16: torch.float16, torch.bool: torch.uint8,
       torch.int8: torch.uint8}  # fmt: skip


def pasted(tensor: Tensor, *others: Tensor, **arguments: Any) -> Tensor:
    """:func:`paste` of opaque rectangles, which takes elements of any type for bits: class numbers are none."""
    bits = _AS.get(tensor.dtype, tensor.dtype)
    return paste(tensor.view(bits), None, *(other.view(bits) for other in others), **arguments).view(tensor.dtype)


# ---- boxes -----------------------------------------------------------------------------------------------------------


def within(boxes: Tensor, x1: int, y1: int, x2: int, y2: int) -> Tensor:
    """Boxes (K, 4) of corners, cut off where a rectangle ends."""
    low, high = boxes.new_tensor([x1, y1, x1, y1]), boxes.new_tensor([x2, y2, x2, y2])
    return torch.minimum(torch.maximum(boxes, low), high)


def beside(boxes: Tensor, x1: int, y1: int, x2: int, y2: int) -> Tensor:
    """Boxes around what a rectangle leaves of each: smaller where it takes a whole side away, else the same."""
    left, top, right, bottom = boxes.unbind(1)
    tall, wide = (y1 <= top) & (bottom <= y2), (x1 <= left) & (right <= x2)
    sides = [
        torch.where(tall & (x1 <= left) & (left < x2), right.clamp(max=x2), left),
        torch.where(wide & (y1 <= top) & (top < y2), bottom.clamp(max=y2), top),
        torch.where(tall & (x1 < right) & (right <= x2), left.clamp(min=x1), right),
        torch.where(wide & (y1 < bottom) & (bottom <= y2), top.clamp(min=y1), bottom),
    ]
    return torch.stack(sides, 1)


# ---- samples ---------------------------------------------------------------------------------------------------------


@dataclass
class Part:
    """A sample that goes into a new one, and how it does."""

    target: Any
    boxes: Callable[[Tensor], Tensor]  #: of corners, (K, 4)
    masks: Callable[[Tensor], Tensor]  #: one a box, (K, H, W)
    points: Callable[[Tensor], Tensor] = lambda points: points


def joined(
    parts: Sequence[Part],
    labels_getter: Any,
    canvas: tuple[int, int],
    semantic: Callable[[list[Tensor]], Tensor],
    replaced: dict[int, Any] | None = None,
) -> Any:
    """A sample with the boxes of all, their masks, keypoints and labels; the rest is the first one's. ``semantic``
    makes one mask of those that are of images and not of boxes; ``replaced``: leaves, by the ``id`` of the first
    sample's."""
    from torchvision.tv_tensors import BoundingBoxes, KeyPoints, Mask, wrap

    flat = [_pytree.tree_flatten(part.target) for part in parts]
    if any(spec != flat[0][1] for _, spec in flat):
        raise ValueError("samples that become one must be of one structure: the same keys in the same order")
    kept = [_kept(part, leaves) for part, (leaves, _) in zip(parts, flat, strict=True)]
    of_boxes = [_labels_of(part.target, labels_getter) for part in parts]
    output: list[Any] = []
    for index, first in enumerate(flat[0][0]):
        leaves = [part_leaves[index] for part_leaves, _ in flat]
        if replaced and id(first) in replaced:
            output.append(replaced[id(first)])
        elif isinstance(first, BoundingBoxes):
            boxes = torch.cat([boxes[keep] for boxes, keep in kept])
            output.append(_formatted(boxes, first, canvas))
        elif isinstance(first, Mask):
            of_each = all(
                keep is not None and leaf.dim() == 3 and len(leaf) == len(keep)
                for leaf, (_, keep) in zip(leaves, kept, strict=True)
            )
            if of_each:
                moved = [part.masks(leaf.as_subclass(Tensor)) for part, leaf in zip(parts, leaves, strict=True)]
                output.append(Mask(torch.cat([mask[keep] for mask, (_, keep) in zip(moved, kept, strict=True)])))
            else:
                masks = [leaf.as_subclass(Tensor) for leaf in leaves]
                output.append(Mask(semantic(masks)) if len(parts) > 1 else first)
        elif isinstance(first, KeyPoints):
            moved = [part.points(leaf.as_subclass(Tensor)) for part, leaf in zip(parts, leaves, strict=True)]
            output.append(wrap(torch.cat(_filtered(moved, kept)), like=first, canvas_size=canvas))
        elif all(any(leaf is label for label in labels) for leaf, labels in zip(leaves, of_boxes, strict=True)):
            output.append(torch.cat(_filtered(leaves, kept)))
        else:
            output.append(first)
    return _pytree.tree_unflatten(output, flat[0][1])


def _kept(part: Part, leaves: list[Any]) -> tuple[Any, Any]:
    """The boxes of a part where they come to be, and which are not emptied; None where there are no boxes."""
    from torchvision.transforms.v2.functional import convert_bounding_box_format
    from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

    found = [leaf for leaf in leaves if isinstance(leaf, BoundingBoxes)]
    if not found:
        return None, None
    if len(found) > 1 or found[0].format not in (
        BoundingBoxFormat.XYXY,
        BoundingBoxFormat.XYWH,
        BoundingBoxFormat.CXCYWH,
    ):
        raise ValueError("a sample must have one BoundingBoxes, and these must not be rotated")
    corners = convert_bounding_box_format(found[0], new_format=BoundingBoxFormat.XYXY).as_subclass(Tensor)
    boxes = part.boxes(corners.reshape(-1, 4))
    return boxes, (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def _formatted(corners: Tensor, like: Any, canvas: tuple[int, int]) -> Any:
    from torchvision.transforms.v2.functional import convert_bounding_box_format
    from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

    made = BoundingBoxes(corners, format=BoundingBoxFormat.XYXY, canvas_size=canvas)
    return convert_bounding_box_format(made, new_format=like.format)


def _labels_of(target: Any, labels_getter: Any) -> Sequence[Tensor]:
    """The tensors that have a row for each box."""
    from torchvision.transforms.v2._utils import _parse_labels_getter

    try:
        labels = _parse_labels_getter(labels_getter)(target)
    except (ValueError, IndexError):  # there are none
        if labels_getter != "default":
            raise
        return []
    if labels is None:
        return []
    return labels if isinstance(labels, (list, tuple)) else [labels]


def _filtered(leaves: Sequence[Tensor], kept: Sequence[tuple[Any, Any]]) -> list[Tensor]:
    """Without the rows of boxes that were emptied."""
    return [
        leaf if keep is None or len(leaf) != len(keep) else leaf[keep]
        for leaf, (_, keep) in zip(leaves, kept, strict=True)
    ]
