"""Mosaic, of samples with what belongs to their images (docs/transforms/paste.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from handgrad.arguments import check_pair, check_range
from handgrad.transforms._labelled import Part, joined, pasted, within
from handgrad.transforms._pictures import wrapped
from handgrad.transforms.mixing import mosaic, mosaic_corners


class Mosaic(nn.Module):
    """Four samples on one canvas, as YOLO's mosaic (Bochkovskiy et al., `YOLOv4 <https://arxiv.org/abs/2004.10934>`_,
    2020; ultralytics' definition): a canvas of twice ``size``, on which the images meet at a point that is drawn from
    its inner half; what is beyond the canvas is cut off, what is left of it is gray. One gather of the four images, of
    any sizes; resize them to ``size`` before.

    Boxes move with their images, are cut off at the canvas, and are dropped where nothing is left, with their masks and
    labels. Keypoints move. Masks that are one an image, not one a box, are put on a canvas of ``mask_fill``.

    Called with a list of samples, a batch before it is collated, it returns as many: of each, and of three that are
    drawn from the list. A sample is what torchvision's transforms take, an image first: a tensor, or an ``Image``.

    Args:
        size: of an image, height and width; one number is both.
        p: how likely a sample is made a mosaic of. One that is not stays as it is.
        fill: a number, or one a channel.
        mask_fill: of masks of images.
        labels_getter: as of torchvision's ``SanitizeBoundingBoxes``: what of a sample has a row for each box.

    Example:
        >>> samples = [(torch.zeros(3, 8, 8 + k), {"labels": torch.tensor([k])}) for k in range(5)]
        >>> mosaics = Mosaic(8)(samples)
        >>> len(mosaics), mosaics[0][0].shape
        (5, torch.Size([3, 16, 16]))
    """

    def __init__(
        self,
        size: int | Sequence[int],
        *,
        p: float = 1.0,
        fill: float | Sequence[float] = 114,
        mask_fill: int = 0,
        labels_getter: Any = "default",
    ) -> None:
        super().__init__()
        self.size = check_pair("Mosaic", "size", size, 1)
        check_range("Mosaic", "p", p, 0, 1, "a number from 0 to 1")
        self.p, self.fill, self.mask_fill, self.labels_getter = p, fill, mask_fill, labels_getter

    def forward(self, samples: Sequence[Any]) -> list[Any]:
        if not isinstance(samples, (list, tuple)) or not samples:
            raise TypeError("Mosaic: samples must be a list of at least one sample")
        made = []
        for sample in samples:
            if torch.rand(1) >= self.p:
                made.append(sample)
                continue
            others = torch.randint(len(samples), (3,)).tolist()
            made.append(self.of_four([sample, *(samples[other] for other in others)]))
        return made

    def of_four(self, samples: Sequence[Any], center: Sequence[int] | None = None) -> Any:
        """One sample of four; ``center``: row and column where they meet, drawn if it is None."""
        if len(samples) != 4:
            raise ValueError(f"Mosaic: there must be four samples; got {len(samples)}")
        height, width = self.size
        if center is None:
            center = [int(torch.randint(side // 2, 2 * side - side // 2, ())) for side in (height, width)]
        y, x = check_pair("Mosaic", "center", center, 0)
        images = [_image_of(sample) for sample in samples]
        canvas = (2 * height, 2 * width)
        picture = mosaic([image.as_subclass(Tensor) for image in images], (y, x), canvas, self.fill)
        corners = mosaic_corners(images, y, x)
        parts = [self._part(sample, corner, canvas) for sample, corner in zip(samples, corners, strict=True)]
        replaced = {id(images[0]): wrapped(images[0], picture)}

        def semantic(masks: list[Tensor]) -> Tensor:
            rows = [[*corner, *mask.shape[-2:], k, 0, 0, 0]
                    for k, (mask, corner) in enumerate(zip(masks, corners, strict=True))]  # fmt: skip
            planes = [mask.reshape(1, -1, *mask.shape[-2:]) for mask in masks]
            made = _filled(planes, rows, canvas, self.mask_fill)
            return made.reshape(*masks[0].shape[:-2], *canvas)

        return joined(parts, self.labels_getter, canvas, semantic, replaced)

    def _part(self, sample: Any, corner: tuple[int, int], canvas: tuple[int, int]) -> Part:
        top, left = corner

        def boxes(corners: Tensor) -> Tensor:
            return within(corners + corners.new_tensor([left, top, left, top]), 0, 0, canvas[1], canvas[0])

        def masks(of: Tensor) -> Tensor:
            rows = [[top, left, *of.shape[-2:], 0, 0, 0, 0]]
            return pasted(of.unsqueeze(0), rectangles=rows, size=canvas).squeeze(0)

        return Part(sample, boxes, masks, lambda points: points + points.new_tensor([left, top]))

    def extra_repr(self) -> str:
        return f"size={self.size}, p={self.p}, fill={self.fill}, mask_fill={self.mask_fill}"


def _image_of(sample: Any) -> Tensor:
    """The image of a sample: torchvision's, or the first tensor."""
    from torchvision.tv_tensors import Image

    leaves = [sample] if isinstance(sample, Tensor) else _pytree.tree_leaves(sample)
    found = [leaf for leaf in leaves if type(leaf) is Image] or [leaf for leaf in leaves if type(leaf) is Tensor]
    if not found or found[0].dim() != 3:
        raise TypeError("Mosaic: a sample must have an image that is a tensor (channels, height, width)")
    return found[0]


def _filled(planes: list[Tensor], rows: list[list[int]], canvas: tuple[int, int], fill: int) -> Tensor:
    """Masks of any type on a canvas of a number of that type: bits have no number, so it is an image of its own."""
    around = planes[0].new_full((1, planes[0].shape[1], *canvas), fill) if fill else None
    made = pasted(*planes, rectangles=rows, size=canvas)
    if around is None:
        return made
    there = pasted(*(torch.ones_like(plane) for plane in planes), rectangles=rows, size=canvas)
    return torch.where(there != 0, made, around)
