"""upfirdn2d. Definition, derivatives, recipes: docs/layers/upfirdn2d.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handgrad._layout import empty_image
from handgrad._linear import Linear
from handgrad._rates import MOST_SAMPLES, checked_padding, resampled, with_zeros
from handgrad.arguments import (
    FLOAT_MAX,
    as_computed,
    check_bool,
    check_device,
    check_pair,
    check_range,
    check_tensor,
    computed_dtype,
)
from handgrad.derivatives import BATCHED, WHOLE
from handgrad.tracing import traceable

_OP = "upfirdn2d"

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def upfirdn2d(
    input: Tensor,
    filter: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    r"""Raises the resolution of images, filters them and lowers it again, in one pass: the resampling of StyleGAN 2
    and 3 (Karras et al., `Analyzing and Improving the Image Quality of StyleGAN <https://arxiv.org/abs/1912.04958>`_,
    2020; `Alias-Free Generative Adversarial Networks <https://arxiv.org/abs/2106.12423>`_, 2021).

    Behind each sample ``up - 1`` zeros are inserted, the image is padded with zeros or cropped, convolved with the
    filter, and of the result, which begins where the filter first lies on the image, every ``down``-th sample is kept.

    .. math:: y_{ncpq} = gain \sum_{ij} f_{ij}\, z_{nc,\; p\, down + h - 1 - i,\; q\, down + w - 1 - j}

    Arguments, argument forms and values of StyleGAN's function of this name; beyond it: gradients of the filter,
    forward mode, bfloat16 and float64 on every device, and kernels that never make the image of zeros.

    Args:
        input: (batch, channels, height, width); float32, float64, bfloat16 or float16, any strides.
        filter: (rows, columns), or (taps), which serve both axes one after the other; at most 1,024 along an axis.
            float32, bfloat16 or float16, beside a float64 ``input`` float64 too. None: one tap, 1.
        up, down: whole numbers, at least 1; or two, of x and of y.
        padding: samples before and after the image of inserted zeros, negative ones to cut off: one number for all
            sides, two for x and for y, or four, ``(x0, x1, y0, y1)``.
        flip_filter: True correlates with the filter where False convolves.
        gain: what the result is multiplied by.

    Returns:
        (batch, channels, (height * up + y0 + y1 - rows) // down + 1, and the same of width), in the type of ``input``,
        channels_last if ``input`` is.

    Raises:
        ValueError: a number out of range.
        TypeError: an argument of another kind.
        RuntimeError: shapes, dtypes or devices that do not go together, an image smaller than the filter.

    Example:
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> upfirdn2d(image, torch.tensor([0.5, 0.5]), up=2, padding=(1, 0, 1, 0), gain=4)
        tensor([[[[1., 1., 2., 2.],
                  [1., 1., 2., 2.],
                  [3., 3., 4., 4.],
                  [3., 3., 4., 4.]]]])
    """
    check_tensor(_OP, "input", input)
    if filter is None:
        filter = input.new_ones((1,), dtype=computed_dtype(input))
    else:
        check_tensor(_OP, "filter", filter)
        filter = as_computed(_OP, "filter", filter, "an input", input)
        check_device(_OP, "filter", filter, "input", input)
    numbers = _checked_numbers(up, down, padding, flip_filter, gain)
    return _upfirdn2d(input, filter, *numbers)


def _checked_numbers(
    up: Any, down: Any, padding: Any, flip_filter: Any, gain: Any
) -> tuple[list[int], list[int], list[int], bool, float]:
    rates = [list(check_pair(_OP, name, value, 1, MOST_SAMPLES)) for name, value in (("up", up), ("down", down))]
    check_range(_OP, "gain", gain, -FLOAT_MAX, FLOAT_MAX, "a finite number")
    return rates[0], rates[1], checked_padding(_OP, padding), check_bool(_OP, "flip_filter", flip_filter), gain


# ---- module ----------------------------------------------------------------------------------------------------------


class Upfirdn2d(nn.Module):
    """:func:`upfirdn2d` as a module, whose filter is a buffer, or a parameter.

    Args:
        filter, up, down, padding, flip_filter, gain: see :func:`upfirdn2d`; numbers are checked here, so that a mistake
            shows at construction. A filter in float64 becomes one in float32; ``module.double()`` widens it again.
        learnable: the filter is a parameter.

    Example:
        >>> layer = Upfirdn2d(torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8, down=2, padding=1)
        >>> layer(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 3, 4, 4])
    """

    filter: Tensor

    def __init__(
        self,
        filter: Tensor,
        up: int | Sequence[int] = 1,
        down: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        flip_filter: bool = False,
        gain: float = 1,
        *,
        learnable: bool = False,
    ) -> None:
        super().__init__()
        check_tensor(_OP, "filter", filter)
        _checked_numbers(up, down, padding, flip_filter, gain)
        self.up, self.down, self.padding, self.flip_filter, self.gain = up, down, padding, flip_filter, gain
        filter = filter.detach().float()
        if check_bool(_OP, "learnable", learnable):
            self.filter = nn.Parameter(filter.clone())
        else:
            self.register_buffer("filter", filter)

    def forward(self, input: Tensor) -> Tensor:
        return upfirdn2d(input, self.filter, self.up, self.down, self.padding, self.flip_filter, self.gain)

    def extra_repr(self) -> str:
        text = f"filter={tuple(self.filter.shape)}, up={self.up}, down={self.down}, padding={self.padding}"
        return f"{text}, flip_filter={self.flip_filter}, gain={self.gain}"


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def upfirdn2d_reference(
    input: Tensor,
    filter: Tensor,
    up: list[int],
    down: list[int],
    padding: list[int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    """Plain PyTorch. To be trusted because it is the definition: zeros inserted, padded, and the image moved by each
    tap and weighed; the samples that are dropped are left out of each."""
    output = resampled(input.to(computed_dtype(input)), filter, up, down, padding, flip_filter)
    return (output * gain).to(input.dtype)


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(
    input: Tensor,
    filter: Tensor,
    up: list[int],
    down: list[int],
    padding: list[int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    if input.dim() != 4:
        raise RuntimeError(
            f"{_OP}: input must have 4 dimensions (batch, channels, height, width); got {tuple(input.shape)}"
        )
    if filter.dim() not in (1, 2):
        raise RuntimeError(f"{_OP}: filter must have 2 dimensions (rows, columns), or one; got {tuple(filter.shape)}")
    height = _size_after(input.shape[2], filter.shape[0], "rows", up[1], down[1], padding[2:])
    width = _size_after(input.shape[3], filter.shape[-1], "columns", up[0], down[0], padding[:2])
    return empty_image(input, (input.shape[0], input.shape[1], height, width), input)


def _size_after(size: int, taps: int, name: str, up: int, down: int, padding: list[int]) -> int:
    padded = size * up + padding[0] + padding[1]
    torch._check(
        padded >= taps,
        lambda: f"{_OP}: input must have at least as many {name} after up and padding as filter, {taps}; got {padded}",
    )
    return (padded - taps) // down + 1


def _gradient_like(tensor: Tensor) -> Tensor:
    return empty_image(tensor, tensor.shape, tensor) if tensor.dim() == 4 else tensor.new_empty(tensor.shape)


# ---- onnx: a convolution of each channel -----------------------------------------------------------------------------


def _onnx(
    input: Tensor,
    filter: Tensor,
    up: list[int],
    down: list[int],
    padding: list[int],
    flip_filter: bool,
    gain: float,
) -> Any:
    # Of float64 onnxruntime has no convolution.
    if input.dtype is torch.float64:
        return NotImplemented
    samples = with_zeros(input.float(), up, padding).flatten(0, 1).unsqueeze(1)
    taps = filter if flip_filter else filter.flip(list(range(filter.dim())))
    if filter.dim() == 1:
        samples = F.conv2d(samples, taps.view(1, 1, 1, -1), stride=(1, down[0]))
        samples = F.conv2d(samples, taps.view(1, 1, -1, 1) * gain, stride=(down[1], 1))
    else:
        samples = F.conv2d(samples, (taps * gain).unsqueeze(0).unsqueeze(0), stride=(down[1], down[0]))
    return samples.squeeze(1).unflatten(0, input.shape[:2]).to(input.dtype)


# ---- registration ----------------------------------------------------------------------------------------------------

_upfirdn2d = Linear(
    "handgrad::upfirdn2d",
    reference=upfirdn2d_reference,
    fake=_fake,
    roles={"input": BATCHED, "filter": WHOLE, "output": BATCHED},
    gradient_like=_gradient_like,
    onnx=_onnx,
)
