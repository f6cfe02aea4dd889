"""Soft non-maximum suppression. Definition and numerics: docs/boxes/soft_nms.md."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from handgrad._boxes import check_boxes, dequantized
from handgrad.arguments import FLOAT_MAX, check_choice, check_range, check_tensor, computed_dtype
from handgrad.registration import dynamic_size, register, without_derivatives
from handgrad.tracing import traceable

_OP = "soft_nms"
_METHODS = ("linear", "gaussian")

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
) -> tuple[Tensor, Tensor]:
    r"""Lowers the scores of boxes that overlap better ones, instead of dropping them (Bodla et al., `Soft-NMS:
    Improving Object Detection With One Line of Code <https://arxiv.org/abs/1704.04503>`_, 2017).

    Again and again the box with the highest score is chosen, and the score of each box that is left is multiplied by

    .. math:: 1 - iou \text{ where } iou \ge iou\_threshold, \text{ else } 1 \quad \text{(linear)} \qquad
        \exp(-iou^2 / sigma) \quad \text{(gaussian)}

    with its intersection over union with the chosen box. Boxes whose score is below ``min_score``, at first or by then,
    are never chosen. Parameters are named as in mmcv, which looks at ``min_score`` only after the first choice.

    Args:
        boxes: (boxes, 4), rows of x1, y1, x2, y2; float32, float64, bfloat16 or float16 (computed in float32), any
            strides; or quantized, for the numbers that they stand for. A box without an inside, or with a corner or an
            area that is NaN or infinite, overlaps no other.
        scores: (boxes,), of the type of ``boxes``; under autocast both are taken in float32, unless they are float64. A
            box whose score is NaN is never chosen.
        iou_threshold: from 0 to 1; for "linear".
        sigma: above 0; for "gaussian".
        min_score: at least 0.
        method: "linear" or "gaussian".

    Returns:
        int64, the indices of the chosen boxes, in the order of choice (of equal scores the first), and their scores by
        then, which are decreasing. Neither has a derivative. How many they are depends on the values: under
        ``torch.compile`` and ``torch.export`` it is an unbacked size, and vmap refuses.

    Raises:
        ValueError: a number out of range, another ``method``.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
        >>> soft_nms(boxes, torch.tensor([0.6, 0.9, 0.5]), iou_threshold=0.3)
        (tensor([1, 2, 0]), tensor([0.9000, 0.5000, 0.4000]))
    """
    check_tensor(_OP, "boxes", boxes)
    check_tensor(_OP, "scores", scores)
    check_range(_OP, "iou_threshold", iou_threshold, 0.0, 1.0, "a number from 0 to 1")
    check_range(_OP, "sigma", sigma, sys.float_info.min, FLOAT_MAX, "a number above 0")
    check_range(_OP, "min_score", min_score, 0.0, FLOAT_MAX, "a finite number, at least 0")
    check_choice(_OP, "method", method, _METHODS)
    return _soft_nms(*dequantized(boxes, scores), iou_threshold, sigma, min_score, method == "gaussian")


# ---- reference -------------------------------------------------------------------------------------------------------


def soft_nms_reference(
    boxes: Tensor, scores: Tensor, iou_threshold: float, sigma: float, min_score: float, gaussian: bool
) -> tuple[Tensor, Tensor]:
    """Plain PyTorch. To be trusted because it is the definition, one choice after the other. It never asks for a value
    on the way: choices go on until all boxes are through, and those too low are left out in the end."""
    dtype = computed_dtype(boxes)
    low, high = boxes.to(dtype).split(2, 1)
    areas = (high - low).prod(1)
    proper = (high > low).all(1) & (areas < torch.inf)
    left = scores.to(dtype)
    indices, final_scores = [scores.new_empty(0, dtype=torch.int64)], [left[:0]]
    for _ in range(len(boxes)):
        left = torch.where(left >= min_score, left, -torch.inf)
        best = left.argmax(keepdim=True)
        indices.append(best)
        final_scores.append(left.index_select(0, best))
        shared = torch.minimum(high, high.index_select(0, best)) - torch.maximum(low, low.index_select(0, best))
        shared = torch.where(proper & proper.index_select(0, best), shared.clamp(min=0).prod(1), 0.0)
        iou = torch.where(shared > 0, shared / (areas + areas.index_select(0, best) - shared), 0.0)
        part = (-(iou * iou) / sigma).exp() if gaussian else torch.where(iou >= iou_threshold, 1 - iou, 1.0)
        left = (left * part).index_fill(0, best, -torch.inf)
    chosen = torch.cat(final_scores)
    kept = chosen > -torch.inf
    return torch.cat(indices)[kept], chosen[kept].to(scores.dtype)


# ---- fake ------------------------------------------------------------------------------------------------------------


def _fake(
    boxes: Tensor, scores: Tensor, iou_threshold: float, sigma: float, min_score: float, gaussian: bool
) -> tuple[Tensor, Tensor]:
    check_boxes(_OP, boxes, scores=scores)
    size = dynamic_size(boxes.shape[0])
    return boxes.new_empty(size, dtype=torch.int64), boxes.new_empty(size)


# ---- registration ----------------------------------------------------------------------------------------------------

_soft_nms = register(
    "handgrad::soft_nms",
    # A choice has no derivative, and not all samples choose the same number of boxes.
    autograd=without_derivatives(),
    fake=_fake,
    reference=soft_nms_reference,
    # Boxes may come in float32 from a regression beside scores in a half type from a classifier.
    autocast=torch.float32,
    gathers=True,
)
