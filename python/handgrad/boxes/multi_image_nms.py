"""Non-maximum suppression of all images of a batch in one call. Algorithm: docs/boxes/nms.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad._boxes import numbers_of
from handgrad.arguments import FLOAT_MAX, check_int, check_integers, check_range, check_tensor
from handgrad.boxes.nms import batched_nms
from handgrad.boxes.rotated_nms import batched_rotated_nms
from handgrad.tracing import traceable

_OP = "multi_image_nms"


@traceable
def multi_image_nms(
    boxes: Tensor | Sequence[Tensor],
    scores: Tensor | Sequence[Tensor],
    iou_threshold: float,
    idxs: Tensor | Sequence[Tensor] | None = None,
    score_threshold: float | None = None,
    max_detections: int | None = None,
) -> list[Tensor]:
    """:func:`batched_nms` of every image of a batch in one call, in place of the loop over images that detectors end
    with: images are worked on side by side, and a device is waited for two or three times, however many they are.

    Args:
        boxes: (images, boxes, 4), rows of x1, y1, x2, y2, or a list with (boxes, 4) for each image; rows of five are
            rotated boxes, as :func:`rotated_nms` takes them. Types as :func:`nms`.
        scores: likewise (images, boxes), or a list with (boxes,) for each image.
        iou_threshold: from 0 to 1.
        idxs: likewise (images, boxes) or a list, integers: the class of each box. Only boxes of one class suppress one
            another; without it all of an image do. From the lowest class to the highest, times the number of images,
            must be below 2^63.
        score_threshold: boxes with a lower score, or one that is NaN, are left out.
        max_detections: at most so many of each image, those with the highest scores.

    Returns:
        For each image int64, the indices of its boxes that are kept, sorted by decreasing score; of equal scores the
        first comes first.

    Raises:
        ValueError: a number out of range, lists of different lengths.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> one = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
        >>> scores = torch.tensor([[0.8, 0.9, 0.7], [0.9, 0.8, 0.1]])
        >>> multi_image_nms(torch.stack([one, one]), scores, 0.5, score_threshold=0.5)
        [tensor([1, 2]), tensor([0])]
    """
    if score_threshold is not None:
        check_range(_OP, "score_threshold", score_threshold, -FLOAT_MAX, FLOAT_MAX, "a finite number")
    if max_detections is not None:
        max_detections = check_int(_OP, "max_detections", max_detections, 0)
    flat_boxes, counts = _joined("boxes", boxes, None, 2)
    flat_scores, _ = _joined("scores", scores, counts, 1)
    rotated = flat_boxes.dim() == 2 and flat_boxes.shape[1] == 5
    # Which image, and where in it.
    device = flat_boxes.device
    sizes = torch.tensor(counts, dtype=torch.int64, device=device)
    image = torch.arange(len(counts), device=device).repeat_interleave(sizes, output_size=len(flat_boxes))
    place = torch.arange(len(flat_boxes), device=device) - (sizes.cumsum(0) - sizes).index_select(0, image)
    group = image
    if idxs is not None:
        flat_idxs, _ = _joined("idxs", idxs, counts, 1)
        check_integers(_OP, "idxs", flat_idxs, or_bool=True)
        flat_idxs = flat_idxs.to(torch.int64)
        if len(flat_idxs):
            low, high = flat_idxs.aminmax()
            group = image * (high - low + 1) + (flat_idxs - low)
    if score_threshold is not None:
        chosen = (flat_scores >= score_threshold).nonzero()[:, 0]
        flat_boxes, flat_scores = flat_boxes.index_select(0, chosen), flat_scores.index_select(0, chosen)
        group, image, place = (each.index_select(0, chosen) for each in (group, image, place))
    suppress = batched_rotated_nms if rotated else batched_nms
    kept = suppress(flat_boxes, flat_scores, group, iou_threshold)
    by_image = image.index_select(0, kept).sort(stable=True)
    found = place.index_select(0, kept.index_select(0, by_image.indices))
    images = torch.bincount(by_image.values, minlength=len(counts)).tolist()
    return [one[:max_detections] for one in found.split(images)]


def _joined(name: str, given: Any, counts: list[int] | None, dim: int) -> tuple[Tensor, list[int]]:
    """The tensors of all images in one, and how many boxes each has."""
    if isinstance(given, Tensor):
        check_tensor(_OP, name, given)
        if given.dim() != dim + 1:
            shape = "(images, boxes, 4)" if dim == 2 else "(images, boxes)"
            raise RuntimeError(f"{_OP}: {name} must have shape {shape}, or be a list; got {tuple(given.shape)}")
        found, flat = [given.shape[1]] * given.shape[0], numbers_of(given).flatten(0, 1)
    else:
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise TypeError(
                f"{_OP}: {name} must be a tensor, or a list with one for each image; got {type(given).__name__}"
            )
        if not given:
            raise ValueError(f"{_OP}: {name} must be a list of at least one image; got none")
        for k, one in enumerate(given):
            check_tensor(_OP, f"{name}[{k}]", one)
            if one.dim() != dim:
                shape = "(boxes, 4)" if dim == 2 else "(boxes,)"
                raise RuntimeError(f"{_OP}: {name}[{k}] must have shape {shape}; got {tuple(one.shape)}")
        found, flat = [len(one) for one in given], torch.cat([numbers_of(one) for one in given])
    if counts is not None and found != counts:
        raise ValueError(f"{_OP}: {name} must have one for each of the boxes, {counts} in the images; got {found}")
    return flat, found
