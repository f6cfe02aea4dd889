"""Local normalised cross-correlation. Mathematics, derivatives and numerics:
docs/losses/local_normalized_cross_correlation_loss.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from handgrad.arguments import check_range
from handgrad.kinds.window_score import Moments, Window, WindowModule, WindowScore, check_images, check_window, reduced
from handgrad.tracing import traceable

_OP = "local_normalized_cross_correlation_loss"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def local_normalized_cross_correlation_loss(
    input: Tensor,
    target: Tensor,
    window_size: int = 9,
    sigma: float = 1.5,
    window: str = "uniform",
    padding: str = "zeros",
    eps: float = 1e-5,
    reduction: str = "mean",
) -> Tensor:
    r"""Minus the squared correlation of two images or volumes in a window around each pixel: what deformable
    registration minimises (Avants et al., `Symmetric diffeomorphic image registration with cross-correlation
    <https://doi.org/10.1016/j.media.2007.06.004>`_, 2008; Balakrishnan et al., `VoxelMorph
    <https://arxiv.org/abs/1809.05231>`_, 2019).

    .. math:: loss = -\frac{cross^2}{\max(var_x, eps) \max(var_y, eps)}

    of sums over the window of squares and products of what is left of pixels without its mean. In one pass over both
    images; no filtered image is ever in memory as a whole. Differentiable twice, with respect to both. Values of
    MONAI's ``LocalNormalizedCrossCorrelationLoss``: docs/losses/local_normalized_cross_correlation_loss.md has a table.

    Args:
        input: (N, C, H, W), or (N, C, D, H, W); float32, float64, bfloat16 or float16, any strides.
        target: what it is compared with; a tensor like ``input``.
        window_size: the pixels of a window along each axis, an odd number.
        sigma: the standard deviation of a Gaussian window, in pixels.
        window: ``"uniform"`` or ``"gaussian"``, whose weights are scaled to add up to the number of pixels of a window.
        padding: ``"zeros"``: a window around each pixel, with zeros beyond the borders; ``"reflect"``: the same with
            the image mirrored at its borders, without its outermost pixels; ``"valid"``: windows that lie within the
            image.
        eps: the least variance, summed over a window, above 0; where it is less, windows have no contrast to correlate.
        reduction: ``"none"``, a map of all windows; ``"image"``, the mean of each image, (N,); ``"mean"``, the mean of
            these.

    Returns:
        From -1, for images that are alike but for brightness and contrast, inverted ones too, to 0; float32, or float64
        for images of it. The mean of no images is 0.

    Raises:
        ValueError: an option or a number out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together; images smaller than a window.

    Example:
        >>> image = torch.linspace(0, 1, 256).view(1, 1, 16, 16).sin()
        >>> local_normalized_cross_correlation_loss(image, 2 * image + 1, padding="valid")
        tensor(-1.)
    """
    shape = _check(window_size, sigma, window, padding, eps, reduction)
    input, target = check_images(_OP, input, target)
    # The kernels take means over a window in place of sums.
    least = float(eps) / float(shape.size ** (input.dim() - 2))
    return reduced(_score(input, target, shape, reduction != "none", least), reduction)


def _check(window_size: Any, sigma: Any, window: Any, padding: Any, eps: Any, reduction: Any) -> Window:
    check_range(_OP, "eps", eps, 1e-12, 1e12, "a number from 1e-12 to 1e+12")
    return check_window(_OP, window_size, sigma, window, padding, reduction)


# ---- module ----------------------------------------------------------------------------------------------------------


class LocalNormalizedCrossCorrelationLoss(WindowModule):
    """:func:`local_normalized_cross_correlation_loss` as a module.

    Args:
        window_size, sigma, window, padding, eps, reduction: see :func:`local_normalized_cross_correlation_loss`;
            checked here, so that a mistake shows at construction.

    Example:
        >>> image = torch.linspace(0, 1, 256).view(1, 1, 16, 16).sin()
        >>> LocalNormalizedCrossCorrelationLoss(padding="valid")(image, 2 * image + 1)
        tensor(-1.)
    """

    _function = staticmethod(local_normalized_cross_correlation_loss)

    def __init__(
        self,
        window_size: int = 9,
        sigma: float = 1.5,
        window: str = "uniform",
        padding: str = "zeros",
        eps: float = 1e-5,
        reduction: str = "mean",
    ) -> None:
        _check(window_size, sigma, window, padding, eps, reduction)
        super().__init__(
            window_size=window_size, sigma=sigma, window=window, padding=padding, eps=eps, reduction=reduction
        )


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def local_normalized_cross_correlation_loss_reference(moments: Moments, eps: float) -> Tensor:
    """Plain PyTorch, the loss of each window. To be trusted because it is the definition."""
    var_x, var_y = (torch.where(var < eps, eps, var) for var in (moments.var_x, moments.var_y))
    return -(moments.cov**2) / (var_x * var_y)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_score = WindowScore(
    "handgrad::local_normalized_cross_correlation_loss", local_normalized_cross_correlation_loss_reference
)
