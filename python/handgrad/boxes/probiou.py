"""Probabilistic IoU of rotated boxes. Mathematics, derivatives and numerics: docs/boxes/probiou.md."""

from __future__ import annotations

from torch import Tensor

from handgrad._rotated_boxes import check_positive_eps, probabilistic_iou
from handgrad.kinds.box_loss import CENTRE_SIZE_ANGLE
from handgrad.kinds.box_matrix import BoxMatrix
from handgrad.tracing import traceable

_OP = "probiou"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def probiou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    r"""Probabilistic IoU of each rotated box of one table with each of another: 1 less the Hellinger distance of the
    normal distributions that boxes are taken for (Llerena et al., `Gaussian Bounding Boxes and Probabilistic
    Intersection-over-Union for Object Detection <https://arxiv.org/abs/2106.06072>`_, 2021; the
    distribution of a box is that of its eqs. 1 and 3).

    .. math:: probiou = 1 - \sqrt{1 - e^{-d} + eps}, \quad
        d = \frac{1}{4} \Delta^T (\Sigma_1 + \Sigma_2)^{-1} \Delta +
        \frac{1}{2} \ln \frac{|\Sigma_1 + \Sigma_2|}{4 \sqrt{|\Sigma_1| |\Sigma_2|}}

    with the way :math:`\Delta` between the centres, and variances :math:`w^2 / 12` and :math:`h^2 / 12` along the sides
    of a box. Values of ultralytics' ``batch_probiou``, whose boxes have angles in radians, clockwise. Unlike
    an intersection over union it is smooth, and tells boxes apart that do not meet. Beyond ultralytics: sums without
    cancellation, of thin boxes too; derivatives with respect to both tables, first and second.

    Args:
        boxes1: boxes, (..., N, 5), each cx, cy, w, h and an angle in degrees, counter-clockwise as an image is seen;
            float32, float64, bfloat16 or float16, any strides. Integers are converted to float32.
        boxes2: the boxes that they are compared with, (..., M, 5); batches are broadcast, floating-point types promoted
            as torch does.
        eps: above 0; added to the denominators, to what the logarithm is taken of, and under the root; d is cut to at
            least ``eps``, and at most 100.

    Returns:
        The matrix of all pairs, (..., N, M): float32, or float64 for boxes of it; computed in float64 in any case. From
        about 0 (-eps / 2) to about 1 (1 - sqrt(2 eps), for identical boxes).

    Raises:
        ValueError: ``eps`` out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together.

    Example:
        >>> square = torch.tensor([[0.0, 0, 2, 2, 0]])
        >>> probiou(square, torch.tensor([[0.0, 0, 4, 4, 0], [1, 0, 2, 2, 45]]))
        tensor([[0.5528, 0.4408]])
    """
    check_positive_eps(_OP, eps)
    return _matrix(boxes1, boxes2, eps)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def probiou_reference(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    """Plain PyTorch, each pair's. To be trusted because it is the paper's formula of covariance matrices."""
    rows = boxes1.dim() - 1
    return probabilistic_iou(boxes1.unsqueeze(rows), boxes2.unsqueeze(rows - 1), eps).to(boxes1.dtype)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_matrix = BoxMatrix("handgrad::probiou", probiou_reference, row=CENTRE_SIZE_ANGLE)
