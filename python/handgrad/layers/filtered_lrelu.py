"""A leaky ReLU at a higher rate of samples. Definition, derivatives: docs/layers/filtered_lrelu.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from handgrad._activations import cut_off
from handgrad._layout import empty_beside
from handgrad._rates import MOST_SAMPLES, checked_padding, resampled
from handgrad._sharding import replicated_beside
from handgrad.arguments import (
    FLOAT_MAX,
    as_computed,
    check_bool,
    check_device,
    check_int,
    check_range,
    check_tensor,
    computed_dtype,
)
from handgrad.derivatives import BATCHED, WHOLE
from handgrad.kinds.channel_norm import beside, empty_gradient_of_norm
from handgrad.kinds.separate_channels import SeparateChannels
from handgrad.tracing import traceable

_OP = "filtered_lrelu"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = 2**0.5,
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> Tensor:
    r"""Adds a bias, raises the resolution of images, applies a leaky ReLU, and lowers the resolution again, in one
    pass: the alias-free activation of StyleGAN 3 (Karras et al., `Alias-Free Generative Adversarial Networks
    <https://arxiv.org/abs/2106.12423>`_, 2021, section 3 and appendix D).

    .. math:: y = D\big(\min(\max(gain \cdot lrelu(U(x + b)),\ -clamp),\ clamp)\big)

    U inserts ``up - 1`` zeros behind each sample, pads or crops, convolves with ``fu`` and multiplies by ``up ** 2``,
    which keeps the size of samples; D convolves with ``fd`` and keeps every ``down``-th sample. The image at the high
    rate is never stored, neither here nor in the derivatives, which are such passes too; the signs that these need are
    computed again from ``x``.

    Arguments, argument forms and values of StyleGAN's function of this name; beyond it: filters and rates of any size,
    forward mode, bfloat16 and float64 on every device, and nothing that is compiled at the first call.

    Args:
        x: (batch, channels, height, width); float32, float64, bfloat16 or float16, any strides.
        fu, fd: (rows, columns), or (taps), which serve both axes one after the other; at most 1,024 along an axis.
            float32, bfloat16 or float16, beside a float64 ``x`` float64 too. None: one tap, 1. They have no gradients.
        b: (channels), of such a type too, or None.
        up, down: whole numbers, at least 1.
        padding: samples before and after the image of inserted zeros, negative ones to cut off: one number for all
            sides, two for x and for y, or four, ``(x0, x1, y0, y1)``.
        gain, slope: what results of the leaky ReLU are multiplied by, and what negative samples are.
        clamp: the largest size of a sample behind the leaky ReLU, at least 0; None for none.
        flip_filter: True correlates with the filters where False convolves.

    Returns:
        (batch, channels, height', width') in the type of ``x``, channels_last if ``x`` is, with height' =
        (height * up + y0 + y1 - rows of fu - rows of fd + 1) // down + 1, and the same of width. Half types are
        computed in float32 and rounded once.

    Raises:
        ValueError: a number out of range.
        TypeError: an argument of another kind, a filter that requires a gradient.
        RuntimeError: shapes, dtypes or devices that do not go together, an image smaller than the filters.

    Example:
        >>> image = torch.tensor([[[[1.0, -1.0], [1.0, -1.0]]]])
        >>> f = torch.tensor([0.5, 0.5])
        >>> filtered_lrelu(image, f, f, up=2, down=2, padding=(1, 0, 1, 0), gain=1.0)
        tensor([[[[ 1.0000, -0.2000],
                  [ 1.0000, -0.2000]]]])
    """
    check_tensor(_OP, "x", x)
    filters = [_checked_filter(name, filter, x) for name, filter in (("fu", fu), ("fd", fd))]
    (_, _, b) = _filtered_lrelu.checked(x, [None, None, b])
    return _filtered_lrelu(x, *filters, b, *_checked_numbers(up, down, padding, gain, slope, clamp, flip_filter))


def _checked_filter(name: str, filter: Any, x: Tensor) -> Tensor:
    if filter is None:
        return x.new_ones((1,), dtype=computed_dtype(x))
    check_tensor(_OP, name, filter)
    if filter.requires_grad and torch.is_grad_enabled():
        raise TypeError(
            f"{_OP}: {name} must not require a gradient, which there is none with respect to filters; pass "
            f"{name}.detach(), or compose the steps, of which those that resample have one; got one that requires it"
        )
    if not x.is_floating_point():
        return filter  # the kernel says what it wants of x
    filter = replicated_beside(x, as_computed(_OP, name, filter, "an x", x))
    check_device(_OP, name, filter, "x", x)
    return filter


def _checked_numbers(
    up: Any, down: Any, padding: Any, gain: Any, slope: Any, clamp: Any, flip_filter: Any
) -> tuple[int, int, list[int], float, float, float, bool]:
    rates = [check_int(_OP, name, value, 1, MOST_SAMPLES) for name, value in (("up", up), ("down", down))]
    for name, value in (("gain", gain), ("slope", slope)):
        check_range(_OP, name, value, -FLOAT_MAX, FLOAT_MAX, "a finite number")
    if clamp is not None:
        check_range(_OP, "clamp", clamp, 0.0, FLOAT_MAX, "a finite number, at least 0, or None")
    limit = -1.0 if clamp is None else float(clamp)
    flip = check_bool(_OP, "flip_filter", flip_filter)
    return rates[0], rates[1], checked_padding(_OP, padding), float(gain), float(slope), limit, flip


# ---- module ----------------------------------------------------------------------------------------------------------


class FilteredLReLU(nn.Module):
    """:func:`filtered_lrelu` as a module, whose filters are buffers and whose bias, if it has one, is a parameter.

    Args:
        fu, fd, up, down, padding, gain, slope, clamp, flip_filter: see :func:`filtered_lrelu`; numbers are checked
            here, so that a mistake shows at construction. Filters in float64 become float32; ``module.double()``
            widens them.
        num_features: how many channels the bias has, 0 at first; None for no bias.

    Example:
        >>> f = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        >>> FilteredLReLU(f, f, up=2, down=2, padding=3, num_features=3)(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 3, 8, 8])
    """

    fu: Tensor | None
    fd: Tensor | None
    bias: nn.Parameter | None

    def __init__(
        self,
        fu: Tensor | None = None,
        fd: Tensor | None = None,
        up: int = 1,
        down: int = 1,
        padding: int | Sequence[int] = 0,
        gain: float = 2**0.5,
        slope: float = 0.2,
        clamp: float | None = None,
        flip_filter: bool = False,
        *,
        num_features: int | None = None,
    ) -> None:
        super().__init__()
        _checked_numbers(up, down, padding, gain, slope, clamp, flip_filter)
        self.up, self.down, self.padding = up, down, padding
        self.gain, self.slope, self.clamp, self.flip_filter = gain, slope, clamp, flip_filter
        for name, filter in (("fu", fu), ("fd", fd)):
            if filter is not None:
                check_tensor(_OP, name, filter)
            self.register_buffer(name, None if filter is None else filter.detach().float())
        if num_features is not None:
            check_int("FilteredLReLU", "num_features", num_features, 1)
        self.bias = None if num_features is None else nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        numbers = (self.up, self.down, self.padding, self.gain, self.slope, self.clamp, self.flip_filter)
        return filtered_lrelu(x, self.fu, self.fd, self.bias, *numbers)

    def extra_repr(self) -> str:
        shapes = [None if filter is None else tuple(filter.shape) for filter in (self.fu, self.fd)]
        return (
            f"fu={shapes[0]}, fd={shapes[1]}, up={self.up}, down={self.down}, padding={self.padding}, "
            f"gain={self.gain}, slope={self.slope}, clamp={self.clamp}, flip_filter={self.flip_filter}, "
            f"bias={self.bias is not None}"
        )


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def filtered_lrelu_reference(
    x: Tensor,
    fu: Tensor,
    fd: Tensor,
    b: Tensor | None,
    up: int,
    down: int,
    padding: list[int],
    gain: float,
    slope: float,
    clamp: float,
    flip_filter: bool,
) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition, step by step, with the image at the high rate."""
    z = x.to(computed_dtype(x))
    z = z if b is None else z + beside(b, x)
    z = resampled(z, fu, [up, up], [1, 1], padding, flip_filter) * (up * up)
    y = torch.where(z > 0, z, slope * z) * gain
    y = y if clamp < 0 else cut_off(y, clamp)
    return resampled(y, fd, [1, 1], [down, down], [0, 0, 0, 0], flip_filter).to(x.dtype)


