"""Multi-scale structural similarity. Mathematics, derivatives and numerics: docs/losses/ms_ssim.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from handgrad._layout import empty_gradient
from handgrad.arguments import check_choice, check_range, computed_dtype
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.kinds.window_score import (
    Window,
    WindowModule,
    as_images,
    batch_and_channels,
    check_window,
    checked_shape,
    moments_of,
    reduced,
    stabilisers,
    structural_similarity,
)
from handgrad.tracing import traceable

_OP = "ms_ssim"
#: Of the paper, from the finest scale to the coarsest.
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def ms_ssim(
    input: Tensor,
    target: Tensor,
    data_range: float | None = None,
    window_size: int = 11,
    sigma: float = 1.5,
    window: str = "gaussian",
    weights: Sequence[float] = _WEIGHTS,
    negative: str = "clip",
    k1: float = 0.01,
    k2: float = 0.03,
    reduction: str = "mean",
) -> Tensor:
    r"""The multi-scale structural similarity index (Wang, Simoncelli, Bovik, `Multi-scale structural similarity for
    image quality assessment <https://doi.org/10.1109/ACSSC.2003.1292216>`_, 2003).

    .. math:: MS = l_S^{w_S} \prod_{j=1}^{S} cs_j^{w_j}

    where :math:`cs_j` is the mean contrast of both images after j - 1 halvings, and the coarsest scale has the mean of
    luminance times contrast. Every channel has an index. Values of pytorch-msssim for sizes that can be halved without
    a rest; docs/losses/ms_ssim.md has a table. Never NaN for finite images, and with a finite gradient.

    Args:
        input: (N, C, H, W), or (N, C, D, H, W); float32, float64, bfloat16 or float16, any strides, or uint8.
        target: what it is compared with; a tensor like ``input``.
        data_range: from the least to the largest value that images can have: 1 for images in [0, 1], 255 for bytes. It
            is not guessed from the values at hand; only for uint8 it may be left out.
        window_size: the pixels of a window along each axis, an odd number.
        sigma: the standard deviation of a Gaussian window, in pixels.
        window: ``"gaussian"`` or ``"uniform"``.
        weights: the exponent of each scale, from the finest to the coarsest; as many scales as there are weights.
        negative: what becomes of a mean contrast below 0, of which there is no power: ``"clip"``, it counts as 0, and
            so does the index, without a gradient; ``"shift"``, all scales count as (1 + cs) / 2, and images that are
            the opposite of each other still have a gradient.
        k1: of the luminance, above 0.
        k2: of the contrast, above 0.
        reduction: ``"image"``, the mean over the channels of each image, (N,); ``"mean"``, the mean of these.

    Returns:
        From 0 to 1; float32, or float64 for images of it.

    Raises:
        ValueError: an option or a number out of range, or no ``data_range`` for images of floating-point numbers.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together; images whose coarsest scale is smaller than a
            window.

    Example:
        >>> image = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
        >>> ms_ssim(image, image.flip(3), data_range=1.0, window_size=3, weights=(0.4, 0.6))
        tensor(0.9911)
    """
    settings = window_size, sigma, window, weights, negative, k1, k2, reduction
    return reduced(_indices(_OP, input, target, data_range, *settings), reduction)


@traceable
def ms_ssim_loss(
    input: Tensor,
    target: Tensor,
    data_range: float | None = None,
    window_size: int = 11,
    sigma: float = 1.5,
    window: str = "gaussian",
    weights: Sequence[float] = _WEIGHTS,
    negative: str = "clip",
    k1: float = 0.01,
    k2: float = 0.03,
    reduction: str = "mean",
) -> Tensor:
    """One minus :func:`ms_ssim`, from 0 to 1; the mean of no images is 0.

    Args:
        input, target, data_range, window_size, sigma, window, weights, negative, k1, k2, reduction: see
            :func:`ms_ssim`.

    Example:
        >>> image = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
        >>> ms_ssim_loss(image, 1 - image, data_range=1.0, window_size=3, weights=(0.4, 0.6))
        tensor(1.)
    """
    settings = window_size, sigma, window, weights, negative, k1, k2, reduction
    return reduced(1 - _indices("ms_ssim_loss", input, target, data_range, *settings), reduction)


def _indices(op: str, input: Tensor, target: Tensor, data_range: Any, *settings: Any) -> Tensor:
    """The index of each plane, (N, C)."""
    input, target, data_range = as_images(op, input, target, data_range)
    window, weights, shifted, c1, c2 = _check(op, data_range, *settings)
    scores = _scores(input, target, window.size, window.sigma, len(weights), c1, c2)
    index: Tensor | None = None
    for scale, weight in enumerate(weights):
        score = scores[:, :, scale]
        factor = _power((1 + score) / 2 if shifted else score, weight)
        index = factor if index is None else index * factor
    assert index is not None
    return index


def _power(base: Tensor, exponent: float) -> Tensor:
    """0 without a gradient where there is no power, or its slope is beyond all numbers; NaN stays."""
    low = base <= torch.finfo(base.dtype).tiny
    return torch.where(low, 0 if exponent else 1, torch.where(low, 1, base) ** exponent)


def _check(
    op: str,
    data_range: Any,
    window_size: Any,
    sigma: Any,
    window: Any,
    weights: Any,
    negative: Any,
    k1: Any,
    k2: Any,
    reduction: Any,
) -> tuple[Window, tuple[float, ...], bool, float, float]:
    shape = check_window(op, window_size, sigma, window, "valid", "mean")
    if not isinstance(weights, (tuple, list)) or not weights:
        raise TypeError(f"{op}: weights must be a list or tuple of at least one number; got {weights!r}")
    for weight in weights:
        check_range(op, "weights", weight, 0, 1e3, "numbers from 0 to 1000")
    shifted = check_choice(op, "negative", negative, ("clip", "shift")) == "shift"
    check_choice(op, "reduction", reduction, ("image", "mean"))
    return shape, tuple(float(weight) for weight in weights), shifted, *stabilisers(op, data_range, k1, k2)


# ---- module ----------------------------------------------------------------------------------------------------------


class MSSSIM(WindowModule):
    """:func:`ms_ssim` as a module.

    Args:
        data_range, window_size, sigma, window, weights, negative, k1, k2, reduction: see :func:`ms_ssim`; checked here,
            so that a mistake shows at construction.

    Example:
        >>> image = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
        >>> MSSSIM(data_range=1.0, window_size=3, weights=(0.4, 0.6))(image, image.flip(3))
        tensor(0.9911)
    """

    _function = staticmethod(ms_ssim)

    def __init__(
        self,
        data_range: float | None = None,
        window_size: int = 11,
        sigma: float = 1.5,
        window: str = "gaussian",
        weights: Sequence[float] = _WEIGHTS,
        negative: str = "clip",
        k1: float = 0.01,
        k2: float = 0.03,
        reduction: str = "mean",
    ) -> None:
        # Without a range it is for bytes.
        some = 255 if data_range is None else data_range
        _check(_OP, some, window_size, sigma, window, weights, negative, k1, k2, reduction)
        super().__init__(
            data_range=data_range,
            window_size=window_size,
            sigma=sigma,
            window=window,
            weights=weights,
            negative=negative,
            k1=k1,
            k2=k2,
            reduction=reduction,
        )


class MSSSIMLoss(MSSSIM):
    """:func:`ms_ssim_loss` as a module.

    Args:
        data_range, window_size, sigma, window, weights, negative, k1, k2, reduction: see :func:`ms_ssim`; checked here,
            so that a mistake shows at construction.

    Example:
        >>> image = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
        >>> MSSSIMLoss(data_range=1.0, window_size=3, weights=(0.4, 0.6))(image, 1 - image)
        tensor(1.)
    """

    _function = staticmethod(ms_ssim_loss)


# ---- reference: the definition; derivatives by torch's autograd ------------------------------------------------------


def ms_ssim_reference(
    input: Tensor, target: Tensor, window_size: int, sigma: float, scales: int, c1: float, c2: float
) -> Tensor:
    """Plain PyTorch, the mean contrast of each plane at each scale, and the mean index at the coarsest. To be trusted
    because it is the definition, scale by scale."""
    window = Window(window_size, sigma, 0)
    input, target = input.to(computed_dtype(input)), target.to(computed_dtype(input))
    means = []
    for scale in range(scales):
        if scale > 0:
            input, target = _halved(input), _halved(target)
        scores = structural_similarity(moments_of(input, target, window), c1, c2, scale == scales - 1)
        means.append(scores.flatten(2).mean(2))
    return torch.stack(means, 2)


def _halved(image: Tensor) -> Tensor:
    """Means of 2 x 2 (x 2) pixels; the last row or column of an odd number is left out."""
    return (F.avg_pool2d if image.dim() == 4 else F.avg_pool3d)(image, 2)


def _fake(input: Tensor, target: Tensor, window_size: int, sigma: float, scales: int, c1: float, c2: float) -> Tensor:
    shape = checked_shape(_OP, input, target)
    least = window_size << (scales - 1)
    for extent in shape[2:]:
        torch._check(
            extent >= least,
            lambda: (
                f"{_OP}: input must have at least {least} pixels along each axis, so that after {scales - 1} halvings "
                f"there is room for a window of {window_size}; got {shape}"
            ),
        )
    return input.new_empty((*shape[:2], scales), dtype=computed_dtype(input))


# ---- registration ----------------------------------------------------------------------------------------------------

_scores = Derivatives(
    "handgrad::ms_ssim",
    reference=ms_ssim_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=empty_gradient,
    autocast=torch.float32,
    splits=batch_and_channels,
)
