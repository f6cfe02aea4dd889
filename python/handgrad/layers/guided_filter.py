"""The guided filter. Derivatives, edge cases, numerics: docs/layers/guided_filter.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from handgrad._borders import checked_window, moved, padded
from handgrad._layout import empty_image
from handgrad.arguments import (
    FLOAT_MAX,
    INT32_MAX,
    as_computed,
    check_device,
    check_int,
    check_range,
    check_tensor,
    computed_dtype,
    dtype_name,
)
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "guided_filter"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def guided_filter(
    guidance: Tensor,
    input: Tensor,
    kernel_size: int | Sequence[int],
    eps: float | Tensor,
    border_type: str = "reflect",
    subsample: int = 1,
) -> Tensor:
    r"""What the ``guidance`` explains of the ``input``, window by window (He, Sun and Tang, *Guided Image Filtering*,
    PAMI 2013, equations 5 to 8 for a guidance of one channel, 14 to 16 for more; He and Sun, *Fast Guided Filter*,
    2015, for ``subsample``).

    .. math:: y(p) = \bar{a}(p)^\top g(p) + \bar{b}(p), \qquad
        a = (\operatorname{Cov}(g, g) + \epsilon I)^{-1} \operatorname{Cov}(g, x), \qquad
        b = \operatorname{E}(x) - a^\top \operatorname{E}(g)

    where moments are those of a window, and :math:`\bar{a}(p)` is the mean of the coefficients of all windows around
    :math:`p`. Signature and values of kornia's ``guided_blur``; beyond it: time that hardly grows with the window,
    variances that cannot be negative, right gradients of all three tensors by kernels, second derivatives, forward
    mode, half types computed in float32, channels_last.

    Args:
        guidance: (batch, at most 64 channels, height, width). Of another floating-point type it is cast to that of
            ``input``, but never from float64.
        input: (batch, any number of channels, height, width); float32, float64, bfloat16 or float16, any strides. The
            same tensor as ``guidance`` costs less.
        kernel_size: rows and columns of the window, 2 radius + 1; one number for both. Odd.
        eps: how large a variance is that is smoothed away, in squares of the guidance: a finite number of 0 or more,
            or a tensor of one or of (batch,), which may require grad.
        border_type: what is around the images, and around the coefficients: "reflect" (without the border's own pixels
            once more), "replicate", "constant" (zeros) or "circular".
        subsample: windows are moved over every so-manieth row and column only, with so much smaller windows, and
            their coefficients enlarged between pixels.

    Returns:
        (batch, channels, height, width) in the type of ``input``, channels_last if ``input`` is.

    Raises:
        ValueError: a number out of range, or a word that is none of those above. (An eps in a tensor is not looked at,
            which would make the host wait for a device; a negative one is added as it is.)
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together, or an image too small for its border:
            "reflect" takes more rows and columns than half the window, "circular" as many.

    Example:
        >>> step = torch.tensor([0.0, 1.0, 0.0, 9.0, 8.0, 9.0]).view(1, 1, 1, 6)
        >>> guided_filter(step, step, (1, 3), 1.0).flatten().round(decimals=2)
        tensor([0.3600, 0.7700, 0.2700, 8.7300, 8.2300, 8.6400])
    """
    check_tensor(_OP, "guidance", guidance)
    check_tensor(_OP, "input", input)
    taps, border, step = _checked_numbers(_OP, kernel_size, border_type, subsample)
    for name, image in (("guidance", guidance), ("input", input)):
        if image.dim() != 4:
            raise RuntimeError(
                f"{_OP}: {name} must have 4 dimensions (batch, channels, height, width); got {tuple(image.shape)}"
            )
    of_images, shared = _checked_eps(_OP, eps, guidance)
    if input is guidance:
        return _guided_filter(guidance, None, of_images, taps, shared, border, step)
    if not input.is_floating_point():
        raise TypeError(f"{_OP}: input must be float32, float64, bfloat16 or float16; got {dtype_name(input.dtype)}")
    if guidance.dtype is not input.dtype:
        guidance = as_computed(_OP, "guidance", guidance, "an input", input).to(input.dtype)
    return _guided_filter(guidance, input, of_images, taps, shared, border, step)


def _checked_numbers(op: str, kernel_size: Any, border_type: Any, subsample: Any) -> tuple[list[int], int, int]:
    return *checked_window(op, kernel_size, border_type), check_int(op, "subsample", subsample, 1, INT32_MAX)


def _eps_number(op: str, eps: Any) -> float:
    said = "a finite number of 0 or more, or a tensor"
    if eps is None:
        raise TypeError(f"{op}: eps must be {said}; got NoneType")
    check_range(op, "eps", eps, 0.0, FLOAT_MAX, said)
    return float(eps)


def _checked_eps(op: str, eps: Any, guidance: Tensor) -> tuple[Tensor | None, float]:
    """That of each image, or that of all."""
    if not isinstance(eps, Tensor):
        return None, _eps_number(op, eps)
    check_tensor(op, "eps", eps)
    check_device(op, "eps", eps, "guidance", guidance)
    if not eps.is_floating_point():
        kind = dtype_name(eps.dtype)
        raise TypeError(f"{op}: eps must be a number or a tensor of floating-point ones; got {kind}")
    batch = guidance.shape[0]
    row = eps.reshape(1) if eps.dim() == 0 else eps
    # Traces have no sizes to ask; the op asks them again.
    if row.dim() != 1 or (not torch.jit.is_tracing() and row.shape[0] != 1 and row.shape[0] != batch):
        raise RuntimeError(
            f"{op}: eps must be a tensor of one number or of (batch,); got {tuple(eps.shape)} beside a guidance of "
            f"{tuple(guidance.shape)}"
        )
    return row.double().expand(batch), 0.0


# ---- module ----------------------------------------------------------------------------------------------------------


class GuidedFilter(nn.Module):
    """:func:`guided_filter` as a module, in place of kornia's ``GuidedBlur``.

    Args:
        kernel_size, eps, border_type, subsample: as the function takes them.
        learnable: ``eps`` is a parameter, ``(1,)``, or of the shape of a tensor. A tensor that is not to be learnt is a
            buffer.

    Example:
        >>> layer = GuidedFilter(5, 1e-2, learnable=True)
        >>> layer(torch.rand(1, 3, 8, 8), torch.rand(1, 2, 8, 8)).sum().backward()
        >>> layer.eps.grad.shape
        torch.Size([1])
    """

    eps: Any

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        eps: float | Tensor,
        border_type: str = "reflect",
        subsample: int = 1,
        learnable: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        taps, _, self.subsample = _checked_numbers(name, kernel_size, border_type, subsample)
        self.kernel_size = tuple(taps)
        if not isinstance(eps, Tensor):
            eps = _eps_number(name, eps)
        if learnable:
            self.eps = nn.Parameter(torch.as_tensor(eps).detach().clone().reshape(-1))
        elif isinstance(eps, Tensor):
            self.register_buffer("eps", eps)
        else:
            self.eps = eps
        self.border_type = border_type
        self.learnable = learnable

    def forward(self, guidance: Tensor, input: Tensor) -> Tensor:
        return guided_filter(guidance, input, self.kernel_size, self.eps, self.border_type, self.subsample)

    def extra_repr(self) -> str:
        eps = "" if isinstance(self.eps, Tensor) else f", eps={self.eps}"
        return (
            f"kernel_size={self.kernel_size}{eps}, border_type={self.border_type!r}, subsample={self.subsample}, "
            f"learnable={self.learnable}"
        )


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def guided_filter_reference(
    guidance: Tensor,
    input: Tensor | None,
    eps: Tensor | None,
    kernel_size: list[int],
    shared_eps: float,
    border: int,
    subsample: int,
) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition: both images with what is around them, moved by each
    tap, and their moments; the equations of each window, eliminated; means of what these give."""
    filtered = guidance if input is None else input
    computed = computed_dtype(guidance)
    guides = guidance.to(computed)
    taps = [(size - 1) // subsample + 1 for size in kernel_size]
    small, small_input = _left(guides, subsample), _left(filtered.to(computed), subsample)
    added: Any = shared_eps if eps is None else eps.to(computed)[:, None, None]
    coefficients, constants = _fits(small, small_input, taps, border, added)
    # Planes of a channel of the input, one for each of the guidance.
    means = [_enlarged(_mean(plane, taps, border), guidance) for plane in coefficients]
    output = _enlarged(_mean(constants, taps, border), guidance)
    for k, mean in enumerate(means):
        output = output + mean * guides[:, k : k + 1]
    return output.to(filtered.dtype)


def _taps(image: Tensor, taps: list[int], border: int) -> list[Tensor]:
    """The pixels of each tap of the windows; of an even number of taps, one more is behind the middle."""
    behind = [size // 2 for size in taps]
    around = padded(image, behind, border)
    first = [reach - (size - 1) // 2 for size, reach in zip(taps, behind, strict=True)]
    return [
        moved(around, behind, first[0] + down, first[1] + right) for down in range(taps[0]) for right in range(taps[1])
    ]


def _mean(image: Tensor, taps: list[int], border: int) -> Tensor:
    total: Any = 0.0
    for pixels in _taps(image, taps, border):
        total = total + pixels
    mean: Tensor = total / (taps[0] * taps[1])
    return mean


def _fits(guidance: Tensor, input: Tensor, taps: list[int], border: int, eps: Any) -> tuple[list[Tensor], Tensor]:
    """Of each window: a plane of coefficients for each guide, and one of constants, (batch, channels, height, width).
    Pixels less that in the window's middle have the moments that they have, and lose no digits in them."""
    count = taps[0] * taps[1]
    number = guidance.shape[1]
    sums: list[Any] = [0.0] * number
    pairs: list[list[Any]] = [[0.0] * (k + 1) for k in range(number)]
    with_input: list[Any] = [0.0] * number
    sum_input: Any = 0.0
    for seen, seen_input in zip(_taps(guidance, taps, border), _taps(input, taps, border), strict=True):
        difference, of_input = seen - guidance, seen_input - input
        sum_input = sum_input + of_input
        for k in range(number):
            of_guide = difference[:, k]
            sums[k] = sums[k] + of_guide
            with_input[k] = with_input[k] + of_guide[:, None] * of_input
            for m in range(k + 1):
                pairs[k][m] = pairs[k][m] + of_guide * difference[:, m]
    means = [total / count for total in sums]
    mean_input = sum_input / count
    rows = [[pairs[max(k, m)][min(k, m)] / count - means[k] * means[m] for m in range(number)] for k in range(number)]
    right = [with_input[k] / count - means[k][:, None] * mean_input for k in range(number)]
    coefficients = _solved(rows, right, eps)
    constants = input + mean_input
    for k in range(number):
        constants = constants - coefficients[k] * (guidance[:, k] + means[k])[:, None]
    return coefficients, constants


def _solved(rows: list[list[Any]], right: list[Any], eps: Any) -> list[Any]:
    """Gauss's elimination, of all windows at once. A guide that says nothing beyond those before it gets nothing."""
    number = len(rows)
    rows = [[rows[k][m] + eps if k == m else rows[k][m] for m in range(number)] for k in range(number)]
    wholes = [rows[k][k] for k in range(number)]
    inverses: list[Any] = []
    for k in range(number):
        limits = torch.finfo(wholes[k].dtype)
        nothing = rows[k][k] < 4 * limits.eps * wholes[k] + limits.tiny
        inverse = torch.where(nothing, 0.0, 1.0 / torch.where(nothing, 1.0, rows[k][k]))
        inverses.append(inverse)
        for below in range(k + 1, number):
            factor = rows[below][k] * inverse
            rows[below] = [rows[below][m] - factor * rows[k][m] for m in range(number)]
            right[below] = right[below] - factor[:, None] * right[k]
    solved: list[Any] = [None] * number
    for k in range(number - 1, -1, -1):
        rest = right[k]
        for m in range(k + 1, number):
            rest = rest - rows[k][m][:, None] * solved[m]
        solved[k] = rest * inverses[k][:, None]
    return solved


def _left(image: Tensor, subsample: int) -> Tensor:
    """Every so-manieth row and column: kornia's, which are in the middle of what they stand for, less an offset."""
    if subsample == 1:
        return image
    for dim in (2, 3):
        size = image.shape[dim]
        left = max(size // subsample, 1) if size else 0
        if size == left * subsample:
            seen = torch.arange(left, device=image.device) * subsample
        else:
            doubled = (2 * torch.arange(left, device=image.device) + 1) * size + left * (1 - subsample)
            doubled = torch.where(doubled < 0, 0, doubled)
            seen = torch.div(doubled, 2 * left, rounding_mode="floor")
        image = image.index_select(dim, seen)
    return image


def _enlarged(image: Tensor, model: Tensor) -> Tensor:
    """Between pixels, as torch's interpolate has it; written out, which all versions of ONNX can say."""
    for dim in (2, 3):
        size, full = image.shape[dim], model.shape[dim]
        if size == full:
            continue
        place = (torch.arange(full, device=image.device, dtype=image.dtype) + 0.5) * (size / full) - 0.5
        place = torch.where(place < 0, 0.0, place)
        low = place.floor().long()
        high = torch.where(low + 1 < size, low + 1, low)
        weight = place - low.to(image.dtype)
        weight = weight[:, None] if dim == 2 else weight
        first = image.index_select(dim, low)
        image = first + weight * (image.index_select(dim, high) - first)
    return image


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(guidance: Tensor, input: Tensor | None, *_: Any) -> Tensor:
    if input is None:
        return empty_image(guidance, guidance.shape, guidance)
    message = f"{_OP}: input must have shape (batch, any, height, width) of guidance; got {tuple(input.shape)}"
    for dim in (0, 2, 3):
        torch._check(input.shape[dim] == guidance.shape[dim], lambda: message)
    check_device(_OP, "input", input, "guidance", guidance)
    return empty_image(input, input.shape, input)


def _gradient_like(tensor: Tensor) -> Tensor:
    return empty_image(tensor, tensor.shape, tensor) if tensor.dim() == 4 else tensor.new_empty(tensor.shape)


# ---- registration ----------------------------------------------------------------------------------------------------

_guided_filter = Derivatives(
    "handgrad::guided_filter",
    reference=guided_filter_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=_gradient_like,
)
