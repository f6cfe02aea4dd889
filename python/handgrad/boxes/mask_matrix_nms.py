"""Matrix non-maximum suppression of masks. Definition and numerics: docs/boxes/mask_matrix_nms.md."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad._boxes import check_rows, numbers_of
from handgrad._score_decay import decayed_scores, is_gaussian, result_size
from handgrad.arguments import (
    FLOAT_MAX,
    check_int,
    check_integers,
    check_range,
    check_tensor,
    computed_dtype,
    dtype_name,
)
from handgrad.registration import register, without_derivatives
from handgrad.tracing import traceable

_OP = "mask_matrix_nms"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def mask_matrix_nms(
    masks: Tensor,
    labels: Tensor,
    scores: Tensor,
    filter_thr: float = -1,
    nms_pre: int = -1,
    max_num: int = -1,
    kernel: str = "gaussian",
    sigma: float = 2.0,
    mask_area: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Lowers the scores of masks that overlap better ones, all at once: Matrix NMS (Wang et al., `SOLOv2
    <https://arxiv.org/abs/2003.10152>`_, 2020, equations 4 to 6), the last step of SOLOv2 and of other networks that
    segment without boxes.

    The score of a mask i is multiplied by

    .. math:: \min_j \frac{f(iou_{ij})}{f(\max_k iou_{kj})}, \qquad f(x) = 1 - x \quad \text{(linear)}, \quad
        f(x) = \exp(-sigma\, x^2) \quad \text{(gaussian)}

    or by 1 if that is less, where j are the masks of its label whose scores are higher, and k those whose scores are
    higher than j's. Arguments and values of mmdet's ``mask_matrix_nms``; beyond it: no matrix of all pairs and no copy
    of the masks as floating-point numbers are in memory, a mask without pixels overlaps none, and one that is covered
    wholly lowers none (where mmdet has NaN).

    Args:
        masks: (masks, height, width), of bool or of any type of numbers: a pixel is in a mask where it is not 0. (Masks
            of probabilities are compared with a threshold before.) Any strides.
        labels: (masks,), integers: only masks of one label lower one another.
        scores: (masks,), float32, float64, bfloat16 or float16 (computed in float32), at least 0; under autocast
            computed and returned in float32, unless they are float64. Of equal ones the first is taken for the higher.
            A mask whose score is NaN lowers none.
        filter_thr: if above 0, masks whose score is lower, at first or when it is lowered, are not returned, nor are
            those whose score is NaN.
        nms_pre: if above 0, only so many masks, those with the highest scores, are looked at.
        max_num: if above 0, at most so many are returned.
        kernel: "linear" or "gaussian".
        sigma: above 0; for "gaussian".
        mask_area: (masks,), numbers: how many pixels each mask has, where the caller wants others than those that are
            counted. Masks whose area is not above 0 or not finite overlap none.

    Returns:
        Scores, lowered, in decreasing order (of equal ones that which was higher before, then the first); the labels
        and the masks that they belong to; and their indices, int64. None has a derivative. Where ``filter_thr`` is
        above 0, how many they are depends on the values: under ``torch.compile`` and ``torch.export`` it is an unbacked
        size. Where it is not, a call can be captured in a CUDA graph. vmap refuses.

    Raises:
        ValueError: a number out of range, another ``kernel``.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> masks = torch.tensor([[[1, 1, 0, 0]], [[0, 1, 1, 0]], [[0, 0, 0, 1]]]).bool()
        >>> labels, scores = torch.tensor([0, 0, 0]), torch.tensor([0.9, 0.6, 0.5])
        >>> scores, labels, masks, keep_inds = mask_matrix_nms(masks, labels, scores, kernel="linear")
        >>> scores, keep_inds
        (tensor([0.9000, 0.5000, 0.4000]), tensor([0, 2, 1]))
    """
    check_tensor(_OP, "masks", masks)
    check_integers(_OP, "labels", labels, or_bool=True)
    check_tensor(_OP, "scores", scores)
    if mask_area is not None:
        check_tensor(_OP, "mask_area", mask_area)
    check_range(_OP, "filter_thr", filter_thr, -FLOAT_MAX, FLOAT_MAX, "a finite number")
    nms_pre = check_int(_OP, "nms_pre", nms_pre, -1)
    max_num = check_int(_OP, "max_num", max_num, -1)
    gaussian = is_gaussian(_OP, kernel, sigma)
    scores = numbers_of(scores)
    for name, numbers in (("masks", masks), ("mask_area", mask_area)):
        if numbers is not None and numbers.is_complex():
            raise TypeError(f"{_OP}: {name} must be a tensor of real numbers; got one of {dtype_name(numbers.dtype)}")
    indices, final_scores = _mask_matrix_nms(
        masks if masks.dtype in (torch.bool, torch.uint8) else numbers_of(masks).to(torch.bool),
        scores,
        labels.to(torch.int64),
        None if mask_area is None else numbers_of(mask_area).to(computed_dtype(scores)),
        filter_thr if filter_thr > 0 else None,
        nms_pre if nms_pre > 0 else None,
        max_num if max_num > 0 else None,
        sigma,
        gaussian,
    )
    return final_scores, labels.index_select(0, indices), masks.index_select(0, indices), indices


# ---- reference -------------------------------------------------------------------------------------------------------


def mask_matrix_nms_reference(
    masks: Tensor,
    scores: Tensor,
    labels: Tensor,
    areas: Tensor | None,
    min_score: float | None,
    most: int | None,
    max_num: int | None,
    sigma: float,
    gaussian: bool,
) -> tuple[Tensor, Tensor]:
    """Plain PyTorch: the pixels that masks have in common are a product of matrices, and the definition is made of
    them."""

    def overlaps(order: Tensor) -> Tensor:
        dtype = computed_dtype(scores)
        flat = masks.index_select(0, order).flatten(1).to(torch.bool).to(dtype)
        sizes = flat.sum(1) if areas is None else areas.index_select(0, order)
        proper = (sizes > 0) & (sizes < torch.inf)
        shared = torch.where(proper[:, None] & proper, flat @ flat.T, 0.0)
        whole = sizes[:, None] + sizes - shared
        inside = (shared > 0) & (whole > shared)
        return torch.where(inside, shared / torch.where(inside, whole, 1.0), (shared > 0).to(dtype))

    return decayed_scores(overlaps, scores, labels, (None, min_score), (most, max_num), sigma, gaussian)


# ---- fake ------------------------------------------------------------------------------------------------------------


def _fake(
    masks: Tensor,
    scores: Tensor,
    labels: Tensor,
    areas: Tensor | None,
    min_score: float | None,
    most: int | None,
    max_num: int | None,
    sigma: float,
    gaussian: bool,
) -> tuple[Tensor, Tensor]:
    torch._check(
        masks.dim() == 3,
        lambda: f"{_OP}: masks must have 3 dimensions (masks, height, width); got {tuple(masks.shape)}",
    )
    check_rows(_OP, "masks", masks, scores=scores, labels=labels, mask_area=areas)
    size = result_size(masks.shape[0], (None, min_score), (most, max_num))
    return scores.new_empty(size, dtype=torch.int64), scores.new_empty(size)


# ---- registration ----------------------------------------------------------------------------------------------------

_mask_matrix_nms = register(
    "handgrad::mask_matrix_nms",
    # Which masks stand before which is a decision, and not all samples return the same number of masks.
    autograd=without_derivatives(),
    fake=_fake,
    reference=mask_matrix_nms_reference,
    # Scores may come in a half type from a classifier.
    autocast=torch.float32,
    gathers=True,
)
