"""Softmax splatting: an image warped forward by a flow. Mathematics: docs/layers/softsplat.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from handgrad._layout import empty_image
from handgrad.arguments import FLOAT_MAX, as_computed, check_choice, check_device, check_range, check_tensor
from handgrad.derivatives import BATCHED, Derivatives
from handgrad.tracing import traceable

_OP = "softsplat"
# In the order of csrc.
_MODES = ("sum", "average", "linear", "softmax")
_NORMALIZATIONS = ("addeps", "zeroeps", "clipeps")

# ---- public function -------------------------------------------------------------------------------------------------


@traceable
def softsplat(
    input: Tensor,
    flow: Tensor,
    metric: Tensor | None,
    mode: str = "softmax",
    normalization: str = "addeps",
    eps: float = 1e-7,
) -> Tensor:
    r"""An image warped forward: every pixel goes where ``flow`` sends it, and is shared among the four pixels around
    that point (Niklaus and Liu, `Softmax Splatting for Video Frame Interpolation <https://arxiv.org/abs/2003.05534>`_,
    2020, equations 4 to 11).

    .. math:: y(p) = \frac{\sum_q b(q + f(q) - p)\, w(q)\, x(q)}{\sum_q b(q + f(q) - p)\, w(q)}, \qquad
        b(u) = \max(0, 1 - |u_x|)\, \max(0, 1 - |u_y|)

    with the flow :math:`f`, and :math:`w` being 1 (``"average"``), the metric (``"linear"``) or its exponential
    (``"softmax"``); ``"sum"`` is the numerator with :math:`w = 1`. Values of the authors' ``softsplat``; beyond it:
    kernels for CPUs, the same bits in every run, no overflow of the exponential whatever the metric is, second
    derivatives and forward mode, channels_last kept, half types computed in float32.

    Args:
        input: (batch, channels, height, width); float32, float64, bfloat16 or float16, any strides.
        flow: (batch, 2, height, width), each x, y: how many pixels each pixel moves. Of any floating-point type that
            the one which ``input`` is computed in can hold. A pixel whose flow is NaN or infinite goes nowhere.
        metric: (batch, 1, height, width), how much each pixel counts where several meet, of the same types as ``flow``;
            None for ``"sum"`` and ``"average"``.
        mode: ``"sum"``, ``"average"``, ``"linear"`` or ``"softmax"``.
        normalization: what is done about divisors of 0, where no pixel arrives: ``"addeps"`` adds ``eps`` to every
            divisor, ``"zeroeps"`` makes 1 of those that are 0, ``"clipeps"`` makes ``eps`` of those that are smaller.
            Where no pixel arrives the output is 0 with each. Not looked at for ``"sum"``.
        eps: beside divisors of the formula above, with nothing subtracted from the metric: at least 1e-37.

    Returns:
        (batch, channels, height, width) in the type of ``input``, channels_last if ``input`` is.

    Raises:
        ValueError: a word that is none of those above, a number out of range, or a metric for a mode without one.
        TypeError: an argument of another kind.
        RuntimeError: tensors whose shapes, dtypes or devices do not go together.

    Example:
        >>> image, flow = torch.tensor([[[[4.0, 8.0, 1.0]]]]), torch.zeros(1, 2, 1, 3)
        >>> flow[0, 0, 0, 0] = 1.0
        >>> softsplat(image, flow, None, "average").round(decimals=3)
        tensor([[[[0., 6., 1.]]]])
        >>> softsplat(image, flow, torch.tensor([[[[1000.0, 0.0, 0.0]]]]), "softmax").round(decimals=3)
        tensor([[[[0., 4., 1.]]]])
    """
    check_tensor(_OP, "input", input)
    check_tensor(_OP, "flow", flow)
    which = _MODES.index(check_choice(_OP, "mode", mode, _MODES))
    kind = _NORMALIZATIONS.index(check_choice(_OP, "normalization", normalization, _NORMALIZATIONS))
    check_range(_OP, "eps", eps, 1e-37, FLOAT_MAX, "a finite number, at least 1e-37")
    flow = as_computed(_OP, "flow", flow, "an input", input)
    if which >= 2:
        check_tensor(_OP, "metric", metric)
        assert metric is not None
        metric = as_computed(_OP, "metric", metric, "an input", input)
    elif metric is not None:
        raise ValueError(f"{_OP}: metric must be None for mode {mode!r}, which has none; got {type(metric).__name__}")
    return _softsplat(input, flow, metric, which, kind, float(eps))


# ---- reference: the definition in plain PyTorch, its derivatives by torch's own autograd -----------------------------


def softsplat_reference(
    input: Tensor, flow: Tensor, metric: Tensor | None, mode: int, normalization: int, eps: float
) -> Tensor:
    """Plain PyTorch. To be trusted because it says what the formula says: every pixel times what it counts, and what it
    counts beside it, added to the four pixels around the point where it arrives; then the quotient. (What it counts is
    divided by the largest of the image, and so is ``eps``.)"""
    pixels = input.to(flow.dtype)
    if mode == 0:
        return _splatted(pixels, flow).to(input.dtype)
    small: Any = eps
    if metric is None:
        counts = torch.ones_like(flow[:, :1])
    elif mode == 2:
        counts = metric
    else:
        largest = _largest(metric.detach())
        counts, small = (metric - largest).exp(), eps * (-largest).exp()
    splatted = _splatted(torch.cat([pixels * counts, counts], 1), flow)
    sums, total = splatted[:, :-1], splatted[:, -1:]
    if normalization == 0:
        total = total + small
    elif normalization == 1:
        total = torch.where((total > 0) | (total < 0), total, 1.0)
    else:
        total = torch.where(total < small, small, total)
    return (sums / total).to(input.dtype)


def _largest(metric: Tensor) -> Tensor:
    """Of each image's finite numbers; as small as numbers are if there is none."""
    finite = torch.where(metric.abs() < torch.inf, metric, -1e38)
    return finite.amax((1, 2, 3), keepdim=True)