# ---- registration: private references and fakes, autograd, vmap and sharding follow from these -----------------------


def _fake(x: Tensor, fu: Tensor, fd: Tensor, b: Tensor | None, up: int, down: int, *others: Any) -> Tensor:
    padding = others[0]
    if x.dim() != 4:
        raise RuntimeError(f"{_OP}: x must have 4 dimensions (batch, channels, height, width); got {tuple(x.shape)}")
    for name, filter in (("fu", fu), ("fd", fd)):
        if filter.dim() not in (1, 2):
            shape = tuple(filter.shape)
            raise RuntimeError(f"{_OP}: {name} must have 2 dimensions (rows, columns), or one; got {shape}")
    if b is not None:
        _filtered_lrelu.check_of_channels("b", b, x)
    height = _size_after(x.shape[2], "rows", (fu.shape[0], fd.shape[0]), up, down, padding[2:])
    width = _size_after(x.shape[3], "columns", (fu.shape[-1], fd.shape[-1]), up, down, padding[:2])
    return empty_beside(x, (x.shape[0], x.shape[1], height, width))


def _size_after(size: int, name: str, taps: tuple[int, int], up: int, down: int, padding: list[int]) -> int:
    padded, fewest = size * up + padding[0] + padding[1], taps[0] + taps[1] - 1
    torch._check(
        padded >= fewest,
        lambda: (
            f"{_OP}: x must have at least as many {name} after up and padding as fu and fd have taps together, less "
            f"one, {fewest}; got {padded}"
        ),
    )
    return (padded - fewest) // down + 1


def _batch_and_channels(**_: Any) -> list[dict[str, int | None]]:
    whole: dict[str, int | None] = {"fu": None, "fd": None}
    return [{"x": dim, **whole, "b": 0 if dim else None, "output": dim} for dim in (0, 1)]


class _FilteredLrelu(SeparateChannels):
    shared = ("fu", "fd")


_filtered_lrelu = _FilteredLrelu(
    "handgrad::filtered_lrelu",
    reference=filtered_lrelu_reference,
    fake=_fake,
    roles={"x": BATCHED, "fu": WHOLE, "fd": WHOLE, "b": WHOLE, "output": BATCHED},
    gradient_like=empty_gradient_of_norm,
    splits=_batch_and_channels,
)
