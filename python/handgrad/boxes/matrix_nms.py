"""Matrix non-maximum suppression of boxes. Definition and numerics: docs/boxes/matrix_nms.md."""

from __future__ import annotations

import torch
from torch import Tensor

from handgrad._boxes import check_boxes, dequantized
from handgrad._score_decay import decayed_scores, is_gaussian, result_size
from handgrad.arguments import FLOAT_MAX, check_integers, check_range, check_tensor, computed_dtype
from handgrad.registration import register, without_derivatives
from handgrad.tracing import traceable

_OP = "matrix_nms"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def matrix_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None = None,
    kernel: str = "gaussian",
    sigma: float = 2.0,
    score_threshold: float | None = None,
    min_score: float | None = 1e-3,
) -> tuple[Tensor, Tensor]:
    r"""Lowers the scores of boxes that overlap better ones, all at once and not one choice after the other: Matrix NMS
    (Wang et al., `SOLOv2 <https://arxiv.org/abs/2003.10152>`_, 2020, equations 4 to 6).

    A box i is lowered by each box j of its class whose score is higher, less so if j is covered by a better one itself;
    what lowers it most counts. Its score is multiplied by

    .. math:: \min_j \frac{f(iou_{ij})}{f(\max_k iou_{kj})}, \qquad f(x) = 1 - x \quad \text{(linear)}, \quad
        f(x) = \exp(-sigma\, x^2) \quad \text{(gaussian)}

    or by 1 if that is less, where k are the boxes of the class whose scores are higher than j's. A box that is covered
    wholly lowers none (linear). Values are those of PaddlePaddle's ``matrix_nms``, and ``sigma`` is a factor, as there
    and in mmdet; the paper, and soft suppression, divide by what they call so: theirs of 0.5 is 2 here.

    Args:
        boxes: (boxes, 4), rows of x1, y1, x2, y2; float32, float64, bfloat16 or float16 (computed in float32), any
            strides; or quantized, for the numbers that they stand for. A box without an inside, or with a corner or an
            area that is NaN or infinite, overlaps no other.
        scores: (boxes,), of the type of ``boxes``, at least 0; under autocast both are taken in float32, unless they
            are float64. Of equal ones the first is taken for the higher. A box whose score is NaN lowers none.
        idxs: (boxes,), integers, whatever they are: the class of each box. None: all are of one.
        kernel: "linear" or "gaussian".
        sigma: above 0; for "gaussian".
        score_threshold: boxes with a lower score, or one that is NaN, are left out.
        min_score: at least 0: boxes whose score is lower, at first or when it is lowered, are not returned.

    Returns:
        int64, the indices of the boxes by decreasing lowered score (of equal ones that which was higher before, then
        the first), and these scores. Neither has a derivative. How many they are depends on the values: under
        ``torch.compile`` and ``torch.export`` it is an unbacked size, and vmap refuses. Where ``score_threshold`` and
        ``min_score`` are None all boxes are returned, those whose score is NaN first, and a call can be captured in a
        CUDA graph.

    Raises:
        ValueError: a number out of range, another ``kernel``.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
        >>> matrix_nms(boxes, torch.tensor([0.6, 0.9, 0.5]), kernel="linear")
        (tensor([1, 2, 0]), tensor([0.9000, 0.5000, 0.4000]))
    """
    check_tensor(_OP, "boxes", boxes)
    check_tensor(_OP, "scores", scores)
    if idxs is not None:
        check_integers(_OP, "idxs", idxs, or_bool=True)
        idxs = idxs.to(torch.int64)
    gaussian = is_gaussian(_OP, kernel, sigma)
    if score_threshold is not None:
        check_range(_OP, "score_threshold", score_threshold, -FLOAT_MAX, FLOAT_MAX, "a finite number")
    if min_score is not None:
        check_range(_OP, "min_score", min_score, 0.0, FLOAT_MAX, "a finite number, at least 0")
    return _matrix_nms(*dequantized(boxes, scores), idxs, score_threshold, min_score, sigma, gaussian)


# ---- reference -------------------------------------------------------------------------------------------------------


def matrix_nms_reference(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None,
    score_threshold: float | None,
    min_score: float | None,
    sigma: float,
    gaussian: bool,
) -> tuple[Tensor, Tensor]:
    """Plain PyTorch: intersections over unions of all pairs, and the definition made of them."""

    def overlaps(order: Tensor) -> Tensor:
        low, high = boxes.to(computed_dtype(boxes)).index_select(0, order).split(2, 1)
        areas = (high - low).prod(1)
        proper = (high > low).all(1) & (areas > 0) & (areas < torch.inf)
        sides = torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)
        shared = torch.where(sides > 0, sides, 0.0).prod(2)
        shared = torch.where(proper[:, None] & proper, shared, 0.0)
        whole = areas[:, None] + areas - shared
        return torch.where(shared > 0, shared / torch.where(shared > 0, whole, 1.0), 0.0)

    return decayed_scores(overlaps, scores, idxs, (score_threshold, min_score), (None, None), sigma, gaussian)


# ---- fake ------------------------------------------------------------------------------------------------------------


def _fake(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None,
    score_threshold: float | None,
    min_score: float | None,
    sigma: float,
    gaussian: bool,
) -> tuple[Tensor, Tensor]:
    check_boxes(_OP, boxes, scores=scores, idxs=idxs)
    size = result_size(boxes.shape[0], (score_threshold, min_score))
    return boxes.new_empty(size, dtype=torch.int64), boxes.new_empty(size)


# ---- registration ----------------------------------------------------------------------------------------------------

_matrix_nms = register(
    "handgrad::matrix_nms",
    # Which boxes stand before which is a decision, and not all samples return the same number of boxes.
    autograd=without_derivatives(),
    fake=_fake,
    reference=matrix_nms_reference,
    # Boxes may come in float32 from a regression beside scores in a half type from a classifier.
    autocast=torch.float32,
    gathers=True,
)