def _splatted(pixels: Tensor, flow: Tensor) -> Tensor:
    batch, channels, height, width = pixels.shape
    x = flow[:, 0] + torch.arange(width, device=flow.device).to(flow.dtype)
    y = flow[:, 1] + torch.arange(height, device=flow.device).to(flow.dtype)[:, None]
    lands = (x >= -1) & (x < width) & (y >= -1) & (y < height)
    # Nothing infinite goes on from here, where 0 times it would be NaN, and no NaN.
    x, y = torch.where(lands, x, 0.0), torch.where(lands, y, 0.0)
    left, top = x.detach().floor(), y.detach().floor()
    right, down = x - left, y - top
    columns, rows = left.long(), top.long()
    flat = pixels.new_zeros(batch, channels, height * width)
    for row, of_row in ((rows, 1 - down), (rows + 1, down)):
        for column, of_column in ((columns, 1 - right), (columns + 1, right)):
            valid = lands & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = torch.where(valid, row * width + column, 0).flatten(1)[:, None].expand(-1, channels, -1)
            shares = torch.where(valid[:, None], pixels * (of_row * of_column)[:, None], 0.0)
            flat = flat.scatter_add(2, index, shares.flatten(2))
    return flat.unflatten(2, (height, width))


# ---- fake: shapes and strides, for compile and export ----------------------------------------------------------------


def _fake(input: Tensor, flow: Tensor, metric: Tensor | None, *_: Any) -> Tensor:
    if input.dim() != 4:
        raise RuntimeError(
            f"{_OP}: input must have 4 dimensions (batch, channels, height, width); got {tuple(input.shape)}"
        )
    for name, tensor, channels in (("flow", flow, 2), ("metric", metric, 1)):
        if tensor is None:
            continue
        wanted = (input.shape[0], channels, input.shape[2], input.shape[3])
        message = f"{_OP}: {name} must have shape {wanted}; got {tuple(tensor.shape)}"
        torch._check(tensor.dim() == 4, lambda message=message: message)  # type: ignore[misc]
        for size, due in zip(tensor.shape, wanted, strict=True):
            torch._check(size == due, lambda message=message: message)  # type: ignore[misc]
        check_device(_OP, name, tensor, "input", input)
    return empty_image(input, input.shape, input)


def _gradient_like(tensor: Tensor) -> Tensor:
    return empty_image(tensor, tensor.shape, tensor) if tensor.dim() == 4 else tensor.new_empty(tensor.shape)


# ---- registration ----------------------------------------------------------------------------------------------------

_softsplat = Derivatives(
    "handgrad::softsplat",
    reference=softsplat_reference,
    fake=_fake,
    roles=BATCHED,
    gradient_like=_gradient_like,
)
