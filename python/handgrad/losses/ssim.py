"""Structural similarity. Mathematics, derivatives and numerics: docs/losses/ssim.md."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from handgrad.kinds.window_score import (
    Moments,
    Window,
    WindowModule,
    WindowScore,
    as_images,
    check_window,
    reduced,
    stabilisers,
    structural_similarity,
)
from handgrad.tracing import traceable

_OP = "ssim"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def ssim(
    input: Tensor,
    target: Tensor,
    data_range: float | None = None,
    window_size: int = 11,
    sigma: float = 1.5,
    window: str = "gaussian",
    padding: str = "valid",
    k1: float = 0.01,
    k2: float = 0.03,
    reduction: str = "mean",
) -> Tensor:
    r"""The structural similarity index of two images or volumes (Wang et al., `Image quality assessment: from error
    visibility to structural similarity <https://doi.org/10.1109/TIP.2003.819861>`_, 2004).

    .. math:: SSIM = \frac{(2 \mu_x \mu_y + c_1)(2 \sigma_{xy} + c_2)}
        {(\mu_x^2 + \mu_y^2 + c_1)(\sigma_x^2 + \sigma_y^2 + c_2)}, \quad c_i = (k_i \cdot data\_range)^2

    from means, variances and covariance in a window around each pixel. In one pass over both images: no filtered image
    is ever in memory as a whole. Differentiable twice, with respect to both. Values of pytorch-msssim, and of
    scikit-image's with ``gaussian_weights=True, use_sample_covariance=False``: docs/losses/ssim.md has a table.

    Args:
        input: (N, C, H, W), or (N, C, D, H, W); float32, float64, bfloat16 or float16, any strides, or uint8.
        target: what it is compared with; a tensor like ``input``.
        data_range: from the least to the largest value that images can have: 1 for images in [0, 1], 2 for [-1, 1],
            255 for bytes. It is not guessed from the values at hand; only for uint8 it may be left out.
        window_size: the pixels of a window along each axis, an odd number.
        sigma: the standard deviation of a Gaussian window, in pixels.
        window: ``"gaussian"`` or ``"uniform"``.
        padding: ``"valid"``: windows that lie within the image, H - window_size + 1 of them along an axis, as in the
            paper; ``"reflect"``: one around each pixel, the image being mirrored at its borders without its outermost
            pixels, as kornia has it; ``"zeros"``: one around each pixel, with zeros beyond the borders.
        k1: of the luminance, above 0.
        k2: of the contrast, above 0.
        reduction: ``"none"``, a map of all windows; ``"image"``, the mean of each image over windows and channels,
            (N,); ``"mean"``, the mean of these.

    Returns:
        From -1 to 1, and 1 to the bit for identical images; float32, or float64 for images of it.

    Raises:
        ValueError: an option or a number out of range, or no ``data_range`` for images of floating-point numbers.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together; images smaller than a window.

    Example:
        >>> image = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
        >>> ssim(image, image.flip(3), data_range=1.0)
        tensor(0.9922)
    """
    settings = window_size, sigma, window, padding, k1, k2, reduction
    return reduced(_scores(_OP, input, target, data_range, *settings), reduction)


@traceable
def ssim_loss(
    input: Tensor,
    target: Tensor,
    data_range: float | None = None,
    window_size: int = 11,
    sigma: float = 1.5,
    window: str = "gaussian",
    padding: str = "valid",
    k1: float = 0.01,
    k2: float = 0.03,
    reduction: str = "mean",
) -> Tensor:
    """One minus :func:`ssim`, from 0 to 2; the mean of no images is 0.

    Args:
        input, target, data_range, window_size, sigma, window, padding, k1, k2, reduction: see :func:`ssim`.

    Example:
        >>> image = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
        >>> ssim_loss(image, image.flip(3), data_range=1.0)
        tensor(0.0078)
    """
    settings = window_size, sigma, window, padding, k1, k2, reduction
    return reduced(1 - _scores("ssim_loss", input, target, data_range, *settings), reduction)


def _scores(op: str, input: Tensor, target: Tensor, data_range: Any, *settings: Any) -> Tensor:
    input, target, data_range = as_images(op, input, target, data_range)
    window, *numbers = _check(op, data_range, *settings)
    return _score(input, target, window, settings[-1] != "none", *numbers)


def _check(
    op: str,
    data_range: Any,
    window_size: Any,
    sigma: Any,
    window: Any,
    padding: Any,
    k1: Any,
    k2: Any,
    reduction: Any,
) -> tuple[Window, float, float]:
    shape = check_window(op, window_size, sigma, window, padding, reduction)
    return shape, *stabilisers(op, data_range, k1, k2)


# ---- module ----------------------------------------------------------------------------------------------------------


class SSIM(WindowModule):
    """:func:`ssim` as a module.

    Args:
        data_range, window_size, sigma, window, padding, k1, k2, reduction: see :func:`ssim`; checked here, so that a
            mistake shows at construction.

    Example:
        >>> image = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
        >>> SSIM(data_range=1.0)(image, image.flip(3))
        tensor(0.9922)
    """

    _function = staticmethod(ssim)

    def __init__(
        self,
        data_range: float | None = None,
        window_size: int = 11,
        sigma: float = 1.5,
        window: str = "gaussian",
        padding: str = "valid",
        k1: float = 0.01,
        k2: float = 0.03,
        reduction: str = "mean",
    ) -> None:
        # Without a range it is for bytes.
        _check(_OP, 255 if data_range is None else data_range, window_size, sigma, window, padding, k1, k2, reduction)
        super().__init__(
            data_range=data_range,
            window_size=window_size,
            sigma=sigma,
            window=window,
            padding=padding,
            k1=k1,
            k2=k2,
            reduction=reduction,
        )


class SSIMLoss(SSIM):
    """:func:`ssim_loss` as a module.

    Args:
        data_range, window_size, sigma, window, padding, k1, k2, reduction: see :func:`ssim`; checked here, so that a
            mistake shows at construction.

    Example:
        >>> image = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
        >>> SSIMLoss(data_range=1.0)(image, image.flip(3))
        tensor(0.0078)
    """

    _function = staticmethod(ssim_loss)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def ssim_reference(moments: Moments, c1: float, c2: float) -> Tensor:
    """Plain PyTorch, the index of each window from its moments. To be trusted because it is the definition."""
    return structural_similarity(moments, c1, c2)


# ---- registration: the kind derives all else from the reference ------------------------------------------------------

_score = WindowScore("handgrad::ssim", ssim_reference)
